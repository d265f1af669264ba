"""Examples in docstrings run: interactive ones as doctests, fenced ones as the blocks of pages."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

import rsd_core
import rsd_integrations

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples() -> list[doctest.DocTest]:
    """All examples of all public modules, found without importing what has none."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = []
    for package in (rsd_core, rsd_integrations):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not info.name.endswith("__main__") and has_example(info.name):
                found += [test for test in finder.find(module(info.name)) if test.examples]
    return found


def has_example(name: str) -> bool:
    """Whether a module's source holds an example."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    with open(spec.origin) as file:
        return ">>> " in file.read()


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("test", examples(), ids=lambda test: test.name)
def test_example(test: doctest.DocTest) -> None:
    failed, tried = doctest.DocTestRunner(optionflags=OPTIONS).run(test)
    assert tried
    assert not failed
