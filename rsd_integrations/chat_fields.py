"""Per-request fields of OpenAI's chat API, and a copy of the model for each value.

Names, types and defaults: OpenAI's API reference, "Create chat completion"; `chat_template_kwargs` is vLLM's.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from typing import Any, Self

from rsd_core import ConfigurationError, Model
from rsd_core.data import unknown
from rsd_core.interfaces import Generator

TEMPLATE, EFFORT = "chat_template_kwargs", "reasoning_effort"
TOOL_FIELDS = ("tool_choice", "parallel_tool_calls")
"""How tools are called; meaningful only if a prompt has tools."""
FORM = "response_format"
TURN_FIELDS = (*TOOL_FIELDS, FORM)
"""Fields that only a whole message can honour."""
_TAKES: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    TEMPLATE: (Mapping, "chat template arguments by name"),
    EFFORT: (str, "a text such as low"),
    "tool_choice": ((str, Mapping), "none, auto, required or the function to call"),
    "parallel_tool_calls": (bool, "true or false"),
    "response_format": (Mapping, 'an object such as {"type": "json_object"}'),
}
DEFAULTS = {"tool_choice": "auto", "parallel_tool_calls": True, "response_format": {"type": "text"}}
"""The API's defaults, which any model honours."""
_COPIES = 16
"""Cached copies per model: requests use the same few values again and again."""


class TakesFields(Generator):
    """A drafter or target that supports per-request fields.

    A copy shares the model's weights, caches and connections; closing either closes both. Equal fields give the same
    copy.
    """

    @property
    def writes_json(self) -> bool:
        """Whether it is known to support JSON schemas, as in `response_format`."""
        return False

    def with_fields(self, fields: Mapping[str, Any]) -> Self:
        """The same model, for requests with these fields; None means absent.

        Raises:
            ConfigurationError: The model does not accept a field, or its value.
        """
        given = checked_fields(fields)
        # Nested keys keep their order: properties are written in the schema's order.
        return self._copies(json.dumps(dict(sorted(given.items())))) if given else self

    @abstractmethod
    def _with(self, fields: dict[str, Any]) -> Self:
        """A copy for these fields: one or more, each known and of the right type; errors as in `with_fields`."""

    @cached_property
    def _copies(self) -> Callable[[str], Self]:
        return lru_cache(_COPIES)(lambda given: self._with(json.loads(given)))

    def __copy__(self) -> Self:
        """Attributes as they are, but for the copies, which are of this one."""
        other = super().__copy__()
        vars(other).pop("_copies", None)
        return other


def checked_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields present, each known and of the right type.

    Raises:
        ConfigurationError: A field is unknown or has another type.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    for name, value in given.items():
        if name not in _TAKES:
            raise ConfigurationError(unknown("field of a request", name, _TAKES))
        kind, wanted = _TAKES[name]
        if not isinstance(value, kind):
            raise ConfigurationError(f"{name} takes {wanted} (got {value!r:.80})")
    try:
        json.dumps(given, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{', '.join(given)}: a value is not JSON: {error}") from error
    return given


def schema_of(response_format: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The JSON Schema in a `response_format`; None for text.

    Raises:
        ConfigurationError: It is not one of the three forms, or its schema is not an object.
    """
    kind = response_format.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    named = response_format.get("json_schema")
    schema = named.get("schema") if isinstance(named, Mapping) else None
    if kind != "json_schema" or not isinstance(schema, Mapping):
        raise ConfigurationError(
            'response_format takes {"type": "text"}, {"type": "json_object"}, or {"type": "json_schema", '
            f'"json_schema": {{"name": …, "schema": {{…}}}}}} (got {response_format!r:.80})'
        )
    return schema


def refuse(model: Model, fields: Mapping[str, Any], why: str) -> None:
    """Raise for fields that a model cannot honour, unless they have their default values.

    Args:
        model: The model.
        fields: The fields requested.
        why: The reason, and what to do.

    Raises:
        ConfigurationError: Names the field and its value.
    """
    for name, value in fields.items():
        if name not in DEFAULTS or value != DEFAULTS[name]:
            raise ConfigurationError(f"{model.name} cannot honour {name}={value!r:.80}: {why}")
