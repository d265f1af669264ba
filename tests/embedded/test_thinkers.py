"""The checkpoints that think: markers, chat template, and responses as their card says."""

import asyncio
import itertools
import json
import re
from functools import cache
from typing import Any, Literal

import pytest
from transformers import AutoTokenizer

from rsd_core import ConfigurationError, Settings, SpeculativeDecoding, Splitter, TargetOnly, load
from rsd_integrations.embedded.checker import is_right
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.embedded.rollouts import Rollout
from rsd_integrations.embedded.task import problems
from rsd_integrations.embedded.vocabulary import MARKERS, THINKING_CONTEXT
from rsd_integrations.huggingface.bare_tokenizer import BareTokenizer
from tests.benchmarks.thinkers import responses, step_auc, well_formed

THINKERS = ("thinking-draft", "thinking-target")
USER, AGAIN = {"role": "user", "content": "How many?"}, {"role": "user", "content": "Sure?"}
BARE = {"role": "assistant", "content": "48."}
THOUGHTFUL = BARE | {"reasoning_content": "Add.\n\nMore."}
WRITTEN_OUT = BARE | {"content": "<think>\nAdd.\n\nMore.\n</think>\n\n48."}
ASKED = "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"
AFTER = "<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
EMPTY = "<think>\n\n</think>\n\n"
THOUGHT = "<think>\nAdd.\n\nMore.\n</think>\n\n48."


@cache
def written(name: str, thinking: bool) -> list[Rollout]:
    return responses(name, thinking, 100, seed=5)


def accuracy(rollouts: list[Rollout]) -> float:
    return sum(is_right(rollout.problem, rollout.text) for rollout in rollouts) / len(rollouts)


@pytest.mark.parametrize("name", THINKERS)
def test_markers_are_added_tokens_of_their_own_and_text(name: str) -> None:
    vocabulary, plain = load(f"embedded:{name}").vocabulary, load("embedded:target").vocabulary
    ids = [vocabulary.encode(marker) for marker in MARKERS]
    assert ids == [[557], [558]]
    assert [vocabulary.pieces[id_] for (id_,) in ids] == [b"<think>", b"</think>"]
    added = json.loads((FOLDER / name / "tokenizer.json").read_text())["added_tokens"]
    assert [token["special"] for token in added if token["content"] in MARKERS] == [False, False]
    assert plain.tokenizer.get_vocab().items() < vocabulary.tokenizer.get_vocab().items()
    for problem in itertools.islice(problems("test", 3), 20):
        text = problem.question + "\n\n" + "".join(problem.solution())
        assert vocabulary.encode(text) == plain.encode(text)


def test_the_thinkers_share_a_vocabulary() -> None:
    one, other = (load(f"embedded:{name}") for name in THINKERS)
    assert one.vocabulary.identity == other.vocabulary.identity
    assert one.context == other.context == THINKING_CONTEXT


@pytest.mark.parametrize("name", THINKERS)
@pytest.mark.parametrize(
    ("messages", "arguments", "text"),
    [
        ([USER], {"add_generation_prompt": True}, ASKED),
        ([USER], {"add_generation_prompt": True, "enable_thinking": True}, ASKED),
        ([USER], {"add_generation_prompt": True, "enable_thinking": False}, ASKED + EMPTY),
        ([USER, BARE], {"continue_final_message": True}, ASKED + EMPTY + "48."),
        ([USER, THOUGHTFUL], {"continue_final_message": True}, ASKED + THOUGHT),
        ([USER, WRITTEN_OUT], {}, ASKED + THOUGHT + "<|im_end|>\n"),
        ([USER, THOUGHTFUL, AGAIN], {"add_generation_prompt": True}, ASKED + "48." + AFTER),
        ([USER, WRITTEN_OUT, AGAIN], {"add_generation_prompt": True}, ASKED + "48." + AFTER),
        ([USER, BARE, AGAIN], {"add_generation_prompt": True, "enable_thinking": False}, ASKED + "48." + AFTER + EMPTY),
        ([USER, THOUGHTFUL, BARE], {}, ASKED + THOUGHT + f"<|im_end|>\n<|im_start|>assistant\n{EMPTY}48.<|im_end|>\n"),
    ],
)
def test_the_template_keeps_thoughts_as_that_of_qwen3(
    name: str, messages: list[dict[str, str]], arguments: dict[str, Any], text: str
) -> None:
    for tokenizer in (AutoTokenizer.from_pretrained(FOLDER / name), BareTokenizer(FOLDER / name)):
        assert tokenizer.apply_chat_template(messages, tokenize=False, **arguments) == text


