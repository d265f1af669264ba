"""Formats as data: described in a user's file, or in one from a package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from rsd_core import ConfigurationError, MissingDependency
from rsd_core.data import explain, unknown
from rsd_core.plugins import Plugin, of_type
from rsd_integrations.prm_formats.formats import Chat, Head, PRMFormat, Text, Turns, Words

T = TypeVar("T")
ENDINGS = (".yaml", ".yml", ".json")
"""Suffixes of format files."""
PROMPTS: dict[str, type[Chat | Turns | Text]] = {"chat": Chat, "turns": Turns, "text": Text}
"""Prompt classes by `kind`."""

LISTS = {
    "lead": 'a list of two texts, before the first step and before later ones: ["Step 1: ", "\\nStep {i}: "]',
    "layers": "a list of names of tensors: [score]",
    "models": "a list of names on the hub: [our-lab/our-prm]",
}
"""What fields with several texts must be."""


def is_file(name: str) -> bool:
    """Whether a format's name is a file that describes one."""
    return name.lower().endswith(ENDINGS)


def read_format(file: str | Path) -> PRMFormat:
    """The format that a YAML or JSON file describes.

    Args:
        file: Has the fields of `PRMFormat`. `prompt` has a `kind`, `chat`, `turns` or `text`, besides its own fields;
            each of `heads` has either the fields of `Head` or those of `Words`. Without a `name` the format is named
            after the file.

    Raises:
        ConfigurationError: There is no such file, or it does not contain a format; the message names the field.
        MissingDependency: It is YAML, but pyyaml is not installed.
    """
    path = Path(file).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"the format {str(file)!r} cannot be read: {error}") from error
    return parse_format(text, str(file))


def parse_format(text: str, where: str) -> PRMFormat:
    """The format that a text describes.

    Args:
        text: YAML or JSON.
        where: Its name in messages.

    Raises:
        ConfigurationError: It is not a format.
    """
    data = _parsed(text, where)
    if not isinstance(data, Mapping):
        raise ConfigurationError(f"the format {where!r} has {data!r:.60} instead of fields: name, prompt, heads, …")
    return from_data({"name": Path(where).stem, **data}, where)


def from_data(data: Mapping[str, Any], where: str = "format") -> PRMFormat:
    """The format described by data.

    Args:
        data: As in `read_format`.
        where: The data's name in messages.

    Raises:
        ConfigurationError: A field is unknown, missing or of another type, or fields do not fit together.
    """
    own = dict(data)
    if "prompt" in own:
        own["prompt"] = _prompt(own["prompt"], f"{where}: prompt")
    if "heads" in own:
        heads = own["heads"]
        if not isinstance(heads, list | tuple):
            raise ConfigurationError(f"{where}: heads: {heads!r:.60} is not a list of heads")
        own["heads"] = tuple(_head(head, f"{where}: heads.{i}") for i, head in enumerate(heads))
    return _made(PRMFormat, own, where)


def as_data(form: PRMFormat) -> dict[str, Any]:
    """A format as data for `from_data`, suitable for YAML and JSON; defaults are omitted."""
    data = _non_defaults(form)
    kind = next(kind for kind, prompt in PROMPTS.items() if isinstance(form.prompt, prompt))
    return data | {
        "prompt": {"kind": kind, **_non_defaults(form.prompt)},
        "heads": [_non_defaults(head) for head in form.heads],
    }


def of_package(plugin: Plugin) -> PRMFormat:
    """The format from a package: an object, `module:name`, or a file in the module, `module:name.yaml`.

    Raises:
        ConfigurationError: There is no such object or file, or it is not a format.
    """
    module, _, name = plugin.value.partition(":")
    if not is_file(name):
        form = of_type(PRMFormat)(plugin)
    else:
        try:
            text = resources.files(module.strip()).joinpath(name.strip()).read_text(encoding="utf-8-sig")
        except (ImportError, TypeError, OSError, UnicodeError) as error:
            raise ConfigurationError(
                f"{plugin}: {plugin.value} cannot be read ({type(error).__name__}: {error}); reinstall the package, "
                f"or remove it: pip uninstall {plugin.package}"
            ) from error
        form = parse_format(text, f"{plugin.package}: {name}")
    return replace(form, name=plugin.name)


def _parsed(text: str, where: str) -> Any:
    if where.lower().endswith(".json"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"the format {where!r} is not JSON: {error}") from error
    try:
        import yaml

        from rsd_integrations.yaml_data import parse_yaml
    except ModuleNotFoundError as error:
        raise MissingDependency("yaml", "cli", f"the format {where} (JSON needs no package)") from error
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f", line {mark.line + 1}," if mark else ""
        raise ConfigurationError(f"the format {where!r}{place} is not YAML: {problem or error}") from error


def _prompt(data: Any, where: str) -> Chat | Turns | Text:
    if not isinstance(data, Mapping) or "kind" not in data:
        raise ConfigurationError(f"{where}: {data!r:.60} has no kind; it must be one of {', '.join(PROMPTS)}")
    kind = data["kind"]
    if kind not in PROMPTS:
        raise ConfigurationError(f"{where}: {unknown('kind', str(kind), PROMPTS)}")
    return _made(PROMPTS[kind], {name: value for name, value in data.items() if name != "kind"}, where)


def _head(data: Any, where: str) -> Head | Words:
    if not isinstance(data, Mapping):
        raise ConfigurationError(f"{where}: {data!r:.60} is not a head: layers and outputs, or right and wrong words")
    return _made(Words, data, where) if "right" in data or "wrong" in data else _made(Head, data, where)


def _made(kind: type[T], data: Mapping[str, Any], where: str) -> T:
    adapter, known = _adapters()[kind]
    for name in data:
        if name not in known:
            raise ConfigurationError(f"{where}: {unknown('field', str(name), known)}")
        if name in LISTS and not _is_list(data[name], 2 if name == "lead" else None):
            raise ConfigurationError(f"{where}: {name}: {data[name]!r:.60} is not {LISTS[name]}")
    try:
        made: T = adapter.validate_python(dict(data))
        return made
    except ValidationError as error:
        raise ConfigurationError(f"{where}: {explain(error)}") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error


def _is_list(value: Any, size: int | None) -> bool:
    """Whether it is a list of texts, of this size if given."""
    return (
        isinstance(value, list | tuple)
        and all(isinstance(text, str) for text in value)
        and (size is None or len(value) == size)
    )


@cache
def _adapters() -> dict[type[Any], tuple[TypeAdapter[Any], list[str]]]:
    """Field validators and names of each class; created only when data is read, since that is slow."""
    kinds = (PRMFormat, Head, Words, *PROMPTS.values())
    return {kind: (TypeAdapter(kind), [field.name for field in fields(kind)]) for kind in kinds}


def _non_defaults(one: Any) -> dict[str, Any]:
    """The non-default fields of an object, without those that contain other objects."""
    values = {}
    for field in fields(one):
        value = getattr(one, field.name)
        if field.default is not MISSING and value == field.default:
            continue
        if field.name not in ("prompt", "heads"):
            values[field.name] = list(value) if isinstance(value, tuple) else value
    return values
