"""JSON at little cost: orjson, and the standard library for what that is too strict for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

_encode = json.JSONEncoder(separators=(",", ":")).encode


def encoded(data: Mapping[str, Any]) -> bytes:
    """The JSON of a request. Keys that are numbers, and half a surrogate pair in a text, are none of orjson's."""
    try:
        return orjson.dumps(data)
    except TypeError:
        return _encode(data).encode()


def decoded(data: bytes) -> Any:
    """What a JSON text says, NaN and halves of surrogate pairs included.

    Raises:
        ValueError: It is no JSON.
    """
    try:
        return orjson.loads(data)
    except ValueError:
        return json.loads(data.decode())
