"""What a server says about itself."""

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
