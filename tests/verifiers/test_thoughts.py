"""Rules, programs, combinations and judges over responses with thoughts, and judges that think themselves."""

import asyncio
import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path as Folder
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rsd_core import (
    ConfigurationError,
    Generation,
    Message,
    NextWord,
    Path,
    Prompt,
    SpecError,
    Step,
    StepRequest,
    Target,
    Thinking,
    Usage,
    VerifierError,
    as_prompt,
    load,
    usage_of,
)
from rsd_core.baselines.judged import THOUGHT
from rsd_core.errors import RoleWarning
from rsd_core.health import FIRST_CALLS
from rsd_core.testing import ScriptedVerifier
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.prm_formats import CRITICS
from rsd_integrations.verifiers import (
    DIGIT,
    YES_NO,
    Arithmetic,
    Cached,
    Confidence,
    CriticJudge,
    Format,
    Programs,
    Repetition,
    WordJudge,
)
from tests.huggingface.reward_models import _options, plain, qwen, save

THINK = Thinking(MARKERS["think"])
START = Path(as_prompt("Mia has 45 apples."), thinking=THINK)


def after(*texts: str) -> Path:
    path = START
    for text in texts:
        path = path.extend(Step(text, "delimiter"))
    return path


def score(verifier: Any, path: Path, text: str, ending: Any = "delimiter", **options: Any) -> float | None:
    (reward,) = asyncio.run(verifier.score(path, [Step(text, ending, **options)])).rewards
    return reward  # type: ignore[no-any-return]


def test_arithmetic_counts_in_thoughts_and_answers() -> None:
    assert score(Arithmetic(), START, "<think>\n45+12=58.\n\n") == 0
    assert score(Arithmetic(), after("<think>\nHm.\n\n"), "45+12=57\n</think>\n\n") == 1
    assert score(Arithmetic(), after("<think>\nHm.\n</think>\n\n"), "45+12=58.") == 0


def test_form_is_asked_of_the_answer_alone() -> None:
    rule = Format(max_chars=30, pattern="apples", answer=r"\\boxed")
    thought = "<think>\nIt may be \\boxed{12}, and { is never closed in this very long thought.\n\n"
    assert score(rule, START, thought) is None
    assert score(rule, after(thought), "</think>\n\n", "length") is None
    assert "thought" in rule.explain(START, Step(thought, "delimiter")).text
    closed = after(thought, "</think>\n\n")
    assert score(rule, closed, "57 apples.", "end") == 0.0  # the box of the thought is not an answer
    assert score(rule, closed, "\\boxed{57} apples.", "end") is None
    assert score(rule, closed, "57 apples {.") == 0.0
    assert score(rule, START, "<think>\nHm.\n</think>\n\n57 apples {.") == 0.0


def test_markers_make_no_step_another_one() -> None:
    before = after("<think>\nSo 57.\n\n")
    assert score(Repetition(), before, "So 57.\n</think>\n\n") == 0
    assert score(Repetition(), before, "So 58.\n</think>\n\n") is None
    assert score(Repetition(), START, "<think>\nno no no no no\n\n") == 0


@pytest.mark.filterwarnings("ignore:sandbox=none")
def test_a_program_in_a_thought_is_none() -> None:
    programs = Programs({"Mia has 45 apples.": ["assert f(1) == 2"]}, sandbox="none")
    code = "```python\ndef f(x): return x + {}\n```\n\n"
    assert score(programs, START, f"<think>\n{code.format(1)}") is None
    answered = after(f"<think>\n{code.format(1)}", "</think>\n\n")
    assert score(programs, answered, "So that is it.") is None
    assert score(programs, answered, code.format(1)) == 1
    assert score(programs, START, f"<think>\n{code.format(1)}</think>\n\n{code.format(2)}") == 0


def test_what_a_prompt_begins_and_how_it_thinks_are_part_of_what_is_remembered() -> None:
    cached = Cached(inner := ScriptedVerifier([0.5]))
    question = Message("user", "q")
    paths = [
        Path((question,)),
        Path((question,), thinking=THINK),
        Path((question,), thinking=Thinking(MARKERS["think"], "<think>\n")),
        Path((question, Message("assistant", "", {"reasoning_content": "a"})), thinking=THINK),
        Path((question, Message("assistant", "", {"reasoning_content": "b"})), thinking=THINK),
    ]
    for path in paths * 2:
        assert score(cached, path, "x") == 0.5
    assert len(inner.calls) == len(paths)


