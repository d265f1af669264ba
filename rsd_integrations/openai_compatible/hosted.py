"""Hosted OpenAI-compatible APIs: what each accepts, refuses and returns, from its documentation of 2026-11.

None of them was called for this. `rsd doctor` finds out what has changed since; `body.NAME=…` and `omit=NAME` adapt to
it.
"""

from __future__ import annotations

from rsd_integrations.openai_compatible.profile import Profile

_OPENAI_HOSTS = ("api.openai.com/*", "*.api.openai.com/*")  # the latter for data residency: eu., us., …
_AZURE_HOSTS = ("*.openai.azure.com/*", "*.services.ai.azure.com/*", "*.cognitiveservices.azure.com/*")
_SPENT = frozenset({"insufficient_quota", "billing_not_active"})
_SAMPLING = frozenset({"temperature", "top_p", "seed"})
_LOGPROBS = frozenset({"logprobs", "top_logprobs"})
_IN_FIELD = "in `reasoning_content` of the message"

HOSTED = (
    Profile(
        "openai_reasoning",
        "OpenAI's reasoning models, at OpenAI and Azure (from its documentation, 2026-11)",
        hosts=_OPENAI_HOSTS + _AZURE_HOSTS,
        models=r"(?!(ft:)?[^:]*-chat)(ft:)?(o\d|gpt-[5-9]).*",  # ft: and a name after it mark fine-tuned ones
        completions=False,
        cap="max_completion_tokens",
        refuses=_SAMPLING | _LOGPROBS | {"stop"},
        thoughts="nowhere; they are counted and paid for",
        without_thoughts={"reasoning_effort": "none"},
        spent=_SPENT,
        json_schema=True,
    ),
    Profile(
        "openai",
        "OpenAI's other models (from its documentation, 2026-11)",
        hosts=_OPENAI_HOSTS,
        cap="max_completion_tokens",
        logprobs=5,
        thoughts="these models do not think",
        spent=_SPENT,
        json_schema=True,
    ),
    Profile(
        "azure",
        "Azure OpenAI, base URL …/openai/v1 (from its documentation, 2026-11)",
        hosts=_AZURE_HOSTS,
        completions=False,
        cap="max_completion_tokens",
        logprobs=20,
        thoughts="nowhere; they are counted and paid for",
        without_thoughts={"reasoning_effort": "none"},
        spent=_SPENT,
        json_schema=True,
    ),
    Profile(
        "deepseek",
        "DeepSeek (from its documentation, 2026-11)",
        hosts=("api.deepseek.com/*",),
        completions=False,
        refuses=frozenset({"seed"}) | _LOGPROBS,
        takes_thoughts="reasoning_content",
        thoughts=_IN_FIELD,
        without_thoughts={"thinking": {"type": "disabled"}},
    ),
    Profile(
        "deepseek_beta",
        "DeepSeek's beta, base URL …/beta, whose chats continue a prefix (from its documentation, 2026-11)",
        hosts=("api.deepseek.com/beta*",),
        completions=False,
        continues={},
        begun={"prefix": True},
        refuses=frozenset({"seed"}) | _LOGPROBS,
        takes_thoughts="reasoning_content",
        thoughts=_IN_FIELD,
        without_thoughts={"thinking": {"type": "disabled"}},
    ),
    Profile(
        "mistral",
        "Mistral; it refuses every field that it does not know (from its documentation, 2026-11)",
        hosts=("api.mistral.ai/*",),
        completions=False,
        continues={},
        begun={"prefix": True},
        repeats="always",
        seed="random_seed",
        refuses=_LOGPROBS,
        thoughts="as a part of the message's content, of the type `thinking`",
        without_thoughts={"reasoning_effort": "none"},
        stream_usage=False,  # sent unasked
        json_schema=True,
    ),
    Profile(
        "anthropic",
        "Anthropic's OpenAI-compatible endpoint (from its documentation, 2026-11)",
        hosts=("api.anthropic.com/*",),
        completions=False,
        refuses=frozenset({"seed", "top_p"}) | _LOGPROBS,  # either temperature or top_p, and no more
        thoughts="nowhere; `body.thinking=…` switches them on anyway",
    ),
    Profile(
        "google",
        "Google's OpenAI-compatible endpoint for Gemini (from its documentation, 2026-11)",
        hosts=("generativelanguage.googleapis.com/*",),
        completions=False,
        refuses=frozenset({"seed"}) | _LOGPROBS,
        inline=("<thought>", "</thought>"),
        thoughts="nowhere, unless `body.extra_body.google.thinking_config.include_thoughts=true`",
        without_thoughts={"reasoning_effort": "none"},
        json_schema=True,
    ),
    Profile(
        "bedrock",
        "Amazon Bedrock's OpenAI-compatible endpoint (from its documentation, 2026-11)",
        hosts=("bedrock-runtime.*.amazonaws.com/*", "bedrock-mantle.*.api.aws/*"),
        completions=False,
        cap="max_completion_tokens",
        refuses=frozenset({"seed"}) | _LOGPROBS,
        inline=("<reasoning>", "</reasoning>"),
        thoughts="at the beginning of the text, between `<reasoning>` and `</reasoning>`",
    ),
    Profile(
        "huggingface",
        "Hugging Face's router to inference providers (from its documentation, 2026-11)",
        hosts=("router.huggingface.co/*",),
        completions=False,
        refuses=_LOGPROBS,  # up to the provider that it chooses
        thoughts="depends on the provider that it chooses: in a field, or in the text",
    ),
    Profile(
        "openrouter",
        "OpenRouter (from its documentation, 2026-11)",
        hosts=("openrouter.ai/*", "*.openrouter.ai/*"),
        refuses=_LOGPROBS,  # up to the provider that it chooses
        takes_thoughts="reasoning",
        thoughts="in `reasoning` of the message",
        without_thoughts={"reasoning": {"enabled": False}},
    ),
    Profile(
        "groq",
        "Groq (from its documentation, 2026-11)",
        hosts=("api.groq.com/*",),
        completions=False,
        cap="max_completion_tokens",
        refuses=_LOGPROBS,
        takes_thoughts="reasoning",
        thoughts="in `reasoning` with `body.reasoning_format=parsed`, else by the model: there, or in the text",
        without_thoughts={"reasoning_effort": "none"},
    ),
    Profile(
        "together",
        "Together (from its documentation, 2026-11)",
        hosts=("api.together.xyz/*", "api.together.ai/*"),
        top_k=True,
        template=True,
        logprobs=5,
        thoughts="in `reasoning` of the message",
        without_thoughts={"reasoning": {"enabled": False}},
    ),
    Profile(
        "fireworks",
        "Fireworks (from its documentation, 2026-11)",
        hosts=("api.fireworks.ai/*",),
        top_k=True,
        logprobs=5,
        takes_thoughts="reasoning_content",
        thoughts=_IN_FIELD,
        without_thoughts={"reasoning_effort": "none"},
        json_schema=True,
    ),
)
