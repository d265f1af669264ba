"""What a server reports about itself, and what calls find out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.errors import EndpointError, Refused
from rsd_integrations.openai_compatible.profile import Profile
from rsd_integrations.openai_compatible.profiles import OPEN, PROFILES, hosted_at, recognise

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Server:
    """What is known about a server."""

    profile: Profile
    context: int | None
    """Maximum sequence length in tokens; None if not reported."""
    models: tuple[str, ...]
    """The models it lists; may be empty."""
    concurrency: int | None
    """Its number of concurrent requests: as reported, else as usual for its kind."""


@dataclass(slots=True)
class Learnt:
    """What a model's calls have found out about its server, shared by all copies."""

    streams_ids: bool = True
    """Whether streams include ids, as far as known."""
    streams_tell: bool = True
    """Whether streams report what was read, as far as known: a gateway may drop it."""
    tells_ranks: bool = True
    """Whether prompts get ranks, as far as known."""
    most: int | None = None
    """Maximum tokens of one answer, if the server refused to write more."""


async def learn(endpoint: Endpoint, profile: Profile | None, context: int | None) -> Server:
    """Request a server's models and, if its kind is still unclear, routes that only one kind of server has.

    Given values override what it reports.

    Raises:
        EndpointError: It cannot be reached. (One that answers with an error lists no models, and may be well.)
        Refused: It returns a web page, and its kind is unknown.
    """
    listed: Sequence[Mapping[str, Any]] = ()
    hosted, unlisted = hosted_at(endpoint.base_url, endpoint.model), None
    try:
        listed = await endpoint.get("models", lambda body: _entries(body))
    except (Refused, EndpointError) as error:
        page = error.status == 200 and profile is None  # there may be no API at all
        if hosted is None and (error.status is None or page):
            raise
        logger.debug("the list of models", exc_info=error)
        unlisted = error
    names = (endpoint.model, f"models/{endpoint.model}")  # the latter at Google
    own = next((entry for entry in listed if entry["id"] in names), listed[0] if len(listed) == 1 else {})
    profile = profile or hosted or recognise(str(own.get("owned_by")))
    properties: Mapping[str, Any] = {}
    candidates = OPEN if profile is None else (profile,) if profile.slots else ()
    for one in () if isinstance(unlisted, EndpointError) else candidates:  # a failing server is not asked further
        if one.sign is not None and (told := await _told(endpoint, *one.sign)):
            profile, properties = one, told
            break
    if profile is None:
        profile = PROFILES["generic"]
        if unlisted is not None:
            logger.warning("%s lists no models; assuming profile=%s: %s", endpoint, profile.name, unlisted)
    if context is None:
        with suppress(TypeError, ValueError):
            context = int(_window(own, properties))
    never = f"; it is never sent {', '.join(sorted(profile.refuses))}" if profile.refuses else ""
    logger.info("%s: profile %s (%s)%s", endpoint, profile.name, profile.summary, never)
    slots = None if profile.slots is None else properties.get(profile.slots)
    concurrency = slots if isinstance(slots, int) and slots > 0 else profile.concurrency
    return Server(profile, context, tuple(str(entry["id"]) for entry in listed), concurrency)


async def _told(endpoint: Endpoint, route: str, name: str) -> Mapping[str, Any]:
    """The reply at a route that only one kind of server has; empty for other kinds."""
    try:
        body = await endpoint.get(route, lambda body: body)
    except (Refused, EndpointError) as error:
        logger.debug("%s", route, exc_info=error)
        return {}
    return body if name in body else {}


def _entries(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in body["data"] if isinstance(entry["id"], str)]


def _window(entry: Mapping[str, Any], properties: Mapping[str, Any]) -> Any:
    """The maximum sequence length in a server's list of models or properties."""

    def inside(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        value = told.get(name)
        return value if isinstance(value, Mapping) else {}

    meta = inside(entry, "meta")
    told = (
        entry.get("max_model_len"),  # vLLM, SGLang
        meta.get("n_ctx"),  # llama.cpp: per slot, as is the next one
        inside(properties, "default_generation_settings").get("n_ctx"),
        meta.get("n_ctx_train"),
        inside(entry, "metadata").get("max_request_context_length"),  # Ray Serve
        entry.get("context_length"),  # OpenRouter, Together, Fireworks
        entry.get("context_window"),  # Groq
        entry.get("max_context_length"),  # Mistral
    )
    return next((size for size in told if size), None)