@pytest.mark.parametrize(
    ("text", "logprobs", "reward"),
    [
        ("<think>\nAdd 2.\n\n", (-9, -9, -1, -0.5, -0.25), math.exp(-1)),
        ("So 3.\n</think>\n\n", (-1, -0.5, -9, -9), math.exp(-1)),
        ("So 3.\n</think>", (-1, -0.5, -0.25, -9), math.exp(-1)),
        ("<think>\nSo 3.\n</think>\n\n", (-9, -9, -0.5, -2, -9, -9), math.exp(-2)),
        ("<think>\nSo 3.\n</think>\n\nIt is 3.", (-1,) * 8, None),  # which of them is the marker cannot be told
        ("</think>\n\n", (-1, -1), None),
        ("It is 3.\n\n", (-1, -3), math.exp(-3)),
    ],
)
def test_markers_do_not_count_in_the_confidence(text: str, logprobs: tuple[float, ...], reward: float | None) -> None:
    path = after("<think>\nHm.\n\n") if "<think>" not in text else START
    given = score(Confidence(), path, text, logprobs=logprobs)
    assert given == (None if reward is None else pytest.approx(reward))


def test_each_name_in_a_marker_is_a_token() -> None:
    path = Path(as_prompt("q"), thinking=Thinking(MARKERS["harmony"]))
    opened = "<|channel|>analysis<|message|>Add 2.\n\n"
    assert score(Confidence(), path, opened, logprobs=(-9, -9, -9, -1, -0.5)) == pytest.approx(math.exp(-1))
    closed = "So 3.<|end|><|start|>assistant<|channel|>final<|message|>"
    logprobs = (-1, -0.5, *(-9,) * 6)
    assert score(Confidence(), path.extend(Step(opened, "delimiter")), closed, logprobs=logprobs) == pytest.approx(
        math.exp(-1)
    )


# -- judges ------------------------------------------------------------------------------------------------------------


class Thinker(Target):
    """Writes what it is told to, by a template that opens its thought, and tells the probabilities it is told to."""

    name = "thinker"

    def __init__(
        self, *texts: str, logprobs: Sequence[float] = (), thinking: Thinking | None = None, ending: Any = "end"
    ) -> None:
        self.texts, self.logprobs, self.how, self.ending = texts, tuple(logprobs), thinking, ending
        self.asked: list[tuple[Path, Any]] = []

    def thinking(self, prompt: Prompt) -> Thinking | None:
        return self.how

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        self.asked.append((path, request))
        steps = [Step(self.texts[seed % len(self.texts)], self.ending, size=7) for seed in request.seeds]
        return Generation(tuple(steps), Usage(5, 12, 0, 7))


class Speaker(Thinker):
    """It also tells probabilities of words."""

    async def next_word(self, path: Path, words: Sequence[str], after: Sequence[Message] = ()) -> NextWord:
        self.asked.append((path, (tuple(words), tuple(after))))
        return NextWord(self.logprobs, Usage(7, 7))


OPENED = Thinking(MARKERS["think"], "<think>\n")


def test_a_critic_reads_thoughts_without_their_markers() -> None:
    judge = CriticJudge(writer := Thinker("Score: 8"), CRITICS["rubric"])
    assert score(judge, after("<think>\nShe has 45.\n\n", "45+12=57.\n</think>\n\n"), "It is 57.") == 0.8
    asked = writer.asked[0][0].prompt[0].content
    assert "[Steps before]\nShe has 45.\n\n45+12=57.\n\n[Step to judge]\nIt is 57.\n" in asked
    assert "think>" not in judge.explain(after("<think>\nHm.\n\n"), Step("So.\n</think>\n\n", "delimiter")).text


