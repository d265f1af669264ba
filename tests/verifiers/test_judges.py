"""Judges: their prompts, their reading of the answer, and abstention without one."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path as Folder
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rsd_core import (
    ConfigurationError,
    Generation,
    Message,
    NextWord,
    Path,
    SpecError,
    Step,
    StepRequest,
    Target,
    Usage,
    as_prompt,
    load,
)
from rsd_core.testing import ScriptedTarget
from rsd_integrations.huggingface import HuggingFaceGenerator
from rsd_integrations.prm_formats import CRITICS
from rsd_integrations.verifiers import DIGIT, YES_NO, CriticJudge, WordJudge
from rsd_integrations.verifiers.loading import published_critic
from tests.conftest import Counter
from tests.huggingface.reward_models import _qwen_lm as make_lm
from tests.huggingface.reward_models import plain, qwen

START = Path(as_prompt("Mia has 45 apples."))
STEP = Step("45+12=57.\n\n", "delimiter")


class Talker(Target):
    """Writes what it is told to, and tells the probabilities it is told to."""

    name = "talker"

    def __init__(self, text: str = "", logprobs: Sequence[float] = ()) -> None:
        self.text, self.logprobs = text, tuple(logprobs)
        self.asked: list[tuple[Path, Any]] = []

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        self.asked.append((path, request))
        return Generation(tuple(Step(self.text, "end", size=3) for _ in request.seeds), Usage(5, 8, 0, 3))

    async def next_word(self, path: Path, words: Sequence[str], after: Sequence[Message] = ()) -> NextWord:
        self.asked.append((path, (tuple(words), tuple(after))))
        return NextWord(self.logprobs, Usage(7, 7))


def score(judge: Any, *steps: Step) -> tuple[float | None, ...]:
    rewards: tuple[float | None, ...] = asyncio.run(judge.score(START, steps or [STEP])).rewards
    return rewards


def test_the_digit_is_an_expectation_over_its_probabilities() -> None:
    logprobs = [-math.inf] * 10
    logprobs[7], logprobs[9] = math.log(0.6), math.log(0.2)  # the other 0.2 went to other words
    (reward,) = score(WordJudge(Talker(logprobs=logprobs), DIGIT))
    assert reward == pytest.approx((0.6 * 7 + 0.2 * 9) / 0.8 / 9)


def test_yes_and_no_are_weighed_against_each_other() -> None:
    talker = Talker(logprobs=[math.log(0.3), math.log(0.1)])
    assert score(WordJudge(talker, YES_NO))[0] == pytest.approx(0.75)
    path, (words, after) = talker.asked[0]
    assert words == (" Yes", " No")
    assert path.text == STEP.text
    assert [message.role for message in after] == ["user", "assistant"]


@pytest.mark.parametrize("logprobs", [[math.log(0.02), math.log(0.03)], [-math.inf, -math.inf]])
def test_a_model_that_answers_something_else_is_not_a_judge_of_this_step(logprobs: list[float]) -> None:
    assert score(WordJudge(Talker(logprobs=logprobs), YES_NO)) == (None,)


def test_a_generator_without_probabilities_can_only_write_its_score() -> None:
    with pytest.raises(ConfigurationError, match="mode=rubric"):
        WordJudge(ScriptedTarget(["x"]))
    judge = CriticJudge(ScriptedTarget(["It follows.\n**Score: 8**"]), CRITICS["rubric"])
    assert score(judge) == (0.8,)


@pytest.mark.parametrize("text", ["I cannot say.", "Score: 11", "Score: high"])
def test_a_rubric_without_a_score_abstains(text: str) -> None:
    assert score(CriticJudge(Talker(text), CRITICS["rubric"])) == (None,)


def test_thinkprm_is_asked_as_it_was_trained() -> None:
    talker = Talker("Step 1: fine.", [math.log(0.4), math.log(0.1)])
    judge = CriticJudge(talker, CRITICS["thinkprm"])
    path = START.extend(Step("Step 1: She has 45.\n\n", "delimiter"))
    scores = asyncio.run(judge.score(path, [STEP]))
    assert scores.rewards[0] == pytest.approx(0.8)
    assert scores.usage.parts == ((talker, Usage(5, 8, 0, 3)), (talker, Usage(7, 7)))
    assert replace(scores.usage, parts=()) == Usage(prefix=12, computed=15, generated=3)
    (asked, request), (after, (words, _)) = talker.asked
    assert "[Math Problem]\n\nMia has 45 apples.\n\n" in asked.prompt[0].content
    assert "[Solution]\n\nStep 1: She has 45.\nStep 2: 45+12=57.\n\nReview and critique" in asked.prompt[0].content
    assert request.delimiter == "</think>"
    assert words == (" Yes", " No")
    assert after.text == "Step 1: fine.\nIs the solution correct?"


def test_genprm_is_asked_as_it_was_trained() -> None:
    talker = Talker("Fine.</analyze>", [math.log(0.2), math.log(0.6)])
    path = START.extend(Step("She has 45.\n\n", "delimiter"))
    judge = CriticJudge(talker, CRITICS["genprm"], samples=2)
    assert asyncio.run(judge.score(path, [STEP])).rewards[0] == pytest.approx(0.25)
    (asked, request), (after, (words, _)) = talker.asked[:2]
    assert [message.role for message in asked.prompt] == ["system", "user", "assistant", "user", "assistant"]
    assert asked.prompt[1].content == "Question: Mia has 45 apples.\n\nShe has 45."
    assert asked.prompt[4].content == "<analyze>\nLet's analyze the Paragraph 2 step by step: "
    assert len(request.seeds) == 2
    assert (request.sampling.top_k, request.needs_top_k) == (20, False)  # many servers have none
    assert words == ("Yes", "No")
    assert after.text.endswith("</analyze>\n<output>\n**Judgement**: $\\boxed{")


@pytest.mark.parametrize(("text", "reward"), [("… $\\boxed{Yes}$", 1), ("\\boxed{No}", 0), ("no verdict", None)])
def test_without_probabilities_the_written_verdict_counts(text: str, reward: float | None) -> None:
    assert score(CriticJudge(ScriptedTarget([text]), CRITICS["genprm"])) == (reward,)


def test_specs_of_judges() -> None:
    judge = load("judge,mode=rubric:scripted:target")
    assert isinstance(judge, CriticJudge)
    with pytest.raises(SpecError, match="unknown mode 'haiku'"):
        load("judge,mode=haiku:scripted:target")
    with pytest.raises(
        SpecError, match="unknown option of judge 'top_p'; known are mode, min_mass, samples, max_tokens, temperature"
    ):
        load("judge,top_p=1:scripted:target")


@pytest.mark.parametrize("option", ["samples=3", "temperature=0.5", "max_tokens=9"])
def test_options_of_critiques_are_none_of_a_word(option: str) -> None:
    with pytest.raises(SpecError, match=f"{option}: mode=digit reads one word"):
        load(f"judge,{option}:embedded:draft")


def test_the_least_mass_is_none_of_a_critique() -> None:
    with pytest.raises(SpecError, match=r"min_mass=0.2: mode=rubric takes none"):
        load("judge,mode=rubric,min_mass=0.2:scripted:target")


def test_r_prm_is_asked_as_it_was_trained() -> None:
    question = "Is the step correct (Yes/No)?"
    talker = Talker(f"Analysis: … Verification: {question}", [math.log(0.3), math.log(0.1)])
    judge = CriticJudge(talker, CRITICS["r-prm"])
    path = START.extend(Step("Step 1: She has 45.\n\n", "delimiter"))
    assert asyncio.run(judge.score(path, [STEP])).rewards[0] == pytest.approx(0.75)
    (asked, request), *ends = talker.asked
    assert [message.role for message in asked.prompt] == ["system", "user"]
    assert asked.prompt[1].content.endswith(
        "\n\nQuestion: Mia has 45 apples.\nPrevious Steps: Step 1: She has 45.\nNow Step: Step 2: 45+12=57.\n"
        "Please carefully analyze the correctness of the Now Step.\nReply: "
    )
    assert (request.delimiter, request.max_tokens, len(request.seeds)) == (question, 3072, 10)
    assert (request.sampling.temperature, request.sampling.top_p) == (0.95, 0.95)
    assert len(ends) == 10
    assert {words for _, (words, _) in ends} == {(" Yes", " No")}
    assert {end.text for end, _ in ends} == {f"Analysis: … Verification: {question}"}  # nothing is put after it
    asyncio.run(judge.score(START, [STEP]))
    first = talker.asked[11][0].prompt[1].content
    assert (
        "\nPrevious Steps: Since the Now Step is the first step, there are no Previous Steps.\nNow Step: Step 1: 4"
        in first
    )


def test_a_critique_of_r_prm_that_asks_nothing_has_no_verdict() -> None:
    """As published: it is left out of the mean."""
    talker = Talker("I see no error.", [math.log(0.3), math.log(0.1)])
    assert score(CriticJudge(talker, CRITICS["r-prm"], samples=2)) == (None,)
    assert len(talker.asked) == 1
    written = ScriptedTarget(["Verification: Is the step correct (Yes/No)? No"])
    assert score(CriticJudge(written, CRITICS["r-prm"], samples=1)) == (0.0,)


def test_critics_sample_as_published() -> None:
    """One critique of ThinkPRM is greedy, several are not; GenPRM and R-PRM always sample."""
    wanted = {"thinkprm": (1, 0.0), "genprm": (1, 0.6), "r-prm": (10, 0.95), "rubric": (1, 0.0)}
    made = {name: CriticJudge(Talker(), CRITICS[name]) for name in wanted}
    assert {name: (judge.samples, judge.temperature) for name, judge in made.items()} == wanted
    assert (CRITICS["genprm"].top_p, CRITICS["genprm"].top_k) == (0.95, 20)
    assert CriticJudge(Talker(), CRITICS["thinkprm"], samples=4).temperature == 0.4
    assert CriticJudge(Talker(), CRITICS["rubric"], samples=4, temperature=0.7).temperature == 0.7
    with pytest.raises(ConfigurationError, match="temperature=-1 is out of range"):
        CriticJudge(Talker(), CRITICS["rubric"], temperature=-1)


def test_every_critic_is_found_by_its_models() -> None:
    for name, critic in CRITICS.items():
        for model in critic.models:
            assert published_critic(model) == name
            assert published_critic(f"hf:./{model.rpartition('/')[2]}") == name
    assert published_critic("hf:Qwen/Qwen3-8B") is None


def test_words_that_have_just_enough_together_count() -> None:
    judge = WordJudge(Talker(logprobs=[math.log(0.25), math.log(0.25)]), YES_NO, min_mass=0.5)
    assert score(judge) == (0.5,)
    assert score(WordJudge(judge.model, YES_NO, min_mass=0.51)) == (None,)
    assert score(WordJudge(Talker(logprobs=[-math.inf, -math.inf]), YES_NO, min_mass=0)) == (None,)


def test_a_word_judge_scores_no_more_than_it_reads() -> None:
    """By the paper's convention: the step, or what was left of it to read."""
    judge = WordJudge(Talker(logprobs=[-1.0, -1.0]), YES_NO)
    sizes = [asyncio.run(judge.score(START, [Step("a", "end", size=n)])).usage.scored for n in (4, 7, 9)]
    assert sizes == [4, 7, 7]


