"""From a spec string to a model: `load("embedded:draft")`, `load("hf:ORG/MODEL")`.

A spec is `KIND:REST`, with options of the kind as `KIND,KEY=VALUE,…:REST`. A value that is a JSON object, list or
string may hold commas and colons; names with dots nest: `template.enable_thinking=false` is
`template={"enable_thinking": false}`. Kinds composed of other models take specs as their rest, separated by `|`, with
parentheses around one that contains a `|` itself: `judge:hf:ORG/MODEL`,
`cascade,low=0.2:rule:arithmetic|(ensemble,how=min:prm:A|prm:B)`.

Each kind belongs to a backend that is imported when first named, so unused kinds need nothing installed. Other packages
add kinds through entry points in the group `rsd.backends`; the entry's name is the kind, and its object is a function
from the rest of the spec (and keyword options) to a model.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, overload

from rsd_core.catalogue import BUILT_IN, FILES, Backend
from rsd_core.data import masked, unknown
from rsd_core.errors import DISTRIBUTION, ConfigurationError, MissingDependency, RSDError, SpecError
from rsd_core.interfaces import Drafter, Target, Verifier
from rsd_core.ledger import Role
from rsd_core.model import Model
from rsd_core.plugins import Plugin, Registry

GROUP = "rsd.backends"
GGUF = ".gguf"
"""Suffix of llama.cpp's files."""
_NAMED = re.compile(r"\w+=")
ROLES: dict[Role, type[Model]] = {"drafter": Drafter, "verifier": Verifier, "target": Target}


def _of_package(plugin: Plugin) -> Backend:
    return Backend(plugin.name, plugin.value, "", f"a model by the plugin package {plugin.package}", plugin=plugin)


BACKENDS = Registry("kind of model", GROUP, BUILT_IN, _of_package)
"""All known kinds, those of installed packages included."""


def backends() -> dict[str, Backend]:
    """All known kinds, those of installed packages included."""
    return dict(BACKENDS)


def parse_spec(spec: str, role: Role | None = None) -> tuple[Backend, str]:
    """Split a spec into its backend and the rest, without importing anything.

    Args:
        spec: `KIND:REST` or `KIND,KEY=VALUE:REST`.
        role: The role that the model is meant to play.

    Raises:
        SpecError: The kind is unknown or never plays the role, an option is not `KEY=VALUE` or is given twice, or the
            rest is missing; also for nested specs.
    """
    if not isinstance(spec, str):
        raise SpecError(f"{spec!r} is not a spec: write a text such as 'embedded:draft'; `rsd models` lists all")
    (kind, *options), rest = split_spec(spec)
    if kind not in BACKENDS:
        if spec.endswith(GGUF):
            raise SpecError(f"{masked(spec)!r} names no model: a GGUF file is written gguf:{masked(spec)}")
        examples = ", ".join(BUILT_IN[kind].examples[0] for kind in ("embedded", "hf", "prm"))
        what = unknown("kind", kind, sorted(BACKENDS))
        raise SpecError(f"{masked(spec)!r} names no model: {what}. Examples: {examples}; `rsd models` lists all")
    backend = BACKENDS[kind]
    backend, rest = _of_gguf(backend, rest, spec)
    if not rest:
        raise SpecError(f"{masked(spec)!r} is incomplete: after {kind!r} and a colon comes {backend.summary}")
    if wrong := [option.rstrip("=") for option in options if not option.partition("=")[2]]:
        form = f"{kind},KEY=VALUE:{masked(rest)}"
        raise SpecError(f"{masked(spec)!r}: {wrong[0]!r} has no value; options are written {form}")
    if not backend.nested and (after := re.search(r"(.+?),(\w[\w.]*=.*)", rest)):
        before = f"{','.join([kind, *options, after[2]])}:{after[1]}"
        raise SpecError(f"{masked(spec)!r}: options go before the colon: {masked(before)}")
    names = [option.partition("=")[0] for option in options]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SpecError(f"{masked(spec)!r} gives {twice[0]} twice")
    options_of(spec)
    if role is not None and backend.roles and role not in backend.roles:
        raise _wrong_role(spec, role, backend.roles)
    if backend.nested:
        for part in parts_of(rest):
            parse_spec(part, backend.inside)
    return backend, rest


def _of_gguf(backend: Backend, rest: str, spec: str) -> tuple[Backend, str]:
    """The backend for a GGUF file if the rest names one; otherwise both unchanged.

    Raises:
        SpecError: It names a GGUF file, but the kind takes checkpoints.
    """
    if rest.startswith("gguf=") and backend.gguf:
        return replace(backend, module=backend.gguf, extra="llamacpp"), rest.removeprefix("gguf=")
    if rest.endswith(GGUF) and backend.extra == "huggingface":
        right = f"{backend.kind}:gguf={rest}" if backend.gguf else f"gguf:{rest}"
        head = ",head=FOLDER" if backend.kind == "prm" else ""
        raise SpecError(
            f"{masked(spec)!r} names a GGUF file: write {masked(right)}{head}, which takes pip install "
            f'"{DISTRIBUTION}[llamacpp]"'
        )
    return backend, rest


