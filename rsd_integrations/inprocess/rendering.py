"""Renders chat templates without the transformers library, with the same result.

Templates come with untrusted models, so they run in jinja's sandbox, as in transformers (5.23): namespaces cannot have
private attributes, and `dict` is not the class, from which others could be reached.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Fields that hold the thought of a message."""


def render(
    source: str,
    conversation: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
    arguments: Mapping[str, Any],
) -> str:
    """The text of a conversation.

    Args:
        source: The template.
        conversation: Messages.
        tools: Tools that the model may call; None for none.
        add_generation_prompt: Whether to begin the model's next turn.
        arguments: Other variables of the template, such as `bos_token` and `enable_thinking`.

    Raises:
        TemplateError: The template refuses the conversation, or is invalid.
    """
    text: str = _compiled(source).render(
        messages=[_with_all_names_of_thoughts(message) for message in conversation],
        tools=tools,
        documents=None,
        add_generation_prompt=add_generation_prompt,
        **arguments,
    )
    return text


def _with_all_names_of_thoughts(message: Mapping[str, Any]) -> dict[str, Any]:
    thought = next((message[name] for name in _REASONING if message.get(name) is not None), None)
    return dict(message) if thought is None else {"thinking": thought, **message, "reasoning_content": thought}


@lru_cache(16)
def _compiled(source: str) -> Any:
    return _environment().from_string(source)


@lru_cache(1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return environment


class _Generation(Extension):
    """`{% generation %}` marks generated text, for training; it does not change the text."""

    tags = {"generation"}  # noqa: RUF012 - as in the base class

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Dict:
    """`dict`, limited to creating dictionaries."""

    def __call__(self, *values: Any, **named: Any) -> dict[Any, Any]:
        return dict(*values, **named)

    def fromkeys(self, *values: Any) -> dict[Any, Any]:
        return dict.fromkeys(*values)


class _Namespace(Namespace):
    """`namespace`, without private attributes."""

    def __init__(*values: Any, **named: Any) -> None:  # as in jinja: `self` may be a name in a template
        self, *rest = values
        attributes = dict(*rest, **named)
        for name in attributes:
            _check(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check(name)
        super().__setitem__(name, value)


def _check(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a chat template cannot store the private attribute {name!r}")


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; jinja's own filter escapes HTML characters."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
