"""Chat templates rendered by jinja2 alone: what our own code is compared with shares none of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

Turn = Mapping[str, Any]
"""A message as templates read it."""
BOS, EOS = "<bos/>", "<eos/>"


class _Generation(Extension):
    """`{% generation %}` marks what a model wrote, for training; it changes no text."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


_ENVIRONMENT = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
)
_ENVIRONMENT.filters["tojson"] = _tojson
_ENVIRONMENT.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}


@dataclass(frozen=True)
class Template:
    """A chat template, with the special tokens that it is rendered with."""

    source: str

    def render(self, turns: Sequence[Turn], *, generate: bool, arguments: Mapping[str, Any]) -> str:
        """The text of a conversation; with `generate` the model's next turn is begun.

        Raises:
            TemplateError: The template refuses the conversation.
        """
        return _ENVIRONMENT.from_string(self.source).render(
            messages=[dict(turn) for turn in turns],
            add_generation_prompt=generate,
            bos_token=BOS,
            eos_token=EOS,
            tools=None,
            documents=None,
            **arguments,
        )