@pytest.mark.parametrize("mode", ["rubric", "genprm"])
@pytest.mark.parametrize(
    ("how", "reply"),
    [
        (OPENED, "Score: 2? \\boxed{{No}}?\n</think>\n\n{}"),
        (THINK, "<think>\nScore: 2? \\boxed{{No}}?\n</think>\n\n{}"),
        (None, "<think>\nScore: 2? \\boxed{{No}}?\n</think>\n\n{}"),
        (None, "Score: 2? \\boxed{{No}}?\n</think>\n\n{}"),  # a server that does not tell them apart
        (Thinking(MARKERS["think"], "<think>\n\n</think>\n\n"), "{}"),
        (None, "{}"),
    ],
)
def test_a_verdict_is_read_after_the_thought(mode: str, how: Thinking | None, reply: str) -> None:
    judge = CriticJudge(Thinker(reply.format("Score: 8 or $\\boxed{Yes}$"), thinking=how), CRITICS[mode])
    assert score(judge, START, "It is 57.") == {"rubric": 0.8, "genprm": 1.0}[mode]
    silent = CriticJudge(Thinker(reply.format("I cannot say."), thinking=how), CRITICS[mode])
    assert score(silent, START, "It is 57.") is None


@pytest.mark.parametrize(
    ("how", "reply"), [(OPENED, "Let me see. Score: 2"), (None, "<think>\nLet me see."), (None, ""), (OPENED, "")]
)
def test_a_reply_that_is_cut_in_its_thoughts_is_said_to_be_that(how: Thinking | None, reply: str) -> None:
    judge = CriticJudge(Thinker(reply, thinking=how, ending="length"), CRITICS["rubric"], max_tokens=7)
    with pytest.raises(
        VerifierError, match=r"cut in its thoughts at 7 tokens.*judge,max_tokens=.*enable_thinking=false"
    ) as told:
        score(judge, START, "It is 57.")
    spent = usage_of(told.value)
    assert spent is not None
    assert spent.generated == 7


def test_a_reply_that_is_cut_after_its_thoughts_says_so_and_does_not_abstain() -> None:
    judge = CriticJudge(Thinker("Hm.\n</think>\n\nIt looks", thinking=OPENED, ending="length"), CRITICS["rubric"])
    with pytest.raises(VerifierError, match=r"cut in its critique at 8704 tokens, before its verdict"):
        score(judge, START, "It is 57.")
    told = CriticJudge(Thinker("Hm.\n</think>\n\nScore: 8, so", thinking=OPENED, ending="length"), CRITICS["rubric"])
    assert score(told, START, "It is 57.") == 0.8


def test_samples_that_are_cut_in_their_thoughts_are_left_out() -> None:
    warm = replace(CRITICS["rubric"], temperature=0.5)

    class Torn(Thinker):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            made = await super().generate(path, request)
            cut = Step("Perhaps Score: 1", "length", size=7)
            return Generation((*made.steps[:-1], cut), made.usage)

    judge = CriticJudge(Torn("Hm.\n</think>\n\nScore: 8", thinking=OPENED), warm, samples=3)
    assert score(judge, START, "It is 57.") == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("how", "given", "cap"),
    [
        (None, None, 512 + THOUGHT),  # a chat behind a URL: it is unknown whether it thinks
        (OPENED, None, 512 + THOUGHT),
        (OPENED, 100, 100),
        (None, 100, 100),
        (Thinking(None), None, 512),
    ],
)
def test_the_cap_of_a_critique_is_an_option(how: Thinking | None, given: int | None, cap: int) -> None:
    judge = CriticJudge(writer := Thinker("Score: 8", thinking=how), CRITICS["rubric"], max_tokens=given)
    score(judge, START, "It is 57.")
    path, request = writer.asked[0]
    assert request.max_tokens == cap
    assert path.thinking == how


def test_the_cap_of_a_critique_by_spec() -> None:
    judge = load("judge,mode=rubric,max_tokens=900:scripted:target")
    assert isinstance(judge, CriticJudge)
    assert judge.max_tokens == 900
    with pytest.raises(ConfigurationError, match="max_tokens=0"):
        load("judge,mode=rubric,max_tokens=0:scripted:target")
    with pytest.raises(SpecError, match="max_tokens=9: mode=digit reads one word"):
        load("judge,max_tokens=9:scripted:target")


