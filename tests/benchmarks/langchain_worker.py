"""`ChatRSD` on the embedded family, asked on command: `python langchain_worker.py`, a JSON list per line.

It also runs under earlier builds of this library. `["ask", questions, together]` asks all at once, or one after
another.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from rsd_integrations.langchain import ChatRSD


async def ask(model: ChatRSD, questions: Sequence[str], together: bool) -> dict[str, Any]:
    """The texts of the answers, and their time."""
    cpu, clock = time.process_time(), time.perf_counter()
    if together:
        messages = await asyncio.gather(*map(model.ainvoke, questions))
    else:
        messages = [await model.ainvoke(question) for question in questions]
    return {
        "seconds": time.perf_counter() - clock,
        "cpu": time.process_time() - cpu,
        "texts": [str(message.text) for message in messages],
        "file": sys.modules["rsd_core"].__file__,
    }


def main() -> None:
    """Work until the input ends."""
    model = ChatRSD()
    with asyncio.Runner() as runner:  # one loop, as in a program
        for line in sys.stdin:
            _, questions, together = json.loads(line)
            print(json.dumps(runner.run(ask(model, questions, together))), flush=True)


if __name__ == "__main__":
    main()
