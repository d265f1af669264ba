"""Recipes: whole evaluations as files. The paper's own ship with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator

from rsd_core import ConfigurationError, RSDConfig, parse_method
from rsd_core.data import Data, explain, unknown
from rsd_integrations.evaluation.tasks import find_task
from rsd_integrations.yaml_data import parse_yaml

FOLDER = Path(__file__).parent / "paper"


class Recipe(Data):
    """Which methods are evaluated on which tasks, with which models."""

    about: str
    """The result that the recipe reproduces, and its requirements."""
    config: dict[str, Any]
    """Models, policy and settings, as `rsd_core.RSDConfig` accepts them."""
    tasks: list[str | dict[str, Any]] = Field(min_length=1)
    methods: list[str] = Field(min_length=1)
    n: int | None = None
    """Number of problems; all of them by default."""

    @field_validator("config")
    @classmethod
    def _config(cls, config: dict[str, Any]) -> dict[str, Any]:
        RSDConfig.parse(config)
        return config

    @field_validator("tasks")
    @classmethod
    def _tasks(cls, tasks: list[str | dict[str, Any]]) -> list[str | dict[str, Any]]:
        for task in tasks:
            find_task(task)
        return tasks

    @field_validator("methods")
    @classmethod
    def _methods(cls, methods: list[str]) -> list[str]:
        for method in methods:
            parse_method(method)
        return methods


def recipe_names() -> list[str]:
    """The recipes that ship with the package."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def find_recipe(name: str) -> dict[str, Any]:
    """A recipe by name or path, checked.

    Raises:
        ConfigurationError: There is no such recipe, or something in it cannot work.
    """
    file = FOLDER / f"{name}.yaml" if name in recipe_names() else Path(name)
    try:
        data = parse_yaml(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        what = unknown("recipe", name, recipe_names())
        raise ConfigurationError(f"{what}, and no file of that name can be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the recipe {name} is not UTF-8 ({error.reason})") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f", line {mark.line + 1}," if mark else ""
        raise ConfigurationError(f"the recipe {name}{place} is not YAML: {problem or error}") from error
    try:
        return Recipe.model_validate(data).model_dump()
    except ValidationError as error:
        raise ConfigurationError(f"the recipe {name} is invalid: {explain(error)}") from error