@pytest.mark.parametrize("name", THINKERS)
@pytest.mark.parametrize("thinking", [True, False])
def test_markers_stand_where_they_belong(name: str, thinking: bool) -> None:
    rollouts = written(name, thinking)
    assert sum(well_formed(rollout, thinking) for rollout in rollouts) >= 0.98 * len(rollouts)


@pytest.mark.parametrize("thinking", [True, False])
def test_the_thinking_target_is_strong_and_its_drafter_is_not(thinking: bool) -> None:
    strong, weak = (accuracy(written(f"thinking-{role}", thinking)) for role in ("target", "draft"))
    assert strong >= 0.95
    assert 0.65 <= weak <= strong - 0.08


@pytest.mark.parametrize("thinking", [True, False])
def test_thoughts_and_answers_are_judged_as_solutions_are(thinking: bool) -> None:
    """Whatever is right in the end was right in each step, with steps of thoughts and without."""
    for rollout in written("thinking-target", thinking):
        assert rollout.steps == re.split(r"\n\n", rollout.text.replace("\n</think>", "").removeprefix("<think>\n"))
        all_right = all(verdict.right for verdict in rollout.verdicts) and len(rollout.verdicts) == len(rollout.steps)
        assert all_right <= is_right(rollout.problem, rollout.text)


@pytest.mark.parametrize(("closed", "least"), [("after a step", 20), ("within a step", 14)])
def test_an_answer_writes_what_a_thought_closed_early_lacks(closed: str, least: int) -> None:
    model = load("embedded:thinking-target")
    tokenizer: Any = model.vocabulary.tokenizer.transformers
    drawn = [problem for problem in itertools.islice(problems("test", 12), 60) if len(problem.plan()) >= 4][:24]
    prompts = []
    for problem in drawn:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.question}], tokenize=False, add_generation_prompt=True
        )
        steps = problem.solution()
        begun = steps[2].split(":")[0] if closed == "within a step" else ""
        prompts.append(f"{prompt}<think>\n{steps[0]}{steps[1]}{begun}\n</think>\n\n")
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    out: Any = model.model.generate(**inputs, max_new_tokens=250, do_sample=False)
    answers = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert sum(is_right(problem, answer) for problem, answer in zip(drawn, answers, strict=True)) >= least


@pytest.mark.parametrize(("verifier", "least"), [("verifier", 0.99), ("prm", 0.93)])
def test_verifiers_of_solutions_tell_right_steps_of_thoughts_from_wrong_ones(verifier: str, least: float) -> None:
    assert step_auc(verifier, written("thinking-draft", True))["auc"] >= least


def test_an_assistant_reads_what_its_target_reads() -> None:
    target = load("embedded,template.enable_thinking=false:thinking-target")
    decoder = SpeculativeDecoding(drafter=load("embedded:thinking-draft"), target=target)
    problem = next(iter(problems("test", 5)))
    result = decoder.run(problem.question)
    assert (result.thought, result.markers) == ("", None)
    assert is_right(problem, result.text)


class Raises(Splitter):
    """A splitter with a fault."""

    kind: Literal["raises"] = "raises"

    def end(self, text: str) -> int | None:
        raise ValueError(f"at {text[:1]!r}")


def test_a_broken_splitter_fails_its_own_request_alone() -> None:
    target = load("embedded:thinking-target")
    whole, broken = TargetOnly(target=target), TargetOnly(target=target, settings=Settings(delimiter=Raises()))
    question = next(iter(problems("test", 5))).question

    async def side_by_side() -> list[Any]:
        calls = [whole.arun(question), broken.arun(question), whole.arun(question, repeat=1)]
        return list(await asyncio.gather(*calls, return_exceptions=True))

    one, failed, other = asyncio.run(side_by_side())
    assert one.text == other.text == whole.run(question).text
    assert isinstance(failed, ConfigurationError)
    assert "end() of the splitter Raises" in str(failed)
