"""The kinds of servers, as data. Measured on the versions named; the rest is from their documentation."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from rsd_core import ConfigurationError
from rsd_core.data import nearest
from rsd_integrations.openai_compatible.hosted import HOSTED
from rsd_integrations.openai_compatible.profile import ANY, Profile

_NO_DEFAULTS = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
_EVERY_EVENT = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
_LLAMA = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}
_NO_THOUGHTS = {"chat_template_kwargs": {"enable_thinking": False}}

OPEN = (
    Profile(
        "vllm",
        "vLLM (measured on 0.32.0)",
        owner=("vllm", "organization-owner"),  # the latter is Ray Serve, which runs vLLM
        stop="kept",
        keep={"include_stop_str_in_output": True},
        reason="stop_reason",
        token_ids=True,
        give_ids={"return_token_ids": True},
        continues={"continue_final_message": True, "add_generation_prompt": False},
        stream_counts=_EVERY_EVENT,
        plain=_NO_DEFAULTS,  # else generation_config.json's
        top_k=True,
        template=True,
        takes_thoughts="reasoning_content",
        without_thoughts=_NO_THOUGHTS,
        logprobs=20,
        named_logprobs=True,
        echo=True,
        ranks={"prompt_logprobs": 0},
        json_schema=True,
        schema=("structured_outputs", "json"),
    ),
    Profile(
        "sglang",
        "SGLang (from its documentation)",
        owner=("sglang",),
        stop="kept",
        keep={"no_stop_trim": True},
        reason="matched_stop",
        token_ids=True,
        continues={"continue_final_message": True},
        stream_counts=_EVERY_EVENT,
        plain=_NO_DEFAULTS,
        top_k=True,
        template=True,
        takes_thoughts="reasoning_content",
        without_thoughts=_NO_THOUGHTS,
        logprobs=5,
        json_schema=True,
        schema=("json_schema",),
        schema_is_text=True,
    ),
    # It strips stop strings and reports every end as "stop". Ids come with log-probabilities, complete only in streams.
    Profile(
        "llamacpp",
        "llama.cpp's own server, llama-server (measured, build 11549)",
        owner=("llamacpp",),
        sign=("/props", "total_slots"),
        slots="total_slots",
        token_ids=True,
        give_ids={"logprobs": 1},
        continues={},
        repeats="whole",
        stream_counts={"timings_per_token": True},
        plain=_LLAMA,
        top_k=True,
        template=True,
        takes_thoughts="reasoning_content",
        without_thoughts=_NO_THOUGHTS,
        logprobs=5,
        fewest_logprobs=1,  # 0 switches them off
        json_schema=True,
        schema=("json_schema",),
        concurrency=4,  # its default number of slots, if it does not report them
    ),
    Profile(
        "llama_cpp_python",
        "the server of llama-cpp-python (measured on 0.3.36)",
        owner=("me",),
        adds_bos=True,
        plain=_LLAMA,
        top_k=True,
        logprobs=5,
        stream_usage=False,
        concurrency=1,  # it has one lock, and a new request interrupts a stream
    ),
    # Its /v1/completions applies the template to a prompt, so only its chat can continue; whether it does depends on
    # the model's template, and is tested at first use.
    Profile(
        "ollama",
        "Ollama (from its documentation)",
        owner=("library",),  # for other publishers' models, their names
        sign=("/api/version", "version"),
        continues={},
        without_thoughts={"reasoning_effort": "none"},
    ),
    Profile(
        "transformers",
        "transformers serve (measured on 5.23.0); it ignores temperature and seed",
        stop="left",
        stream_usage=False,
        concurrency=8,
    ),
    Profile("generic", "any other server: only fields of the OpenAI API", logprobs=5),
)
PROFILES = {profile.name: profile for profile in OPEN + HOSTED}


def find_profile(name: str) -> Profile:
    """The profile with this name.

    Raises:
        ConfigurationError: There is no such profile.
    """
    if name not in PROFILES:
        near = nearest(name, PROFILES)
        known = "; ".join(f"{profile.name} ({profile.summary})" for profile in PROFILES.values())
        meant = f", did you mean {near!r}?" if near else "."
        raise ConfigurationError(f"profile={name!r} is unknown{meant} Profiles: {known}")
    return PROFILES[name]


def hosted_at(base_url: str, model: str) -> Profile | None:
    """The profile of the hosted API that is certainly at a base URL, if any."""
    parts = urlsplit(base_url)
    place = f"{parts.hostname}{parts.path}/"
    fits = [
        (len(pattern), profile)
        for profile in HOSTED
        for pattern in profile.hosts
        if fnmatchcase(place, pattern) and re.fullmatch(profile.models, model.rpartition("/")[2])
    ]
    narrow = [fit for fit in fits if fit[1].models != ANY] or fits
    return max(narrow, key=lambda fit: fit[0])[1] if narrow else None


def recognise(owner: str) -> Profile | None:
    """The profile of a server according to its list of models; None if not recognised."""
    return next((profile for profile in PROFILES.values() if owner in profile.owner), None)
