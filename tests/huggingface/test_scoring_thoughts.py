"""Rewards of responses with thoughts equal the computation on the models' cards, step by step."""

import asyncio
import copy
import math
from collections.abc import Sequence
from pathlib import Path as Folder
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rsd_core import Message, Path, Step, Thinking, Verifier, VerifierError, as_prompt, load
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.huggingface import load_likelihood, load_verifier
from rsd_integrations.inprocess.reward_verifier import RewardVerifier
from rsd_integrations.prm_formats import shown, shown_steps, without_markers
from tests.huggingface.reward_models import CASES, SequenceClassifier, _options, plain, qwen, save
from tests.inprocess.backends import MODELS, make_safe
from tests.inprocess.backends import load as load_reward_model

QUESTION = "Mia has 45 apples. On Monday she buys 12 more. How many apples does Mia have now?"
THOUGHT = ["On Monday she buys 12 more: 45+12=57.", "So + or - ?"]
ANSWER = ["She has 12 apples,\nand 45 more.", "The answer is \\boxed{57}."]
THINK, HARMONY = MARKERS["think"], MARKERS["harmony"]
FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
pytestmark = pytest.mark.filterwarnings("ignore:.*not initialized.*")

RESPONSES = {
    "by itself": (
        Thinking(THINK),
        [f"<think>\n{THOUGHT[0]}\n\n", f"{THOUGHT[1]}\n</think>\n\n", f"{ANSWER[0]}\n\n", f"{ANSWER[1]}\n\n"],
    ),
    "opened by the template": (
        Thinking(THINK, "<think>\n"),
        [f"{THOUGHT[0]}\n\n", f"{THOUGHT[1]}\n</think>\n\n", f"{ANSWER[0]}\n\n", f"{ANSWER[1]}\n\n"],
    ),
    "markers alone": (
        Thinking(THINK),
        ["<think>\n", f"{THOUGHT[0]}\n\n", f"{THOUGHT[1]}\n\n", "</think>\n\n", f"{ANSWER[0]}\n\n", f"{ANSWER[1]}\n\n"],
    ),
    "nobody said how": (
        None,
        [f"<think>\n\n{THOUGHT[0]}\n\n", f"{THOUGHT[1]}\n\n", "</think>\n\n", f"{ANSWER[0]}\n\n", f"{ANSWER[1]}\n\n"],
    ),
    "harmony": (
        Thinking(HARMONY),
        [f"{HARMONY.open}{THOUGHT[0]}\n\n", f"{THOUGHT[1]}{FINAL}", f"{ANSWER[0]}\n\n", f"{ANSWER[1]}\n\n"],
    ),
}


def scored(model: Verifier, path: Path, texts: Sequence[str]) -> list[float]:
    """Rewards of the steps that hold more than markers, one after the other."""
    rewards = []
    for text in texts:
        step = Step(text, "delimiter")
        if shown(path, step):
            (reward,) = asyncio.run(model.score(path, [Step("No.\n\n", "delimiter"), step])).rewards[1:]
            assert reward == pytest.approx(asyncio.run(model.score(path, [step])).rewards[0], abs=1e-5)
            rewards.append(reward or 0.0)
        path = path.extend(step)
    return rewards


Made = tuple[str, str, Folder]


@pytest.fixture(scope="module", params=MODELS, ids=" ".join)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    backend, name = request.param
    return backend, name, make_safe(name, tmp_path_factory.mktemp("prm") / name)


@pytest.fixture(scope="module")
def model(made: Made) -> RewardVerifier:
    return load_reward_model(*made)


@pytest.mark.parametrize("name", RESPONSES)
def test_thoughts_are_scored_as_the_card_scores_a_solution(made: Made, model: RewardVerifier, name: str) -> None:
    thinking, texts = RESPONSES[name]
    rewards = scored(model, Path(as_prompt(QUESTION), thinking=thinking), texts)
    assert rewards == pytest.approx(CASES[made[1]].rewards(made[2], QUESTION, [*THOUGHT, *ANSWER]), abs=1e-5)


def test_nothing_of_a_marker_is_read(made: Made, model: RewardVerifier) -> None:
    path = Path(as_prompt(QUESTION), thinking=Thinking(THINK, "<think>\n"))
    for text in RESPONSES["opened by the template"][1]:
        read = model.explain(path, Step(text, "delimiter")).text
        assert "think>" not in read
        path = path.extend(Step(text, "delimiter"))


