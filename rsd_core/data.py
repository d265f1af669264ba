"""From short texts to data, and from what pydantic finds wrong to a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from rsd_core.errors import ConfigurationError


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """What to say of a name that means nothing: the nearest one that does, then all."""
    known = list(known)
    near = get_close_matches(name, known, n=1)
    return f"unknown {what} {name!r}{f', did you mean {near[0]!r}?' if near else ';'} known are {', '.join(known)}"


def from_text(text: str, kinds: Mapping[str, type[BaseModel]], what: str) -> dict[str, Any]:
    """Data behind `kind:value,name=value`, values in the order of the class's fields or by name.

    Raises:
        ConfigurationError: Unknown kind, or more values than parameters.
    """
    kind, _, rest = text.strip().partition(":")
    if kind not in kinds:
        raise ConfigurationError(unknown(what, kind, kinds))
    own = [name for name in kinds[kind].model_fields if name not in ("kind", "then")]
    data: dict[str, Any] = {"kind": kind}
    for position, part in enumerate(filter(None, rest.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            if position >= len(own):
                raise ConfigurationError(f"{text!r} has more values than {kind} has parameters ({', '.join(own)})")
            name, value = own[position], part
        data[name.strip()] = value.strip()
    return data


def explain(error: ValidationError) -> str:
    """The findings of pydantic in one line: where, what is wrong, and the value."""
    found = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"])
        found.append(
            f"{where + ': ' if where else ''}{item['msg'].removeprefix('Value error, ')} (got {item['input']!r})"
        )
    return "; ".join(found)