def test_critiques_without_a_verdict_are_left_out_of_the_mean() -> None:
    class Torn(Talker):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            texts = ("\\boxed{Yes}", "no verdict", "\\boxed{No}", "\\boxed{No}, or: \\boxed{Yes}")
            return Generation(tuple(Step(text, "end") for text in texts[: len(request.seeds)]), Usage())

    torn = Torn()
    critic = replace(CRITICS["genprm"], verdict="")  # it is written out
    assert [score(CriticJudge(torn, critic, samples=n))[0] for n in (1, 2, 3, 4)] == [1, 1, 0.5, pytest.approx(2 / 3)]


@pytest.mark.parametrize("samples", [0, 2])
def test_several_critiques_of_a_greedy_model_would_be_the_same(samples: int) -> None:
    with pytest.raises(
        ConfigurationError, match=f"samples={samples}: must be at least 1, and exactly 1 for greedy .* of rubric"
    ):
        CriticJudge(Talker(), CRITICS["rubric"], samples=samples)


@pytest.mark.parametrize("min_mass", [-0.1, 1.0, math.nan])
def test_the_least_mass_is_a_probability_below_1(min_mass: float) -> None:
    with pytest.raises(ConfigurationError, match=r"min_mass=.* out of range"):
        WordJudge(Talker(), min_mass=min_mass)


