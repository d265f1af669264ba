"""Fast JSON: orjson, with the standard library as fallback where orjson is too strict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

_encode = json.JSONEncoder(separators=(",", ":")).encode


def encoded(data: Mapping[str, Any]) -> bytes:
    """The JSON of a request. orjson rejects numeric keys and lone surrogates."""
    try:
        return orjson.dumps(data)
    except TypeError:
        return _encode(data).encode()


def decoded(data: bytes) -> Any:
    """The data of a JSON text, accepting NaN and lone surrogates.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        return orjson.loads(data)
    except ValueError:
        return json.loads(data.decode())
