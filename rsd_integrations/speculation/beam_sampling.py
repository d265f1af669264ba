"""Dynamic-width speculative beam decoding (DSBD): beam sampling of the target, drafted by a cheaper model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from rsd_core.data import Data
from rsd_integrations.speculation.beam_acceptance import draw_beams, joint, keep, width

Text = tuple[int, ...]
"""Tokens that were written so far."""
Law = Callable[[Tensor, Tensor], Tensor]
"""The joint distribution of weighted beams and their next tokens, see `joint`."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked for in one pass: the distribution of the next token after each of some texts."""

    drafter: bool
    """Whether the drafter is asked, or the target."""
    texts: list[Text]
    """Answered by a tensor [texts, vocabulary], after temperature."""


@dataclass(frozen=True, slots=True)
class Beam:
    """A text that lives on, or has ended."""

    text: Text = ()
    weight: float = 1.0
    """Its probability in the joint distribution that it was drawn from."""
    logprob: float = 0.0
    """Of its tokens under the target, after temperature, in nats."""


@dataclass(frozen=True, slots=True)
class _Level:
    """One token's drafts."""

    places: list[Text]
    """The texts that they follow."""
    q: Tensor
    """The joint distribution [places, vocabulary] that each was drawn from."""
    drafts: list[tuple[int, int]]
    """(place, token) of each."""

    def text(self, draft: tuple[int, int]) -> Text:
        return (*self.places[draft[0]], draft[1])


class BeamSampling(Data):
    """Dynamic-width speculative beam decoding (DSBD, arXiv 2409.16560).

    In each round the drafter samples a forest, `drafts` beams at each of `levels` tokens, and the target reads all of
    it in one pass. Level by level it keeps as many beams as it is likely to accept. Where fewer are accepted, and below
    the last level, the round ends, and the target's own draws fill the beams up. Each of them is distributed as if the
    target alone had drawn it, from the joint distribution of its beams and their next tokens: with one beam, the text
    is the target's own.
    """

    kind: Literal["beams"] = "beams"
    beams: Annotated[int, Field(ge=1, le=64)] = 4
    """Most beams that live on."""
    drafts: Annotated[int, Field(ge=1, le=256)] = 8
    """Beams that the drafter samples at each level."""
    levels: Annotated[int, Field(ge=1, le=64)] = 4
    """Tokens that it drafts ahead."""
    confidence: Annotated[float, Field(gt=0, le=1)] = 0.7
    """A level asks for as many beams as are accepted with this probability."""

    def round(
        self,
        live: Sequence[Beam],
        ends: Callable[[Text], bool],
        seed: int,
        *,
        top_p: float = 1.0,
        top_k: int = 0,
        room: int = 10**9,
    ) -> Generator[Question, Tensor, tuple[list[Beam], list[Beam]]]:
        """One round, as a generator of questions to the models.

        Args:
            live: The beams, texts of one length.
            ends: Whether a text has come to its end.
            seed: The request's own, to which all numbers are keyed, with the position and the use.
            top_p: Nucleus of the joint distributions, in (0, 1].
            top_k: How many of the likeliest pairs of a beam and a token stay in them, before that; 0 for all.
            room: Tokens that may be added at most, at least 1.

        Returns:
            The beams that live on, each at least one token longer, and those that have ended.
        """
        law = partial(joint, top_p=top_p, top_k=top_k)
        levels = yield from self._draft(live, ends, seed, law, min(self.levels, room - 1))
        below = [level.text(draft) for level in levels for draft in level.drafts]
        texts = [*(beam.text for beam in live), *(text for text in dict.fromkeys(below) if not ends(text))]
        read = dict(zip(texts, (yield Question(False, texts)), strict=True))
        beams, ended = list(live), list[Beam]()
        for level in levels:
            p, position = _target_law(level.places, beams, read, law), len(level.places[0])
            wanted = width(p, level.q, self.drafts, self.beams, self.confidence)
            kept = keep(p, level.q, level.drafts, _uniforms(seed, position, "accept", self.drafts), wanted)
            chosen = [level.drafts[i] for i in kept.accepted]
            over = len(chosen) < wanted
            if over:
                first, *others = _uniforms(seed, position, "correct", self.beams - len(chosen))
                chosen += draw_beams(kept.rest, [first]) + draw_beams(p, others)
            beams, more = _grown(level.places, beams, chosen, p, read, ends)
            ended += more
            if over or not beams:
                return beams, ended
        places = [beam.text for beam in beams]
        p = _target_law(places, beams, read, law)
        chosen = draw_beams(p, _uniforms(seed, len(places[0]), "correct", self.beams))
        beams, more = _grown(places, beams, chosen, p, read, ends)
        return beams, ended + more

    def _draft(
        self, live: Sequence[Beam], ends: Callable[[Text], bool], seed: int, law: Law, depth: int
    ) -> Generator[Question, Tensor, list[_Level]]:
        """The drafter's forest."""
        levels, weights = list[_Level](), {beam.text: beam.weight for beam in live}
        for _ in range(depth):
            places = list(weights)
            if not places:  # all have ended
                break
            following = yield Question(True, places)
            q = law(following.new_tensor([*weights.values()]), following)
            level = _Level(places, q, draw_beams(q, _uniforms(seed, len(places[0]), "draft", self.drafts)))
            levels.append(level)
            drafted = {level.text(draft): float(q[draft]) for draft in level.drafts}
            weights = {text: weight for text, weight in drafted.items() if not ends(text)}
        return levels


def _target_law(places: Sequence[Text], beams: Sequence[Beam], read: Mapping[Text, Tensor], law: Law) -> Tensor:
    """The target's joint distribution [places, vocabulary]; 0 in places that are no beams."""
    weights = {beam.text: beam.weight for beam in beams}
    following = torch.stack([read[text] for text in places])
    return law(following.new_tensor([weights.get(text, 0.0) for text in places]), following)


def _grown(
    places: Sequence[Text],
    beams: Sequence[Beam],
    chosen: Sequence[tuple[int, int]],
    p: Tensor,
    read: Mapping[Text, Tensor],
    ends: Callable[[Text], bool],
) -> tuple[list[Beam], list[Beam]]:
    """Beams with a token more, and those that end with it; one that was drawn several times is one beam."""
    before = {beam.text: beam for beam in beams}
    grown, ended = list[Beam](), list[Beam]()
    for place, token in dict.fromkeys(chosen):
        text = (*places[place], token)
        logprob = before[places[place]].logprob + float(read[places[place]][token].log())
        (ended if ends(text) else grown).append(Beam(text, float(p[place, token]), logprob))
    return grown, ended


def _uniforms(seed: int, position: int, use: str, count: int) -> list[float]:
    """Numbers in [0, 1) for a use at a position."""
    random = Random(f"{seed} {position} {use}")
    return [random.random() for _ in range(count)]
