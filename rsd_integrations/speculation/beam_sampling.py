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
"""Tokens generated so far."""
Joint = Callable[[Tensor, Tensor], Tensor]
"""The joint distribution of weighted beams and their next tokens (see `joint`)."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request to a model for one pass: the distribution of the next token after each of some texts."""

    drafter: bool
    """Whether it is for the drafter or the target."""
    texts: list[Text]
    """Answered by a tensor [texts, vocabulary], after temperature."""


@dataclass(frozen=True, slots=True)
class Beam:
    """A live or ended text."""

    text: Text = ()
    weight: float = 1.0
    """Its probability in the joint distribution from which it was sampled."""
    logprob: float = 0.0
    """Log-probability of its tokens under the target, after temperature, in nats."""


@dataclass(frozen=True, slots=True)
class _Level:
    """The drafts of one token."""

    places: list[Text]
    """The texts that they follow."""
    q: Tensor
    """The joint distribution [places, vocabulary] from which each was sampled."""
    drafts: list[tuple[int, int]]
    """(place, token) of each."""

    def text(self, draft: tuple[int, int]) -> Text:
        return (*self.places[draft[0]], draft[1])


class BeamSampling(Data):
    """Dynamic-width speculative beam decoding (DSBD, arXiv 2409.16560).

    In each round the drafter samples a forest, `drafts` beams at each of `levels` tokens, and the target reads all of
    it in one pass. Level by level it keeps as many beams as it is likely to accept. If fewer are accepted, and below
    the last level, the round ends, and samples of the target fill up the beams. Each beam is distributed as if the
    target alone had sampled it from the joint distribution of its beams and their next tokens: with one beam, the text
    has the target's own distribution.
    """

    kind: Literal["beams"] = "beams"
    beams: Annotated[int, Field(ge=1, le=64)] = 4
    """Maximum live beams."""
    drafts: Annotated[int, Field(ge=1, le=256)] = 8
    """Beams that the drafter samples at each level."""
    levels: Annotated[int, Field(ge=1, le=64)] = 4
    """Tokens that it drafts ahead."""
    confidence: Annotated[float, Field(gt=0, le=1)] = 0.7
    """A level requests as many beams as are accepted with this probability."""

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
        """Run one round, as a generator of requests to the models.

        Args:
            live: The beams, whose texts have equal length.
            ends: Returns whether a text has ended.
            seed: The request's seed, to which all random numbers are keyed, with the position and the use.
            top_p: Nucleus of the joint distributions, in (0, 1].
            top_k: Number of likeliest (beam, token) pairs kept in them before that; 0 for all.
            room: Maximum tokens to add, at least 1.

        Returns:
            The live beams, each at least one token longer, and those that have ended.
        """
        joint_of = partial(joint, top_p=top_p, top_k=top_k)
        levels = yield from self._draft(live, ends, seed, joint_of, min(self.levels, room - 1))
        below = [level.text(draft) for level in levels for draft in level.drafts]
        texts = [*(beam.text for beam in live), *(text for text in dict.fromkeys(below) if not ends(text))]
        read = dict(zip(texts, (yield Question(False, texts)), strict=True))
        beams, ended = list(live), list[Beam]()
        for level in levels:
            p, position = _target_joint(level.places, beams, read, joint_of), len(level.places[0])
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
        p = _target_joint(places, beams, read, joint_of)
        chosen = draw_beams(p, _uniforms(seed, len(places[0]), "correct", self.beams))
        beams, more = _grown(places, beams, chosen, p, read, ends)
        return beams, ended + more

    def _draft(
        self, live: Sequence[Beam], ends: Callable[[Text], bool], seed: int, joint_of: Joint, depth: int
    ) -> Generator[Question, Tensor, list[_Level]]:
        """The drafter's forest."""
        levels, weights = list[_Level](), {beam.text: beam.weight for beam in live}
        for _ in range(depth):
            places = list(weights)
            if not places:  # all have ended
                break
            following = yield Question(True, places)
            q = joint_of(following.new_tensor([*weights.values()]), following)
            level = _Level(places, q, draw_beams(q, _uniforms(seed, len(places[0]), "draft", self.drafts)))
            levels.append(level)
            drafted = {level.text(draft): float(q[draft]) for draft in level.drafts}
            weights = {text: weight for text, weight in drafted.items() if not ends(text)}
        return levels


def _target_joint(
    places: Sequence[Text], beams: Sequence[Beam], read: Mapping[Text, Tensor], joint_of: Joint
) -> Tensor:
    """The target's joint distribution [places, vocabulary]; 0 at places without a beam."""
    weights = {beam.text: beam.weight for beam in beams}
    following = torch.stack([read[text] for text in places])
    return joint_of(following.new_tensor([weights.get(text, 0.0) for text in places]), following)


def _grown(
    places: Sequence[Text],
    beams: Sequence[Beam],
    chosen: Sequence[tuple[int, int]],
    p: Tensor,
    read: Mapping[Text, Tensor],
    ends: Callable[[Text], bool],
) -> tuple[list[Beam], list[Beam]]:
    """Beams extended by a token, and those that end with it; duplicates are merged."""
    before = {beam.text: beam for beam in beams}
    grown, ended = list[Beam](), list[Beam]()
    for place, token in dict.fromkeys(chosen):
        text = (*places[place], token)
        logprob = before[places[place]].logprob + float(read[places[place]][token].log())
        (ended if ends(text) else grown).append(Beam(text, float(p[place, token]), logprob))
    return grown, ended


def _uniforms(seed: int, position: int, use: str, count: int) -> list[float]:
    """Random numbers in [0, 1) for a use at a position."""
    random = Random(f"{seed} {position} {use}")
    return [random.random() for _ in range(count)]
