"""Fields that a user adds to a model's requests, or removes from them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rsd_core import ConfigurationError
from rsd_core.data import masked, unknown
from rsd_integrations.chat_fields import FORM, TEMPLATE, TURN_FIELDS, schema_of
from rsd_integrations.openai_compatible.profile import Profile
from rsd_integrations.openai_compatible.profiles import PROFILES

THOUGHTS = "reasoning_content"
"""If omitted, earlier thoughts are not sent back."""
_CAPS = ("max_tokens", "max_completion_tokens")
_OWN = {
    "model": "the spec names the model",
    "messages": "they are the prompt",
    "prompt": "it is the prompt",
    "stream": "the profile decides it",
    "stop": "the delimiter decides it",
    "n": "candidates are separate requests",
    "echo": "answers are read without it",
    "continue_final_message": "the profile decides it",
    "add_generation_prompt": "the profile decides it",
    **dict.fromkeys(_CAPS, "max_step_tokens and limits decide it, and the profile its name"),
}
"""Fields that users cannot set, and why."""


class RequestFields:
    """The user's part of the body of every request of a model.

    Args:
        template: Chat template arguments, such as `{"enable_thinking": False}`; chats send them as
            `chat_template_kwargs`, and completions with a tokenizer use them for local rendering.
        body: Additional request fields, as JSON; nested objects are merged.
        omit: Names of fields not to send; in text, joined by `+`.

    Raises:
        ConfigurationError: A field cannot be set by the user, is not JSON, or is unknown.
    """

    def __init__(
        self,
        template: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        omit: str | Sequence[str] = (),
    ) -> None:
        self.template = _checked("template", template)
        self.body = _checked("body", body)
        self.omit = frozenset(omit.split("+") if isinstance(omit, str) and omit else omit)
        self.turn: Mapping[str, Any] = {}
        """Fields that apply only to requests for whole turns."""
        for name in self.body:
            if name in _OWN:
                raise ConfigurationError(f"body.{name} cannot be set: {_OWN[name]}")
        known = _omittable()
        for name in sorted(self.omit):
            if name in _OWN:
                raise ConfigurationError(f"omit={name} is not possible: {_OWN[name]}")
            if name in self.body:
                raise ConfigurationError(f"both body.{name} and omit={name} are given; give only one")
            if name not in known:
                raise ConfigurationError(f"omit={name!r}: {unknown('field', name, sorted(known))}")

    def with_fields(self, fields: Mapping[str, Any]) -> RequestFields:
        """The same with a single request's fields, which override the user's.

        Args:
            fields: See `Generator.with_fields`.
        """
        other, own = copy.copy(self), self.body.get(TEMPLATE)
        other.turn = {**self.turn, **{name: fields[name] for name in TURN_FIELDS if name in fields}}
        body = {name: value for name, value in self.body.items() if name not in other.turn}
        body |= {name: value for name, value in fields.items() if name not in (TEMPLATE, *TURN_FIELDS)}
        if isinstance(own, Mapping):  # the user set the field itself
            body[TEMPLATE] = {**own, **fields.get(TEMPLATE, {})}
        else:
            other.template = {**self.template, **fields.get(TEMPLATE, {})}
        other.body = body
        return other

    def decides(self, name: str) -> bool:
        """Whether the user sets or omits a field."""
        return name in self.body or name in self.omit

    @staticmethod
    def may_omit(name: str) -> bool:
        """Whether a field may be omitted."""
        return name in _omittable()

    def schema_for(self, profile: Profile) -> dict[str, Any]:
        """The completion field with which this server follows a request's JSON Schema.

        Raises:
            ConfigurationError: It has no such field.
        """
        asked = self.turn.get(FORM)
        schema: Any = None if asked is None else schema_of(asked)
        if schema is None:
            return {}
        if not profile.schema:
            raise ConfigurationError(
                f"completions of {profile.summary} accept no JSON Schema; use mode=chat, which has "
                "`response_format`, or a server that accepts one, such as vLLM"
            )
        value: Any = json.dumps(schema) if profile.schema_is_text else schema
        *outer, last = profile.schema
        field = {last: value}
        for name in reversed(outer):
            field = {name: field}
        return field

    def applied(self, body: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
        """The body of a request, adapted to this server and the user's fields.

        Raises:
            ConfigurationError: The server's chats accept no template arguments.
        """
        fields, chat = dict(body), "messages" in body
        if chat and profile.cap in _CAPS and "max_tokens" in fields:
            fields[profile.cap] = fields.pop("max_tokens")
        if "seed" in fields:
            fields[profile.seed] = fields.pop("seed")
        if dropped := profile.refuses | self.omit:
            fields = {name: value for name, value in fields.items() if name not in dropped}
        if chat and self.template:
            if not profile.template:
                switch = "".join(
                    f" Here {field} switches thinking off." for field in off_options(profile.without_thoughts)
                )
                raise ConfigurationError(
                    f"template.{next(iter(self.template))} needs a tokenizer=… and mode=completions, or chats that "
                    f"accept `{TEMPLATE}`; {profile.summary} does not document it: body.NAME=… sets any "
                    f"field.{switch}"
                )
            fields[TEMPLATE] = self.template
        return _merged(fields, self.body) if self.body else fields


def off_options(switch: Mapping[str, Any]) -> list[str]:
    """Fields that switch thinking off, as spec options."""
    template = switch.get("chat_template_kwargs", {})
    rest = {name: value for name, value in switch.items() if name != "chat_template_kwargs"}
    return options_of("template", template) + options_of("body", rest)


def options_of(prefix: str, fields: Mapping[str, Any]) -> list[str]:
    """Fields as spec options: `body.reasoning.effort=low`."""
    options = []
    for name, value in fields.items():
        path = f"{prefix}.{name}"
        if isinstance(value, Mapping) and value and all(isinstance(key, str) and key.isidentifier() for key in value):
            options += options_of(path, value)
        else:
            plain = isinstance(value, str) and value.isidentifier() and value not in ("true", "false", "null")
            options.append(f"{path}={value if plain else json.dumps(value)}")
    return options


def _omittable() -> set[str]:
    names = {"temperature", "top_p", "top_k", "seed", "logprobs", "top_logprobs", "stream_options", THOUGHTS}
    for profile in PROFILES.values():
        names |= {profile.seed, *profile.plain, *profile.give_ids, *profile.stream_counts}
    return names


def _checked(name: str, fields: Mapping[str, Any] | None) -> dict[str, Any]:
    if fields is None:
        return {}
    if not isinstance(fields, Mapping) or not all(isinstance(key, str) and key for key in fields):
        raise ConfigurationError(
            f"{name} takes fields by name, such as {name}.NAME=VALUE in a spec (got {masked(repr(fields)):.80})"
        )
    try:
        json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name} has a value that is not JSON: {error}") from error
    return dict(fields)


def _merged(fields: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(fields)
    for name, value in others.items():
        inside = merged.get(name)
        merged[name] = _merged(inside, value) if isinstance(inside, Mapping) and isinstance(value, Mapping) else value
    return merged
