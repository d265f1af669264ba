"""A custom policy works wherever a built-in one does: as an object, as data and as text."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any, Literal

import pytest

from rsd_core import (
    BinaryStep,
    BudgetAware,
    Clipping,
    ConfigurationError,
    FirstSteps,
    Retry,
    RewardGuidedDecoder,
    RSDConfig,
    Takeover,
    WeightingPolicy,
    parse_policy,
)
from rsd_core.policies import Route, Rule
from tests.core.plugin_packages import install, python

SCRIPTED = {"drafter": "scripted:draft", "verifier": "scripted:verifier", "target": "scripted:target"}
MODULE = """
from typing import Literal
from rsd_core import WeightingPolicy
from rsd_core.policies import Rule

class Lenient(WeightingPolicy):
    kind: Literal["lenient"] = "lenient"
    delta: float = 0.05

    def weight(self, reward):
        return float(reward >= self.delta)

class Every(Rule):
    '''The target writes every n-th step.'''
    kind: Literal["every"] = "every"
    n: int = 2

    def route(self, request):
        return "target" if request.index % self.n == 0 else super().route(request)

class Nameless(WeightingPolicy):
    def weight(self, reward):
        return 1.0

class Lacking(WeightingPolicy):
    kind: Literal["lacking"] = "lacking"
"""


class Own(WeightingPolicy):
    """Registered nowhere."""

    kind: Literal["own"] = "own"
    delta: float = 0.05

    def weight(self, reward: float) -> float:
        return float(reward >= self.delta)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with policies, some of them wrong."""
    policies = {
        "lenient": "Lenient",
        "every": "Every",
        "nameless": "Nameless",
        "lacking": "Lacking",
        "other": "Lenient",
    }
    install(
        tmp_path,
        "rsd-lenient",
        MODULE,
        policies={name: f"rsd_lenient:{kind}" for name, kind in policies.items()}
        | {"lost": "rsd_lost:Policy", "text": "rsd_lenient:MODULE", "module": "rsd_lenient:Literal"},
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def authors(policy: Any) -> str:
    """Who writes the three steps of the scripted models; the draft of the second has the reward 0.1."""
    result = RSDConfig.parse(SCRIPTED | {"policy": policy}).build().run("q")
    return "".join(step.author[0] for step in result.steps)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Own(), "ddd"),
        (Own(delta=0.5), "dtd"),
        (FirstSteps(n=1, then=Own()), "tdd"),
        (FirstSteps(n=1, then=Retry(n=1, then=Takeover(cues=("9.",), then=Own()))), "ttd"),
    ],
)
def test_an_object_of_a_custom_class(policy: WeightingPolicy, expected: str) -> None:
    assert authors(policy) == expected
    assert RSDConfig(policy=policy).policy is policy
    assert parse_policy(policy) is policy


def test_a_class_that_is_registered_nowhere_is_written_in_full_and_told_when_it_is_read() -> None:
    config = RSDConfig(policy=FirstSteps(n=1, then=Own(delta=0.2)))
    assert config.model_dump()["policy"] == {"then": {"kind": "own", "delta": 0.2}, "kind": "first_steps", "n": 1}
    with pytest.raises(ConfigurationError, match=r"policy\.then: unknown policy 'own'; known are constant"):
        RSDConfig.parse(config.model_dump())


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("lenient", "ddd"),
        ("lenient:0.5", "dtd"),
        ("lenient:delta=0.5", "dtd"),
        ({"kind": "lenient", "delta": "0.5"}, "dtd"),
        ("first_steps:1/lenient", "tdd"),
        ("first_steps:1/retry:1/lenient:0.5", "ttd"),
        ({"kind": "retry", "then": {"kind": "lenient"}}, "ddd"),
        ({"kind": "retry", "then": "lenient"}, "ddd"),
        ("every:2/lenient", "tdt"),
        ("every:n=3/binary_step:0.5", "ttd"),
    ],
)
def test_a_policy_of_a_package_as_data_and_as_text(policy: Any, expected: str, package: Path) -> None:
    assert authors(policy) == expected
    assert authors(parse_policy(policy)) == expected


