"""Parts of other packages: found by name, and refused in one line if they are broken."""

import math
import sys
import warnings
from pathlib import Path

import pytest

from rsd_core import ConfigurationError, DraftOnly, MissingDependency, RSDConfig, RunError, load, parse_policy
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
        ("", "math:pi", "is 3.14.* not a subclass of int"),
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


def test_a_built_in_part_takes_precedence_over_a_package_of_the_same_name_and_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "rsd-greedy", "class Big(int): pass", numbers={"plain": "rsd_greedy:Big"})
    monkeypatch.syspath_prepend(tmp_path)
    numbers = registry()
    with pytest.warns(UserWarning, match="the built-in number 'plain' is used, not the one .* package 'rsd-gr"):
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
    with pytest.raises(ConfigurationError, match=r"'sine' of the package 'rsd-constants': math:sin is .*, not a float"):
        floats["sine"]


BROKEN = """
import sys
from typing import Literal
from rsd_core import WeightingPolicy
from rsd_core.testing import ScriptedDrafter

def fails(rest): raise ValueError("no such weights")
def ends(rest): sys.exit(3)
def of_type(rest): return None + 1
in_c = dict
def replies(rest):
    class Replies(ScriptedDrafter):
        async def generate(self, path, request):
            from rsd_core import Generation, Usage
            no_steps = {"steps": Generation(["4"], Usage()), "no_steps": Generation(4, Usage())}
            return {"none": None, "text": "2+2=4", **no_steps}[rest]
    return Replies([])

class Ends(WeightingPolicy):
    kind: Literal["ends"] = "ends"
    def __init__(self, **data): sys.exit(4)
    def weight(self, reward): return 1.0

class Decides(WeightingPolicy):
    kind: Literal["decides"] = "decides"
    where: str = ""
    def weight(self, reward): return 1.0
    def route(self, request):
        return sys.exit(5) if self.where == "route" else super().route(request)
    def decide(self, step, reward, request):
        return {}["gone"] if self.where == "decide" else "target"
    def learn(self, reward, request): sys.exit(6)
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ("fails", "ends", "of_type", "in_c", "replies")
    models = {kind: f"brokenparts:{kind}" for kind in kinds}
    policies = {"ends": "brokenparts:Ends", "decides": "brokenparts:Decides"}
    install(tmp_path, "brokenparts", BROKEN, backends=models, policies=policies)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "brokenparts", raising=False)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("fails", "ValueError: no such weights"),
        ("ends", "SystemExit: 3"),
        ("of_type", "TypeError: unsupported operand"),
        ("in_c", "ValueError: dictionary update sequence"),
    ],
)
def test_a_package_that_cannot_make_its_model_is_named(kind: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        load(f"{kind}:x")
    assert str(told.value).startswith(f"'{kind}:x' cannot be created by '{kind}' of the package 'brokenparts' ({why}")


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ("none", "returned None instead of a Generation"),
        ("text", "returned '2\\+2=4' instead of a Generation"),
        ("steps", "returned '4' instead of a Step"),
        ("no_steps", "returned 4 instead of steps"),
    ],
)
def test_an_invalid_reply_names_its_model(reply: str, told: str) -> None:
    with pytest.raises(RunError, match=f"<Replies 'scripted drafter'>:? {told}"):
        DraftOnly(drafter=load(f"replies:{reply}", role="drafter")).run("q")


@pytest.mark.usefixtures("broken")
def test_a_policy_that_ends_the_process_or_fails_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"policy 'ends' cannot be created by brokenparts \(SystemExit: 4\)"):
        parse_policy("ends")
    for where, told in (
        ("route", r"Decides\(.*\) called sys.exit\(5\)"),
        ("decide", r"decide\(\) of the policy Decides\(.*\) failed: KeyError: 'gone'"),
        ("", r"Decides\(.*\) called sys.exit\(6\)"),
    ):
        config = RSDConfig(
            drafter="scripted:draft",
            verifier="scripted:verifier",
            target="scripted:target",
            policy=parse_policy(f"decides:where={where}"),
        )
        with pytest.raises(RunError, match=told) as failed:
            config.build().run("q")
        assert failed.value.partial is not None


def test_a_package_without_a_name_is_called_by_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "nameless", "", backends={"nameless": "gone:x"})
    next(tmp_path.glob("*.dist-info/METADATA")).unlink()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError, match="'nameless' of the package 'gone'"):
        load("nameless:x")
