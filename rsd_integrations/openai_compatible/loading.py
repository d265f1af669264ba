"""Factories for this subpackage's specs: `MODEL@BASE_URL` with options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rsd_core import Price, SpecError
from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.generator import OpenAIGenerator
from rsd_integrations.openai_compatible.prompts import Mode

_SPEC = re.compile(r"(?P<model>.+?)(?:@(?P<url>https?://.*))?", re.DOTALL)
_HOST = re.compile(r".*@(?:localhost|[\w.-]+:\d+|\d+(?:\.\d+){3})(?:/.*)?", re.DOTALL)
"""What ends in a URL without `http://`; names of models may contain an @ too."""


def open_endpoint(
    spec: str,
    *,
    key_env: str | None = None,
    timeout: float = 120.0,
    retries: int = 2,
    patience: float | None = None,
    concurrency: int | None = None,
) -> Endpoint:
    """The endpoint for `MODEL@BASE_URL`, or `MODEL` at OPENAI_BASE_URL; arguments as in `Endpoint`.

    Raises:
        SpecError: It names no model, or something other than a URL follows the `@`.
    """
    parts = _SPEC.fullmatch(spec)
    if parts is None or "://" in parts["model"]:
        raise SpecError(f"{spec!r} names no model at a URL; it should look like draft@http://127.0.0.1:8000/v1")
    if parts["url"] is None and _HOST.fullmatch(spec):
        model, _, host = spec.rpartition("@")
        raise SpecError(f"{spec!r} has no http:// or https:// after its @; it should look like {model}@http://{host}")
    return Endpoint(
        parts["model"],
        parts["url"],
        key_env=key_env,
        timeout=timeout,
        retries=retries,
        patience=patience,
        concurrency=concurrency,
    )


def load_generator(
    spec: str,
    *,
    profile: str | None = None,
    mode: Mode | None = None,
    tokenizer: str | None = None,
    context: int | None = None,
    template: Mapping[str, Any] | None = None,
    body: Mapping[str, Any] | None = None,
    omit: str | Sequence[str] = (),
    logprobs: bool = False,
    guesses: bool = False,
    concurrency: int | None = None,
    timeout: float = 120.0,
    retries: int = 2,
    patience: float | None = None,
    key_env: str | None = None,
    flops_per_token: float | None = None,
    prompt_price: float | None = None,
    generated_price: float | None = None,
    cached_price: float | None = None,
) -> OpenAIGenerator:
    """A model behind a URL, as `MODEL@BASE_URL`; arguments as in `Endpoint` and `OpenAIGenerator`.

    Prices are money per million tokens. A missing `prompt_price` or `generated_price` is 0, and a missing
    `cached_price` the prompt's; a `cached_price` alone has no effect.
    """
    endpoint = open_endpoint(
        spec, key_env=key_env, timeout=timeout, retries=retries, patience=patience, concurrency=concurrency
    )
    priced = prompt_price is not None or generated_price is not None
    return OpenAIGenerator(
        endpoint,
        tokenizer=tokenizer,
        mode=mode,
        profile=profile,
        context=context,
        template=template,
        body=body,
        omit=omit,
        logprobs=logprobs,
        guesses=guesses,
        flops_per_token=flops_per_token,
        price=Price(prompt_price or 0.0, generated_price or 0.0, cached_price) if priced else None,
    )
