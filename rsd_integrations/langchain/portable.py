"""Pickling of partner models: their clients hold locks and sockets, so they are recreated from their fields."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseLanguageModel
from langchain_core.runnables import Runnable
from pydantic import BaseModel, SecretStr


@dataclass(frozen=True, slots=True)
class Recipe:
    """A model as its class and its given fields: values from the environment are read again."""

    kind: type[BaseLanguageModel[Any]]
    fields: Mapping[str, Any]

    def make(self) -> BaseLanguageModel[Any]:
        """Recreate the model."""
        return self.kind(**restored(dict(self.fields)))


def portable(model: Any) -> Any:
    """A model or composition with recipes replacing models that cannot be pickled."""
    return _mapped(model, lambda part: _recipe(part) if isinstance(part, BaseLanguageModel) else None)


def restored(value: Any) -> Any:
    """The inverse of `portable`."""
    return _mapped(value, lambda part: part.make() if isinstance(part, Recipe) else None)


def _recipe(model: BaseLanguageModel[Any]) -> Any:
    package = type(model).__module__.partition(".")[0]
    if package == "langchain_core" or not package.startswith("langchain_"):
        try:
            pickle.dumps(model)
        except (TypeError, AttributeError, pickle.PicklingError):
            pass
        else:
            return model
    kind = type(model)
    by_name = kind.model_config.get("populate_by_name") or kind.model_config.get("validate_by_name")
    fields = {}
    for name in model.model_fields_set & set(kind.model_fields):
        field = kind.model_fields[name]
        # Fields that a class excludes from dumps are clients, except those excluded by all LangChain models.
        kept = not field.exclude or name in BaseLanguageModel.model_fields
        if kept and not _is_of_environment(getattr(model, name)):
            called = name if by_name or not isinstance(field.alias, str) else field.alias
            fields[called] = portable(getattr(model, name))
    recipe = Recipe(kind, fields)
    try:
        recipe.make()
    except Exception as error:  # whatever its validators raise; better now than when unpickling
        raise pickle.PicklingError(
            f"{kind.__name__} cannot be recreated from its fields ({type(error).__name__}): create the adapter where "
            "it is needed, or give the model by spec"
        ) from None  # pydantic's message may contain a key
    return recipe


def _is_of_environment(value: Any) -> bool:
    """Whether a secret was read from the environment, although validators mark it as given."""
    return isinstance(value, SecretStr) and value.get_secret_value() in os.environ.values()


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A value with `change` applied to its parts, in models, lists and dictionaries; None keeps a part."""
    changed = change(value)
    if changed is not None:
        return changed
    if isinstance(value, Runnable) and isinstance(value, BaseModel):
        parts = {name: _mapped(part, change) for name, part in vars(value).items()}
        if any(part is not getattr(value, name) for name, part in parts.items()):
            return value.model_copy(update=parts)
    elif type(value) in (list, tuple):
        parts_of_list = [_mapped(part, change) for part in value]
        if any(new is not old for new, old in zip(parts_of_list, value, strict=True)):
            return type(value)(parts_of_list)
    elif type(value) is dict:
        made = {name: _mapped(part, change) for name, part in value.items()}
        if any(made[name] is not part for name, part in value.items()):
            return made
    return value
