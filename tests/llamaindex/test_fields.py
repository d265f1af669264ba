"""Construction, copies, data and pickles of `RSDLLM`."""

import copy
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.llms import MockLLM
from pydantic import ValidationError

from rsd_core import BinaryStep, Constant, Settings, TargetOnly, catalogue, parse_policy
from rsd_core.testing import ScriptedDrafter, ScriptedTarget
from rsd_integrations.llamaindex import RSDLLM, result_of
from tests.llamaindex import worlds
from tests.llamaindex.worlds import SPECS, TEXT, Locked, llm


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({"polcy": "binary_step:0.7"}, "polcy"),
        ({"policy": "binary_stp:0.7"}, "unknown policy 'binary_stp'"),
        ({"draft": "nowhere:x"}, "'nowhere:x' names no model"),
        ({"target": 3}, "3 cannot be the target"),
        ({"verifier": ScriptedDrafter([])}, "'scripted drafter'> cannot be the verifier"),
        ({"temperature": -1}, "temperature: .*greater than or equal to 0 .*got -1"),
        ({"max_tokens": 0}, "limits.max_tokens: .*got 0"),
        ({"stop": "END"}, "stop"),
        ({"stop": [""]}, "list of non-empty strings"),
        ({"settings": {"candidates": 2}}, "set a temperature above 0"),
        ({"decoder": "fast"}, "decoder"),
        ({"decoder": TargetOnly(target=ScriptedTarget([])), "policy": "constant:0"}, "remove draft, .*, policy"),
        ({"decoder": TargetOnly(target=ScriptedTarget([])), "settings": Settings(seed=1)}, "remove .*settings"),
    ],
)
def test_mistakes_are_refused_before_anything_is_loaded(
    mistake: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(spec: str) -> None:
        pytest.fail(f"{spec} was loaded")

    monkeypatch.setattr("rsd_integrations.loaded_models.LoadedModels.get", load)
    with pytest.raises(ValueError, match=told):
        llm(**mistake)


def test_assignments_are_checked_like_arguments() -> None:
    model = llm()
    model.policy = "constant:0"  # type: ignore[assignment]
    assert [step.author for step in result_of(model.complete("q")).steps] == ["target"] * 3
    with pytest.raises(ValueError, match="got 9"):
        model.temperature = 9
    with pytest.raises(ValueError, match="temprature"):
        model.temprature = 1  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="got 9"):  # pydantic keeps a value that was refused, and so it stays refused
        model.complete("q")
    model.temperature = 0
    assert model.complete("q").text == TEXT
    with pytest.raises(ValueError, match="unknown policy"):
        model.model_copy(update={"policy": "oops"})


def test_fields_take_precedence_over_the_settings() -> None:
    model = llm(settings={"seed": 1, "limits": {"max_steps": 2}}, seed=5)
    settings, _ = model._resolve({"max_retries": 0})
    assert (settings.seed, settings.limits.max_steps, settings.target_retries) == (5, 2, 0)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    backend = catalogue.Backend("slow", "tests.llamaindex.worlds:load", "", "")
    monkeypatch.setitem(catalogue.BUILT_IN, "slow", backend)
    worlds.loads.clear()
    return worlds.loads


def test_models_are_loaded_on_first_use_and_once_for_all_copies(slow: list[str]) -> None:
    model = llm(draft="slow:one", verifier="scripted:verifier")
    copies = [model, model.model_copy(update={"policy": "constant:1"}), copy.deepcopy(model), copy.copy(model)]
    assert slow == []
    assert [one.complete("q").text for one in copies] == ["done"] * 4
    assert slow == ["one"]
    again = pickle.loads(pickle.dumps(model))
    assert slow == ["one"]
    assert again.complete("q").text == "done"
    assert slow == ["one", "one"]


def test_copies_share_models() -> None:
    model = llm(draft=Locked(), policy="budget_aware:0.2")
    deep = copy.deepcopy(model)
    assert deep.draft is model.draft
    assert deep.policy is not model.policy  # it has a memory, and a deep copy starts with an empty one
    decoder = TargetOnly(target=ScriptedTarget(["x"]))
    assert copy.deepcopy([RSDLLM(decoder=decoder)])[0].decoder is decoder
    assert deep.complete("q").text == "mine"


