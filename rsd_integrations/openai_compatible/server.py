"""What a server says about itself, and whether it goes on with an answer that was begun."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.errors import EndpointError, Refused
from rsd_integrations.openai_compatible.profiles import PROFILES, Profile, recognise

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
    try:
        listed = await endpoint.get("models", lambda body: _entries(body))
    except (Refused, EndpointError) as error:
        if error.status is None:
            raise
        if profile is None:
            logger.warning("it lists no models, and is taken for profile=generic: %s", error)
            logger.debug("the list of models", exc_info=error)
    own = next((entry for entry in listed if entry["id"] == endpoint.model), listed[0] if len(listed) == 1 else {})
    if profile is None:
        profile = recognise(str(own.get("owned_by"))) if own else PROFILES["generic"]
    if context is None:
        meta = own.get("meta")
        length = own.get("max_model_len") or (meta.get("n_ctx_train") if isinstance(meta, Mapping) else None)
        with suppress(TypeError, ValueError):
            context = int(length)  # type: ignore[arg-type]
    return Server(profile, context, tuple(str(entry["id"]) for entry in listed))


async def continues_chats(endpoint: Endpoint, profile: Profile) -> str | None:
    """What is wrong with the way a chat continues the assistant's last message; None where it is right.

    Told by the lengths of prompts: going on with a digit adds a token, and a blank line after it another. A server that
    closes the turn and opens a new one adds the template's words for that, and one that drops or trims the message
    adds too little.
    """
    if profile.continues is None:
        return "its chats open a new turn, whatever comes last"
    bare, digit, blank = [await _prompt_tokens(endpoint, profile, text) for text in (None, "1", "1\n\n")]
    if not 1 <= digit - bare <= 2:
        return f"an answer begun with one digit made the prompt {digit - bare} tokens longer, so it is not continued"
    if blank <= digit:
        return "blank lines at the end of an answer that was begun are lost"
    return None


async def _prompt_tokens(endpoint: Endpoint, profile: Profile, beginning: str | None) -> int:
    messages = [{"role": "user", "content": "Count."}]
    body: dict[str, Any] = {"model": endpoint.model, "max_tokens": 1, "temperature": 0}
    if beginning is not None:
        messages.append({"role": "assistant", "content": beginning})
        body |= profile.continues or {}
    return await endpoint.post(
        "chat/completions", {**body, "messages": messages}, lambda reply: int(reply["usage"]["prompt_tokens"])
    )


def _entries(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in body["data"] if isinstance(entry["id"], str)]
