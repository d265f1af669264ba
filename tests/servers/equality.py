"""Whether greedy RSD through servers gives what it gives in process, problem by problem.

python -m tests.servers.equality [--problems 200] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rsd_core import BinaryStep, Result, RSDConfig, Settings, StepRecord
from rsd_integrations.evaluation.tasks import find_task
from tests.servers.launcher import Server, family

DELTA = 0.3
"""Chosen for `embedded:prm` on the development split; at higher ones the target writes more and the drafter less."""


def equal_to_inprocess(
    servers: Mapping[str, Server],
    problems: int = 200,
    *,
    seed: int = 11,
    concurrency: int = 8,
    lookahead: int = 0,
    guesses: bool = False,
) -> dict[str, Any]:
    """Decode held-out problems both ways and compare every step.

    Args:
        servers: The embedded family, as `launcher.family` gives it.
        problems: How many.
        seed: Which ones.
        concurrency: Requests in flight at the servers.
        lookahead: How far ahead the drafter writes there.
        guesses: Whether the target there reads the drafts that it replaces.

    Returns:
        `problems`, `equal` (same steps by the same authors, in the same words), `steps`, `target_steps`, the largest
        difference of two rewards of the same draft, and each pair that differs with the reason.
    """
    policy = BinaryStep(delta=DELTA)
    local = RSDConfig(drafter="embedded:draft", verifier="embedded:prm", target="embedded:target", policy=policy)
    remote = RSDConfig(
        drafter=servers["draft"].spec,
        verifier=servers["prm"].spec,
        target=reading(servers["target"].spec) if guesses else servers["target"].spec,
        policy=policy,
        settings=Settings(lookahead=lookahead),
    )
    prompts = [item.prompt for item in find_task("embedded").draw(problems, seed)]
    with local.build() as decoder:
        ours = decoder.run_many(prompts)
    with remote.build() as decoder:
        theirs = decoder.run_many(prompts, concurrency=concurrency)
    pairs = list(zip(ours, theirs, strict=True))
    differing = [difference(i, *pair) for i, pair in enumerate(pairs) if shape(pair[0]) != shape(pair[1])]
    records = [
        (a, b) for one, other in pairs for a, b in zip(one.steps, other.steps, strict=False) if draft(a) == draft(b)
    ]
    return {
        "problems": problems,
        "equal": problems - len(differing),
        "steps": sum(len(result.steps) for result in ours),
        "target_steps": sum(step.author == "target" for result in ours for step in result.steps),
        "degraded": sum(bool(result.degradations) for result in theirs),
        "largest_reward_difference": max(abs((a.reward or 0.0) - (b.reward or 0.0)) for a, b in records),
        "differing": differing,
    }


def reading(spec: str) -> str:
    """The spec of the same target that reads the drafts which it replaces."""
    assert spec.startswith("openai,"), spec
    return spec.replace("openai,", "openai,guesses=true,", 1)


def shape(result: Result) -> list[object]:
    """All that has to be equal: how it ended, and every step with its author and the draft that was rejected."""
    steps = [(step.text, step.author, step.discarded_draft, step.size) for step in result.steps]
    return [result.finish_reason, *steps]


def draft(step: StepRecord) -> str | None:
    """What the drafter wrote for a step."""
    return step.text if step.accepted else step.discarded_draft


def difference(problem: int, ours: Result, theirs: Result) -> dict[str, Any]:
    """Where two answers part, and why."""
    for i, (a, b) in enumerate(zip_longest(ours.steps, theirs.steps)):
        if a is None or b is None or (a.text, a.author, a.discarded_draft) != (b.text, b.author, b.discarded_draft):
            why = "one answer ended"
            if a is not None and b is not None:
                by = "target" if draft(a) == draft(b) else "drafter"
                why = f"the {by} wrote other words" if a.author == b.author else f"rewards on both sides of {DELTA}"
            return {
                "problem": problem,
                "step": i,
                "why": why,
                "in_process": _told(a),
                "servers": _told(b),
                "degradations": [note.message for note in theirs.degradations],
            }
    ends = {"in_process": ours.finish_reason, "servers": theirs.finish_reason}
    return {"problem": problem, "why": "sizes or the reason of the end differ", **ends}


def _told(step: StepRecord | None) -> Any:
    return None if step is None else [step.author, step.reward, step.text, step.discarded_draft]


def main() -> None:
    """Start the servers, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with family() as servers:
        found = equal_to_inprocess(servers, options.problems)
    text = json.dumps(found, indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
