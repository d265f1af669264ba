"""Soak test of the GGUF engine: random work, nothing computed twice, and the same texts as plain generation.

`python -m tests.benchmarks.gguf_soak --json FILE [--quick]`
"""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path
from typing import Any

from rsd_core import BinaryStep, Ledger, RewardGuidedDecoder, Settings, StepRequest, as_prompt
from rsd_core import Path as StepPath
from rsd_integrations.embedded.task import problems
from rsd_integrations.llamacpp import LlamaCppGenerator, load_generator, load_likelihood
from rsd_integrations.llamacpp.context import Context
from rsd_integrations.llamacpp.header import read_header
from tests.benchmarks.command import Command, Size
from tests.conftest import Counter
from tests.llamacpp.gguf_files import embedded, gemma, smollm2, windowed
from tests.llamacpp.soak import Soak

DELTA = 0.9
SIZES = {
    "operations": Size(10_000, 1000, "random operations", 100),
    "problems": Size(1000, 50, "problems that RSD solves", 5),
    "prompts": Size(200, 3, "prompts whose texts are compared with plain generation"),
}
COMMAND = Command("gguf_soak", __doc__, SIZES)


def soak(file: Path, operations: int, cells: int = 512) -> dict[str, Any]:
    """Do random work in a cache of the given size in tokens; raise if anything is wrong."""
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
    """Tokens on the ledgers and tokens given to llama.cpp, and how many of them were computed again."""
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
        "recomputed_tokens": recomputed(asked, [result.ledger for result in results], target),
        "evicted": target.runner.store.evicted,
    }


def recomputed(asked: list[str], ledgers: list[Ledger], model: LlamaCppGenerator) -> int:
    """Tokens beyond the prompts and everything written, each once for either model.

    A rejected draft counts twice for the target: it is read to be judged, and again as a guess at its replacement.
    """
    again = 0
    for question, ledger in zip(asked, ledgers, strict=True):
        once = len(model.vocabulary.prompt(as_prompt(question))) + ledger.drafter.generated + ledger.target.generated
        again += max(0, ledger.drafter.computed - once)
        judged = ledger.target.computed + ledger.verifier.computed
        again += max(0, judged - once - ledger.drafter.discarded)
    return again


def plain_generation(model: LlamaCppGenerator, prompt: list[int], tokens: int) -> list[int]:
    """Greedy tokens by a simple loop with its own context."""
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
    """How many greedy texts of the engine equal those of plain generation, token for token."""
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
    """Run everything, and write the figures."""
    options = COMMAND.parse()
    COMMAND.write(
        options,
        {
            "soak": soak(embedded("draft"), options.operations),
            "soak_windows": soak(windowed(), options.operations // 4),
            "accounting": accounting(options.problems, Settings()),
            "accounting_candidates": accounting(options.problems // 5, Settings(candidates=3, temperature=0.5)),
            "accounting_small_cache": accounting(options.problems // 5, Settings(), cells=1024),
            "smollm2": equal_to_plain(smollm2(), options.prompts),
            "gemma": equal_to_plain(gemma(), options.prompts),
        },
    )


if __name__ == "__main__":
    main()
