"""The command that compares the core's speed with an earlier build's: `tests/benchmarks/core.py`."""

import json
import subprocess
import sys
from pathlib import Path as File
from typing import Any

import pytest

from tests.benchmarks import core


@pytest.fixture
def clone(tmp_path: File, monkeypatch: pytest.MonkeyPatch) -> File:
    """A repository with two packages and one commit."""
    root = tmp_path / "clone"
    for name in core.PACKAGES:
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").write_text("")
    (root / "pyproject.toml").write_text("[project.scripts]\nrsd = 'rsd_integrations:main'\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        who = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *command], cwd=root, check=True)
    monkeypatch.setattr(core, "ROOT", root)
    return root


def test_an_older_build_comes_from_history_and_is_what_its_processes_import(clone: File, tmp_path: File) -> None:
    build = core.checkout("HEAD", tmp_path / "older")
    assert (build.tree / "rsd_core" / "__init__.py").exists()
    build.check()


def test_a_tree_without_the_packages_is_not_measured(tmp_path: File) -> None:
    """The installed ones would be imported in their place."""
    with pytest.raises(SystemExit, match="is imported instead of"):
        core.Build("empty", tmp_path).check()


def test_a_commit_that_is_not_in_the_clone_is_reported_with_the_remedy(clone: File, tmp_path: File) -> None:
    with pytest.raises(SystemExit, match=rf"(?s)0123abc.*{clone}.*git fetch --unshallow"):
        core.checkout("0123abc", tmp_path / "older")


@pytest.mark.parametrize("power", [1, 1.5, 2])
def test_exponents(power: float) -> None:
    assert core.exponent({n: n ** (power - 1) for n in (100, 200, 400)}) == pytest.approx(power)


def test_every_workload_runs_on_this_build() -> None:
    lengths = {name: [20] for name in core.LENGTHS}
    spent = core.Build("present", core.ROOT).workloads(lengths)
    assert list(spent) == list(lengths)
    assert all(0 < found[20] < 1e5 for found in spent.values())


def test_a_command_is_measured_as_a_whole_process() -> None:
    # From a small process: a child's peak is never below what its parent held.
    code = "from tests.benchmarks import core; print(*core.Build('present', core.ROOT).command(['--help']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=core.ROOT, check=True, capture_output=True, text=True)
    seconds, peak = map(float, done.stdout.split())
    assert 0.01 < seconds < 60
    assert 10 < peak < 1000


def test_a_command_that_fails_is_not_measured() -> None:
    with pytest.raises(SystemExit, match="of present failed"):
        core.Build("present", core.ROOT).command(["--no-such-option"])


def test_the_report_has_each_figure_with_its_target(tmp_path: File, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower of two ways to decode counts, and a figure above its target is a missed one."""

    def figures(plain: float, deadline: float, seconds: float) -> dict[str, Any]:
        flat = {name: dict.fromkeys(lengths, 1.0) for name, lengths in core.LENGTHS.items()}
        flat["plain"][200], flat["deadline"][200] = plain, deadline
        commands = {f"{name}_{kind}": seconds for name in core.COMMANDS for kind in ("cpu_seconds", "peak_mib")}
        return {"us_per_step": flat, **commands}

    measured = {core.BASE: figures(20, 80, 1), "present": figures(12, 20, 0.3)}
    monkeypatch.setattr(core, "checkout", lambda commit, folder: core.Build(commit, core.ROOT))
    monkeypatch.setattr(core, "measure", lambda builds, rounds: measured)
    monkeypatch.setattr("sys.argv", ["core", "--json", f"{tmp_path}/f.json", "--markdown", f"{tmp_path}/f.md"])
    core.main()
    data = json.loads((tmp_path / "f.json").read_text())
    assert data["core_us_per_step_ratio"] == 0.6
    assert data["core_us_per_step"][core.BASE] == {"plain": 20, "deadline": 80}
    missed = {key for key, met in data["met"].items() if not met}
    assert missed == {"core_us_per_step_ratio", "lookahead_ratio"}
    assert set(data["targets"]) == set(data["met"]) == set(core.TARGETS) <= set(data)
    assert "(missed)" in (tmp_path / "f.md").read_text()
