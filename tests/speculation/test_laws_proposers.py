"""Laws of what is written with ADED's trees and DSBD's beams: the target's own, through the engine; not so as released.

`python -m tests.benchmarks.laws` does the same with 50,000 draws.
"""

from __future__ import annotations

from random import Random

import pytest
import torch

from rsd_core import Sampling, Speculation
from rsd_integrations.speculation.ngram_table import count
from rsd_integrations.speculation.parsing import parse_proposer
from rsd_integrations.speculation.proposers import Proposer
from rsd_integrations.speculation.rules import draw
from tests.speculation.five_tokens import p_value, released_tree
from tests.speculation.world import PATH, WORDS, World

SAMPLINGS = [Sampling(1.0), Sampling(0.7, 0.8)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def ngrams(world: World, tmp_path_factory: pytest.TempPathFactory) -> Proposer:
    """A tree of n-grams that knows the words of the world in some orders, after the prompt as well."""
    random, last = Random(1), world.target.vocabulary.ids(PATH, goes_on=True)[0][-2:]
    file = tmp_path_factory.mktemp("table") / "table.safetensors"
    texts = [[*last, *random.choices(WORDS, (5, 4, 3, 2, 1), k=6)] for _ in range(40)]
    count(texts, world.target.vocabulary.identity, world.target.vocabulary.size).save(file)
    return parse_proposer(f"ngram:table={file},tree=true")


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_trees_of_ngrams(world: World, ngrams: Proposer, sampling: Sampling) -> None:
    speculation = Speculation(ngrams, draft_length=12)
    assert world.written(200, sampling, speculation) == world.written(200, sampling, None)  # and so the law is the same


def test_one_beam(world: World) -> None:
    speculation = Speculation(drafter=world.drafter, beams={"beams": 1, "drafts": 3, "levels": 2})
    assert world.p_value(800, Sampling(0.7, 0.8), speculation) > 1e-3


def test_rows_that_draw_for_themselves_are_found_out() -> None:
    """The released verification of ADED at a temperature, as it was read: every drafted path draws its own tokens."""
    p = torch.tensor([0.5, 0.3, 0.2, 0.0, 0.0])
    random = torch.Generator().manual_seed(1)
    released, ours = torch.zeros(5), torch.zeros(5)
    for _ in range(5000):
        released[released_tree(p, [0, 1], random)] += 1
        ours[int(draw(p[None], torch.rand(1, generator=random)))] += 1
    assert p_value(ours, p) > 1e-3
    assert p_value(released, p) < 1e-9
    assert p_value(released, torch.tensor([0.675, 0.255, 0.07, 0.0, 0.0])) > 1e-3
