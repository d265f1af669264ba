"""ChatRSD measured: `python -m tests.benchmarks.langchain --json FILE [--quick]`.

So many calls of `ainvoke` at once against the same calls one after another, on one embedded `ChatRSD`, in turns within
one run; and the lateness of a heartbeat on the loop meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import platform
import statistics
import time
from datetime import date
from typing import Any

from tests.benchmarks.command import Command, Size

SIZES = {"n": Size(64, 8, "calls"), "repeats": Size(5, 1, "how often both ways take turns")}


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


COMMAND = Command("langchain", __doc__, SIZES)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    COMMAND.write(options, asyncio.run(measure(options.n, options.repeats)))


if __name__ == "__main__":
    main()
