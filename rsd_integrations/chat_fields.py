"""Fields of OpenAI's chat API by which a single request asks more of a model, and a copy of the model for each value.

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
"""How tools are called; of meaning where a prompt has some."""
FORM = "response_format"
TURN_FIELDS = (*TOOL_FIELDS, FORM)
"""What only a whole message can honour."""
_TAKES: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    TEMPLATE: (Mapping, "arguments of the chat template by name"),
    EFFORT: (str, "a text such as low"),
    "tool_choice": ((str, Mapping), "none, auto, required or the function to call"),
    "parallel_tool_calls": (bool, "true or false"),
    "response_format": (Mapping, 'an object such as {"type": "json_object"}'),
}
DEFAULTS = {"tool_choice": "auto", "parallel_tool_calls": True, "response_format": {"type": "text"}}
"""What the API does without the field, so that any model honours it."""
_COPIES = 16
"""Copies of a model that are kept: requests ask for the same few values again and again."""


class TakesFields(Generator):
    """A drafter or target whose requests may have fields of their own.

    A copy shares what the model holds, weights, caches and connections; closing either closes both. Equal fields give
    the same copy.
    """

    @property
    def writes_json(self) -> bool:
        """Whether it is known to write JSON by a schema, as `response_format` asks."""
        return False

    def with_fields(self, fields: Mapping[str, Any]) -> Self:
        """The same model, for requests with these fields; one that is None is not there.

        Raises:
            ConfigurationError: The model takes no such field, or not this value of it.
        """
        given = checked_fields(fields)
        # What is inside keeps its order: properties are written in that of the schema.
        return self._copies(json.dumps(dict(sorted(given.items())))) if given else self

    @abstractmethod
    def _with(self, fields: dict[str, Any]) -> Self:
        """A copy for these fields: one or more, each known and of the right type; errors as of `with_fields`."""

    @cached_property
    def _copies(self) -> Callable[[str], Self]:
        return lru_cache(_COPIES)(lambda given: self._with(json.loads(given)))

    def __copy__(self) -> Self:
        """Attributes as they are, but for the copies, which are of this one."""
        other = super().__copy__()
        vars(other).pop("_copies", None)
        return other


def checked_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are there, each known and of the right type.

    Raises:
        ConfigurationError: One is not.
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
        raise ConfigurationError(f"{', '.join(given)}: a value is no JSON: {error}") from error
    return given


def schema_of(response_format: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The JSON Schema that a `response_format` asks for; None where it asks for text.

    Raises:
        ConfigurationError: It is none of the three forms, or its schema is no object.
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
    """Raise for fields that a model cannot honour, unless they ask for what comes without them.

    Args:
        model: The model.
        fields: What is asked of it.
        why: What is in the way, and what to do.

    Raises:
        ConfigurationError: With the field's name and value.
    """
    for name, value in fields.items():
        if name not in DEFAULTS or value != DEFAULTS[name]:
            raise ConfigurationError(f"{model.name} cannot honour {name}={value!r:.80}: {why}")
