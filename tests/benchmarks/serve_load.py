"""`rsd serve` under load: `python -m tests.benchmarks.serve_load --json FILE [--markdown FILE] [--quick]`.

The server runs in a separate process over scripted models, and clients that only read run in another one. The server's
CPU time per step is compared with that of the bare `arun_many` of build 9862848, which is taken from this repository's
history; both alternate. Other parts: the delay of a step, what remains of clients that hang up, the order of admission,
and what happens to answers when the server ends.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path as File
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks.command import Command, Size
from tests.benchmarks.core import BASE, ROOT, Build, checkout
from tests.benchmarks.serve_models import answer
from tests.benchmarks.served import Served
from tests.benchmarks.stream_clients import Clients, Heard

SIZES = {
    "rounds": Size(5, 1, "rounds in which the server and both builds without one alternate"),
    "clients": Size(1000, 200, "concurrent clients", 20),
}
LENGTHS = (10, 30, 100)
"""Steps of an answer for which CPU time is measured."""
STEPS = 30
"""The one of them with a target: answers of reasoning models have some dozens of steps."""
SOME = 100
"""Concurrent clients in measurements of time."""
LEAVES = 5
"""One client in this number hangs up."""
TARGETS = {"cpu_ratio": 1.5, "peak_mb": 300.0, "first_byte_ms_max": 50.0}
"""The maximum for each figure."""
MEANS = {
    "cpu_ratio": f"CPU time of a step through the server, over that of {BASE}'s bare `arun_many`; {STEPS} steps",
    "peak_mb": "peak memory of the server's process, MB",
    "first_byte_ms_max": f"ms from a step's acceptance to its first byte at the client, the worst of {SOME} clients",
}


@contextmanager
def serving(**options: Any) -> Iterator[Served]:
    """A server, completely removed afterwards."""
    with TemporaryDirectory() as folder, Served(File(folder), **options) as served:
        yield served


def ask(served: Served, questions: Sequence[str], **options: Any) -> list[Heard]:
    """The answers to clients that ask at once."""
    with Clients(served.port, questions, **options) as clients:
        clients.ask()
        return clients.heard()


def questions(count: int, name: str = "Question") -> list[str]:
    """Distinct questions."""
    return [f"{name} {i}" for i in range(count)]


def right(heard: Heard, steps: int) -> bool:
    """Whether a client got the whole of its own answer."""
    whole = heard.status == 200 and heard.whole and heard.finish_reason == "stop"
    return whole and heard.text == answer(heard.question, steps)


def begins_right(heard: Heard, steps: int) -> bool:
    """Whether a client got the beginning of its own answer."""
    return heard.status in (0, 200) and answer(heard.question, steps).startswith(heard.text)


def bare(build: Build, steps: int, answers: int) -> float:
    """Microseconds of CPU time per step by `arun_many`."""
    command = build.python(str(File(__file__).with_name("serve_models.py")), str(steps), str(answers))
    done = subprocess.run(command, env=build.environment, check=True, stdout=subprocess.PIPE, text=True)
    data = json.loads(done.stdout)
    assert File(data["file"]).is_relative_to(build.tree)
    found: float = data["us_per_step"]
    return found


def crowd(builds: Mapping[str, Build], steps: int, clients: int, rounds: int) -> dict[str, Any]:
    """Concurrent clients over models that answer at once: CPU time per step, memory, and correct answers."""
    spent: dict[str, list[float]] = {name: [] for name in ("server", *builds)}
    with serving(steps=steps, places=clients, queue=0) as served:
        wrong = 0
        for i in range(rounds):
            for name, build in builds.items():
                spent[name].append(bare(build, steps, clients))
            with Clients(served.port, questions(clients, f"Round {i} question")) as asking:
                before = served.state().cpu
                asking.ask()
                heard = asking.heard()
                spent["server"].append((served.state().cpu - before) / (steps * clients) * 1e6)
            wrong += sum(not right(one, steps) for one in heard)
        peak = served.state().peak_mb
    us_per_step = {name: statistics.median(found) for name, found in spent.items()}
    ratios = {name: us_per_step["server"] / us_per_step[name] for name in builds}
    return {"us_per_step": us_per_step, "server_over": ratios, "peak_mb": peak, "wrong": wrong}


def first_bytes(clients: int = SOME, steps: int = STEPS) -> dict[str, float]:
    """Time from the acceptance of a step to its first byte at the client, in milliseconds."""
    with serving(steps=steps, delay=0.02, places=clients, accepted=True) as served:
        heard = ask(served, questions(clients))
        accepted = served.accepted()
    assert all(right(one, steps) for one in heard)
    took = sorted(
        (came - at) * 1000 for one in heard for came, at in zip(one.arrivals, accepted[one.question], strict=True)
    )
    return {"p50": statistics.median(took), "p99": took[int(len(took) * 0.99)], "max": took[-1], "steps": len(took)}


def leaving(clients: int, steps: int = 10) -> dict[str, Any]:
    """Some clients hang up in the middle: what remains of them, and whether all work is charged."""
    with serving(steps=steps, delay=0.2 * clients / 1000, places=clients) as served:
        idle = served.tasks_at_rest()
        heard = ask(served, questions(clients), leaves=LEAVES, leave_after=steps // 2)
        settled, tasks = served.settled(), served.tasks_at_rest()
        state = served.state()
        charged = {
            role: served.metric("rsd_tokens_total", role=role, kind="scored" if role == "verifier" else "generated")
            for role in state.made
        }
        cancelled = served.metric("rsd_requests_total", finish_reason="cancelled")
    stayed = [one for i, one in enumerate(heard) if i % LEAVES]
    return {
        "left": len(heard) - len(stayed),
        "cancelled": cancelled,
        "wrong": sum(not right(one, steps) for one in stayed) + sum(not begins_right(one, steps) for one in heard),
        "settled": settled,
        "tasks_left": tasks - idle,
        "made": dict(state.made),
        "charged": charged,
        "peak_mb": state.peak_mb,
    }


def queue(places: int = 16, waiting: int = 64, steps: int = 10) -> dict[str, Any]:
    """Four times as many requests as may wait, one after the other, faster than any is answered."""
    offered = places + 4 * waiting
    with serving(steps=steps, delay=0.1, places=places, queue=waiting, accepted=True) as served:
        heard = ask(served, questions(offered), gap=0.003)
        began = {question: at[0] for question, at in served.accepted().items()}
    taken = [one for one in heard if one.status == 200]
    refused = [one for one in heard if one.status == 429]
    order = [one.question for one in taken]
    return {
        "offered": offered,
        "places": places,
        "queue": waiting,
        "taken": len(taken),
        "refused": len(refused),
        "refused_with_retry_after": sum(one.retry_after is not None and one.retry_after >= 1 for one in refused),
        "wrong": sum(not right(one, steps) for one in taken),
        "oldest_first": sorted(order, key=lambda question: began[question]) == order,
    }


def ended(sign: signal.Signals, waves: float, clients: int = SOME, steps: int = STEPS) -> dict[str, Any]:
    """A signal while clients are answered, two of three at a time.

    Args:
        sign: The signal.
        waves: Time of the signal: by then, this many times the number of places are decoded.
        clients: Concurrent clients.
        steps: Steps of each answer.
    """
    places = clients * 2 // 3
    with serving(steps=steps, delay=0.05, places=places, queue=clients, accepted=True) as served:
        with Clients(served.port, questions(clients)) as asking:
            asking.ask()
            while len(accepted := served.accepted()) < 2 or sum(map(len, accepted.values())) < waves * places * steps:
                time.sleep(0.01)
            started = time.monotonic()
            code = served.end(sign)
            seconds = time.monotonic() - started
            heard = asking.heard()
        in_the_end = served.accepted()
    decoded = [one for one in heard if len(accepted.get(one.question, ())) == steps]
    return {
        "exit_code": code,
        "seconds": seconds,
        "waiting": clients + 1 - len(accepted),
        "decoded": len(decoded),
        "whole": sum(right(one, steps) for one in heard),
        "wrong": sum(not begins_right(one, steps) for one in heard) + sum(not right(one, steps) for one in decoded),
        "accepted": sum(len(in_the_end.get(one.question, ())) for one in heard),
        "received": sum(len(one.arrivals) for one in heard),
    }


def measured(rounds: int, clients: int) -> dict[str, Any]:
    """Measure all parts."""
    with TemporaryDirectory() as folder:
        builds = {"base": checkout(BASE, File(folder)), "present": Build("present", ROOT)}
        for build in builds.values():
            build.check()
        crowds = {steps: crowd(builds, steps, clients, rounds) for steps in LENGTHS}
    first, left = first_bytes(), leaving(clients)
    return {
        "cpu_ratio": crowds[STEPS]["server_over"]["base"],
        "peak_mb": max(left["peak_mb"], *(one["peak_mb"] for one in crowds.values())),
        "first_byte_ms_max": first["max"],
        "crowds": crowds,
        "first_byte_ms": first,
        "leaving": left,
        "queue": queue(),
        "sigterm": ended(signal.SIGTERM, 0.5),
        "sigkill": ended(signal.SIGKILL, 1.2),
    }


def page(data: Mapping[str, Any]) -> str:
    """The section of docs/benchmarks.md."""
    left, queued, term, kill = (data[part] for part in ("leaving", "queue", "sigterm", "sigkill"))
    first = data["first_byte_ms"]
    goals = "\n".join(
        f"| {MEANS[name]} | {data[name]:.{1 if name == 'first_byte_ms_max' else 2 if most < 10 else 0}f} | {most:g}"
        f"{'' if data['met'][name] else ' (missed)'} |"
        for name, most in TARGETS.items()
    )
    rows = "\n".join(
        f"| {steps} | {(us := found['us_per_step'])['base']:.0f} | {us['present']:.0f} | {us['server']:.0f} "
        f"| {us['server'] - us['present']:.0f} | {found['server_over']['base']:.2f} | {found['peak_mb']:.0f} |"
        for steps, found in data["crowds"].items()
    )
    tokens = ", ".join(
        f"{charged:,.0f} of {left['made'][role]:,} by the {role}" for role, charged in left["charged"].items()
    )
    wrong = sum(part["wrong"] for part in (left, queued, term, kill, *data["crowds"].values()))
    return f"""## The server under load

