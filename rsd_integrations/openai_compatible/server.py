"""What a server says about itself, and what calls find out."""

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
    """What is known of a server."""

    profile: Profile
    context: int | None
    """Longest sequence in tokens; None where it does not say."""
    models: tuple[str, ...]
    """The models it lists; empty where it lists none."""
    concurrency: int | None
    """Requests that it works on at once: as it says, else as its kind does."""


@dataclass(slots=True)
class Learnt:
    """What the calls of a model have found out about its server, for all copies of it."""

    streams_ids: bool = True
    """Whether streams come with ids, as far as is known."""
    streams_tell: bool = True
    """Whether streams tell what was read, as far as is known: a gateway between may leave it out."""
    tells_ranks: bool = True
    """Whether what it reads comes with ranks, as far as is known."""
    most: int | None = None
    """Most tokens of one answer, where the server refused to write more."""


async def learn(endpoint: Endpoint, profile: Profile | None, context: int | None) -> Server:
    """Ask a server for its models and, where that leaves open what it is, for what servers of one kind alone have.

    What is given goes before what it says.

    Raises:
        EndpointError: It cannot be reached. (One that answers with an error lists no models, and may be well.)
        Refused: It shows a web page, and nobody says what kind of server it is.
    """
    listed: Sequence[Mapping[str, Any]] = ()
    hosted, unlisted = hosted_at(endpoint.base_url, endpoint.model), None
    try:
        listed = await endpoint.get("models", lambda body: _entries(body))
    except (Refused, EndpointError) as error:
        page = error.status == 200 and profile is None  # nothing says that there is an API at all
        if hosted is None and (error.status is None or page):
            raise
        logger.debug("the list of models", exc_info=error)
        unlisted = error
    names = (endpoint.model, f"models/{endpoint.model}")  # the latter at Google
    own = next((entry for entry in listed if entry["id"] in names), listed[0] if len(listed) == 1 else {})
    profile = profile or hosted or recognise(str(own.get("owned_by")))
    properties: Mapping[str, Any] = {}
    candidates = OPEN if profile is None else (profile,) if profile.slots else ()
    for one in () if isinstance(unlisted, EndpointError) else candidates:  # a server with faults is asked no more
        if one.sign is not None and (told := await _told(endpoint, *one.sign)):
            profile, properties = one, told
            break
    if profile is None:
        profile = PROFILES["generic"]
        if unlisted is not None:
            logger.warning("it lists no models, and is taken for profile=%s: %s", profile.name, unlisted)
    if context is None:
        with suppress(TypeError, ValueError):
            context = int(_window(own, properties))
    never = f"; it is never sent {', '.join(sorted(profile.refuses))}" if profile.refuses else ""
    logger.info("%s: profile %s (%s)%s", endpoint, profile.name, profile.summary, never)
    slots = None if profile.slots is None else properties.get(profile.slots)
    concurrency = slots if isinstance(slots, int) and slots > 0 else profile.concurrency
    return Server(profile, context, tuple(str(entry["id"]) for entry in listed), concurrency)


async def _told(endpoint: Endpoint, route: str, name: str) -> Mapping[str, Any]:
    """What a server tells at a route that one kind of servers has; nothing where it is of another kind."""
    try:
        body = await endpoint.get(route, lambda body: body)
    except (Refused, EndpointError) as error:
        logger.debug("%s", route, exc_info=error)
        return {}
    return body if name in body else {}


def _entries(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in body["data"] if isinstance(entry["id"], str)]


def _window(entry: Mapping[str, Any], properties: Mapping[str, Any]) -> Any:
    """The longest sequence that a server names in its list of models, or in its properties."""

    def inside(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        value = told.get(name)
        return value if isinstance(value, Mapping) else {}

    meta = inside(entry, "meta")
    told = (
        entry.get("max_model_len"),  # vLLM, SGLang
        meta.get("n_ctx"),  # llama.cpp: of one slot, as is the next one
        inside(properties, "default_generation_settings").get("n_ctx"),
        meta.get("n_ctx_train"),
        inside(entry, "metadata").get("max_request_context_length"),  # Ray Serve
        entry.get("context_length"),  # OpenRouter, Together, Fireworks
        entry.get("context_window"),  # Groq
        entry.get("max_context_length"),  # Mistral
    )
    return next((size for size in told if size), None)
