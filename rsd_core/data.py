"""Validated data from files and short texts, and one-sentence explanations of what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from rsd_core.errors import DISTRIBUTION, ConfigurationError, RSDError
from rsd_core.version import __version__

M = TypeVar("M", bound=BaseModel)
MOST = 100
"""Findings reported about one object; each costs a search for the name that was meant."""


class Data(BaseModel):
    """Base of everything users write as data: immutable, and an unknown name is an error that suggests the nearest one.

    Data may hold the `version` of this distribution that it was written for. If something is wrong, data from a newer
    version lead to the advice to upgrade.
    """

    # Infinity switches some limits off, and would be null in JSON.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        newer = None
        if isinstance(data, Mapping) and "version" in data and "version" not in cls.model_fields:
            newer = newer_version(data)
            data = {key: value for key, value in data.items() if key != "version"}
        try:
            return handler(data)
        except ValidationError as error:
            findings = [_with_nearest(cls, item) for item in error.errors(include_url=False)[:MOST]]
            better = ValidationError.from_exception_data(error.title, findings)
            if newer:
                raise PydanticCustomError("newer_version", _literally(f"{newer} ({explain(better)})")) from error
            raise better from None


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for an unknown name: the nearest known one, then all of them."""
    known = list(known)
    near = nearest(name, known)
    return f"unknown {what} {name!r}{f', did you mean {near!r}?' if near else ';'} known are {', '.join(known)}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, if any."""
    names = {known_name.lower(): known_name for known_name in known}
    near = get_close_matches(name.lower(), names, n=1)
    return names[near[0]] if near else None


def from_text(text: str, kinds: Mapping[str, type[BaseModel]], what: str) -> dict[str, Any]:
    """Data behind `kind:value,name=value`, values in the order of the class's fields or by name.

    A value that contains commas is put in parentheses: `kind:name=(other:1,2)`.

    Raises:
        ConfigurationError: Unknown kind, more values than parameters, or two for the same one.
    """
    kind, _, rest = text.strip().partition(":")
    if kind not in kinds:
        raise ConfigurationError(unknown(what, kind, kinds))
    own = [name for name in kinds[kind].model_fields if name not in ("kind", "then")]
    data: dict[str, Any] = {"kind": kind}
    for position, part in enumerate(filter(None, _values(rest))):
        name, equals, value = part.partition("=")
        if not equals:
            if position >= len(own):
                raise ConfigurationError(f"{text!r} has more values than {kind} has parameters ({', '.join(own)})")
            name, value = own[position], part
        if name.strip() in data:
            name = name.strip()
            raise ConfigurationError(f"{text!r} gives {name} twice; put a value with commas in parentheses: {name}=(…)")
        value = value.strip()
        data[name.strip()] = value[1:-1] if value.startswith("(") and value.endswith(")") else value
    return data


def _values(text: str) -> list[str]:
    """A text, split at the commas outside parentheses."""
    parts, depth = [""], 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def of_kind(data: Any, kinds: Mapping[str, type[M]], what: str) -> M:
    """The object that data with a `kind` describe.

    Raises:
        ConfigurationError: There is no such kind, or its class is broken.
        ValidationError: Something else is wrong.
    """
    if not isinstance(data, Mapping):
        raise ConfigurationError(f"{data!r} is not a {what}: write KIND:VALUE; kinds are {', '.join(kinds)}")
    kind = data.get("kind")
    if not isinstance(kind, str):
        raise ConfigurationError(f"a {what} needs a kind (got {data!r:.80}); known are {', '.join(kinds)}")
    if kind not in kinds and (newer := newer_version(data)):
        raise ConfigurationError(f"{newer} ({unknown(what, kind, kinds)})")
    part = kinds[kind]
    try:
        return part.model_validate(data)
    except (ValidationError, RSDError):
        raise
    except (Exception, SystemExit) as error:  # a user's own class
        why = f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"the {what} {kind!r} cannot be created by {part.__module__} ({why})") from error


def newer_version(data: Mapping[str, Any]) -> str | None:
    """The message for faulty data written for a newer version than this one."""
    version = data.get("version")
    if version is None or _parts(version) <= _parts(__version__):
        return None
    return f"written for {DISTRIBUTION} {version}, and this is {__version__}: pip install --upgrade {DISTRIBUTION}"


def masked(text: str) -> str:
    """A spec, or a text containing one, without secrets: values of secret options, and credentials in URLs."""
    text = re.sub(r"(://)[^/?#@\s]+@", r"\1…@", text)
    named = r"((?:key|secret|password|authorization|token)(?:=\"?|\"\s*:\s*\"))"  # option, or name in JSON
    return re.sub(named + r"((?<=\")(?:[^\"\\]|\\.)+|[^,:'\"\s&]+)", r"\1…", text, flags=re.IGNORECASE)


def explain(error: ValidationError) -> str:
    """Pydantic's findings in one line: where, what is wrong, and the value."""
    findings = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        value = item["input"]
        # Whole objects say less than the message; many messages contain the text already.
        shown = isinstance(value, Mapping | BaseModel) or (isinstance(value, str) and repr(value) in message)
        got = "" if shown else f" (got {masked(repr(value)):.80})"
        findings.append(f"{where + ': ' if where else ''}{message}{got}")
    return "; ".join(findings)


def _parts(version: Any) -> tuple[int, ...]:
    numbers = re.match(r"\d+(\.\d+)*", str(version))
    if numbers is None:
        raise ConfigurationError(f"version: {version!r} is not a version such as {__version__!r}")
    return tuple(map(int, numbers[0].split(".")))


def _with_nearest(cls: type[BaseModel], item: Any) -> InitErrorDetails:
    """A finding of pydantic, with the name or the value that was probably meant."""
    kind, message = item["type"], item["msg"]
    if kind == "extra_forbidden" and len(item["loc"]) == 1:
        kind, message = "unknown_name", _unknown_name(cls, str(item["loc"][0]))
    elif kind == "literal_error" and isinstance(item["input"], str):
        near = nearest(item["input"], re.findall(r"'([^']*)'", item["ctx"]["expected"]))
        kind, message = "unknown_value", f"{message}{f', did you mean {near!r}?' if near else ''}"
    return InitErrorDetails(type=PydanticCustomError(kind, _literally(message)), loc=item["loc"], input=item["input"])


def _unknown_name(cls: type[BaseModel], name: str) -> str:
    """The same for a name, which may also be in the wrong place: `max_tokens` belongs to the limits."""
    elsewhere = (place for place in places(cls) if place.rpartition(".")[2] == name)
    near = next(elsewhere, None) or nearest(name, cls.model_fields)
    return f"unknown name{f', did you mean {near!r}?' if near else ';'} known are {', '.join(cls.model_fields)}"


def places(cls: type[BaseModel]) -> Iterator[str]:
    """The field names of a data class, nested ones included."""
    for name, field in cls.model_fields.items():
        yield name
        if isinstance(field.annotation, type) and issubclass(field.annotation, Data):
            yield from (f"{name}.{inner}" for inner in places(field.annotation))


def _literally(message: str) -> Any:
    """A message in the type that pydantic requires, which accepts literals only."""
    return message