def test_thinkprm_critiques_in_its_thought() -> None:
    writer = Speaker("Step 1 is right.\n</think>", logprobs=[math.log(0.4), math.log(0.1)], thinking=OPENED)
    assert score(CriticJudge(writer, CRITICS["thinkprm"]), START, "It is 57.") == pytest.approx(0.8)
    (path, request), (end, _) = writer.asked
    assert path.opening == "<think>\n"
    assert request.delimiter == "</think>"
    assert request.max_tokens == CRITICS["thinkprm"].max_tokens
    assert end.text == "<think>\nStep 1 is right.\n</think>\nIs the solution correct?"
    writer.ending, writer.texts = "length", ("Step 1",)
    with pytest.raises(VerifierError, match="cut in its thoughts at 4096 tokens"):
        score(CriticJudge(writer, CRITICS["thinkprm"]), START, "It is 57.")
    assert len(writer.asked) == 3  # no verdict is asked for after half a critique


@pytest.mark.parametrize(
    ("how", "read"),
    [
        (OPENED, "<think>\nShe has 45.\n\n45+12=57.\n</think>\n\n"),
        (Thinking(None), "She has 45.\n\n45+12=57.\n\n"),
        (Thinking(MARKERS["mistral"]), "She has 45.\n\n45+12=57.\n\n"),
        (None, "She has 45.\n\n45+12=57.\n\n"),
    ],
)
def test_a_word_judge_reads_markers_that_it_knows(how: Thinking | None, read: str) -> None:
    judge = WordJudge(speaker := Speaker(logprobs=[-1.0, -1.0], thinking=how), YES_NO)
    before = after("<think>\nShe has 45.\n\n")
    assert score(judge, before, "45+12=57.\n</think>\n\n") == pytest.approx(0.5)
    assert speaker.asked[0][0].text == read
    assert read in judge.explain(before, Step("45+12=57.\n</think>\n\n", "delimiter")).text


QWEN3 = (
    "{%- for m in messages %}{%- if m.role == 'assistant' and loop.last %}"
    "{{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' + m.content + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content.split('</think>')[-1] + '<|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def test_a_thinking_model_sees_the_judged_thought_and_says_the_word_next(tmp_path: Folder) -> None:
    """Its template drops thoughts of earlier turns. What it is to say is begun for it, after a thought or inside."""
    tok: Any = copy.deepcopy(qwen())
    tok.add_tokens(["<think>", "</think>"])
    tok.chat_template = QWEN3
    torch.manual_seed(0)
    folder = save(Qwen2ForCausalLM(Qwen2Config(**_options(tok))), tok, tmp_path / "lm")
    generator: Any = load(f"hf:{folder}")
    generator.thinking = lambda prompt: THINK
    judge = WordJudge(generator, DIGIT, min_mass=0)
    for before, text in [
        (START, "<think>\nShe has 45.\n\n"),
        (after("<think>\nShe has 45.\n\n", "45+12=57.\n</think>\n\n"), "It is 57."),
    ]:
        question = [Message("user", DIGIT.ask), Message("assistant", DIGIT.opening)]
        asked = generator.vocabulary.template.after(START.prompt, question)
        turns = f"<|im_end|>\n<|im_start|>user\n{DIGIT.ask}<|im_end|>\n<|im_start|>assistant\n"
        assert asked.removeprefix(turns).removesuffix("I think the quality score is: ") in (
            "<think>\n\n</think>\n\n",
            "<think>\n",
        )
        start = "<|im_start|>user\nMia has 45 apples.<|im_end|>\n<|im_start|>assistant\n"
        read = plain(tok, f"{start}{before.text}{text}{asked}")
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.inference_mode():
            logits = model(torch.tensor([read])).logits[0, -1]
        digits = [plain(tok, str(digit))[0] for digit in range(10)]
        wanted = float((logits[digits].softmax(-1) * torch.arange(10)).sum() / 9)
        assert score(judge, before, text) == pytest.approx(wanted, abs=1e-5)


def test_a_drafter_of_which_confidence_knows_nothing_is_warned_of() -> None:
    """Its thoughts end inside of its steps, so that no probability is the step's."""
    verifier = Confidence()
    step = ("<think>\nSo 3.\n</think>\n\nIt is 3.", "delimiter")
    for _ in range(FIRST_CALLS - 1):
        assert score(verifier, START, *step, logprobs=(-1,) * 8) is None
    with pytest.warns(RoleWarning, match=r"confidence:min gave no score in any of its first 8 .* thought markers"):
        assert score(verifier, START, *step, logprobs=(-1,) * 8) is None
    assert score(verifier, START, "It is 3.", logprobs=(-1,)) == math.exp(-1)
