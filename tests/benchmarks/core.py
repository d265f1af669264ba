"""The core's own speed against build 9862848: `python -m tests.benchmarks.core --json FILE [--quick]`.

Both builds alternate in separate processes under one interpreter. CPU time is measured, so that a busy machine affects
both equally. The older build is taken from this repository's history. `--quick` takes fewer rounds.
"""

from __future__ import annotations

import io
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path as File
from typing import Any

from tests.benchmarks.command import Command, Size

SIZES = {"rounds": Size(15, 3, "rounds in which both builds alternate")}
ROOT = File(__file__).parents[2]
BASE = "9862848"
PACKAGES = ("rsd_core", "rsd_integrations")
GROWING = {"lookahead": [200, 400, 800, 1600], "stop": [250, 500, 1000, 2000, 4000]}
LENGTHS = {"plain": [200], "deadline": [200], "lookahead_instant": [800], **GROWING, "testing": GROWING["stop"]}
"""Number of steps of the answers, by workload (see `core_workloads.py`)."""
COMMANDS = {"run": ["run", "What is 3*4-2?"], "help": ["--help"]}
TARGETS = {
    "core_us_per_step_ratio": 0.5,
    "lookahead_ratio": 0.25,
    "lookahead_exponent": 1.1,
    "stop_exponent": 1.1,
    "testing_exponent": 1.1,
    "run_cpu_ratio": 1 / 3,
    "run_peak_ratio": 0.6,
    "help_cpu_ratio": 0.5,
}
"""The maximum for each figure."""
MEANS = {
    "core_us_per_step_ratio": "CPU time per step with instant models, the worse of plain and under `max_seconds`",
    "lookahead_ratio": "the same with `lookahead=4`, at 800 steps",
    "lookahead_exponent": "its growth with the answer's length (1 is linear)",
    "stop_exponent": "growth with stop strings",
    "testing_exponent": "growth with the models of `rsd_core.testing`",
    "run_cpu_ratio": '`rsd run "QUESTION"` on the embedded family, CPU time of the process',
    "run_peak_ratio": "its peak memory",
    "help_cpu_ratio": "`rsd --help`, CPU time of the process",
}


@dataclass(frozen=True, slots=True)
class Build:
    """A tree with both packages, which other processes import."""

    name: str
    tree: File

    def python(self, *arguments: str) -> list[str]:
        """A command that runs Python on this tree; `-P` excludes the script's own folder from imports."""
        return [sys.executable, "-P", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of such a command."""
        return {**os.environ, "PYTHONPATH": str(self.tree), "HF_HUB_OFFLINE": "1"}

    def check(self) -> None:
        """Raise `SystemExit` unless such a command imports this tree's packages."""
        code = f"from importlib.util import find_spec; print(*(find_spec(name).origin for name in {PACKAGES}))"
        command = self.python("-c", code)
        origins = subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout
        for origin in origins.split():
            if not File(origin).is_relative_to(self.tree):
                raise SystemExit(f"{origin} is imported instead of {self.tree}; is something else on sys.path?")

    def workloads(self, lengths: Mapping[str, Sequence[int]]) -> dict[str, dict[int, float]]:
        """Microseconds of CPU time per step, by workload and number of steps."""
        command = self.python(str(File(__file__).with_name("core_workloads.py")), json.dumps(lengths))
        done = subprocess.run(command, env=self.environment, check=True, stdout=subprocess.PIPE, text=True)
        data = json.loads(done.stdout)
        assert File(data["file"]).is_relative_to(self.tree)
        return {name: {int(n): spent for n, spent in found.items()} for name, found in data["spent"].items()}

    def command(self, arguments: Sequence[str]) -> tuple[float, float]:
        """CPU seconds and peak MiB of the `rsd` command as a whole process."""
        script: str = tomllib.loads((self.tree / "pyproject.toml").read_text())["project"]["scripts"]["rsd"]
        module, function = script.split(":")
        code = f"import sys; from {module} import {function}; sys.argv[0] = 'rsd'; sys.exit({function}())"
        # A child's peak is never below its parent's memory, so this process imports as little as possible.
        with subprocess.Popen(
            self.python("-c", code, *arguments), env=self.environment, stdout=subprocess.DEVNULL
        ) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"`rsd {' '.join(arguments)}` of {self.name} failed ({process.returncode})")
        return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def checkout(commit: str, folder: File) -> Build:
    """Both packages of an older build, from this repository's history.

    Raises:
        SystemExit: The commit is not in this clone.
    """
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", commit, "pyproject.toml", *PACKAGES]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise SystemExit(
            f"cannot take commit {commit} from the history of {ROOT} ({said[-1] if said else 'git failed'}). It "
            "needs a clone with its history: `git fetch --unshallow` completes a shallow one"
        )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return Build(commit, folder)


def exponent(spent: Mapping[int, float]) -> float:
    """Slope of the logarithm of an answer's time on that of its steps: 1 is linear, 2 quadratic.

    Args:
        spent: Time per step, by number of steps.
    """
    sizes = [math.log(steps) for steps in spent]
    return statistics.linear_regression(sizes, [math.log(n * each) for n, each in spent.items()]).slope


