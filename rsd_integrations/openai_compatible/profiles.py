"""What servers do beyond the OpenAI API, and against it. Measured on the versions named; the rest is their documents.

A quirk is a field here and nowhere else: code asks the profile, never the server's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rsd_core import ConfigurationError

StopWay = Literal["kept", "left", "streamed"]
"""How the end of a step is told from the end of the answer. `kept`: the server is asked to leave the stop string in the
text and names it (vLLM, SGLang). `left`: it leaves the stop string there by itself. `streamed`: it would strip the stop
string and say no more than "stop", so none is sent: the text is streamed and cut here, and the connection closed."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of server."""

    name: str
    summary: str
    owner: tuple[str, ...] = ()
    """What `owned_by` says in the server's list of models."""
    stop: StopWay = "streamed"
    keep: Mapping[str, Any] = field(default_factory=dict)
    """Fields that ask for the stop string to be kept."""
    reason: str | None = None
    """The field of a choice that names the stop string which ended it."""
    token_ids: bool = False
    """Whether prompts may be token ids, so that no boundary between tokens ever moves."""
    give_ids: Mapping[str, Any] = field(default_factory=dict)
    """Fields that ask for the ids of what was written."""
    continues: Mapping[str, Any] | None = None
    """Fields that make a chat go on with the assistant's last message; None where every chat opens a new turn."""
    plain: Mapping[str, Any] = field(default_factory=dict)
    """Fields that switch off the server's own defaults of sampling: a step is drawn from the model as it is."""
    logprobs: int = 0
    """How many likely tokens it tells for one place; 0 where it tells none."""
    named_logprobs: bool = False
    """Whether the log-probabilities of tokens named by their ids can be asked for."""
    echo: bool = False
    """Whether it tells log-probabilities of the prompt's tokens."""
    ranks: Mapping[str, Any] = field(default_factory=dict)
    """Fields that ask for the rank of each token of the prompt among all that might stand there."""
    stream_usage: bool = True
    """Whether streams end with the usage where `stream_options` ask for it; refused or ignored elsewhere."""
    concurrency: int = 64
    """Requests that it works on at once, at most, unless told otherwise."""


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "vllm",
            "vLLM (measured on 0.32.0)",
            owner=("vllm",),
            stop="kept",
            keep={"include_stop_str_in_output": True},
            reason="stop_reason",
            token_ids=True,
            give_ids={"return_token_ids": True},
            continues={"continue_final_message": True, "add_generation_prompt": False},
            plain={"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},  # else generation_config.json's
            logprobs=20,
            named_logprobs=True,
            echo=True,
            ranks={"prompt_logprobs": 0},
        ),
        Profile(
            "sglang",
            "SGLang (from its documents)",
            owner=("sglang",),
            stop="kept",
            keep={"no_stop_trim": True},
            reason="matched_stop",
            token_ids=True,
            continues={"continue_final_message": True},
            plain={"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
            logprobs=5,
        ),
        Profile(
            "llamacpp",
            "llama.cpp: llama-server (from its documents) and llama-cpp-python's server (measured on 0.3.36)",
            owner=("llamacpp", "me"),
            plain={"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
            logprobs=5,
            stream_usage=False,
            concurrency=1,  # the Python server has one lock, and lets a new request interrupt a stream
        ),
        # Its /v1/completions puts the template around a prompt, so only its chat can go on; whether it does is up to
        # the model's template, and tried out at first use.
        Profile("ollama", "Ollama (from its documents)", owner=("library",), continues={}),
        Profile(
            "transformers",
            "transformers serve (measured on 5.23.0); it ignores temperature and seed",
            stop="left",
            stream_usage=False,
            concurrency=8,
        ),
        Profile("generic", "any other server: fields of the OpenAI API alone", owner=("openai",), logprobs=5),
    )
}


def find_profile(name: str) -> Profile:
    """The profile of this name.

    Raises:
        ConfigurationError: No such profile.
    """
    if name not in PROFILES:
        known = "; ".join(f"{profile.name} ({profile.summary})" for profile in PROFILES.values())
        raise ConfigurationError(f"profile={name!r} is unknown. Profiles: {known}")
    return PROFILES[name]


def recognise(owner: str) -> Profile:
    """The profile of a server by what its list of models says; `generic` where nobody is recognised."""
    return next((profile for profile in PROFILES.values() if owner in profile.owner), PROFILES["generic"])