def test_a_marker_alone_cannot_be_scored(model: RewardVerifier) -> None:
    path = Path(as_prompt(QUESTION), thinking=Thinking(THINK, "<think>\n"))
    with pytest.raises(VerifierError, match="a bare thought marker"):
        asyncio.run(model.score(path.extend(Step("Add.\n\n", "delimiter")), [Step("</think>\n\n", "delimiter")]))


@pytest.mark.parametrize(
    "message",
    [
        Message("assistant", "", {"reasoning_content": "She has 45.\n\n"}),
        Message("assistant", "<think>\nShe has 45.\n\n"),
    ],
    ids=["field", "markers"],
)
def test_a_thought_that_the_prompt_begins_is_continued(made: Made, model: RewardVerifier, message: Message) -> None:
    begun = Path((*as_prompt(QUESTION), message), thinking=Thinking(THINK))
    text_only = Path((*as_prompt(QUESTION), Message("assistant", "She has 45.\n\n")))
    texts = RESPONSES["opened by the template"][1]
    assert scored(model, begun, texts) == pytest.approx(
        scored(model, text_only, [f"{text}\n\n" for text in (*THOUGHT, *ANSWER)]), abs=1e-5
    )


# -- outcome models whose chat template knows thoughts -----------------------------------------------------------------

QWEN3 = (
    "{%- for m in messages %}{%- if m.role == 'assistant' %}"
    "{%- set content = m.content %}{%- set thought = m.reasoning_content or '' %}"
    "{%- if not thought and '</think>' in content %}"
    "{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if loop.last %}{{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n'"
    " + content.lstrip('\n') + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>assistant\n' + content + '<|im_end|>\n' }}{%- endif %}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}{%- endif %}"
)
OSS = (
    "{%- for m in messages %}{%- if m.role == 'assistant' %}"
    "{%- if m.thinking %}{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{%- endif %}"
    "{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}"
    "{%- else %}{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"
)
ADDED = ["<think>", "</think>", "<|start|>", "<|end|>", "<|channel|>", "<|message|>", "<|return|>"]


def thinker(template: str) -> Any:
    tok = copy.deepcopy(qwen())
    tok.add_tokens(ADDED)
    tok.chat_template = template
    return tok


class Outcome:
    """A random outcome model, and its score of a whole conversation by one pass."""

    def __init__(self, folder: Folder, template: str, name: str) -> None:
        torch.manual_seed(0)
        self.tok, self.name = thinker(template), name
        save(SequenceClassifier(Qwen2Config(**_options(self.tok, num_labels=1))), self.tok, folder)
        self.loaded = load_verifier(str(folder))
        self._whole: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)

    def score(self, thought: str, answer: str, before: Sequence[dict[str, str]] = ()) -> float:
        own = {"role": "assistant", "content": answer} | ({self.name: thought} if thought else {})
        messages = [*(before or [{"role": "user", "content": QUESTION}]), own]
        ids = plain(self.tok, str(self.tok.apply_chat_template(messages, tokenize=False)))
        with torch.inference_mode():
            hidden = self._whole.model(torch.tensor([ids])).last_hidden_state[0, -1]
            return float(torch.sigmoid(self._whole.score(hidden)[0]))


@pytest.fixture(scope="module", params=["qwen3", "gpt-oss"])
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    template, name = {"qwen3": (QWEN3, "reasoning_content"), "gpt-oss": (OSS, "thinking")}[request.param]
    return Outcome(tmp_path_factory.mktemp("outcome") / "outcome", template, name)


@pytest.mark.parametrize("name", RESPONSES)
def test_an_outcome_model_reads_its_own_rendering(outcome: Outcome, name: str) -> None:
    thinking, texts = RESPONSES[name]
    wanted = [
        outcome.score(THOUGHT[0], ""),
        outcome.score("\n\n".join(THOUGHT), ""),
        outcome.score("\n\n".join(THOUGHT), f"{ANSWER[0]}\n\n"),
        outcome.score("\n\n".join(THOUGHT), f"{ANSWER[0]}\n\n{ANSWER[1]}\n\n"),
    ]
    assert scored(outcome.loaded, Path(as_prompt(QUESTION), thinking=thinking), texts) == pytest.approx(
        wanted, abs=1e-5
    )
    assert max(wanted) - min(wanted) > 1e-3


