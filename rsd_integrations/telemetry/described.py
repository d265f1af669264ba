"""A model in terms of OpenTelemetry's semantic conventions for generative AI.

Conventions: https://github.com/open-telemetry/semantic-conventions-genai, as of 2026-11. They are not stable yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from opentelemetry.trace import SpanKind

from rsd_core import Model
from rsd_core.ledger import Role

PROVIDERS = {
    "anthropic.com": "anthropic",
    "azure.com": "azure.ai.openai",
    "cohere.com": "cohere",
    "deepseek.com": "deepseek",
    "googleapis.com": "gcp.gemini",
    "groq.com": "groq",
    "mistral.ai": "mistral_ai",
    "perplexity.ai": "perplexity",
    "x.ai": "x_ai",
}
"""The conventions' provider names, by domain; they call other servers of the OpenAI API `openai`."""


class Endpoint(Protocol):
    """A model behind a URL, as described in telemetry."""

    model: str
    base_url: str

    @property
    def waiting(self) -> int:
        """Number of queued requests."""

    def __hash__(self) -> int:
        """By identity."""


@dataclass(frozen=True, slots=True)
class Described:
    """A model in its role."""

    span: str
    """The span name of its calls."""
    kind: SpanKind
    attributes: dict[str, str | int]
    endpoints: tuple[Endpoint, ...]
    """Servers that its calls may wait for."""


def describe(role: Role, model: Model) -> Described:
    """The description of a model."""
    endpoints = tuple(_endpoints(model))
    operation = "score" if role == "verifier" else _operation(model)
    attributes: dict[str, str | int] = {"gen_ai.operation.name": operation}
    if len({endpoint.base_url for endpoint in endpoints}) == 1:
        name, address = endpoints[0].model, address_of(endpoints[0])
        domain = ".".join(str(address["server.address"]).split(".")[-2:])
        attributes |= {"gen_ai.provider.name": PROVIDERS.get(domain, "openai"), "gen_ai.request.model": name, **address}
    else:
        name = model.name
        attributes |= {"gen_ai.provider.name": _library(model), "gen_ai.request.model": name}
    kind = SpanKind.CLIENT if endpoints else SpanKind.INTERNAL
    return Described(f"{operation} {name}", kind, attributes, endpoints)


def address_of(endpoint: Endpoint) -> dict[str, str | int]:
    """The address of a server."""
    url = urlsplit(endpoint.base_url)
    port = url.port or (443 if url.scheme == "https" else 80)
    return {"server.address": url.hostname or "", "server.port": port}


def _operation(model: Model) -> str:
    mode = getattr(getattr(model, "prompts", None), "mode", None)
    return "chat" if mode == "chat" or _library(model) == "langchain" else "text_completion"


def _library(model: Model) -> str:
    """The subpackage, or package, of the model's class."""
    package, _, rest = type(model).__module__.partition(".")
    return rest.partition(".")[0] if package == "rsd_integrations" else package


def _endpoints(model: Any) -> Iterator[Endpoint]:
    """The endpoints behind a model: its own, and those of its member models."""
    if (endpoint := getattr(model, "endpoint", None)) is not None:
        yield endpoint
    for part in (getattr(model, "model", None), *getattr(model, "members", ())):
        if isinstance(part, Model):
            yield from _endpoints(part)