def split_spec(spec: str) -> tuple[list[str], str]:
    """The kind with its options, and what follows the colon; JSON values may contain commas and colons."""
    parts, start, at = list[str](), 0, 0
    while at < len(spec):
        if spec[at] in ",:":
            parts.append(spec[start:at])
            start = at + 1
            if spec[at] == ":":
                rest = spec[start:]
                # If the rest begins with a name as well, options follow it: KIND:NAME=VALUE,KEY=VALUE.
                if _NAMED.match(rest) and "," in rest:
                    rest, _, more = rest.partition(",")
                    parts += split_spec(f"{more}:")[0]
                return parts, rest
        elif spec[at] == "=" and spec[at + 1 : at + 2] in ("{", "[", '"'):
            try:
                _, end = json.JSONDecoder().raw_decode(spec, at + 1)
            except ValueError:  # plain text that begins like JSON
                end = at + 1
            at = end - 1
        at += 1
    return [*parts, spec[start:]], ""


def options_of(spec: str) -> dict[str, Any]:
    """The options in a spec; those with dots are nested.

    Raises:
        SpecError: A name is given both a value and something inside it.
    """
    options: dict[str, Any] = {}
    for option in split_spec(spec)[0][1:]:
        path, _, value = option.partition("=")
        *outer, name = path.split(".")
        inside = options
        for part in outer:
            inside = inside.setdefault(part, {})
            if not isinstance(inside, dict):
                break
        if not isinstance(inside, dict) or name in inside:
            raise SpecError(f"{masked(spec)!r} sets both {path} and something inside or around it; set only one")
        inside[name] = _value(value)
    return options


def parts_of(rest: str) -> list[str]:
    """The nested specs of a spec: split at every `|` outside parentheses."""
    parts, depth = [""], 0
    for char in rest:
        depth += (char == "(") - (char == ")")
        if char == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part[1:-1] if part.startswith("(") and part.endswith(")") else part for part in parts]


def _value(text: str) -> Any:
    r"""The value of an option: JSON, a number, `true`, `false` or `null`, or a text in which `\n` is a newline."""
    if text[:1] in ("{", "["):
        with suppress(ValueError):
            return json.loads(text)
    try:
        return ast.literal_eval({"true": "True", "false": "False", "null": "None"}.get(text, text))
    except (ValueError, SyntaxError):
        return text.replace("\\n", "\n").replace("\\t", "\t")


@overload
def load(spec: str, *, role: Literal["drafter"], **options: Any) -> Drafter: ...
@overload
def load(spec: str, *, role: Literal["verifier"], **options: Any) -> Verifier: ...
@overload
def load(spec: str, *, role: Literal["target"], **options: Any) -> Target: ...
@overload
def load(spec: str, *, role: None = None, **options: Any) -> Any: ...
def load(spec: str, *, role: Role | None = None, **options: Any) -> Any:
    """Make the model that a spec names.

    Args:
        spec: `KIND:REST` or `KIND,KEY=VALUE:REST`; `rsd models` lists the kinds.
        role: What the model is for: `"drafter"`, `"verifier"` or `"target"`. Type checkers then know its type.
        options: Passed to the backend, for example `dtype="float32"` or `device="cuda:0"` for `hf:`. They override
            those of the spec.

    Raises:
        SpecError: The kind or an option is unknown, or the model cannot play the role.
        MissingDependency: The backend needs a package that is not installed.
        ConfigurationError: The package that brings the kind is broken.
    """
    if role is not None and role not in ROLES:
        raise ConfigurationError(unknown("role", role, ROLES))
    backend, rest = parse_spec(spec, role)
    options = options_of(spec) | options
    factory = _checked_factory(backend, rest, options, spec)
    try:
        model = factory(rest, **options)
    except RSDError:
        raise
    except (Exception, SystemExit) as error:
        # From a factory that passes on its options.
        wrong = re.search(r"unexpected keyword argument '(\w+)'", str(error)) if isinstance(error, TypeError) else None
        if wrong is not None and wrong[1] in options:
            raise SpecError(f"{masked(spec)!r}: unknown option of {backend.kind} {wrong[1]!r}") from error
        if backend.plugin is None:
            raise
        if isinstance(error, ModuleNotFoundError):
            raise ConfigurationError(f"{masked(spec)!r} needs the module {error.name!r} ({backend.summary})") from error
        why = f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"{masked(spec)!r} cannot be created by {backend.plugin} ({why})") from error
    plays = [name for name, kind in ROLES.items() if isinstance(model, kind)]
    if not plays:
        raise SpecError(f"{masked(spec)!r} created {model!r}, not a drafter, verifier or target ({backend.summary})")
    if role is not None and role not in plays:
        raise _wrong_role(spec, role, plays)
    vars(model).setdefault("made_by", partial(load, spec, **options))
    return model