@pytest.mark.parametrize("text", ["lenient:0.2", "first_steps:1/every:3/lenient:0.2", "every:3/budget_aware:0.1"])
def test_a_policy_of_a_package_survives_files_pickles_and_copies(text: str, package: Path) -> None:
    config = RSDConfig.parse({"policy": text})
    again = [
        RSDConfig.model_validate_json(config.model_dump_json()),
        RSDConfig.parse(json.loads(json.dumps(config.model_dump(mode="json")))),
        pickle.loads(pickle.dumps(config)),
        copy.deepcopy(config),
        config.model_copy(deep=True),
    ]
    for other in again:
        assert other == config
        assert type(other.policy) is type(config.policy)
    (package / "policy.json").write_text("\ufeff" + config.policy.model_dump_json(), encoding="utf-8")
    assert parse_policy(package / "policy.json") == config.policy
    assert parse_policy({"kind": "retry", "then": str(package / "policy.json")}) == Retry(then=config.policy)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "lost",
            "'lost' of the package 'rsd-lenient': rsd_lost:Policy cannot be imported (ModuleNotFoundError: No modu",
        ),
        ("nameless", 'the class rsd_lenient:Nameless needs the field kind: Literal["nameless"] = "nameless"'),
        ("other", 'the class rsd_lenient:Lenient needs the field kind: Literal["other"] = "other"'),
        ("lacking", "the class rsd_lenient:Lacking lacks weight"),
        ("module", "rsd_lenient:Literal is typing.Literal, not a subclass of WeightingPolicy"),
        ("lenient:x", "delta: Input should be a valid number, unable to parse string as a number (got 'x')"),
        ("lenient:dleta=1", "dleta: unknown name, did you mean 'delta'? known are kind, delta (got '1')"),
        ("lenint", "unknown policy 'lenint', did you mean 'lenient'? known are constant"),
        ("lenient/clipping", "lenient is not a rule, so no policy may follow it"),
    ],
)
def test_what_is_wrong_with_a_policy_of_a_package_is_one_line(name: str, told: str, package: Path) -> None:
    for policy in (name, f"retry/{name}"):
        with pytest.raises(ConfigurationError) as caught:
            parse_policy(policy)
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_built_in_policy_takes_precedence_over_a_package_that_takes_its_name(package: Path) -> None:
    install(package, "rsd-rival", MODULE, policies={"clipping": "rsd_rival:Lenient"})
    with pytest.warns(UserWarning, match="the built-in policy 'clipping' is used, not the one .* 'rsd-rival'"):
        assert parse_policy("clipping") == Clipping()


def test_a_policy_of_a_package_works_on_the_command_line(package: Path) -> None:
    words = "--draft scripted:draft --target scripted:target --verifier scripted:verifier --json --policy"

    def run(policy: str) -> dict[str, Any]:
        code = f"import sys; sys.argv = ['rsd', 'run', 'q', *{[*words.split(), policy]}]\n"
        told: dict[str, Any] = json.loads(python(package, code + "from rsd_integrations.cli import app; app.main()"))
        return told

    assert [step["author"] for step in run("first_steps:1/lenient:0.05")["steps"]] == ["target", "draft", "draft"]


@pytest.mark.parametrize(
    "policy", [BinaryStep(delta=0.4), FirstSteps(n=1, then=Retry(then=BudgetAware(target_rate=0.2, warm_start=(0.5,))))]
)
def test_policy_files_of_before_are_read(policy: WeightingPolicy) -> None:
    # As they were written before policies were open.
    old = {
        BinaryStep: '{"kind":"binary_step","delta":0.4}',
        FirstSteps: '{"then":{"then":{"kind":"budget_aware","target_rate":0.2,"warm_start":[0.5]},'
        '"kind":"retry","n":1},"kind":"first_steps","n":1}',
    }
    assert parse_policy(json.loads(old[type(policy)])) == policy


def test_a_custom_rule_is_a_rule() -> None:
    class Last(Rule):
        """Lets the target write the third step."""

        def route(self, request: Any) -> Route:
            return "target" if request.index == 2 else super().route(request)

    assert authors(Last(then=Own())) == "ddt"
    assert authors(Retry(then=Last(then=Own(delta=0.5)))) == "dtt"


def test_the_decoder_takes_any_policy() -> None:
    decoder = RSDConfig.parse(SCRIPTED | {"policy": Own()}).build()
    assert isinstance(decoder, RewardGuidedDecoder)
    assert decoder.policy == Own()
