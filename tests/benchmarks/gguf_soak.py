"""The GGUF engine at length: random work, nothing computed twice, and the texts of plain generation.

    python -m tests.benchmarks.gguf_soak --json FILE [--quick]

Takes an hour; `--quick` a few minutes, with the same keys.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from pathlib import Path
from typing import Any

from rsd_core import BinaryStep, RewardGuidedDecoder, Settings, StepRequest, as_prompt
from rsd_core import Path as StepPath
from rsd_integrations.embedded.task import problems
from rsd_integrations.llamacpp import LlamaCppGenerator, load_generator, load_likelihood
from rsd_integrations.llamacpp.context import Context
from rsd_integrations.llamacpp.header import read_header
from tests.conftest import Counter
from tests.llamacpp.gguf_files import embedded, gemma, smollm2, windowed
from tests.llamacpp.soak import Soak

DELTA = 0.9


def soak(file: Path, operations: int, cells: int = 512) -> dict[str, Any]:
    """Random work in a cache of so many tokens; raises where anything is wrong."""
    options: Any = {"cache_bytes": cells * read_header(file).cache_bytes(), "context": 256}
    work, began = Soak(load_generator(str(file), **options), load_likelihood(str(file), **options)), time.perf_counter()
    checked = work.run(operations, loops=3)
    return {
        "operations": sum(work.done.values()),
        "cut_short": sum(work.cut_short.values()),
        "evicted": work.evicted,
        "tokens_equal_to_a_fresh_computation": checked,
        "seconds": round(time.perf_counter() - began, 1),
    }


def accounting(count: int, settings: Settings, cells: int | None = None) -> dict[str, Any]:
    """Tokens that the ledgers tell beside those that llama.cpp was given, and how many of them were computed again."""
    options: Any = {}
    if cells:
        options = {"cache_bytes": cells * read_header(embedded("target")).cache_bytes(), "context": 512}
    drafter, target = load_generator(str(embedded("draft"))), load_generator(str(embedded("target")), **options)
    verifier = load_likelihood(str(embedded("target")), **options)
    decoder = RewardGuidedDecoder(
        drafter=drafter, verifier=verifier, target=target, policy=BinaryStep(delta=DELTA), settings=settings
    )
    counter = Counter()
    counter.watch("drafter", drafter.runner.store.context)
    counter.watch("target", target.runner.store.context)
    asked = [problem.question for problem in itertools.islice(problems("test", 7), count)]
    results = decoder.run_many(asked, concurrency=8)
    counter.close()
    ledgers = [result.ledger for result in results]
    told = {
        "drafter": sum(ledger.drafter.computed for ledger in ledgers),
        "target": sum(ledger.target.computed + ledger.verifier.computed for ledger in ledgers),
    }
    return {
        "problems": count,
        "rejected": sum(not step.accepted for result in results for step in result.steps),
        "told": told,
        "seen": dict(counter.tokens),
        "recomputed_tokens": sum(ledger.recomputed for ledger in ledgers),
        "evicted": target.runner.store.evicted,
    }


def plain_generation(model: LlamaCppGenerator, prompt: list[int], tokens: int) -> list[int]:
    """Greedy tokens by a straight loop over a context of its own."""
    context = Context(model.runner.model, cells=1024, batch=512, sequences=1)
    read: list[int] = []
    ids = prompt
    while len(read) < tokens:
        context.decode([(0, context.length(0), ids)], [len(ids) - 1])
        token = int(context.logits(1)[0].argmax())
        read.append(token)
        if token in model.eos_ids:
            break
        ids = [token]
    context.close()
    return read


def equal_to_plain(file: Path, prompts: int, tokens: int = 24, **options: Any) -> dict[str, Any]:
    """How many greedy texts of the engine are those of plain generation, to the token."""
    model = load_generator(str(file), **options)
    equal = 0
    for problem in itertools.islice(problems("test", 7), prompts):
        path = StepPath(as_prompt(problem.question))
        step = asyncio.run(model.generate(path, StepRequest((0,), tokens, delimiter=None))).steps[0]
        wanted = [
            id_ for id_ in plain_generation(model, model.vocabulary.ids(path)[0], tokens) if id_ not in model.eos_ids
        ]
        equal += list(step.tokens) == wanted
    return {"prompts": prompts, "equal": equal}


def main() -> None:
    """Do all of it, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    small = options.quick
    found = {
        "soak": soak(embedded("draft"), 1000 if small else 10_000),
        "soak_windows": soak(windowed(), 300 if small else 3000),
        "accounting": accounting(50 if small else 1000, Settings()),
        "accounting_candidates": accounting(20 if small else 200, Settings(candidates=3, temperature=0.5)),
        "accounting_small_cache": accounting(20 if small else 200, Settings(), cells=1024),
        "smollm2": equal_to_plain(smollm2(), 5 if small else 200),
        "gemma": equal_to_plain(gemma(), 3 if small else 200, alone=True),
    }
    text = json.dumps(found, indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
