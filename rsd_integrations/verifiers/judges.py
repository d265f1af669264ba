"""A language model as verifier: one next word, or a critique that ends with a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rsd_core import (
    ConfigurationError,
    Drafter,
    Explanation,
    Message,
    NextWord,
    Path,
    PredictsWords,
    Sampling,
    Scores,
    Step,
    StepRequest,
    Target,
    Usage,
    Verifier,
    VerifierError,
)
from rsd_core.baselines.judged import THOUGHT, answer_of
from rsd_core.baselines.spoken_scores import Abstentions
from rsd_core.concurrency import run_calls
from rsd_core.thoughts.reading import reader_at
from rsd_integrations.prm_formats import Critic, problem, shown_steps, without_markers
from rsd_integrations.verifiers.charging import charged_to, charging, joined


@dataclass(frozen=True, slots=True)
class Question:
    """A question about the last step, to be answered with one word."""

    ask: str
    opening: str
    """The beginning of the answer."""
    words: tuple[str, ...]
    values: tuple[float, ...]
    """The reward for each word, in [0, 1]."""


DIGIT = Question(
    # SpecReason (arXiv 2504.07891) in its "average" form: the expected digit. Its threshold of 7 is 0.78 here.
    ask="Evaluate the last reasoning step solely based on factual correctness and logical validity. Ignore style, "
    "phrasing, or overall usefulness—only judge whether the step is objectively correct and logically follows from "
    "prior steps. Assign a score from 0 to 9.",
    opening="I think the quality score is: ",
    words=tuple("0123456789"),
    values=tuple(digit / 9 for digit in range(10)),
)
YES_NO = Question(
    ask="Is the last reasoning step correct: true to the problem, and following from the steps before it? "
    "Answer with Yes or No.",
    opening="Answer:",
    words=(" Yes", " No"),
    values=(1.0, 0.0),
)
QUESTIONS = {"digit": DIGIT, "yes_no": YES_NO}


class WordJudge(Verifier):
    """Asks a generator for one word about the step, and takes the expected value over the possible words.

    The question follows the path and the step as the generator has written or read them, so a target that judges
    computes only the question and the step, which it needs anyway if the step is accepted. A generator with other
    thought markers, or none, reads them as plain text. The answer is begun for it, so that no thought comes first.

    Args:
        model: A generator that reports probabilities of words.
        question: The question to ask.
        min_mass: Minimum total probability of the words. Below it, the model did not answer the question, and the judge
            abstains.
    """

    may_abstain = True

    def __init__(self, model: Drafter | Target, question: Question = DIGIT, min_mass: float = 0.1) -> None:
        _require_generator(model)
        if not isinstance(model, PredictsWords):
            raise ConfigurationError(
                f"{model!r} does not report probabilities of words, which this judge needs; use mode=rubric with it"
            )
        if not 0 <= min_mass < 1:
            raise ConfigurationError(f"min_mass={min_mass} is out of range; it must be a probability below 1")
        self.name = f"judge {model.name}"
        self.model = model
        self.question, self.min_mass, self._abstentions = question, min_mass, Abstentions()
        self.flops_per_token, self.price = model.flops_per_token, model.price

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """The expected value of the judge's word for each candidate."""
        return joined(await run_calls(self._judge(path, step) for step in steps))

    def explain(self, path: Path, step: Step) -> Explanation:
        """The conversation up to the word."""
        read = self._read(path.extend(step))
        turns = [*read.prompt, Message("assistant", read.text), *self._after()]
        return Explanation("\n".join(f"[{message.role}] {message.content}" for message in turns))

    async def _judge(self, path: Path, step: Step) -> Scores:
        answer = await charged_to(self.model, self._ask(path, step))
        with charging([answer.usage]):
            reward = expected(answer.logprobs, self.question.values, self.min_mass)
        self._abstentions.note(self.name, reward, "/".join(self.question.words) + " is not a likely reply")
        return Scores((reward,), answer.usage)

    async def _ask(self, path: Path, step: Step) -> NextWord:
        assert isinstance(self.model, PredictsWords)
        answer = await self.model.next_word(self._read(path.extend(step)), self.question.words, self._after())
        return replace(answer, usage=replace(answer.usage, scored=min(step.size, answer.usage.computed)))

    def _read(self, path: Path) -> Path:
        """The response as the model reads it: as written, if it knows the thought's markers."""
        markers, own = reader_at(path).markers, self.model.thinking(path.prompt)
        knows = own is not None and own.markers is not None and markers is not None and own.markers.open == markers.open
        return path if markers is None or knows else without_markers(path)

    def _after(self) -> tuple[Message, ...]:
        return Message("user", self.question.ask), Message("assistant", self.question.opening)


