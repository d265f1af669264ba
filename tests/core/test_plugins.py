"""Parts of other packages: found by name, refused in one line where they are broken."""

import math
import sys
import warnings
from pathlib import Path

import pytest

from rsd_core import ConfigurationError, MissingDependency
from rsd_core.plugins import Registry, of_class, of_type
from tests.core.plugin_packages import install

BUILT_IN = {"plain": int}


def registry() -> Registry[type[int]]:
    return Registry("number", "rsd.numbers", BUILT_IN, of_class(int))


def test_a_part_of_a_package_is_found_by_name_even_when_it_is_installed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    numbers = registry()
    assert list(numbers) == ["plain"]
    install(tmp_path, "rsd-later", "class Big(int): pass", numbers={"big": "rsd_later:Big"})
    assert "big" in numbers
    assert issubclass(numbers["big"], int)
    assert list(numbers) == ["plain", "big"]


def test_an_unknown_name_says_what_there_is_and_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"^unknown number 'plane', did you mean 'plain'\? known are plain$"):
        registry()["plane"]


@pytest.mark.parametrize(
    ("module", "value", "words"),
    [
        ("", "rsd_broken:Big", "ModuleNotFoundError: No module named 'rsd_broken'"),
        ("import nothing_like_this", "rsd_broken:Big", "ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("1 / 0", "rsd_broken:Big", "ZeroDivisionError"),
        ("raise SystemExit('no licence')", "rsd_broken:Big", "SystemExit: no licence"),
        ("", "math:Big", "AttributeError"),
        ("", "math:pi", "is 3.14.* and no subclass of int"),
    ],
)
def test_a_broken_package_is_named_in_one_line_and_only_when_its_part_is_wanted(
    module: str, value: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "rsd-broken", module, numbers={"big": value})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "rsd_broken", raising=False)
    numbers = registry()
    assert numbers["plain"] is int
    assert list(numbers) == ["plain", "big"]
    with pytest.raises(ConfigurationError, match=rf"^'big' of the package 'rsd-broken': {value} .*{words}") as caught:
        numbers["big"]
    assert "\n" not in str(caught.value)


def test_an_error_of_our_own_that_a_module_raises_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "from rsd_core import MissingDependency\nraise MissingDependency('torch', 'huggingface', 'rsd-heavy')"
    install(tmp_path, "rsd-heavy", module, numbers={"big": "rsd_heavy:Big"})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependency, match="rsd-heavy needs the package 'torch'"):
        registry()["big"]


def test_a_built_in_part_goes_before_a_package_of_the_same_name_and_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "rsd-greedy", "class Big(int): pass", numbers={"plain": "rsd_greedy:Big"})
    monkeypatch.syspath_prepend(tmp_path)
    numbers = registry()
    with pytest.warns(UserWarning, match="the built-in number 'plain' is used, and not the one of the package 'rsd-gr"):
        assert numbers["plain"] is int
    assert list(numbers) == ["plain"]


def test_a_name_that_two_packages_claim_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "rsd-one", "", numbers={"big": "builtins:int"})
    install(tmp_path, "rsd-two", "", numbers={"big": "builtins:int"})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match=r"^'big' of the package 'rsd-(one|two)' is also in 'rsd-(one|two)'"):
        registry()["big"]


def test_parts_may_be_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "rsd-constants", "", floats={"pi": "math:pi", "sine": "math:sin"})
    monkeypatch.syspath_prepend(tmp_path)
    floats = Registry("constant", "rsd.floats", {"one": 1.0}, of_type(float))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (floats["one"], floats["pi"]) == (1.0, math.pi)
    with pytest.raises(ConfigurationError, match=r"'sine' of the package 'rsd-constants': math:sin is .* and no float"):
        floats["sine"]
