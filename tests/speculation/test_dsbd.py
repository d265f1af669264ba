"""Dynamic-width speculative beam decoding: its laws on a world of five tokens, beside the released code's widths."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rsd_integrations.speculation.beam_acceptance import acceptances, draw_beams, joint, keep, residual, width
from rsd_integrations.speculation.beam_sampling import Beam, BeamSampling
from tests.speculation.five_tokens import SIZE, model, p_value, pairs_law, truncated

DRAWS = 4_000


def beams_law(seed: int, beams: int = 3) -> Tensor:
    """A joint distribution [beams, 5]."""
    random = torch.Generator().manual_seed(seed)
    return joint(torch.rand(beams, generator=random), torch.rand(beams, SIZE, generator=random).pow(2))


def tried(p: Tensor, q: Tensor, tries: int, wanted: int, seed: int) -> list[int]:
    random = torch.Generator().manual_seed(seed)
    drafts = draw_beams(q, torch.rand(tries, generator=random).tolist())
    return keep(p, q, drafts, torch.rand(tries, generator=random).tolist(), wanted).accepted


@pytest.mark.parametrize("tries", [1, 4])
def test_the_law_of_acceptances_is_what_happens(tries: int) -> None:
    p, q = beams_law(1), beams_law(2)
    counts = torch.zeros(tries + 1)
    for seed in range(DRAWS):
        counts[len(tried(p, q, tries, tries, seed))] += 1
    law = acceptances(p, q, tries)
    assert sum(law) == pytest.approx(1)
    assert p_value(counts, torch.tensor(law)) > 1e-3
    if tries > 1:
        assert p_value(counts, torch.tensor(released_widths(p, q, tries))) < 1e-9


def released_widths(p: Tensor, q: Tensor, tries: int) -> list[float]:
    """The law by which github.com/ZongyueQin/DSBD at 1daf13f chooses widths, as it was read: q is taken off twice."""
    alphas, current = list[float](), p
    for _ in range(tries):
        alphas.append(float(torch.minimum(current, q).sum()))
        current = residual(residual(current, q), q)
    law = [[1.0] + [0.0] * tries]
    for m in range(1, tries + 1):
        none = law[-1][0] * (1 - alphas[m - 1])
        first = [alphas[i] * law[i][0] for i in range(m)]
        law.append([none, *(sum(first[i] * law[m - 1 - i][k - 1] for i in range(m)) for k in range(1, tries + 1))])
    return law[tries]


def test_the_width_is_the_largest_that_is_likely_enough() -> None:
    p, q = beams_law(1), beams_law(2)
    law = acceptances(p, q, 6)
    for confidence in (0.01, 0.3, 0.7, 0.95):
        likely = [k for k in range(1, 7) if sum(law[k:]) >= confidence]
        assert width(p, q, 6, 6, confidence) == max([1, *likely])
        assert width(p, q, 6, 2, confidence) == max([1, *(k for k in likely if k <= 2)])
    assert width(p, p, 6, 6, 1.0) == 6


def test_beams_are_drawn_independently_from_the_target() -> None:
    """Two beams out of three drafts: kept ones, then one of the rest, then the target's own."""
    p, q = beams_law(3, beams=1), beams_law(4, beams=1)
    found = torch.zeros(SIZE, SIZE)
    random = torch.Generator().manual_seed(5)
    for _ in range(DRAWS):
        u = torch.rand(8, generator=random).tolist()
        drafts = draw_beams(q, u[:3])
        kept = keep(p, q, drafts, u[3:6], 2)
        chosen = [drafts[i] for i in kept.accepted] + draw_beams(kept.rest, u[6:7]) + draw_beams(p, u[7:])
        found[chosen[0][1], chosen[1][1]] += 1
    assert p_value(found, p.T @ p) > 1e-3


def decoded(
    sampling: BeamSampling,
    drafter: Tensor,
    target: Tensor,
    seed: int,
    length: int,
    ends: frozenset[int] = frozenset(),
    top_p: float = 1.0,
    top_k: int = 0,
) -> tuple[list[Beam], list[Beam]]:
    """Beams of at least some length, after token 0, and those that ended before."""
    live, ended = [Beam()], list[Beam]()
    while live and len(live[0].text) < length:
        room = length - len(live[0].text)
        asking = sampling.round(live, lambda text: text[-1] in ends, seed, top_p=top_p, top_k=top_k, room=room)
        answer: Tensor | None = None
        while True:
            try:
                question = asking.send(answer)  # type: ignore[arg-type]
            except StopIteration as over:
                grown, more = over.value
                break
            last = [text[-1] if text else 0 for text in question.texts]
            answer = (drafter if question.drafter else target)[last]
        assert all(len(live[0].text) < len(beam.text) <= length for beam in grown + more)
        live, ended = grown, ended + more
    return live, ended


@pytest.mark.parametrize(
    ("drafts", "levels", "top_p", "temperature", "top_k"),
    [(1, 1, 1.0, 1.0, 5), (3, 2, 1.0, 1.0, 5), (4, 1, 0.8, 1.0, 5), (2, 3, 0.9, 0.7, 3)],
)
def test_the_law_of_one_beam_is_the_targets(
    drafts: int, levels: int, top_p: float, temperature: float, top_k: int
) -> None:
    drafter, target = (truncated(model(seed), temperature) for seed in (6, 7))
    sampling, found = BeamSampling(beams=1, drafts=drafts, levels=levels), torch.zeros(SIZE, SIZE)
    for seed in range(DRAWS // 4):
        ((beam,), _) = decoded(sampling, drafter, target, seed, 3, top_p=top_p, top_k=top_k % SIZE)
        found[beam.text[:2]] += 1
    assert p_value(found, pairs_law(truncated(target, top_k=top_k, top_p=top_p), 0)) > 1e-3


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), beams=st.integers(1, 4), drafts=st.integers(1, 6), levels=st.integers(1, 4),
    top_p=st.sampled_from([0.5, 0.9, 1.0]), length=st.integers(1, 6),
)  # fmt: skip
def test_beams_stay_within_their_bounds(
    seed: int, beams: int, drafts: int, levels: int, top_p: float, length: int
) -> None:
    sampling = BeamSampling(beams=beams, drafts=drafts, levels=levels)
    drafter, target = model(seed), model(seed + 1)
    live, ended = decoded(sampling, drafter, target, seed, length, frozenset({4}), top_p)
    assert (live, ended) == decoded(sampling, drafter, target, seed, length, frozenset({4}), top_p)
    assert len(live) <= beams
    assert len({len(beam.text) for beam in live}) <= 1
    assert len({beam.text for beam in live + ended}) == len(live + ended)
    for beam in live + ended:
        assert (4 in beam.text) == (beam in ended)
        assert beam.text.count(4) <= 1
        before = (0, *beam.text)
        own = sum(float(target[a, b].log()) for a, b in zip(before, beam.text, strict=False))
        assert beam.logprob == pytest.approx(own, abs=1e-4)


def test_without_a_choice_the_texts_are_greedy() -> None:
    drafter, target = (torch.eye(SIZE)[model(seed).argmax(1)] for seed in (10, 11))
    greedy = [0]
    for _ in range(12):
        greedy.append(int(target[greedy[-1]].argmax()))
    for sampling in (BeamSampling(), BeamSampling(beams=1, drafts=1)):
        live, _ = decoded(sampling, drafter, target, 0, 8)
        assert [beam.text for beam in live] == [tuple(greedy[1 : len(live[0].text) + 1])]