def test_a_critic_that_only_reads_probabilities_takes_models_that_tell_them() -> None:
    critic = replace(CRITICS["thinkprm"], spoken="")
    assert CriticJudge(Talker(), critic)
    with pytest.raises(ConfigurationError, match="does not report probabilities of words, which the critic thinkprm"):
        CriticJudge(ScriptedTarget(["x"]), critic)


@pytest.mark.parametrize("judge", [WordJudge, lambda model: CriticJudge(model, CRITICS["rubric"])])
def test_a_model_that_writes_no_text_is_not_a_judge(judge: Any) -> None:
    with pytest.raises(ConfigurationError, match="does not write text"):
        judge(load("rule:arithmetic"))


@pytest.mark.parametrize(
    ("text", "reward"), [("Score: 10", 1.0), ("Score: 10.5", None), ("score: 3, no: Score: 7", 0.7), ("Score: 0", 0.0)]
)
def test_the_last_score_in_range_counts(text: str, reward: float | None) -> None:
    assert CRITICS["rubric"].spoken_verdict(text) == reward


# -- on a real model ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    torch.manual_seed(0)
    return make_lm(tmp_path_factory.mktemp("lm") / "lm")


@pytest.fixture(scope="module")
def generator(lm: Folder) -> HuggingFaceGenerator:
    loaded = load(f"hf:{lm}")
    assert isinstance(loaded, HuggingFaceGenerator)
    return loaded


