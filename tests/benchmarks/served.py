"""`rsd serve` over the models of `tests.benchmarks.serve_models`, in a separate process that reports its state.

The models come from a plugin package, so that the command is run as users run it. With `accepted` an observer of the
same package writes a line for each step when it is accepted; the file outlives the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from rsd_core import Event, StepFinished
from tests.benchmarks import serve_models

ROOT = File(__file__).parents[2]
ACCEPTED = "RSD_LOAD_ACCEPTED"
"""Environment variable that names the file of accepted steps."""
_STEP = re.compile(r"(.+), step (\d+) ")


class _Accepted:
    """Records when steps are accepted: the time on the machine's shared clock, the question and the step."""

    def __init__(self) -> None:
        self._file = os.open(os.environ[ACCEPTED], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def begin(self, _: object) -> Self:
        return self

    def call(self, _role: object, _model: object, work: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        return work

    def happened(self, event: Event) -> None:
        if isinstance(event, StepFinished):
            found = _STEP.match(event.record.text)
            assert found is not None
            os.write(self._file, json.dumps([time.monotonic(), found[1], int(found[2])]).encode() + b"\n")

    def end(self, *_: object) -> None:
        pass


OBSERVER = _Accepted() if ACCEPTED in os.environ else None


def _state() -> dict[str, Any]:
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", File("/proc/self/status").read_text())
    tasks = len(asyncio.all_tasks(serve_models.LOOPS[0])) if serve_models.LOOPS else 0
    return {"cpu": time.process_time(), "tasks": tasks, "peak_mb": int(peak) * 1024 / 1e6, "made": serve_models.MADE}


def _tell() -> None:
    """Answer each line on standard input with the state of this process."""
    for _ in sys.stdin:
        print(json.dumps(_state()), flush=True)


def main() -> None:
    """`rsd` with this process's arguments."""
    from rsd_integrations.cli import main as rsd

    threading.Thread(target=_tell, daemon=True).start()
    rsd()


@dataclass(frozen=True, slots=True)
class State:
    """The state of a server."""

    cpu: float
    """Seconds of CPU time so far."""
    tasks: int
    """Tasks of its event loop."""
    peak_mb: float
    """Peak memory (VmHWM) in MB."""
    made: Mapping[str, int]
    """Tokens that the models of each role have generated."""


class Served:
    """A server, from its first request to its end.

    Args:
        folder: An empty folder for its files.
        steps: Steps of each answer.
        delay: Seconds per model call.
        places: Answers decoded concurrently.
        queue: Answers that may wait.
        accepted: Whether to record when steps are accepted.
    """

    def __init__(
        self, folder: File, *, steps: int, delay: float = 0.0, places: int, queue: int = 0, accepted: bool = False
    ) -> None:
        options = f"load,steps={steps},delay={delay}"
        model = {role: f"{options}:{role}" for role in ("drafter", "verifier", "target")}
        limits = {"max_steps": None, "max_tokens": None}
        config = {
            "concurrency": places,
            "queue": queue,
            "models": {"rsd": {**model, "policy": "binary_step:0.7", "settings": {"limits": limits}}},
        }
        (folder / "config.json").write_text(json.dumps(config))
        plugin = folder / "load-1.dist-info"
        plugin.mkdir()
        (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: load\nVersion: 1\n")
        entries = "[rsd.backends]\nload = tests.benchmarks.serve_models:load\n"
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
        self._accepted = folder / "accepted.jsonl"
        if accepted:
            environment[ACCEPTED] = str(self._accepted)
            entries += "[rsd.observers]\nload = tests.benchmarks.served:OBSERVER\n"
        (plugin / "entry_points.txt").write_text(entries)
        self._log = folder / "log.txt"
        arguments = ["serve", "--config", str(folder / "config.json"), "--port", "0"]
        code = "from tests.benchmarks.served import main; main()"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code, *arguments],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.port = self._find_port()
        self._warm_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.end(signal.SIGKILL)

    def _find_port(self) -> int:
        until = time.monotonic() + 60
        while time.monotonic() < until and self._process.poll() is None:
            if found := re.search(r"at http://127\.0\.0\.1:(\d+)/v1", self._log.read_text()):
                return int(found[1])
            time.sleep(0.02)
        self._process.kill()
        raise SystemExit(f"the server did not start: {self._log.read_text()[-2000:]}")

    def _warm_up(self) -> None:
        """Ask something: the first answer of a process takes longest, and reveals the models' event loop."""
        body = {"model": "rsd", "messages": [{"role": "user", "content": "Warm"}]}
        url, headers = f"http://127.0.0.1:{self.port}/v1/chat/completions", {"content-type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as reply:
            assert reply.status == 200

    def state(self) -> State:
        """Its state."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return State(**json.loads(self._process.stdout.readline()))

    def tasks_at_rest(self) -> int:
        """Tasks of its event loop without requests, except those about to end."""
        found = []
        for _ in range(10):
            found.append(self.state().tasks)
            time.sleep(0.02)
        return min(found)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as reply:
            families = text_string_to_metric_families(reply.read().decode())
            samples = [one for family in families for one in family.samples if one.name == name]
        return sum(one.value for one in samples if labels.items() <= one.labels.items())

    def settled(self) -> bool:
        """Wait until nothing is being decoded or waiting; return whether that happened."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            if not self.metric("rsd_in_flight") and not self.metric("rsd_queue_depth"):
                return True
            time.sleep(0.05)
        return False

    def accepted(self) -> dict[str, list[float]]:
        """When each step of an answer was accepted, by question."""
        found: defaultdict[str, list[float]] = defaultdict(list)
        lines, _, _ = self._accepted.read_text().rpartition("\n")
        for line in lines.splitlines():
            at, question, step = json.loads(line)
            assert step == len(found[question])
            found[question].append(at)
        return found

    def tell(self, sign: signal.Signals) -> None:
        """Send the process a signal."""
        self._process.send_signal(sign)

    def end(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """Send the process a signal to end, wait, and return its exit code."""
        self.tell(sign)
        return self.wait()

    def wait(self) -> int:
        """The exit code, once the process has ended."""
        with self._process:  # closes its pipes
            return self._process.wait(120)
