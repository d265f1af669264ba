"""What teaches the thinking target to judge steps by one digit, as SpecReason asks it to.

It reads responses of the thinking drafter up to a step, right or wrong, and the question of one of the two prompts that
this package asks by. The token that it writes is one label for a whole row, from which models this small learn nothing;
so the tokens that were read are labelled as well, for a head that is not kept: each right one, and the first wrong one
of a step.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from rsd_core.baselines.judged import JUDGE
from rsd_integrations.embedded import thinking
from rsd_integrations.embedded.checker import BREAK
from rsd_integrations.embedded.language_model import IGNORE, Row
from rsd_integrations.embedded.rollouts import Rollout
from rsd_integrations.verifiers import DIGIT

RIGHT, WRONG = "9", "0"
EMPTY = thinking.OPEN + thinking.CLOSE
"""A thought that is switched off."""
HERE = "⟦solution⟧"
SHARE = 0.5
"""Of rows that are judgements."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A step of a response as it stands there."""

    before: str
    """The marker before it, or nothing."""
    step: str
    after: str
    """Its blank line, or the marker that ends the thought."""
    reference: str
    """What it should have been; the step itself where that is right."""

    @property
    def right(self) -> bool:
        """Whether the step is right."""
        return self.step == self.reference


@dataclass(frozen=True, slots=True)
class Judged:
    """A response by the drafter, up to its last judged step."""

    question: str
    pieces: list[Piece]


def judged(rollout: Rollout) -> Judged:
    """A rollout in its pieces."""
    pieces, at = [], 0
    for step, verdict in zip(rollout.steps, rollout.verdicts, strict=False):
        start = rollout.text.index(step, at)
        gap = BREAK.match(rollout.text, start + len(step))
        after = gap[0] if gap else ""
        pieces.append(Piece(rollout.text[at:start], step, after, step if verdict.right else verdict.reference))
        at = start + len(step) + len(after)
    return Judged(rollout.problem.question, pieces)


def restored(data: dict[str, Any]) -> Judged:
    """A judged response from its JSON."""
    return Judged(data["question"], [Piece(**piece) for piece in data["pieces"]])


class Judgements:
    """Rows for the thinking target: conversations, and judgements of as many right as wrong steps."""

    def __init__(self, rollouts: Sequence[Judged]) -> None:
        self._by_verdict: dict[bool, list[tuple[Judged, int]]] = {True: [], False: []}
        for rollout in rollouts:
            for i, piece in enumerate(rollout.pieces):
                self._by_verdict[piece.right].append((rollout, i))

    def __call__(self, tokenizer: PreTrainedTokenizerBase, rng: random.Random, progress: float) -> Iterator[Row]:
        """An endless stream of rows."""
        conversations = thinking.conversations(tokenizer, rng, progress)
        while True:
            if rng.random() >= SHARE:
                yield next(conversations)
                continue
            right = rng.random() < 0.5
            rollout, last = rng.choice(self._by_verdict[right])
            row = _after if rng.random() < 0.5 else _about
            yield row(tokenizer, rollout.question, rollout.pieces[: last + 1], rng)


def _after(tokenizer: PreTrainedTokenizerBase, question: str, pieces: list[Piece], rng: random.Random) -> Row:
    """The response up to the step, then a question about it, as `judge:` specs ask."""
    opening = EMPTY if rng.random() < 0.7 else ""
    asked = f"<|im_end|>\n{_chat(tokenizer, DIGIT.ask)}{opening}{DIGIT.opening}"
    return _row(tokenizer, _chat(tokenizer, question), pieces, asked)


def _about(tokenizer: PreTrainedTokenizerBase, question: str, pieces: list[Piece], rng: random.Random) -> Row:
    """A question that holds the response up to the step, as `TargetJudge` asks; with its markers or without."""
    opening = EMPTY if rng.random() < 0.5 else ""
    before, after = _chat(tokenizer, JUDGE.format(question=question, solution=HERE)).split(HERE)
    if rng.random() < 0.5:
        pieces = [replace(piece, before="", after="\n\n") for piece in pieces]
    else:
        last = pieces[-1]
        pieces = [*pieces[:-1], replace(last, after=last.after.removesuffix("\n\n") + "\n\n")]
    return _row(tokenizer, before, pieces, after.removeprefix("\n\n") + opening)


def _row(tokenizer: PreTrainedTokenizerBase, before: str, pieces: Sequence[Piece], after: str) -> Row:
    """A conversation that holds the pieces and ends with the digit for the last one.

    Of each step all tokens before the first wrong one are labelled right.
    """

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    ids = encode(before)
    rights = [IGNORE] * len(ids)
    for piece in pieces:
        gap, written, wanted = map(encode, (piece.before, piece.step + piece.after, piece.reference + piece.after))
        ids += gap + written
        rights += [IGNORE] * len(gap)
        pairs = enumerate(zip(written, wanted, strict=False))
        good = next((i for i, (one, other) in pairs if one != other), len(written) - (not piece.right))
        rights += [*[1] * good, 0, *[IGNORE] * len(written)][: len(written)]
    ids += encode(after)
    digit = encode((RIGHT if pieces[-1].right else WRONG) + "<|im_end|>")
    labels = [IGNORE] * len(ids) + digit
    return Row(ids + digit, labels, rights + [IGNORE] * (len(labels) - len(rights)))


def _chat(tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
