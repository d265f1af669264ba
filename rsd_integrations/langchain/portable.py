"""Partner models in pickles: their clients hold locks and sockets, so that they are made again of their fields."""

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
    """A model as its class and the fields that were given to it: what it read from the environment is read anew."""

    kind: type[BaseLanguageModel[Any]]
    fields: Mapping[str, Any]

    def make(self) -> BaseLanguageModel[Any]:
        """The model again."""
        return self.kind(**restored(dict(self.fields)))


def portable(model: Any) -> Any:
    """A model, or what holds some, with recipes in place of those that cannot be pickled."""
    return _mapped(model, lambda part: _recipe(part) if isinstance(part, BaseLanguageModel) else None)


def restored(value: Any) -> Any:
    """What `portable` was given, made again."""
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
        # What a class leaves out of its dumps is a client, but for what all models of LangChain leave out.
        kept = not field.exclude or name in BaseLanguageModel.model_fields
        if kept and not _is_of_environment(getattr(model, name)):
            called = name if by_name or not isinstance(field.alias, str) else field.alias
            fields[called] = portable(getattr(model, name))
    recipe = Recipe(kind, fields)
    try:
        recipe.make()
    except Exception as error:  # whatever its validators raise; better here than where the pickle is read
        raise pickle.PicklingError(
            f"{kind.__name__} cannot be made again of its fields ({type(error).__name__}): make the adapter where it "
            "is needed, or name the model by a spec"
        ) from None  # what pydantic says may hold a key
    return recipe


def _is_of_environment(value: Any) -> bool:
    """Whether a secret is one that classes read from the environment, whose validators call it given all the same."""
    return isinstance(value, SecretStr) and value.get_secret_value() in os.environ.values()


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A value with what `change` makes of its parts, in models, lists and dictionaries; None of it leaves a part be."""
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
