"""What lossless speculation writes has the target's own distribution: chi-square tests through the engine itself.

`python -m tests.benchmarks.laws` does the same with 50,000 draws.
"""

from __future__ import annotations

import pytest

from rsd_core import Sampling, Speculation
from rsd_integrations.speculation.ngrams import Ngrams
from rsd_integrations.speculation.rules import Exact, Judged, Verdicts, draw
from tests.speculation.scripted import Scripted
from tests.speculation.world import WORDS, World

DRAWS = 1000
SAMPLINGS = [Sampling(1.0), Sampling(0.7, 0.8), Sampling(1.0, top_k=3), Sampling(0.8, 0.8, 4)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("draft_length", [1, 4])
def test_chains_of_a_drafter(world: World, sampling: Sampling, draft_length: int) -> None:
    speculation = Speculation(drafter=world.drafter, draft_length=draft_length)
    assert world.p_value(DRAWS, sampling, speculation) > 1e-3


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("tree", [False, True])
def test_proposals_that_nobody_drew_change_not_a_token(world: World, sampling: Sampling, tree: bool) -> None:
    """The target's own draws decide, each keyed to its position; so the law is the target's as well."""
    script = Scripted(text=WORDS[:3], tree=tree, right=0.6, words=140)
    made = world.written(200, sampling, Speculation(script))
    assert made == world.written(200, sampling, None)
    assert len(made) > 5


@pytest.mark.parametrize("sampling", SAMPLINGS[2:])
def test_trees_and_a_beam_under_top_k(world: World, sampling: Sampling) -> None:
    assert world.p_value(DRAWS, sampling, Speculation(Ngrams(tree=True))) > 1e-3
    beam = Speculation(drafter=world.drafter, beams={"beams": 1, "drafts": 3, "levels": 2})
    assert world.p_value(DRAWS // 4, sampling, beam) > 1e-3


def test_a_law_without_top_k_is_told_apart(world: World) -> None:
    found = world.written(DRAWS, Sampling(1.0), None)
    assert any(text[0] != WORDS[int(world.law(Sampling(1.0, top_k=1)).sum((1, 2)).argmax())] for text in found)
    assert set(world.written(20, Sampling(1.0, top_k=1), None)) == set(world.written(1, Sampling(), None))


class Careless(Exact):
    """Corrects by a draw from p itself, a mistake that is easily made."""

    def judge(self, judged: Judged) -> Verdicts:
        return Verdicts(super().judge(judged).accepted, draw(judged.target, judged.uniforms[:, 1]))


def test_a_wrong_rule_is_found_out(world: World) -> None:
    speculation = Speculation(rule=Careless(), drafter=world.drafter)
    assert world.p_value(DRAWS, Sampling(1.0), speculation) < 1e-6


def test_drafts_that_are_drawn_do_not_depend_on_the_batch(world: World) -> None:
    """With a draft length of their own, texts are the same alone and among others."""
    speculation = Speculation(drafter=world.drafter, draft_length=3)
    alone = [next(iter(world.written(1, Sampling(1.0), speculation, seed))) for seed in range(40)]
    together = world.written(40, Sampling(1.0), speculation)
    assert sum(together.values()) == 40
    assert all(alone.count(text) == count for text, count in together.items())
