"""What teaches the thinking target to judge steps by one digit, as SpecReason asks it to.

It reads solutions of the drafter, laid out as thoughts and answers, up to a step that is right or wrong, and a question
in the words that this package asks it in. The digit that it writes is one label for a whole row, from which models this
small learn nothing; so what it has read is labelled as well, for a head that is not kept: each right token, and the
first wrong one of a step.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rsd_core.baselines.judged import JUDGE
from rsd_integrations.embedded import thinking
from rsd_integrations.embedded.language_model import IGNORE, Row
from rsd_integrations.embedded.rollouts import Rollout
from rsd_integrations.verifiers import DIGIT

RIGHT, WRONG = "9", "0"
EMPTY = thinking.OPEN + thinking.CLOSE
"""A thought that is switched off."""
ANSWER = "The answer is"
HERE = "⟦solution⟧"
SHARE = 0.5
"""Of rows that are judgements."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A solution by the drafter, up to its last judged step."""

    question: str
    steps: list[tuple[str, str]]
    """Steps as written, and as they should have been: the same where they are right."""


def judged(rollout: Rollout) -> Judged:
    """A rollout without what is not needed."""
    pairs = zip(rollout.steps, rollout.verdicts, strict=False)
    steps = [(step, step if verdict.right else verdict.reference) for step, verdict in pairs]
    return Judged(rollout.problem.question, steps)


class Judgements:
    """Rows for the thinking target: conversations, and judgements of as many right as wrong steps."""

    def __init__(self, solutions: Iterable[Judged]) -> None:
        self._by_verdict: dict[bool, list[tuple[Judged, int]]] = {True: [], False: []}
        for solution in solutions:
            for i, (written, wanted) in enumerate(solution.steps):
                self._by_verdict[written == wanted].append((solution, i))

    def __call__(self, tokenizer: PreTrainedTokenizerBase, rng: random.Random, progress: float) -> Iterator[Row]:
        """An endless stream of rows."""
        conversations = thinking.conversations(tokenizer, rng, progress)
        while True:
            if rng.random() >= SHARE:
                yield next(conversations)
            else:
                solution, last = rng.choice(self._by_verdict[rng.random() < 0.5])
                yield judgement(tokenizer, solution, last, rng)


def judgement(tokenizer: PreTrainedTokenizerBase, solution: Judged, last: int, rng: random.Random) -> Row:
    """A conversation about one step, in one of the forms that it can have.

    The step may be of a thought or of an answer without one. The question may follow it in a turn of its own, as
    `judge:` specs ask, or hold all that was written, markers included or not, as `TargetJudge` does. The reply may
    follow a thought that was switched off.
    """
    pairs = solution.steps[: last + 1]
    gaps = ["\n\n"] * len(pairs)
    opening = rng.choice((thinking.OPEN, thinking.OPEN, EMPTY))
    if opening == thinking.OPEN and (answers := [i for i, pair in enumerate(pairs) if pair[0].startswith(ANSWER)]):
        gaps[max(0, answers[0] - 1)] = thinking.CLOSE
    off = rng.choice(("", EMPTY))
    if rng.random() < 0.5:
        if pairs[-1][0].startswith(ANSWER):
            gaps[-1] = ""
        before = _chat(tokenizer, solution.question) + opening
        after = f"<|im_end|>\n{_chat(tokenizer, DIGIT.ask)}{off}{DIGIT.opening}"
    else:
        before, after = _chat(tokenizer, JUDGE.format(question=solution.question, solution=HERE)).split(HERE)
        after = after.removeprefix("\n\n") + off
        if rng.random() < 0.5:
            before += opening
        else:
            gaps = ["\n\n"] * len(pairs)

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    ids = encode(before)
    rights = [IGNORE] * len(ids)
    for (step, reference), gap in zip(pairs, gaps, strict=True):
        written, wanted = encode(step + gap), encode(reference + gap)
        right = step == reference
        good = next((i for i, (one, other) in enumerate(zip(written, wanted, strict=False)) if one != other), -1)
        rights += [1] * len(written) if right else [*[1] * good, 0, *[IGNORE] * len(written)][: len(written)]
        ids += written
    ids += encode(after)
    digit = encode((RIGHT if right else WRONG) + "<|im_end|>")
    return Row(ids + digit, (), rights, [IGNORE] * len(ids) + digit)


def _chat(tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