def test_a_thought_and_an_answer_in_one_step(outcome: Outcome) -> None:
    path = Path(as_prompt(QUESTION), thinking=Thinking(THINK))
    both = Step(f"<think>\n{THOUGHT[0]}\n</think>\n\n{ANSWER[1]}", "end")
    assert asyncio.run(outcome.loaded.score(path, [both])).rewards[0] == pytest.approx(
        outcome.score(THOUGHT[0], ANSWER[1]), abs=1e-5
    )


def test_the_thought_of_the_card_and_no_empty_one_before_it(tmp_path: Folder) -> None:
    model = Outcome(tmp_path / "m", QWEN3, "reasoning_content").loaded
    path = Path(as_prompt("Q?"), thinking=Thinking(THINK))
    read = model.explain(path, Step("<think>\nAdd.\n</think>\n\n", "delimiter")).text
    assert read == "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n<think>\nAdd.\n</think>\n\n<|im_end|>\n"


def test_an_answer_without_a_thought_is_rendered_as_such(outcome: Outcome) -> None:
    steps = [Step(f"{text}\n\n", "delimiter") for text in ANSWER]
    wanted = [outcome.score("", f"{ANSWER[0]}\n\n"), outcome.score("", f"{ANSWER[0]}\n\n{ANSWER[1]}\n\n")]
    for thinking in (None, Thinking(THINK)):
        rewards = scored(outcome.loaded, Path(as_prompt(QUESTION), thinking=thinking), [step.text for step in steps])
        assert rewards == pytest.approx(wanted, abs=1e-5)


def test_a_thought_that_was_cut_off_is_closed_before_the_answer(outcome: Outcome) -> None:
    texts = ["<think>\nOn Monday she", "\n</think>\n\n", ANSWER[1]]
    wanted = [outcome.score("On Monday she", ""), outcome.score("On Monday she", ANSWER[1])]
    path = Path(as_prompt(QUESTION), thinking=Thinking(THINK))
    assert scored(outcome.loaded, path, texts) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    "message",
    [
        Message("assistant", "", {"reasoning_content": f"{THOUGHT[0]}\n\n"}),
        Message("assistant", f"<think>\n{THOUGHT[0]}\n\n"),
    ],
    ids=["field", "markers"],
)
def test_an_outcome_model_goes_on_with_a_thought(outcome: Outcome, message: Message) -> None:
    path = Path((*as_prompt(QUESTION), message), thinking=Thinking(THINK))
    texts = [f"{THOUGHT[1]}\n</think>\n\n", ANSWER[1]]
    wanted = [outcome.score("\n\n".join(THOUGHT), ""), outcome.score("\n\n".join(THOUGHT), ANSWER[1])]
    assert scored(outcome.loaded, path, texts) == pytest.approx(wanted, abs=1e-5)


def test_thoughts_of_earlier_turns_are_not_part_of_the_conversation(outcome: Outcome) -> None:
    asked = [
        Message("user", "Yes or No?"),
        Message("assistant", "<think>\nYes.\n</think>\n\nNo."),
        *as_prompt(QUESTION),
    ]
    before = [{"role": m.role, "content": "No." if m.role == "assistant" else m.content} for m in asked]
    rewards = asyncio.run(outcome.loaded.score(Path(tuple(asked)), [Step(ANSWER[1], "end")])).rewards
    assert rewards[0] == pytest.approx(outcome.score("", ANSWER[1], before), abs=1e-5)


def test_a_step_of_a_thought_is_read_once(outcome: Outcome) -> None:
    path, texts = Path(as_prompt(QUESTION), thinking=Thinking(THINK, "<think>\n")), RESPONSES["by itself"][1]
    texts = [texts[0].removeprefix("<think>\n"), *texts[1:]]
    for text in texts:
        step = Step(text, "delimiter")
        told = outcome.loaded.explain(path, step)
        before = len(outcome.loaded.layouts.ids(path)[0])
        usage = asyncio.run(outcome.loaded.score(path, [step])).usage
        assert usage.reused == (0 if path.depth == 0 else before)
        assert usage.computed == len(told.tokens) - usage.reused
        path = path.extend(step)


# -- language models as verifiers --------------------------------------------------------------------------------------


def language_model(folder: Folder, tok: PreTrainedTokenizerBase) -> Folder:
    torch.manual_seed(0)
    return save(Qwen2ForCausalLM(Qwen2Config(**_options(tok, initializer_range=0.05))), tok, folder)


