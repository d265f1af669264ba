"""What happens to answers when servers fail: `python -m tests.benchmarks.faults --json FILE [--quick]`.

Three scripted servers in separate processes (`tests.benchmarks.faulty`) fail in one way at a time. The answers without
faults are known. So each result shows whether it is lost (steps are missing), misattributed (a step of another problem,
position or author than recorded), or differs from the answer without faults, which its `degradations` must then say. An
answer is silently cut if it ends early as if that were its end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path as File
from tempfile import TemporaryDirectory
from typing import Any

from rsd_core import BatchError, ConfigurationError, Result, RSDConfig
from rsd_integrations.batch import read_results, read_rows
from tests.benchmarks.command import Command, Size
from tests.benchmarks.faulty import PRM, STEPS, Process, question, rejected, step_text

SIZES = {"n": Size(1000, 100, "problems per fault")}
RATE = 0.05
ROLES = ("draft", "reward", "target")
WRITERS = ("draft", "target")
OPTIONS = "timeout=1"
GONE = f"{OPTIONS},patience=2"
"""For a server that does not come back: by default a run waits ten minutes for it."""
Found = dict[str, Any]


class Servers:
    """Drafter, verifier and target, each in its own process."""

    def __init__(self, fault: str = "", roles: tuple[str, ...] = ROLES, rate: float = RATE) -> None:
        self.draft, self.reward, self.target = (Process(role, fault if role in roles else "", rate) for role in ROLES)

    @property
    def all(self) -> tuple[Process, Process, Process]:
        return self.draft, self.reward, self.target

    def specs(self, profile: str = "vllm", options: str = OPTIONS) -> dict[str, str]:
        """The three roles by spec."""
        form = f"mode=completions,profile={profile},{options}"
        return {
            "drafter": f"openai,{form}:draft@{self.draft.url}",
            "verifier": f"pooling,tokenizer={PRM},{options}:reward@{self.reward.url}",
            "target": f"openai,{form}:target@{self.target.url}",
        }


@contextmanager
def serving(fault: str = "", roles: tuple[str, ...] = ROLES, rate: float = RATE) -> Iterator[Servers]:
    """Three servers, killed at the end."""
    servers = Servers(fault, roles, rate)
    try:
        yield servers
    finally:
        for process in servers.all:
            process.kill()


def judged(results: dict[int, Result], refused: Collection[int] = ()) -> Found:
    """Defects of the results, by problem; those that were refused with an error have none."""
    lost = misattributed = unmarked = degraded = cut = 0
    for problem, result in results.items():
        if problem in refused:
            continue
        lost += len(result.steps) != STEPS or result.finish_reason != "stop"
        cut += len(result.steps) < STEPS and result.finish_reason == "stop" and not result.degradations
        right = [
            step.text == step_text(problem, i, "draft" if step.author == "draft" else "target")
            for i, step in enumerate(result.steps, 1)
        ]
        misattributed += not all(right)
        wanted = [step_text(problem, i, "target" if rejected(problem, i) else "draft") for i in range(1, STEPS + 1)]
        unmarked += result.text != "".join(wanted) and not result.degradations
        degraded += bool(result.degradations)
    return {
        "problems": len(results),
        "refused": len(refused),
        "lost": lost,
        "misattributed": misattributed,
        "silently_cut": cut,
        "degraded": degraded,
        "degraded_unmarked": unmarked,
    }


def run(
    servers: Servers,
    n: int,
    profile: str = "vllm",
    options: str = OPTIONS,
    meanwhile: Callable[[], None] = lambda: None,
) -> Found:
    """Solve the problems while something happens to the servers."""
    started = time.monotonic()
    happening = threading.Thread(target=meanwhile)
    with RSDConfig(**servers.specs(profile, options)).build() as decoder:
        happening.start()
        refused: list[int] = []
        try:
            results = decoder.run_many([question(problem) for problem in range(n)], concurrency=64)
        except BatchError as error:
            results = error.results
            refused = [i for i, one in error.errors.items() if isinstance(one, ConfigurationError)]
        happening.join()
    return judged(dict(enumerate(results)), refused) | {"seconds": round(time.monotonic() - started, 1)}


def injected(fault: str, n: int, profile: str = "vllm", roles: tuple[str, ...] = ROLES, rate: float = RATE) -> Found:
    """A fault in 5 % of the answers of some servers, or in more."""
    with serving(fault, roles, rate) as servers:
        found = run(servers, n, profile)
        return found | {"faults": sum(process.counts()["faults"] for process in servers.all)}


def killed(role: str, n: int, down: float | None = 2.0) -> Found:
    """One server killed with SIGKILL in the middle, and started again after some seconds or never."""
    with serving() as servers:
        process: Process = getattr(servers, role)

        def kill() -> None:
            process.wait_for_requests(n // 4)
            process.kill()
            if down is not None:
                time.sleep(down)
                process.start()

        return run(servers, n, options=OPTIONS if down is not None else GONE, meanwhile=kill)


def second_of_502(n: int) -> Found:
    """All servers answer 502 for a second, like gateways, with 64 requests in flight."""
    with serving() as servers:

        def leave() -> None:
            servers.target.wait_for_requests(n // 8)
            for process in servers.all:
                process.leave(1.0)

        return run(servers, n, meanwhile=leave)


def _batch(servers: Servers, folder: str, n: int) -> tuple[list[str], File]:
    """The command `rsd batch` over n problems, and its file of results."""
    prompts, out = File(folder) / "prompts.jsonl", File(folder) / "results.jsonl"
    prompts.write_text("".join(json.dumps({"id": str(i), "prompt": question(i)}) + "\n" for i in range(n)))
    specs = servers.specs()
    options = ["--draft", specs["drafter"], "--verifier", specs["verifier"], "--target", specs["target"]]
    return [sys.executable, "-m", "rsd_integrations.cli", "batch", str(prompts), "--out", str(out), *options], out


def away_in_a_batch(n: int, seconds: float) -> Found:
    """All servers killed with SIGKILL in the middle of `rsd batch`, and started again after some seconds."""
    started = time.monotonic()
    with serving() as servers, TemporaryDirectory() as folder:
        command, out = _batch(servers, folder, n)
        client = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while client.poll() is None and _lines(out) < n // 4:
            time.sleep(0.02)
        for process in servers.all:
            process.kill()
        time.sleep(seconds)
        for process in servers.all:
            process.start()
        _, said = client.communicate()
        results = {int(name): result for name, result in read_results(out).items()}
    found = judged(results)
    found |= {"problems": n, "lost": found["lost"] + n - len(results), "lines_said": len(said.splitlines())}
    return found | {"away": seconds, "seconds": round(time.monotonic() - started, 1)}


def resumed(n: int) -> Found:
    """`rsd batch` killed with SIGKILL in the middle and run again."""
    started = time.monotonic()
    with serving() as servers, TemporaryDirectory() as folder:
        command, out = _batch(servers, folder, n)
        client = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        while client.poll() is None and _lines(out) < n // 3:
            time.sleep(0.02)
        os.killpg(client.pid, signal.SIGKILL)
        client.wait()
        before = _by_problem(servers)
        finished = [int(row["id"]) for row in read_rows(out)[1:]]
        subprocess.run(command, stderr=subprocess.DEVNULL, check=True)
        after = _by_problem(servers)
        results = {int(name): result for name, result in read_results(out).items()}
        repeated = sum(after[problem] != before[problem] for problem in finished)
    missing = n - len(results)
    found = judged(results)
    found |= {"problems": n, "lost": found["lost"] + missing, "finished_before": len(finished), "repeated": repeated}
    return found | {"seconds": round(time.monotonic() - started, 1)}


def _lines(file: File) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


def _by_problem(servers: Servers) -> dict[int, list[int]]:
    """Requests of each problem, server by server."""
    counts = [process.counts()["served"] for process in servers.all]
    problems = {int(problem) for count in counts for problem in count}
    return {problem: [count.get(str(problem), 0) for count in counts] for problem in problems}


SCENARIOS: dict[str, Callable[[int], Found]] = {
    "http_500": lambda n: injected("http_500", n),
    "hung_calls": lambda n: injected("hang", n),
    "cut_bodies": lambda n: injected("cut", n),
    "cut_streams": lambda n: injected("cut", n, profile="generic"),
    "429_retry_after": lambda n: injected("429", n),
    "malformed_json": lambda n: injected("malformed", n),
    "aborted": lambda n: injected("aborted", n, roles=WRITERS),
    "empty_reward_rows": lambda n: injected("empty_rows", n, roles=("reward",)),
    "nan_reward": lambda n: injected("nan_reward", n, roles=("reward",)),
    "drafter_killed_and_restarted": lambda n: killed("draft", n),
    "verifier_killed_and_restarted": lambda n: killed("reward", n),
    "target_killed_and_restarted": lambda n: killed("target", n),
    "verifier_gone": lambda n: killed("reward", n, down=None),
    "second_of_502": second_of_502,
    "servers_away_for_8_s_in_a_batch": lambda n: away_in_a_batch(2 * n, 8.0),
    "servers_away_for_a_minute_in_a_batch": lambda n: away_in_a_batch(2 * n, min(60.0, n / 10)),
    "kept_connections_reset": lambda n: injected("hangs_up", n, rate=1.0),
    "last_chunk_without_text": lambda n: injected("no_last_text", n, "generic", WRITERS, rate=1.0),
    "stop_reason_dropped": lambda n: injected("no_stop_reason", n, roles=WRITERS, rate=1.0),
    "stop_strings_stripped_and_not_named": lambda n: injected("stripped", n, roles=WRITERS, rate=1.0),
    "client_killed_and_resumed": resumed,
}


def page(found: dict[str, Any]) -> str:
    """The section of docs/benchmarks.md."""
    rows = [
        f"| {name.replace('_', ' ')} | {one['problems']} | {one['refused']} | {one['lost']} | {one['misattributed']} | "
        f"{one['silently_cut']} | {one['degraded']} | {one['degraded_unmarked']} | {one['seconds']:.0f} |"
        for name, one in found["faults"].items()
    ]
    resumed = found["faults"].get("client_killed_and_resumed")
    last = ""
    if resumed:
        last = (
            f"\nWhen the client was killed, {resumed['finished_before']} problems were finished; the second run asked "
            f"for {resumed['repeated']} of them again."
        )
    lines = "\n".join(rows)
    return f"""## Faults

