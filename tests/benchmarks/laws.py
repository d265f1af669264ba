"""The distribution of lossless speculation: `python -m tests.benchmarks.laws --json FILE [--quick]`.

A world of five tokens in the engine itself (`tests/speculation/world.py`): texts of three tokens are drawn with each
proposer, and compared by a chi-square test with the target's own distribution from transformers' plain forward pass. A
correct proposer has a p-value that is uniform in [0, 1]; the last one corrects wrongly on purpose.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from rsd_core import Sampling, Speculation
from rsd_integrations.speculation.beam_acceptance import acceptances
from rsd_integrations.speculation.ngrams import Ngrams
from rsd_integrations.speculation.rules import draw
from tests.benchmarks.command import Command, Size
from tests.speculation.five_tokens import SIZE, p_value, released_tree
from tests.speculation.scripted import Scripted
from tests.speculation.test_dsbd import beams_law, released_widths, tried
from tests.speculation.test_law import Careless
from tests.speculation.world import WORDS, World

SIZES = {"draws": Size(50_000, 300, "texts drawn with each proposer")}
SAMPLINGS = {
    "temperature 1": Sampling(1.0),
    "temperature 0.7, top-p 0.8": Sampling(0.7, 0.8),
    "temperature 1, top-k 3": Sampling(1.0, top_k=3),
    "temperature 0.8, top-k 4, top-p 0.8": Sampling(0.8, 0.8, 4),
}


def ways(world: World) -> dict[str, Speculation]:
    """Proposers and rules, by name."""
    return {
        "chain of a drafter": Speculation(drafter=world.drafter),
        "chain of n-grams": Speculation(Ngrams()),
        "tree of n-grams": Speculation(Ngrams(tree=True)),
        "tree, right in six of ten places": Speculation(Scripted(text=WORDS[:3], tree=True, right=0.6, words=140)),
        "one beam": Speculation(drafter=world.drafter, beams={"beams": 1, "drafts": 3, "levels": 2}),
        "wrong on purpose": Speculation(rule=Careless(), drafter=world.drafter),
    }


def measure(draws: int) -> list[dict[str, Any]]:
    """The p-value of each proposer, and the time of its draws."""
    rows = list[dict[str, Any]]()
    with TemporaryDirectory() as folder:
        world = World(Path(folder))
        for name, speculation in ways(world).items():
            for said, sampling in SAMPLINGS.items():
                if isinstance(speculation.rule, Careless) and said != next(iter(SAMPLINGS)):
                    break  # once is enough
                began = time.perf_counter()
                p_value = world.p_value(draws, sampling, speculation)
                took = time.perf_counter() - began
                rows.append({"way": name, "sampling": said, "p_value": p_value, "seconds": took})
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def as_released(draws: int) -> list[dict[str, Any]]:
    """The behaviour of two systems' released code, as read, and the behaviour here; without any model."""
    random, p = torch.Generator().manual_seed(1), torch.tensor([0.5, 0.3, 0.2, 0.0, 0.0])
    rows, one = torch.zeros(SIZE), torch.zeros(SIZE)
    for _ in range(draws):
        rows[released_tree(p, [0, 1], random)] += 1
        one[int(draw(p[None], torch.rand(1, generator=random)))] += 1
    target, drafter = beams_law(1), beams_law(2)
    counts = torch.zeros(5)
    for seed in range(draws):
        counts[len(tried(target, drafter, 4, 4, seed))] += 1
    laws = {"released": released_widths(target, drafter, 4), "here": acceptances(target, drafter, 4)}
    return [
        {"system": "ADED, tokens at a tree's first node", "code": "released", "p_value": p_value(rows, p)},
        {"system": "ADED, tokens at a tree's first node", "code": "here", "p_value": p_value(one, p)},
        *(
            {"system": "DSBD, beams accepted of four", "code": code, "p_value": p_value(counts, torch.tensor(law))}
            for code, law in laws.items()
        ),
    ]


def markdown(data: dict[str, Any]) -> str:
    """The figures as a section of a page."""
    rows = "\n".join(f"| {row['way']} | {row['sampling']} | {row['p_value']:.3g} |" for row in data["rows"])
    released = "\n".join(f"| {row['system']} | {row['code']} | {row['p_value']:.3g} |" for row in data["as_released"])
    return f"""
## The distribution of speculation

Made by `python -m tests.benchmarks.laws`, {data["date"]}, {data["machine"]}, {data["draws"]:,} texts of three tokens
drawn with each proposer: whether they come from the target's own distribution, by a chi-square test. Proposals
that were not drawn (n-grams) change no token, so their rows are equal.

| proposed by | sampling | p-value |
|---|---|---|
{rows}

Two systems, rewritten from their released code, against the behaviour here:

| system | code | p-value |
|---|---|---|
{released}
"""


COMMAND = Command("laws", __doc__, SIZES, markdown)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    started = time.monotonic()
    data = {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores {platform.machine()}",
        "draws": options.draws,
        "rows": measure(options.draws),
        "as_released": as_released(options.draws),
        "took_seconds": time.monotonic() - started,
    }
    COMMAND.write(options, data)


if __name__ == "__main__":
    main()
