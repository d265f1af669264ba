"""Imports, CPU time and memory of the `rsd` command before its work."""

import inspect
import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from rsd_integrations.cli.app import app
from rsd_integrations.cli.commands import COMMANDS

QUESTION = "Mia has 45 apples. On Monday she buys 12 more. How many apples does Mia have now?"
HEAVY = ("torch", "transformers", "numpy", "pydantic", "rsd_core", "scipy", "matplotlib", "rsd_integrations.evaluation")
UNUSED = (
    *("transformers", "huggingface_hub", "torch._dynamo", "sympy", "scipy", "matplotlib", "datasets"),
    *("rich.markdown", "rsd_integrations.evaluation", "rsd_integrations.batch"),
)


MEASURE = """
import json, os, subprocess, sys
program = [sys.executable, "-c", sys.argv[1]]
with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as started:
    told = started.stdout.read().decode()
    _, status, used = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
unit = 2**20 if sys.platform == "darwin" else 2**10
print(json.dumps([started.returncode, told, used.ru_utime + used.ru_stime, used.ru_maxrss / unit]))
"""


def process(code: str) -> tuple[str, float, float]:
    """What a Python process prints, the seconds of processor time it takes, and its peak of memory in MiB.

    It is started by a small one: a process's peak is never below what its parent held.
    """
    done = subprocess.run([sys.executable, "-c", MEASURE, code], capture_output=True, text=True, check=True)
    status, told, seconds, peak = json.loads(done.stdout)
    assert status == 0
    return told, seconds, peak


def command(*words: str) -> str:
    """A program that runs `rsd` and prints last which modules it imported."""
    return (
        f"import json, sys\nsys.argv = {['rsd', *words]!r}\nfrom rsd_integrations.cli import main\n"
        "try:\n    main()\nfinally:\n    print()\n    print(json.dumps(sorted(sys.modules)))"
    )


def imported(told: str) -> set[str]:
    return set(json.loads(told.splitlines()[-1]))


def test_help_imports_no_model_library_and_no_command() -> None:
    told, _, _ = process(command("--help"))
    assert "calibrate" in told
    assert not imported(told) & set(HEAVY)
    rooms = {name for name in imported(told) if name.startswith("rsd_integrations.")}
    assert rooms == {f"rsd_integrations.cli{part}" for part in ("", ".app", ".commands", ".starting")}


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_run_of_the_embedded_family_imports_what_it_uses(words: tuple[str, ...]) -> None:
    told, _, _ = process(command("run", QUESTION, *words))
    assert "57" in told
    assert "torch" in imported(told)
    assert not imported(told) & set(UNUSED)


def test_a_run_costs_little_more_than_torch() -> None:
    """Both are measured side by side; what is left to the run are half of torch's seconds and 110 MiB."""
    pairs = [(process("import torch"), process(command("run", QUESTION))) for _ in range(3)]
    assert min(run[1] / torch[1] for torch, run in pairs) < 1.5
    assert min(run[2] - torch[2] for torch, run in pairs) < 110


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_says_itself(name: str) -> None:
    module, _, function = COMMANDS[name].function.partition(":")
    told = inspect.getdoc(getattr(__import__(f"rsd_integrations.cli.{module}", fromlist=[function]), function))
    assert told is not None
    assert told.split("\n\n")[0].replace("\n", " ") == COMMANDS[name].summary
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    assert f" {name} " in shown.output


def test_commands_are_found_by_name_alone() -> None:
    group = typer.main.get_command(app)
    context = typer.Context(group)
    assert group.list_commands(context) == list(COMMANDS)  # type: ignore[attr-defined]
    assert group.get_command(context, "rum") is None  # type: ignore[attr-defined]
    wrong = CliRunner().invoke(app, ["rum"])
    assert wrong.exit_code == 2
    assert "Did you mean 'run'" in wrong.output


def test_the_version_is_reported() -> None:
    from rsd_core import __version__

    assert CliRunner().invoke(app, ["--version"]).output == f"rsd-decoding {__version__}\n"