Measured {found["date"]} with `python -m tests.benchmarks.faults`: three scripted servers in separate processes, 64
problems in flight, a timeout of 1 s, and otherwise defaults, except `patience=2` if the verifier does not come back. A
fault of the first nine kinds hits {RATE:.0%} of the answers, one of a gateway or kept connections hits all; a server
killed alone is down for 2 s. Refused: an error instead of the first step, because the spec does not suit that server.
Lost: steps are missing. Misattributed: a step of another problem, position or author. Silently cut: the answer ends
early as if that were its end. Degraded: a fault was handled, and the result says so; unmarked: the answer differs from
the one without faults, and the result does not say so.

| fault | problems | refused | lost | misattributed | silently cut | degraded | unmarked | seconds |
|---|---|---|---|---|---|---|---|---|
{lines}
{last}
"""


COMMAND = Command("faults", __doc__, SIZES, page)
COMMAND.parser.add_argument("--fault", action="append", choices=SCENARIOS, help="only this fault; may be repeated")


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    found: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "faults": {}}
    for name in options.fault or SCENARIOS:
        found["faults"][name] = SCENARIOS[name](options.n)
        print(name, json.dumps(found["faults"][name]), file=sys.stderr, flush=True)
    COMMAND.write(options, found)


if __name__ == "__main__":
    main()