def test_words_are_read_after_exactly_the_rendered_conversation(lm: Folder, generator: HuggingFaceGenerator) -> None:
    judge = WordJudge(generator, DIGIT, min_mass=0)
    path = START.extend(Step("She has 45.\n\n", "delimiter"))
    reward = asyncio.run(judge.score(path, [STEP])).rewards[0]
    tok = qwen()
    text = (
        "<|im_start|>user\nMia has 45 apples.<|im_end|>\n<|im_start|>assistant\n"
        "She has 45.\n\n45+12=57.\n\n<|im_end|>\n"
        f"<|im_start|>user\n{DIGIT.ask}<|im_end|>\n<|im_start|>assistant\nI think the quality score is: "
    )
    model: Any = AutoModelForCausalLM.from_pretrained(lm, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([plain(tok, text)])).logits[0, -1]
    digits = [plain(tok, str(digit))[0] for digit in range(10)]
    wanted = float((logits[digits].softmax(-1) * torch.arange(10)).sum() / 9)
    assert reward == pytest.approx(wanted, abs=1e-5)


def test_what_the_judge_read_of_the_path_is_not_read_again(generator: HuggingFaceGenerator, counted: Counter) -> None:
    counted.watch("lm", generator.model)
    path = Path(as_prompt("What is it?"))
    first = asyncio.run(WordJudge(generator).score(path, [STEP])).usage
    on = path.extend(STEP)
    second = asyncio.run(WordJudge(generator).score(on, [STEP])).usage
    assert second.reused >= len(generator.vocabulary.ids(on)[0])
    made = asyncio.run(generator.generate(on, StepRequest((0,), max_tokens=2))).usage
    assert made.reused >= len(generator.vocabulary.ids(on)[0]) - 1  # a target that judges has read the step for itself
    assert counted.tokens["lm"] == first.computed + second.computed + made.computed