def check_spec(spec: str, *, paths: bool = False) -> None:
    """Check the names and types of a spec's options as `load` does, without loading anything.

    Args:
        spec: As `load` takes it.
        paths: Whether to check as well that local paths hold models.

    Raises:
        SpecError: An option is unknown, missing, or of another type.
        MissingDependency: The backend needs a package that is not installed.
        ConfigurationError: The package that brings the kind is broken, or there is no model in a local path.
    """
    backend, rest = parse_spec(spec)
    _checked_factory(backend, rest, options_of(spec), spec)
    if backend.nested:
        for part in parts_of(rest):
            check_spec(part, paths=paths)
    elif paths and backend.extra in FILES and rest.startswith((".", "/", "~")):
        importlib.import_module(FILES[backend.extra]).find(rest)


def has_no_price(spec: str) -> bool:
    """Whether it is certain, before anything is loaded, that the model of a spec has no price."""
    backend, _ = parse_spec(spec)
    known = backend.plugin is None and not backend.nested and backend.extra in ("huggingface", "llamacpp", "openai")
    return known and not options_of(spec).keys() & {"prompt_price", "generated_price"}


def _checked_factory(backend: Backend, rest: str, options: dict[str, Any], spec: str) -> Callable[..., Model]:
    """The model's factory, with the options checked."""
    factory = _factory(backend, spec)
    _check_options(backend, factory, rest, options, spec)
    check_types(factory, options, spec)
    return factory


def _wrong_role(spec: str, role: Role, plays: Sequence[Role]) -> SpecError:
    fitting = [kind for kind, backend in BUILT_IN.items() if not backend.roles or role in backend.roles]
    fix = (
        f"to use a generator as a judge, write judge:{masked(spec)}"
        if role == "verifier"
        else f"kinds that can are {', '.join(fitting)}"
    )
    return SpecError(f"{masked(spec)!r} cannot be the {role}: it makes a {' or a '.join(plays)}; {fix}")


def _factory(backend: Backend, spec: str) -> Callable[..., Model]:
    if backend.plugin is not None:
        factory = backend.plugin.load()
        if not callable(factory):
            raise ConfigurationError(f"{backend.plugin}: {backend.module} is {factory!r}, not a function")
        return factory  # type: ignore[no-any-return]
    module, _, name = backend.module.partition(":")
    try:
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not backend.extra or missing in ("", "rsd_core", "rsd_integrations"):
            raise
        raise MissingDependency(missing, backend.extra, f"{masked(spec)!r}") from error


def _check_options(
    backend: Backend, factory: Callable[..., Model], rest: str, options: dict[str, Any], spec: str
) -> None:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # C functions without a signature
        return
    takes = list(signature.parameters.values())[1:]
    known = [parameter.name for parameter in takes if parameter.kind is not parameter.VAR_KEYWORD]
    if len(known) == len(takes):
        for name in options:
            if name not in known:
                raise SpecError(f"{masked(spec)!r}: {unknown(f'option of {backend.kind}', name, known or ['none'])}")
    try:
        signature.bind(rest, **options)
    except TypeError as error:
        takes_all = f"options of {backend.kind} are {', '.join(known) or 'none'}"
        raise SpecError(f"{masked(spec)!r}: {error}; {takes_all}") from error


def check_types(factory: Callable[..., Model], options: dict[str, Any], spec: str) -> None:
    """Refuse an option annotated as number, text or boolean that has another type, or fails its annotation's checks.

    Args:
        factory: Function or class that takes the options.
        options: The options to be passed to it.
        spec: What the user wrote, for the message.

    Raises:
        SpecError: An option is of another type.
    """
    try:
        parameters = inspect.signature(factory, eval_str=True).parameters
    except (NameError, ValueError):  # in other packages: annotations without their imports, C functions
        return
    for name in options.keys() & parameters.keys():
        annotation, value = parameters[name].annotation, options[name]
        annotation, *checks = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
        kinds = set(get_args(annotation) or (annotation,))
        if not kinds <= {int, float, bool, str, NoneType}:
            continue
        takes = kinds | {int} if float in kinds else kinds
        if not isinstance(value, tuple(takes)) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(_TYPES[kind] for kind in _TYPES if kind in kinds)
            fix = f'; quote it to make it a text: {name}="…"' if str in kinds and value is not None else ""
            given = f"{name}={value}"
            got = f" (got {value!r})" if masked(given) == given else ""  # unless it is a secret
            raise SpecError(f"{masked(spec)!r}: {name} takes {wanted}{got}{fix}")
        for check in checks:  # of a name, before anything is fetched
            check(value)


_TYPES: dict[type, str] = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