def measure(builds: Sequence[Build], rounds: int) -> dict[str, dict[str, Any]]:
    """Medians of each build's figures, from alternating rounds."""
    steps: dict[str, list[dict[str, dict[int, float]]]] = {build.name: [] for build in builds}
    commands: dict[str, dict[str, list[tuple[float, float]]]] = {
        build.name: {name: [] for name in COMMANDS} for build in builds
    }
    for build in builds:  # writes bytecode, and brings files into memory
        for arguments in COMMANDS.values():
            build.command(arguments)
    for i in range(rounds):
        for build in builds if i % 2 else reversed(builds):
            steps[build.name].append(build.workloads(LENGTHS))
            for name, arguments in COMMANDS.items():
                commands[build.name][name].append(build.command(arguments))
        print(f"round {i + 1} of {rounds}", file=sys.stderr, flush=True)
    found: dict[str, dict[str, Any]] = {}
    for build in builds:
        figures: dict[str, Any] = {
            "us_per_step": {
                name: {n: statistics.median(one[name][n] for one in steps[build.name]) for n in lengths}
                for name, lengths in LENGTHS.items()
            }
        }
        for name in COMMANDS:
            cpu, peak = zip(*commands[build.name][name], strict=True)
            figures |= {f"{name}_cpu_seconds": statistics.median(cpu), f"{name}_peak_mib": statistics.median(peak)}
            figures[f"{name}_cpu_seconds_by_round"] = cpu
        found[build.name] = figures
    return found


def compared(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, float]:
    """The figures with targets, and those that explain them."""
    mine, other = new["us_per_step"], old["us_per_step"]
    ratios = {
        f"core_{name}_ratio": mine[name][n] / other[name][n] for name in ("plain", "deadline") for n in LENGTHS[name]
    }
    return {
        "core_us_per_step_ratio": max(ratios.values()),
        **ratios,
        "lookahead_ratio": mine["lookahead"][800] / other["lookahead"][800],
        "lookahead_instant_ratio": mine["lookahead_instant"][800] / other["lookahead_instant"][800],
        **{f"{name}_exponent": exponent(mine[name]) for name in ("lookahead", "stop", "testing")},
        **{f"{name}_exponent_before": exponent(other[name]) for name in ("lookahead", "stop", "testing")},
        "run_cpu_ratio": new["run_cpu_seconds"] / old["run_cpu_seconds"],
        "run_peak_ratio": new["run_peak_mib"] / old["run_peak_mib"],
        "help_cpu_ratio": new["help_cpu_seconds"] / old["help_cpu_seconds"],
    }


def page(data: Mapping[str, Any]) -> str:
    """The figures as a page."""
    old, new = data["builds"][BASE], data["builds"]["present"]
    lines = [
        "## The core's own speed",
        "",
        f"Made by `python -m tests.benchmarks.core`, {data['date']}, {data['machine']}, medians of "
        f"{data['rounds']} rounds in which this build and {BASE} alternate; CPU time, "
        f"load average {data['load'][0]:.1f}. Models answer at once.",
        "",
        f"| | this build / {BASE} | at most |",
        "|---|---|---|",
        *(
            f"| {MEANS[key]} | {data[key]:.2f} | {most:.2f}{'' if data['met'][key] else ' (missed)'} |"
            for key, most in TARGETS.items()
        ),
        "",
        f"| | {BASE} | this build |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name.replace('_', ' ')}, {n} steps: µs per step | {spent:.1f} | {new['us_per_step'][name][n]:.1f} |"
        for name, found in old["us_per_step"].items()
        for n, spent in found.items()
    ]
    for name in COMMANDS:
        cpu, peak = f"{name}_cpu_seconds", f"{name}_peak_mib"
        lines.append(f"| `rsd {COMMANDS[name][0]}`: seconds | {old[cpu]:.2f} | {new[cpu]:.2f} |")
        lines.append(f"| `rsd {COMMANDS[name][0]}`: peak MiB | {old[peak]:.0f} | {new[peak]:.0f} |")
    return "\n".join(lines)


COMMAND = Command("core", __doc__, SIZES, page)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        builds = [checkout(BASE, File(folder)), Build("present", ROOT)]
        for build in builds:
            build.check()
        found = measure(builds, options.rounds)
    figures = compared(found["present"], found[BASE])
    data: dict[str, Any] = {
        **figures,
        "targets": TARGETS,
        "met": {key: figures[key] <= most for key, most in TARGETS.items()},
        "core_us_per_step": {
            name: {kind: build["us_per_step"][kind][200] for kind in ("plain", "deadline")}
            for name, build in found.items()
        },
        "builds": found,
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores {platform.machine()}, no GPU, Python {platform.python_version()}",
        "load": os.getloadavg(),
        "rounds": options.rounds,
        "took_seconds": time.monotonic() - started,
    }
    COMMAND.write(options, data)


if __name__ == "__main__":
    main()