class CriticJudge(Verifier):
    """Lets a generator write a critique of the step, then reads its verdict.

    The verdict is a probability if the generator reports those of words; otherwise it is read from the text. If it says
    neither right nor wrong, the judge abstains. Each step costs a critique, so use it selectively.

    Args:
        model: Any generator.
        critic: Its prompt and its verdict.
        samples: Critiques per step, with averaged verdicts; by default the published number.
        max_tokens: Maximum length of a critique, thoughts included; by default the critic's own, plus `THOUGHT` if the
            model may think first.
        temperature: Sampling temperature; by default the published one for this number of samples.

    Raises:
        ConfigurationError: Numbers out of range, several samples without a temperature, or a model that reports no
            probabilities of words although the critic needs them.
    """

    may_abstain = True

    def __init__(
        self,
        model: Drafter | Target,
        critic: Critic,
        samples: int | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> None:
        _require_generator(model)
        if max_tokens is not None and max_tokens < 1:
            raise ConfigurationError(f"max_tokens={max_tokens}: a critique needs at least 1 token")
        if temperature is not None and not 0 <= temperature < math.inf:
            raise ConfigurationError(f"temperature={temperature} is out of range; it must be at least 0")
        self.samples = critic.samples if samples is None else samples
        self.temperature = critic.temperature_of(self.samples) if temperature is None else temperature
        if self.samples < 1 or (self.samples > 1 and self.temperature == 0):
            raise ConfigurationError(
                f"samples={self.samples}: must be at least 1, and exactly 1 for greedy critiques such as those of "
                f"{critic.name}; for several, set temperature=0.5"
            )
        self.name = f"{critic.name} {model.name}"
        self.model, self.critic, self.max_tokens = model, critic, max_tokens
        self.flops_per_token, self.price, self._abstentions = model.flops_per_token, model.price, Abstentions()
        if not self._by_word and not critic.spoken:
            raise ConfigurationError(
                f"{model!r} does not report probabilities of words, which the critic {critic.name} needs for its "
                "verdict"
            )

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """The mean verdict over the critiques of each candidate.

        Raises:
            VerifierError: The token limit was reached before the verdict.
        """
        return joined(await run_calls(self._judge(path, step) for step in steps))

    def explain(self, path: Path, step: Step) -> Explanation:
        """The conversation that the critique continues."""
        shown = self._conversation(path, step).prompt
        return Explanation("\n".join(f"[{message.role}] {message.content}" for message in shown))

    def _conversation(self, path: Path, step: Step) -> Path:
        texts = shown_steps(path.extend(step))
        conversation = self.critic.messages(problem(path.prompt).strip(), texts)
        opening = self.critic.opening.replace("{i}", str(len(texts)))
        if opening:
            return Path((*conversation, Message("assistant", opening)))
        return Path(conversation, thinking=self.model.thinking(conversation))

    async def _judge(self, path: Path, step: Step) -> Scores:
        conversation, spent = self._conversation(path, step), list[Usage]()
        with charging(spent):
            request = self._request(conversation)
            critiques = await charged_to(self.model, self.model.generate(conversation, request))
            spent.append(critiques.usage)
            whole = [critique for critique in critiques.steps if not self._is_cut(conversation, critique)]
            if self._by_word:
                # If the critique's own end asks for the word, a critique that ends otherwise has no verdict, as
                # published.
                asked = [critique for critique in whole if not self.critic.asks or self._end in critique.text]
                answers = await run_calls(self._word_after(conversation, critique) for critique in asked)
                spent += [answer.usage for answer in answers]
                verdicts = [expected(answer.logprobs, (1.0, 0.0)) for answer in answers]
            else:
                verdicts = [self.critic.spoken_verdict(answer_of(conversation, critique)) for critique in whole]
            known = [verdict for verdict in verdicts if verdict is not None]
            cut = len(critiques.steps) - sum(critique.ending != "length" for critique in whole)
            if not known and cut:
                where = "in its thoughts" if len(whole) < len(critiques.steps) else "in its critique"
                raise VerifierError(
                    f"{self.name} was cut {where} at {request.max_tokens} tokens, before its verdict: allow more "
                    "(judge,max_tokens=…), or let it judge without a thought (template.enable_thinking=false with "
                    "most models)"
                )
        reward = sum(known) / len(known) if known else None
        self._abstentions.note(self.name, reward, critiques.steps[0].text if critiques.steps else "")
        return Scores((reward,), sum(spent, Usage()))

    @property
    def _by_word(self) -> bool:
        """Whether the verdict is a probability of words rather than the end of the critique's text."""
        return isinstance(self.model, PredictsWords) and self.critic.by_word

    def _request(self, conversation: Path) -> StepRequest:
        critic, thinking = self.critic, conversation.thinking
        until = critic.until if self._by_word else None
        may_think = thinking is not None and not thinking.is_off and not critic.is_thought
        if thinking is None:  # a server renders the prompt, so whether the model thinks is unknown
            may_think = critic.until is None
        size = self.max_tokens or critic.max_tokens + (THOUGHT if may_think else 0)
        sampling = Sampling(self.temperature, critic.top_p, critic.top_k)
        return StepRequest(tuple(range(self.samples)), size, until, sampling, needs_top_k=False)

    @property
    def _end(self) -> str:
        """The end of a critique."""
        return self.critic.until or ""

    def _is_cut(self, conversation: Path, critique: Step) -> bool:
        """Whether the token limit was reached inside a thought."""
        if critique.ending != "length":
            return False
        if reader_at(conversation.extend(critique)).in_thought or (not critique.text.strip() and critique.size):
            return True
        return self.critic.is_thought and self._end not in critique.text

    async def _word_after(self, conversation: Path, critique: Step) -> NextWord:
        assert isinstance(self.model, PredictsWords)
        end = conversation.extend(critique)
        if self.critic.verdict:
            end = end.extend(Step(self.critic.verdict, "length"))
        return await charged_to(self.model, self.model.next_word(end, self.critic.words))


def _require_generator(model: Drafter | Target) -> None:
    if not isinstance(model, Drafter | Target):
        raise ConfigurationError(f"{model!r} does not write text, so it cannot be a judge; use a drafter or a target")


def expected(logprobs: Sequence[float], values: Sequence[float], min_mass: float = 0.0) -> float | None:
    """The expected value over words, with renormalised probabilities; None if their total is too small.

    Raises:
        VerifierError: There is not exactly one number per word.
    """
    if len(logprobs) != len(values) or any(map(math.isnan, logprobs)):
        raise VerifierError(f"{tuple(logprobs)} are not log-probabilities of {len(values)} words")
    best = max(logprobs)
    if best == -math.inf or math.fsum(math.exp(logprob) for logprob in logprobs) < min_mass:
        return None
    masses = [math.exp(logprob - best) for logprob in logprobs]
    mean = math.fsum(mass * value for mass, value in zip(masses, values, strict=True)) / math.fsum(masses)
    return min(1.0, max(0.0, mean))
