"""Models by name, in LangChain's notation: `"openai:gpt-5-nano"` is passed to `init_chat_model`."""

from __future__ import annotations

from langchain_core.language_models import BaseChatModel
from pydantic import ValidationError

from rsd_core import ConfigurationError, MissingDependency, SpecError
from rsd_core.data import explain, masked, nearest
from rsd_core.registry import BACKENDS, GGUF, split_spec

_LANGCHAIN = "langchain"
_SHARED = "openai"
"""Both a kind of ours and a provider of LangChain's: ours if it has a URL or options."""


def is_chat_models_name(text: str) -> bool:
    """Whether a text is a name for `init_chat_model`, as `PROVIDER:MODEL` or `MODEL`, rather than a spec of ours."""
    (kind, *options), rest = split_spec(text)
    if kind == _SHARED:
        return not options and "@" not in rest and "," not in rest
    return kind not in BACKENDS and not text.endswith(GGUF)  # for a file our own error is more helpful


def chat_model(name: str) -> BaseChatModel:
    """The chat model that `init_chat_model` creates from a name.

    Args:
        name: `PROVIDER:MODEL`, or a `MODEL` that implies its provider; optionally prefixed with `langchain:`.

    Raises:
        SpecError: LangChain does not know the provider.
        MissingDependency: `langchain` is not installed.
        ConfigurationError: The provider's class cannot be created: its package or its key is missing.
    """
    try:
        from langchain.chat_models import base
    except ModuleNotFoundError as error:
        raise MissingDependency("langchain", "agents", f"the chat model {masked(name)!r}") from error
    model = name.removeprefix(f"{_LANGCHAIN}:")
    if model == name and not is_chat_models_name(name):
        raise SpecError(
            f"{masked(name)!r} is a spec of `rsd models`, but a LangChain chat model is needed: a name such as "
            "'openai:gpt-5-nano', or an object such as ChatOpenAI(model='…', base_url='http://…')"
        )
    if not model.rpartition(":")[2] or model != model.strip() or ": " in model:
        raise SpecError(
            f"{masked(name)!r} names no model: write PROVIDER:MODEL without spaces, as in 'openai:gpt-5-nano'"
        )
    try:
        return base.init_chat_model(model)
    except ValidationError as error:
        why = explain(error)
    except ImportError as error:
        why = str(error)
    except Exception as error:  # each provider has its own errors for a missing key
        providers = list(getattr(base, "_BUILTIN_PROVIDERS", ()))
        provider, colon, rest = model.partition(":")
        if isinstance(error, ValueError) and (not colon or provider not in providers):
            kind, _, after = provider.partition("/")  # as in routers and other libraries
            near = kind if kind in providers else nearest(kind, [*providers, *BACKENDS])
            written = f"{near}:{rest or after or '…'}" if near else None
            if "://" in model:
                start, _, address = model.rpartition("@")
                written = f"{_SHARED}:{start.partition(':')[2] or 'MODEL'}@{address}"
            meant = f" Did you mean {masked(written)!r}?" if written else ""
            raise SpecError(
                f"{masked(name)!r} names no model: {provider!r} is neither a provider of LangChain's "
                f"init_chat_model, as in 'openai:gpt-5-nano', nor a kind listed by `rsd models`.{meant}"
            ) from error
        why = str(error).strip().partition("\n")[0]
    raise ConfigurationError(f"{masked(name)!r} does not create a chat model: {masked(why)}")
