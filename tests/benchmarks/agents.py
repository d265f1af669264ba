"""Agents that act, when everything around them fails: `python -m tests.benchmarks.agents --json FILE [--quick]`.

Scripted conversations between a user, an agent and its models: LangChain's own classes of two providers against a
server that cuts answers, hangs, refuses keys, limits rates and breaks, and a drafter that is often wrong. The agent
summarises its history, asks a person before it sends or pays, retries, and falls back on a spare model. Counted are the
calls that it executed but should not have.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from datetime import date
from typing import Any

from tests.benchmarks.command import Command, Size

SIZES = {"n": Size(200, 20, "conversations of each kind of agent")}
KINDS = {"middleware": "`RSDMiddleware` with policies per tool", "model": "`create_agent(ChatRSD(...))`"}


def page(data: Any) -> str:
    """The section of the page."""
    rows: dict[str, Callable[[Any], Any]] = {
        "conversations": lambda one: one["conversations"],
        "tasks, of which failed": lambda one: f"{one['tasks']:,}, {one['failed_tasks']}",
        "calls executed": lambda one: f"{one['executed']:,}",
        "of the draft, the target, the spare": lambda one: ", ".join(map(str, one["executed_by"].values())),
        **{name.replace("_", " "): _violations(name) for name in data["middleware"]["violations"]},
        "summaries, of which early": lambda one: f"{one['summaries']}, {one['early_summaries']}",
        "interrupts": lambda one: one["interrupts"],
        "faults": lambda one: f"{sum(one['faults'].values()):,}",
    }
    lines = [f"| {name} | " + " | ".join(str(told(data[one])) for one in KINDS) + " |" for name, told in rows.items()]
    return f"""## Agents that act

Made by `python -m tests.benchmarks.agents`, {data["date"]}, {data["machine"]}.

Scripted conversations of an agent with summaries, human approval, retries and a fallback, with `ChatOpenAI` and
`ChatAnthropic` against a server that cuts answers, hangs, refuses keys, limits rates and fails, with a drafter that is
often wrong and a judge that fails or asks a person. The rows from *broken histories* (requests that providers would
refuse) to *foreign* count messages that should not have been sent and calls that should not have been executed. A
summary is early if the context is below its trigger.

| | {" | ".join(KINDS.values())} |
|---|---|---|
{chr(10).join(lines)}
"""


def _violations(name: str) -> Callable[[Any], Any]:
    return lambda one: one["violations"][name]


COMMAND = Command("agents", __doc__, SIZES, page)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    from tests.benchmarks.agent_conversations import measure

    machine = f"{os.cpu_count()} cores, {platform.machine()}, no GPU used"
    COMMAND.write(options, {"date": date.today().isoformat(), "machine": machine, **measure(options.n)})


if __name__ == "__main__":
    main()
