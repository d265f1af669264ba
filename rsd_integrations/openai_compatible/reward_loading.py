"""Reward models behind servers, by spec. Determines what a server does not report: their format and tokenizer."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from rsd_core import ConfigurationError, MissingDependency
from rsd_integrations.openai_compatible.loading import open_endpoint
from rsd_integrations.openai_compatible.reward_models import PoolingRunVerifier, PoolingVerifier, TokenLogitsVerifier
from rsd_integrations.prm_formats import FORMATS, FormatName, PRMFormat, Reader, Tokenizer, bind, find_format


def load_pooling(
    spec: str,
    *,
    format: FormatName = None,
    tokenizer: str | None = None,
    separator: str | None = None,
    flops_per_token: float | None = None,
    concurrency: int | None = None,
    timeout: float = 120.0,
    retries: int = 2,
    patience: float | None = None,
    key_env: str | None = None,
) -> PoolingVerifier:
    """A reward model behind vLLM's /pooling, as `MODEL@BASE_URL`; other arguments as in `Endpoint`.

    Args:
        spec: The model's name and URL.
        format: Name of its format, if neither the model's name nor the config.json next to the tokenizer determines it.
        tokenizer: Folder or hub id of its tokenizer; by default the model's name as a hub id.
        separator: The separator used in training, if models of its format differ in it.
        flops_per_token: Two per weight, for the ledger.
        concurrency: As of `Endpoint`.
        timeout: As of `Endpoint`.
        retries: As of `Endpoint`.
        patience: As of `Endpoint`.
        key_env: As of `Endpoint`.

    Raises:
        SpecError: The spec names no URL.
        ConfigurationError: The format is unknown or not for such servers, or its tokenizer is unavailable.
    """
    endpoint = open_endpoint(
        spec, key_env=key_env, timeout=timeout, retries=retries, patience=patience, concurrency=concurrency
    )
    reader = _reader(endpoint.model, format, tokenizer, separator)
    kind = PoolingRunVerifier if reader.settles else PoolingVerifier
    return kind(endpoint, reader, flops_per_token)


def load_token_logits(
    spec: str,
    *,
    format: FormatName = None,
    tokenizer: str | None = None,
    separator: str | None = None,
    flops_per_token: float | None = None,
    concurrency: int | None = None,
    timeout: float = 120.0,
    retries: int = 2,
    patience: float | None = None,
    key_env: str | None = None,
) -> TokenLogitsVerifier:
    """A reward model that judges by words of its language model, behind completions; otherwise like `load_pooling`."""
    endpoint = open_endpoint(
        spec, key_env=key_env, timeout=timeout, retries=retries, patience=patience, concurrency=concurrency
    )
    return TokenLogitsVerifier(endpoint, _reader(endpoint.model, format, tokenizer, separator), flops_per_token)


def _reader(model: str, format: str | None, tokenizer: str | None, separator: str | None) -> Reader[Any]:
    """The given or known format, bound to the tokenizer."""
    where = tokenizer or model
    return bind(_format(model, where, format), _tokenizer(model, where), model, separator)


def _format(model: str, where: str, named: str | None) -> PRMFormat:
    if named is not None:
        return find_format({}, {}, model, named)
    config = Path(where).expanduser() / "config.json"
    raw = json.loads(config.read_text()) if config.exists() else {}
    for name in (model, where):
        with suppress(ConfigurationError):
            return find_format(raw, {}, name)
    raise ConfigurationError(
        f"{model}: a server does not report what kind of reward model it runs. Give the format: format=…, one of "
        f"{', '.join(FORMATS)}"
    )


def _tokenizer(model: str, where: str) -> Tokenizer:
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        raise MissingDependency("transformers", "huggingface", f"the tokenizer of {model}") from error
    try:
        loaded: Tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{model}: no tokenizer in {where!r}. Give the folder or the hub id under which the model was published: "
            "tokenizer=…"
        ) from error
    return loaded
