"""Validates the fields users give an adapter: one name each, none unknown, and no role forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from rsd_core.data import masked, nearest, places
from rsd_core.errors import ConfigurationError
from rsd_core.ledger import Role
from rsd_core.methods import Method, RSDMethod, as_decoder
from rsd_core.model import Model
from rsd_core.policies import parse_policy
from rsd_core.settings import Settings

Fields = TypeVar("Fields", bound=BaseModel)
ROLES: dict[str, Role] = {"draft": "drafter", "target": "target", "verifier": "verifier"}
"""Model fields, and the roles they play."""
_BUNDLED = ("embedded", "scripted")
_OF_MODELS = "set it on the models themselves"
_MEANT = {
    "api_key": _OF_MODELS,
    "base_url": _OF_MODELS,
    "delta": 'did you mean policy="binary_step:0.7"?',
    "judge": "did you mean verifier?",
    "model": "did you mean draft and target?",
    "reward_model": "did you mean verifier?",
    "threshold": 'did you mean policy="binary_step:0.7"?',
}
"""Names that users may try by mistake."""


def checked(data: Any, cls: type[Fields], make: Callable[[Any], Fields]) -> Fields:
    """Construct an adapter from the given fields, for a wrapping validator; the drafter is `draft`.

    Raises:
        ConfigurationError: A name is unknown, a field is given under two names, or a role was forgotten.
    """
    if not isinstance(data, Mapping):
        return make(data)
    data = under_one_name(data)
    known = {name for field, info in cls.model_fields.items() for name in (field, info.alias) if name}
    if unknown := [name for name in data if name not in known]:
        raise ConfigurationError("; ".join(_unknown(name, cls) for name in unknown))
    made = make(data)
    _refuse_forgotten(made, data)
    return made


def under_one_name(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, with `drafter`, as the core calls it, renamed to `draft`.

    Raises:
        ConfigurationError: Both names are given.
    """
    if "draft" in data and "drafter" in data:
        raise ConfigurationError("draft and drafter are two names for one model; give one of them")
    return {"draft" if name == "drafter" else name: value for name, value in data.items()}


def shown(value: object) -> str:
    """A value for an error message: text without secrets, an object by its class, since it may hold a key."""
    if value is None or isinstance(value, str | int | float | Model):
        return masked(repr(value))
    named = getattr(value, "__name__", None)  # functions and classes
    return f"{type(value).__name__} {named}" if named else f"an object of the class {type(value).__name__}"


def _unknown(name: str, cls: type[BaseModel]) -> str:
    place = next((place for place in places(Settings) if place.rpartition(".")[2] == name), None)
    if place:
        *outer, inner = place.split(".")
        inside = f'{{"{inner}": …}}'
        for part in reversed(outer):
            inside = f'{{"{part}": {inside}}}'
        meant = f"did you mean settings={inside}?"
    elif name in _MEANT:
        meant = _MEANT[name]
    elif near := nearest(name, cls.model_fields):
        meant = f"did you mean {near}?"
    else:
        own = [field for field, info in cls.model_fields.items() if not info.exclude]
        meant = f"its fields are {', '.join(own)}"
    return f"{name} is not a field of {cls.__name__}; {meant}"


def _refuse_forgotten(made: Any, given: Mapping[str, Any]) -> None:
    """Refuse to mix the user's models with embedded ones filled in by default."""
    if not ({*ROLES, "decoder"} & set(given)) and (name := given.get("model", given.get("model_name"))):
        raise ConfigurationError(
            f"model={shown(name)} is only the name in metadata and traces; give the models as draft=, target= and "
            "verifier="
        )
    own = next((name for name in ("draft", "target") if not _bundled(getattr(made, name))), None)
    missing = next((name for name in _needed(made) if name not in given), None)
    if own and missing:
        raise ConfigurationError(
            f"{missing}= is missing: its default, embedded:{missing}, knows only this package's word problems, but "
            f"{own}= is another model. Give {missing}= as well"
        )


def _needed(made: Any) -> list[str]:
    """The fields whose models the decoder uses."""
    method = as_decoder(made.decoder) or RSDMethod()
    if not isinstance(method, Method):
        return []
    policies = [parse_policy(policy) for policy in (made.policy, made.thoughts.get("policy")) if policy is not None]
    scored = not isinstance(method, RSDMethod) or any(policy.needs_reward for policy in policies)
    own = getattr(method, "verifier", None)
    return [
        name for name, role in ROLES.items() if role in method.roles and (name != "verifier" or (scored and not own))
    ]


def _bundled(model: Any) -> bool:
    """Whether a model ships with the package and fits the embedded ones."""
    name = model.name if isinstance(model, Model) else model
    return name.partition(":")[0].partition(",")[0].split(" ")[0] in _BUNDLED