def test_a_model_that_does_not_pickle_is_not_swapped_for_the_default() -> None:
    # LlamaIndex would drop it with a log line, from the original too, and the copy would draft with embedded:draft.
    model = llm(draft=Locked())
    with pytest.raises(pickle.PicklingError, match=r"the draft .* give models by spec"):
        pickle.dumps(model)
    assert isinstance(model.draft, Locked)
    assert model.complete("q").text == "mine"


@pytest.mark.parametrize("policy", [BinaryStep(delta=0.3), parse_policy("budget_aware:0.2"), Constant(p=1)])
def test_it_travels_by_pickle_and_as_data(policy: Any) -> None:
    model = llm(policy=policy, seed=3, stop=["seats"], settings={"target_retries": 1}, context_window=99)
    answer = model.complete("q").text
    for other in (
        pickle.loads(pickle.dumps(model)),
        RSDLLM.from_dict(model.to_dict()),
        RSDLLM.from_json(model.to_json()),
    ):
        assert other.to_dict() == model.to_dict()
        assert other.policy == policy
        assert other.complete("q").text == answer


def test_an_object_as_data_is_its_name_and_comes_back_as_nothing_else() -> None:
    impostor = ScriptedDrafter([])
    impostor.name = "embedded:draft"
    for fields in ({**SPECS, "draft": impostor}, {"decoder": TargetOnly(target=ScriptedTarget([]))}):
        with pytest.raises(ValueError, match=r"names no model|decoder"):
            RSDLLM.from_dict(RSDLLM(**fields).to_dict())


def test_a_ready_decoder_pickles_where_its_models_do() -> None:
    model = RSDLLM(decoder=TargetOnly(target=ScriptedTarget(["fine"])), seed=3)
    assert pickle.loads(pickle.dumps(model)).complete("q").text == "fine"


def test_secrets_are_shown_nowhere() -> None:
    model = llm(draft=Locked())
    shown = [repr(model), str(model), model.to_json(), str(model.to_dict()), str(model.to_payload())]
    shown.append(str(model.complete("q").raw))
    with pytest.raises(ValueError, match="api_key") as caught:
        llm(api_key="sk-very-secret")
    assert "sk-very-secret" not in "".join([*shown, str(caught.value), repr(caught.value)])


def test_it_imports_and_runs_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from rsd_integrations.llamaindex import RSDLLM\n"
        f"print(RSDLLM(**{SPECS!r}).complete('q').text)"
    )
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == TEXT


def test_no_embedded_model_stands_in_for_a_role_that_was_forgotten() -> None:
    with pytest.raises(ValidationError, match=r"verifier= is missing: .*embedded:verifier"):
        RSDLLM(draft=MockLLM(), target=MockLLM())
    with pytest.raises(ValidationError, match=r"target= is missing: .*embedded:target"):
        RSDLLM(draft=MockLLM(), verifier=lambda messages, reply: 1.0)
    llm = RSDLLM()
    llm.draft = MockLLM()  # who assigns says one thing after the other
    assert RSDLLM(draft=MockLLM(), target=MockLLM(), policy="always_target").complete("x").text.startswith("user: x")


def test_an_unknown_name_is_refused_with_its_correct_place() -> None:
    for name, told in (
        ("granularity", 'settings={"granularity": …}'),
        ("model", "did you mean draft and target?"),
        ("tmperature", "did you mean temperature?"),
    ):
        with pytest.raises(ValidationError, match=re.escape(told)):
            RSDLLM(**{name: 1})


def test_an_object_that_cannot_play_a_role_is_shown_by_its_class_alone() -> None:
    class Client:
        def __repr__(self) -> str:
            return "Client(api_key='sk-1')"

    with pytest.raises(ValidationError, match="Client cannot be the drafter") as caught:
        RSDLLM(draft=Client())
    assert "sk-1" not in str(caught.value)
