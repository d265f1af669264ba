"""What a server says about itself, and whether it goes on with an answer that was begun."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.errors import EndpointError, Refused
from rsd_integrations.openai_compatible.profile import Profile
from rsd_integrations.openai_compatible.profiles import PROFILES, hosted_at, recognise
from rsd_integrations.openai_compatible.request_fields import RequestFields
from rsd_integrations.openai_compatible.written import THINK, Written

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Server:
    """What is known of a server."""

    profile: Profile
    context: int | None
    """Longest sequence in tokens; None where it does not say."""
    models: tuple[str, ...]
    """The models it lists; empty where it lists none."""


async def learn(endpoint: Endpoint, profile: Profile | None, context: int | None) -> Server:
    """Ask a server for its models; what is given goes before what it says.

    Raises:
        EndpointError: It cannot be reached. (One that answers with an error lists no models, and may be well.)
    """
    listed: Sequence[Mapping[str, Any]] = ()
    hosted = hosted_at(endpoint.base_url, endpoint.model)
    try:
        listed = await endpoint.get("models", lambda body: _entries(body))
    except (Refused, EndpointError) as error:
        if error.status is None and hosted is None:
            raise
        if profile is None and hosted is None:
            logger.warning("it lists no models, and is taken for profile=generic: %s", error)
        logger.debug("the list of models", exc_info=error)
    names = (endpoint.model, f"models/{endpoint.model}")  # the latter at Google
    own = next((entry for entry in listed if entry["id"] in names), listed[0] if len(listed) == 1 else {})
    if profile is None:
        profile = hosted or (recognise(str(own.get("owned_by"))) if own else PROFILES["generic"])
    if context is None:
        with suppress(TypeError, ValueError):
            context = int(_window(own))
    never = f"; it is never sent {', '.join(sorted(profile.refuses))}" if profile.refuses else ""
    logger.info("%s: profile %s (%s)%s", endpoint, profile.name, profile.summary, never)
    return Server(profile, context, tuple(str(entry["id"]) for entry in listed))


async def continues_chats(endpoint: Endpoint, profile: Profile, fields: RequestFields) -> str | None:
    """What is wrong with the way a chat continues the assistant's last message; None where it is right.

    Told by the lengths of prompts: going on with a digit adds a token, and a blank line after it another. A server that
    closes the turn and opens a new one adds the template's words for that, and one that drops or trims the message
    adds too little. A thought that was closed has to be read again as it was written.
    """
    if profile.continues is None:
        return "its chats open a new turn, whatever comes last"

    async def read(beginning: str | None) -> int:
        return await _prompt_tokens(endpoint, profile, fields, beginning)

    if await _thinks_apart(endpoint, profile, fields):
        return (
            "it gives thoughts in a field of their own (its reasoning parser is on), and nothing can be gone on with "
            "inside of one"
        )
    bare, digit, blank = await read(None), await read("1"), await read("1\n\n")
    if not 1 <= digit - bare <= 2:
        return f"an answer begun with one digit made the prompt {digit - bare} tokens longer, so it is not continued"
    if blank <= digit:
        return "blank lines at the end of an answer that was begun are lost"
    if await read(f"{THINK.wrap('1')}1") < digit + 3:
        return "the chat template drops a thought that was begun"
    return None


async def _thinks_apart(endpoint: Endpoint, profile: Profile, fields: RequestFields) -> bool:
    """Whether the beginning of an answer is a thought in a field of its own: nothing of it is in the text."""

    def read(reply: dict[str, Any]) -> bool:
        written = Written(profile)
        written.add(reply["choices"][0])
        ended = reply["choices"][0].get("finish_reason") != "length"
        return bool(written.thought) or not (written.text() or ended)

    messages = [{"role": "user", "content": "What is 2 + 3?"}]
    body = {"model": endpoint.model, "messages": messages, "max_tokens": 16, "temperature": 0}
    return await endpoint.post("chat/completions", fields.applied(body, profile), read)


async def _prompt_tokens(endpoint: Endpoint, profile: Profile, fields: RequestFields, beginning: str | None) -> int:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Count."}]
    body: dict[str, Any] = {"model": endpoint.model, "max_tokens": 1, "temperature": 0}
    if beginning is not None:
        messages.append({"role": "assistant", "content": beginning, **profile.begun})
        body |= profile.continues or {}
    body = fields.applied({**body, "messages": messages}, profile)
    return await endpoint.post("chat/completions", body, lambda reply: int(reply["usage"]["prompt_tokens"]))


def _entries(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in body["data"] if isinstance(entry["id"], str)]


def _window(entry: Mapping[str, Any]) -> Any:
    """The longest sequence that a server names in its list of models."""

    def inside(name: str) -> Mapping[str, Any]:
        value = entry.get(name)
        return value if isinstance(value, Mapping) else {}

    meta = inside("meta")
    told = (
        entry.get("max_model_len"),  # vLLM, SGLang
        meta.get("n_ctx"),  # llama.cpp
        meta.get("n_ctx_train"),
        inside("metadata").get("max_request_context_length"),  # Ray Serve
        entry.get("context_length"),  # OpenRouter, Together, Fireworks
        entry.get("context_window"),  # Groq
        entry.get("max_context_length"),  # Mistral
    )
    return next((size for size in told if size), None)