Made by `python -m tests.benchmarks.serve_load`, {data["date"]}, {data["machine"]}, load average {data["load"][0]:.1f}:
`rsd serve` in a separate process, scripted models, and {data["clients"]:,} clients at once, each with its own stream
and connection. Answers that differ from the script: {wrong}.

| | | at most |
|---|---|---|
{goals}

CPU time of a step in µs, medians of {data["rounds"]} rounds. The scripted models answer immediately; their own CPU time
is included everywhere, in {BASE} more for longer answers. The fixed cost of a request (connection, HTTP, validation,
log) is included as well, so short answers cost more per step.

| steps | bare `arun_many`, {BASE} | the same, this build | through the server | added by it | over {BASE} | peak MB |
|---|---|---|---|---|---|---|
{rows}

- From a step's acceptance to its first byte, {SOME} clients, {first["steps"]:,} steps: {first["p50"]:.1f} ms in the
  median, {first["p99"]:.1f} ms at the 99th percentile, {first["max"]:.1f} ms at most.
- {left["left"]} of {data["clients"]:,} clients hang up in the middle: {left["tasks_left"]} tasks are left of them. Of
  the tokens that models generated, those charged are {tokens}.
- {queued["offered"]} requests come to {queued["places"]} places and a queue of {queued["queue"]}: {queued["taken"]} are
  answered, {"the oldest first" if queued["oldest_first"] else "not in order"}; {queued["refused"]} get status 429,
  {queued["refused_with_retry_after"]} of them with `Retry-After`.
- SIGTERM with {SOME} clients, {term["waiting"]} of which wait for a place: {term["whole"]} whole answers, exit code
  {term["exit_code"]}, after {term["seconds"]:.1f} s.
- SIGKILL with {SOME} clients, {kill["decoded"]} of which are answered by then: {kill["whole"]} whole answers, and
  {kill["received"]:,} of {kill["accepted"]:,} accepted steps had arrived.
"""


COMMAND = Command("serve_load", __doc__, SIZES, page)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    started = time.monotonic()
    figures = measured(options.rounds, options.clients)
    data = {
        **figures,
        "targets": TARGETS,
        "met": {name: figures[name] <= most for name, most in TARGETS.items()},
        "rounds": options.rounds,
        "clients": options.clients,
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores {platform.machine()}, no GPU, Python {platform.python_version()}",
        "load": os.getloadavg(),
        "took_seconds": time.monotonic() - started,
    }
    COMMAND.write(options, data)


if __name__ == "__main__":
    main()