def chances(folder: Folder, ids: list[int], at: Sequence[int]) -> list[float]:
    """Log-probabilities of the tokens at some places, by one pass over the whole text."""
    whole: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        logprobs = whole(torch.tensor([ids])).logits[0].log_softmax(-1)
    return [float(logprobs[i - 1, ids[i]]) for i in at]


CHATML = "".join(("<|im_start|>user\n", QUESTION, "<|im_end|>\n<|im_start|>assistant\n"))


@pytest.mark.parametrize("sampled", [False, True], ids=["text", "ids"])
@pytest.mark.parametrize("how", ["min", "mean"])
def test_a_model_that_knows_the_markers_reads_them_and_does_not_judge_them(
    tmp_path: Folder, how: str, sampled: bool
) -> None:
    tok = thinker(str(qwen().chat_template))
    folder = language_model(tmp_path / "lm", tok)
    model: Any = load(f"likelihood,how={how}:{folder}")
    path, ids = Path(as_prompt(QUESTION), thinking=Thinking(THINK)), plain(tok, CHATML)
    marks = {tok.convert_tokens_to_ids(name) for name in ("<think>", "</think>")}
    fold = min if how == "min" else lambda values: sum(values) / len(values)
    for text in RESPONSES["by itself"][1]:
        own = plain(tok, text)
        step = Step(text, "delimiter", tuple(own) if sampled else (), model.vocabulary.identity if sampled else "")
        near = {i + k for i, id_ in enumerate(own) if id_ in marks for k in (-1, 0, 1)}
        silent = {i for i in near if 0 <= i < len(own) and (own[i] in marks or not tok.decode(own[i]).strip())}
        assert bool(silent) == ("think>" in text)
        judged = [len(ids) + i for i in range(len(own)) if i not in silent]
        (reward,) = asyncio.run(model.score(path, [step])).rewards
        assert reward == pytest.approx(math.exp(fold(chances(folder, [*ids, *own], judged))), rel=1e-4)
        assert list(model.explain(path, step).read) == [at - 1 for at in judged]
        ids, path = [*ids, *own], path.extend(step)
    assert "<think>\nOn Monday" in model.explain(path.parent, step).text


def test_a_model_without_the_markers_reads_the_text_alone(tmp_path: Folder) -> None:
    folder = language_model(tmp_path / "lm", qwen())
    model = load_likelihood(str(folder))
    for name in ("by itself", "markers alone", "harmony", "opened by the template"):
        thinking, texts = RESPONSES[name]
        rewards = scored(model, Path(as_prompt(QUESTION), thinking=thinking), texts)
        wanted = scored(model, Path(as_prompt(QUESTION)), [f"{text}\n\n" for text in (*THOUGHT, *ANSWER)])
        assert rewards == pytest.approx(wanted, rel=1e-4)


def test_a_marker_alone_has_no_likelihood(tmp_path: Folder) -> None:
    path = Path(as_prompt(QUESTION), thinking=Thinking(THINK, "<think>\n")).extend(Step("Add.\n\n", "delimiter"))
    for tok in (qwen(), thinker(str(qwen().chat_template))):
        model = load_likelihood(str(language_model(tmp_path / str(len(tok)), tok)))
        with pytest.raises(VerifierError, match="has no token to judge"):
            asyncio.run(model.score(path, [Step("</think>\n\n", "delimiter")]))


# -- what is shown -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESPONSES)
def test_steps_are_shown_without_markers(name: str) -> None:
    thinking, texts = RESPONSES[name]
    path = Path(as_prompt(QUESTION), thinking=thinking)
    for text in texts:
        path = path.extend(Step(text, "delimiter"))
    assert shown_steps(path) == [*THOUGHT, *ANSWER]
    assert without_markers(path).text == "".join(f"{text}\n\n" for text in (*THOUGHT, *ANSWER))
    assert without_markers(path) is without_markers(path)


def test_text_that_only_looks_like_a_marker_is_shown_once() -> None:
    path = Path(as_prompt(QUESTION), thinking=Thinking(THINK, "<think>\n")).extend(Step("It is 3 <", "length"))
    assert shown(path, Step(" 4.\n\n", "delimiter")).text == " 4.\n\n"


def test_a_blank_line_comes_after_a_thought_that_was_cut_off() -> None:
    path = Path(as_prompt(QUESTION), thinking=Thinking(THINK, "<think>\n"))
    for text in ("So 3", "\n</think>\n\n", "The answer is 3."):
        path = path.extend(Step(text, "length"))
    assert without_markers(path).text == "So 3\n\nThe answer is 3."
