"""ChatRSD measured: `python -m tests.benchmarks.langchain [--json FILE] [--n 64]`.

So many calls of `ainvoke` at once against the same calls one after another, on one embedded `ChatRSD`, in turns within
one run; and the lateness of a heartbeat on the loop meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any


async def measure(n: int, repeats: int) -> dict[str, Any]:
    """Seconds of both ways, in turns, and whether the answers agree."""
    from rsd_integrations.embedded.task import problems
    from rsd_integrations.langchain import ChatRSD

    questions = [problem.question for problem in itertools.islice(problems("test", 3), n)]
    model = ChatRSD()
    await model.ainvoke(questions[0])  # loads the models
    sequential, concurrent, agree = [], [], True
    for _ in range(repeats):
        started = time.perf_counter()
        alone = [(await model.ainvoke(question)).text for question in questions]
        sequential.append(time.perf_counter() - started)
        started = time.perf_counter()
        together = await asyncio.gather(*(model.ainvoke(question) for question in questions))
        concurrent.append(time.perf_counter() - started)
        agree &= [message.text for message in together] == alone
    ratios = [slow / fast for slow, fast in zip(sequential, concurrent, strict=True)]
    return {
        "calls": n,
        "sequential_seconds": sequential,
        "concurrent_seconds": concurrent,
        "concurrent_over_sequential": statistics.median(ratios),
        "same_answers": agree,
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU used",
    }


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    told = json.dumps(asyncio.run(measure(arguments.n, arguments.repeats)), indent=2)
    print(told)
    if arguments.json:
        arguments.json.write_text(told)


if __name__ == "__main__":
    main()
