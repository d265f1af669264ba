"""The adapter under lm-evaluation-harness itself, on a custom task with the embedded models."""

import itertools
import runpy
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.utils import simple_parse_args_string

from rsd_core import (
    BatchError,
    ConfigurationError,
    DraftOnly,
    Generation,
    MajorityVote,
    RewardGuidedDecoder,
    Settings,
    StepRequest,
    TargetOnly,
)
from rsd_core import Path as CorePath
from rsd_core.queueing import current_caller
from rsd_core.registry import parse_spec
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.embedded.task import problems
from rsd_integrations.huggingface import HuggingFaceGenerator, HuggingFaceVerifier
from rsd_integrations.lm_eval import RSDModel
from rsd_integrations.lm_eval.model import _with_template_arguments
from tests.lm_eval.counting import counting
from tests.thinkers import ANSWER, THOUGHT, thinker


def test_a_task_of_the_harness_runs_with_rsd(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    draft: HuggingFaceGenerator,
    target: HuggingFaceGenerator,
    verifier: HuggingFaceVerifier,
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    drawn = list(itertools.islice(problems("test", 11), 8))
    tasks = counting(tmp_path, drawn)
    decoder = RewardGuidedDecoder(drafter=draft, verifier=verifier, target=target)
    alone = [decoder.run(problem.question) for problem in drawn]
    right = sum(result.answer == str(p.answer) for result, p in zip(alone, drawn, strict=True))
    for chat in (False, True):
        model = RSDModel(decoder)
        told: Any = lm_eval.simple_evaluate(
            model=model, tasks=["counting"], task_manager=tasks, apply_chat_template=chat, bootstrap_iters=0
        )
        assert told["results"]["counting"]["exact_match,boxed"] == right / 8
        assert {result.text for result in model.results} == {result.text for result in alone}
        assert model.get_model_info()["requests"] == 8


def test_the_harness_runs_it_from_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("lm_eval.__main__.setup_logging", lambda: None)  # which is for the whole process
    monkeypatch.setattr("lm_eval._cli.run.setup_logging", lambda *_: None, raising=False)
    counting(tmp_path, list(itertools.islice(problems("test", 11), 2)))
    words = ["--tasks", "counting", "--include_path", str(tmp_path), "--model_args", "policy=binary_step:0.5"]
    monkeypatch.setattr("sys.argv", ["lm_eval", "run", "--model", "rsd", *words])
    runpy.run_module("rsd_integrations.lm_eval", run_name="__main__")
    assert "|counting|Yaml   |boxed |     0|exact_match|↑  |    1|" in capsys.readouterr().out


class Request:
    def __init__(self, context: str, **kwargs: object) -> None:
        self.args = (context, kwargs)


def test_the_harness_still_knows_its_own_models() -> None:
    assert lm_eval.api.registry.get_model("dummy").__name__ == "DummyLM"


def test_each_request_keeps_its_own_stop_strings_and_length() -> None:
    model = RSDModel(DraftOnly(drafter=ScriptedDrafter(["one two\n\n", "three four\n\n", "five"])))
    made: Any = [
        Request("q", until=["three"]),
        Request("q", until=["\n\n"], max_gen_toks=100),
        Request("q", max_gen_toks=4),
        Request("q", until="five"),
    ]
    assert model.generate_until(made) == [
        "one two\n\n",
        "one two",
        "one two\n\nthree four\n\n",
        "one two\n\nthree four\n\n",
    ]


def test_likelihood_tasks_are_refused_with_the_way_out() -> None:
    model = RSDModel(DraftOnly(drafter=ScriptedDrafter(["x"]), settings=Settings()))
    with pytest.raises(ConfigurationError, match="generate_until"):
        model.loglikelihood([])
    with pytest.raises(ConfigurationError, match="treshold"):
        RSDModel(policy="treshold:1")


def test_options_of_a_request_are_read_as_the_harness_means_them() -> None:
    seen: list[tuple[float, int, int]] = []

    class Drafter(ScriptedDrafter):
        async def generate(self, path: CorePath, request: StepRequest) -> Generation:
            seen.append((request.sampling.temperature, request.max_tokens, request.sampling.top_k))
            return await super().generate(path, request)

    model = RSDModel(DraftOnly(drafter=Drafter(["one two three"])))
    made: Any = [
        Request("a", temperature=0.5, max_gen_toks=9, max_tokens=8),
        Request("b", temperature=0.5, do_sample=False, max_new_tokens=7, max_tokens=6),
        Request("c", until=["never", "two"]),
        *(Request("d", temperature=0.5, max_gen_toks=5, top_k=top_k) for top_k in (20, -1)),
    ]
    assert model.generate_until(made)[2] == "one "
    assert seen[:2] == [(0.5, 9, 0), (0.0, 7, 0)]
    assert sorted(top_k for _, length, top_k in seen if length == 5) == [0, 20]


def test_a_greedy_request_is_greedy_and_what_has_no_effect_is_told(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[float] = []

    class Drafter(ScriptedDrafter):
        async def generate(self, path: CorePath, request: StepRequest) -> Generation:
            seen.append(request.sampling.temperature)
            return await super().generate(path, request)

    model = RSDModel(DraftOnly(drafter=Drafter(["one"]), settings=Settings(temperature=0.7)))
    made: Any = [Request("a"), Request("b", do_sample=False, num_beams=4, repetition_penalty=1.2)]
    model.generate_until(made)
    assert sorted(seen) == [0.0, 0.7]
    assert "RSD does not honour num_beams, repetition_penalty of the task's generation_kwargs" in caplog.text


def test_requests_are_part_of_a_run_as_wide_as_was_told() -> None:
    seen: list[int | None] = []

    class Drafter(ScriptedDrafter):
        async def generate(self, path: CorePath, request: StepRequest) -> Generation:
            seen.append(current_caller().concurrency)
            return await super().generate(path, request)

    made: Any = [Request(f"question {i}") for i in range(5)]
    RSDModel(DraftOnly(drafter=Drafter(["one"])), concurrency="3").generate_until(made)
    assert seen == [3] * 5


class Cache:
    """Stands for the harness's cache of answers."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}

    def add_partial(self, _: str, args: tuple[str, object], answer: str) -> None:
        self.answers[args[0]] = answer


def test_a_failed_request_costs_no_other_its_answer() -> None:
    def write(path: CorePath, _: object) -> str | Exception:
        return RuntimeError("gone") if "bad" in path.prompt[0].content else "fine"

    model = RSDModel(TargetOnly(target=ScriptedTarget(write), settings=Settings(target_retries=0)))
    model.cache_hook = cache = Cache()
    requests: Any = [Request("good"), Request("bad", max_gen_toks=5), Request("also good"), Request("bad")]
    with pytest.raises(BatchError, match=r"2 of 4 requests failed, the first at position 1: .*gone") as caught:
        model.generate_until(requests)
    assert [result.text for result in caught.value.results] == ["fine", "", "fine", ""]
    assert cache.answers == {"good": "fine", "also good": "fine"}
    assert model.get_model_info()["requests"] == 4


def test_handled_faults_are_in_the_report() -> None:
    decoder = RewardGuidedDecoder(
        drafter=ScriptedDrafter([RuntimeError("401")]), verifier=ScriptedVerifier([1]), target=ScriptedTarget(["fine"])
    )
    model = RSDModel(decoder)
    model.generate_until([Request("q"), Request("r")])
    assert model.get_model_info()["degradations"] == {"drafter_error": 2}


def test_a_method_as_text_is_made_of_the_configuration() -> None:
    specs: dict[str, Any] = {"drafter": "scripted:draft", "verifier": "scripted:verifier", "target": "scripted:target"}
    model = RSDModel("majority:3", **specs, settings={"seed": 4})
    assert isinstance(model.decoder, MajorityVote)
    assert (model.decoder.n, model.decoder.settings.seed) == (3, 4)
    assert isinstance(RSDModel(**specs, method="target").decoder, TargetOnly)
    with pytest.raises(ConfigurationError, match="method: unknown method 'majorty', did you mean 'majority'"):
        RSDModel("majorty:3", **specs)
    with pytest.raises(ConfigurationError, match="decoder='target' and method='draft' mean the same"):
        RSDModel("target", method="draft")
    with pytest.raises(ConfigurationError, match="a decoder has its own models and settings; remove policy"):
        RSDModel(DraftOnly(drafter=ScriptedDrafter(["x"])), policy="constant:0")


def test_thoughts_are_not_part_of_the_answer_and_stop_strings_end_the_answer_alone() -> None:
    model = RSDModel(thinker())
    made: Any = [Request("q"), Request("q", until=["12", "STOP"]), Request("q", until=["The answer"], max_gen_toks=500)]
    assert model.generate_until(made) == [ANSWER, "Two of ", "Two of 12 are taken.\n\n"]
    assert {result.thought for result in model.results} == {THOUGHT}
    assert all(result.finish_reason == "stop" for result in model.results)


def test_a_thought_that_uses_up_the_length_leaves_no_answer() -> None:
    model = RSDModel(thinker())
    made: Any = [Request("q", max_gen_toks=6)]
    assert model.generate_until(made) == [""]
    assert model.get_model_info()["degradations"] == {"no_answer": 1}


def test_arguments_of_chat_templates_go_to_the_models() -> None:
    given = simple_parse_args_string("drafter=hf:a,target=hf:b,template.enable_thinking=false,template.effort=low")
    specs = _with_template_arguments(given)
    assert specs == {
        "drafter": "hf,template.enable_thinking=false,template.effort=low:a",
        "target": "hf,template.enable_thinking=false,template.effort=low:b",
    }
    parse_spec(specs["drafter"], "drafter")
    assert _with_template_arguments({"drafter": "hf,dtype=float32:a", "enable_thinking": True}) == {
        "drafter": "hf,template.enable_thinking=true,dtype=float32:a"
    }
    assert _with_template_arguments({"policy": "constant:1"}) == {"policy": "constant:1"}
    alone = {"target": "hf:b", "method": "majority:4"}
    assert _with_template_arguments(alone | {"enable_thinking": False}) == alone | {
        "target": "hf,template.enable_thinking=false:b"
    }
    with pytest.raises(ConfigurationError, match="set drafter and target"):
        RSDModel(enable_thinking=False)


def test_the_embedded_models_that_think() -> None:
    model = RSDModel(drafter="embedded:thinking-draft", target="embedded:thinking-target")
    question = "Mia has 20 pens. Then she buys 12 more. How many pens does Mia have now?"
    made: Any = [Request(question, until=["Problem:"]), Request(question, until=["\\boxed"])]
    whole, cut = model.generate_until(made)
    assert whole == model.results[0].text
    assert "\\boxed{32}" in whole
    assert cut == whole.partition("\\boxed")[0]
    assert all("20+12" in result.thought for result in model.results)