def test_the_verdict_of_a_critique_is_the_word_after_its_own_question(
    lm: Folder, generator: HuggingFaceGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    critique = "The sum is right.\nVerification: Is the step correct (Yes/No)?"

    async def write(path: Path, request: StepRequest) -> Generation:
        assert request.delimiter == "Is the step correct (Yes/No)?"
        return Generation(tuple(Step(critique, "delimiter") for _ in request.seeds), Usage())

    monkeypatch.setattr(generator, "generate", write)
    critic = replace(CRITICS["r-prm"], messages=lambda problem, steps: as_prompt(f"{problem} {steps[-1]}"))
    (reward,) = score(CriticJudge(generator, critic, samples=2))
    tok = qwen()
    asked = f"<|im_start|>user\nMia has 45 apples. 45+12=57.<|im_end|>\n<|im_start|>assistant\n{critique}"
    model: Any = AutoModelForCausalLM.from_pretrained(lm, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([plain(tok, asked)])).logits[0, -1]
    assert reward == pytest.approx(
        float(logits[[plain(tok, word)[0] for word in (" Yes", " No")]].softmax(-1)[0]), abs=1e-5
    )


def test_words_that_cannot_be_distinguished_are_refused(generator: HuggingFaceGenerator) -> None:
    with pytest.raises(ConfigurationError, match="same token"):
        asyncio.run(generator.next_word(START, ["1", "12"]))


def test_a_template_that_drops_the_answer_is_refused(generator: HuggingFaceGenerator, monkeypatch: Any) -> None:
    monkeypatch.setattr(generator.vocabulary.tokenizer, "chat_template", "{{ messages[-1].content }}")
    with pytest.raises(ConfigurationError, match="drops earlier assistant turns"):
        asyncio.run(generator.next_word(START, ["1"], [Message("user", "?")]))


def test_a_step_carries_the_probabilities_of_its_tokens(lm: Folder, generator: HuggingFaceGenerator) -> None:
    (made,) = asyncio.run(generator.generate(START, StepRequest((0,), max_tokens=6))).steps
    for how in ("mean", "min"):
        (wanted,) = asyncio.run(load(f"likelihood,how={how}:{lm}").score(START, [made])).rewards
        (reward,) = asyncio.run(load(f"confidence:{how}").score(START, [made])).rewards
        assert reward == pytest.approx(wanted, rel=1e-4)


def test_entropy_says_how_sure_the_model_was(lm: Folder, generator: HuggingFaceGenerator) -> None:
    (reward,) = asyncio.run(load(f"likelihood,how=entropy:{lm}").score(START, [STEP])).rewards
    before, ids = generator.vocabulary.ids(START)[0], generator.vocabulary.ids(START.extend(STEP))[0]
    model: Any = AutoModelForCausalLM.from_pretrained(lm, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, len(before) - 1 : -1]
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1).mean()
    assert reward == pytest.approx(float((-entropy).exp()), rel=1e-4)


def test_why_a_judge_abstains_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "rsd_core.baselines.spoken_scores"):
        score(CriticJudge(Talker("I \x1b[31mcannot say."), CRITICS["rubric"]))
        score(WordJudge(Talker(logprobs=[-math.inf, -math.inf]), YES_NO))
    first, second = (record.getMessage() for record in caplog.records)
    assert first == r"rubric talker abstains: no score in 'I \x1b[31mcannot say.'"
    assert second.startswith("judge talker abstains")
