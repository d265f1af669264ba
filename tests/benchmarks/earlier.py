"""Throughput over vLLM against build 9862848: `python -m tests.benchmarks.earlier --json FILE [--quick]`.

The embedded family on three vLLM servers on this machine, which `make servers` installs. This build, that one and a
client that only sends the same requests alternate; ratios are medians over rounds.
"""

from __future__ import annotations

import asyncio
import os
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path as File
from tempfile import TemporaryDirectory
from typing import Any

from rsd_core import Path, Prompt, PromptLike, Step, as_prompt, load
from rsd_core.paths import Ending
from rsd_integrations.evaluation import find_task
from rsd_integrations.openai_compatible import PROFILES
from tests.benchmarks.bare import Sent, send
from tests.benchmarks.command import Command, Size
from tests.benchmarks.core import BASE, ROOT, Build, checkout
from tests.benchmarks.worker import Worker
from tests.servers.equality import DELTA
from tests.servers.launcher import PYTHON, Server, family

SIZES = {
    "rounds": Size(5, 1, "rounds in which all alternate"),
    "problems": Size(64, 32, "problems that each solves per round", 32),
}
AT_ONCE = 32
"""Problems in flight."""
GOAL = 1.3
WAYS = {"rsd": (0, "target"), "lookahead 4": (4, "target"), "lookahead 4, guesses": (4, "reading target")}
"""Lookahead, and the target."""
Steps = Sequence[tuple[str, str, str | None]]
"""Texts of an answer's steps, with author and rejected draft."""
CORES = os.cpu_count() or 1


def beside_base(servers: Mapping[str, Server], rounds: int, problems: int) -> dict[str, Any]:
    """Throughput of this build and of the bare client over that of 9862848, and this build's CPU time.

    The bare client sends this build's requests without lookahead, each problem's one after another, and knows them in
    advance: its time is the servers' own, whatever the client.
    """
    prompts = [item.prompt for item in find_task("embedded").draw(problems, 1)]
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    cpu: defaultdict[str, list[float]] = defaultdict(list)
    same = 0
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        builds = {"new": Build("this", ROOT), "base": checkout(BASE, File(scratch))}
        workers = {n: stack.enter_context(Worker(build, "servers_worker.py")) for n, build in builds.items()}
        for worker in workers.values():
            worker.load("drafter", servers["draft"].spec)
            worker.load("verifier", servers["prm"].spec)
            worker.load("target", servers["target"].spec)
            worker.load("reading target", servers["target"].spec, guesses=True)
        for turn in range(rounds + 1):
            made: dict[str, Any] = {}
            for way, (lookahead, target) in WAYS.items():
                roles = {"drafter": "drafter", "verifier": "verifier", "target": target}
                for name in sorted(workers, reverse=bool(turn % 2)):
                    found = workers[name]("solve", roles, prompts, lookahead, AT_ONCE, DELTA)
                    made[f"{name}, {way}"] = found
                    if turn:  # the first round warms up the servers
                        seconds[f"{name}, {way}"].append(found["seconds"])
                        cpu[f"{name}, {way}"].append(found["cpu"])
            sent = requests(servers, prompts, made["new, rsd"]["steps"])
            bare = asyncio.run(send(sent, AT_ONCE))
            if turn:
                seconds["bare"].append(bare)
            same = sum(a == b for a, b in zip(made["new, rsd"]["steps"], made["base, rsd"]["steps"], strict=True))

    def over(a: str, b: str, of: Mapping[str, list[float]] = seconds) -> float:
        return statistics.median(x / y for x, y in zip(of[a], of[b], strict=True))

    shares = [x / y / CORES for x, y in zip(cpu["new, rsd"], seconds["new, rsd"], strict=True)]
    return {
        "over_base": {way: over(f"base, {way}", f"new, {way}") for way in WAYS},
        "over_base_without_lookahead": {way: over("base, rsd", f"new, {way}") for way in WAYS},
        "bound_over_base": over("base, rsd", "bare"),
        "client_share": statistics.median(shares),
        "cpu_over_base": {way: over(f"new, {way}", f"base, {way}", cpu) for way in WAYS},
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "same_answers": same,
    }


def requests(
    servers: Mapping[str, Server], prompts: Sequence[PromptLike], answers: Sequence[Steps]
) -> list[list[Sent]]:
    """This build's requests to the servers, problem by problem."""
    models: dict[str, Any] = {name: load(server.spec) for name, server in servers.items()}

    def written(name: str, path: Path) -> Sent:
        fields = models[name].prompts.render(path, PROFILES["vllm"]).fields
        body = {"model": name, **fields, "max_tokens": 256, "temperature": 0, "stop": ["\n\n"]}
        more = {**PROFILES["vllm"].plain, **PROFILES["vllm"].keep, **PROFILES["vllm"].give_ids}
        return Sent(f"{servers[name].url}/completions", body | more)

    def scored(path: Path, step: Step) -> Sent:
        layouts = models["prm"].layouts
        ids = [*layouts.ids(path)[0], *layouts.step(path, step).feed]
        url = servers["prm"].url.removesuffix("/v1") + "/pooling"
        return Sent(url, {"model": "prm", "input": [ids], "use_activation": True})

    def of(prompt: Prompt, steps: Steps) -> list[Sent]:
        path, sent = Path(prompt), list[Sent]()
        for i, (text, author, rejected) in enumerate(steps, 1):
            ending: Ending = "end" if i == len(steps) else "delimiter"
            sent.append(written("draft", path))
            sent.append(scored(path, Step(text if rejected is None else rejected, ending)))
            if author == "target":
                sent.append(written("target", path))
            path = path.extend(Step(text, ending))
        return sent

    return [of(as_prompt(prompt), steps) for prompt, steps in zip(prompts, answers, strict=True)]


def page(found: dict[str, Any]) -> str:
    """The section of docs/benchmarks.md."""
    rows = "\n".join(f"| {way} | {found['over_base'][way]:.2f}x | {found['cpu_over_base'][way]:.2f} |" for way in WAYS)
    best = max(found["over_base_without_lookahead"].values())
    return f"""## Model servers against an earlier build

Measured {found["date"]} with `python -m tests.benchmarks.earlier`: {AT_ONCE} of {found["problems"]} problems in flight
over three vLLM servers with the embedded family, on {found["cores"]} cores that servers and clients share. This build
and {BASE} alternate; medians of {found["rounds"]} rounds. {found["same_answers"]} of {found["problems"]} answers are
the same in both, step by step.

| both builds with | throughput over {BASE} | the client's CPU time over {BASE}'s |
|---|---|---|
{rows}

The goal was {GOAL}x. With the same requests no client can reach it: one that only sends what this build requests
without lookahead has {found["bound_over_base"]:.2f}x the throughput of {BASE}, because the servers take the cores, of
which this build's client uses {found["client_share"]:.0%}. What helps is to send less: with the best of these settings
this build has {best:.2f}x the throughput of {BASE} without lookahead.
"""


COMMAND = Command("earlier", __doc__, SIZES, page)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    if not PYTHON.exists():
        COMMAND.parser.error("it needs vLLM servers, which `make servers` installs")
    with family() as servers:
        found = beside_base(servers, options.rounds, options.problems)
    about = {"date": f"{date.today()}", "cores": CORES, "rounds": options.rounds, "problems": options.problems}
    COMMAND.write(options, about | found)


if __name__ == "__main__":
    main()
