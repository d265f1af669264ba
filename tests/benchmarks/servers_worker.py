"""A client of model servers, which works on command: `python servers_worker.py`, a JSON list per line.

It also runs under earlier builds of this library. `["load", name, spec, options]` creates a model behind a server,
`["solve", models, prompts, lookahead, concurrency, delta]` solves problems with the named models.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rsd_core import BinaryStep, RewardGuidedDecoder, Settings, load

models: dict[str, Any] = {}


def open_model(name: str, spec: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Create a model behind a server."""
    models[name] = load(spec, **options)
    return {"file": sys.modules["rsd_core"].__file__}


def solve(
    names: Mapping[str, str], prompts: Sequence[str], lookahead: int, concurrency: int, delta: float
) -> dict[str, Any]:
    """Solve problems concurrently."""
    decoder = RewardGuidedDecoder(
        **{role: models[name] for role, name in names.items()},
        policy=BinaryStep(delta=delta),
        settings=Settings(lookahead=lookahead),
    )
    cpu, clock = time.process_time(), time.perf_counter()
    results = decoder.run_many(prompts, concurrency=concurrency)
    return {
        "seconds": time.perf_counter() - clock,
        "cpu": time.process_time() - cpu,
        "steps": [[(step.text, step.author, step.discarded_draft) for step in result.steps] for result in results],
    }


WORKS: dict[str, Callable[..., dict[str, Any]]] = {"load": open_model, "solve": solve}


def main() -> None:
    """Work until the input ends."""
    for line in sys.stdin:
        work, *arguments = json.loads(line)
        print(json.dumps(WORKS[work](*arguments)), flush=True)


if __name__ == "__main__":
    main()
