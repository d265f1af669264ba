"""Run these tests on the oldest and the newest langchain-core, and tell how LangChain's standard tests come out.

    python -m tests.langchain.conformance [--markdown docs/langchain-conformance.md]

Exits with 1 where a test fails. Other versions of langchain-core go to `build/`, first on the path.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent.parent
BUILD = ROOT / "build"
NEWEST = "1.8.3"
"""The newest langchain-core there is, as of the last change of this line."""
CONTEMPORARIES = {
    "1.6.13": (
        "langchain==1.4.7",
        "langchain-anthropic==1.7.7",
        "langchain-google-genai==4.4.2",
        "google-genai==2.34.0",
        "langchain-openai==1.7.2",
    )
}
"""The newest releases of partners that take an older langchain-core, where those of the environment do not."""
LONG = (
    "tests/langchain/test_loop.py",
    "tests/langchain/test_chat.py::test_adapters_give_the_text_of_the_bare_decoder",
    "tests/langchain/test_roles.py::test_rsd_over_langchain_models_equals_rsd_in_process",
)
"""Tests that decode for minutes and are left out here; the other ones run the same code of LangChain."""
SUITES = {
    "TestUnitInTurns": ("ChatModelUnitTests", "turn"),
    "TestIntegrationInTurns": ("ChatModelIntegrationTests", "turn"),
    "TestUnitInSteps": ("ChatModelUnitTests", "step"),
    "TestIntegrationInSteps": ("ChatModelIntegrationTests", "step"),
    "TestUnitInStepsWithTools": ("ChatModelUnitTests", "step, tools"),
    "TestIntegrationInStepsWithTools": ("ChatModelIntegrationTests", "step, tools"),
    "TestUnitInThinkingTurns": ("ChatModelUnitTests", "turn, thinking"),
    "TestIntegrationInThinkingTurns": ("ChatModelIntegrationTests", "turn, thinking"),
    "TestUnitInThinkingSteps": ("ChatModelUnitTests", "step, thinking"),
    "TestIntegrationInThinkingSteps": ("ChatModelIntegrationTests", "step, thinking"),
}
RESULTS = ("passed", "skipped", "xfailed", "failed")
HEAD = """\
# LangChain's standard tests

Made by `make langchain-versions`: the standard tests of langchain-tests {tests} for `ChatRSD`, on the oldest and newest
langchain-core of the declared range `{declared}`.

In granularity `turn` the models are chat models that call tools, take media and answer by rules
(`tests/langchain/inner_models.py`); drafts are sometimes wrong and are replaced. In granularity `step` they are the
embedded models, the defaults of `ChatRSD()`. With `thinking`, the same models (scripted ones in steps) think before
they answer; with `tools`, models that write steps by rules (`tests/langchain/rule_writers.py`) call tools and write
JSON by a schema. The suites take the model's abilities from its own `profile`.

| langchain-core | suite | granularity | passed | skipped | xfailed | failed |
|---|---|---|---|---|---|---|
{rows}

{drafts}

## What is skipped, and why

| granularity | reason | tests |
|---|---|---|
{reasons}

## The other tests of `tests/langchain`

{others}

Left out on these versions for their length: {long}.
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a test."""

    suite: str
    """Its class, or the empty text outside the standard tests."""
    test: str
    result: str
    """One of `RESULTS`."""
    reason: str


@dataclass(frozen=True)
class Run:
    """All tests on one langchain-core."""

    core: str
    outcomes: list[Outcome]
    properties: dict[str, str]

    def counts(self, suite: str) -> Counter[str]:
        return Counter(outcome.result for outcome in self.outcomes if outcome.suite == suite)


def declared() -> str:
    """The range of langchain-core that the project declares."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (requirement,) = (item for item in extras["langchain"] if item.startswith("langchain-core"))
    return str(requirement)


def installed(core: str) -> Path:
    """The folder with this langchain-core and partners of its time; other dependencies are those of the environment."""
    folder = BUILD / f"langchain-core-{core}"
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        packages = [f"langchain-core=={core}", *CONTEMPORARIES.get(core, ())]
        subprocess.run([*pip, "--target", str(folder), *packages], check=True)
    return folder


def run(core: str) -> Run:
    """Run the tests of the adapters on a langchain-core."""
    report = BUILD / f"langchain-core-{core}.xml"
    path = os.pathsep.join([str(installed(core)), str(ROOT)])
    options = ["--benchmark-disable", "-p", "no:cacheprovider", f"--junitxml={report}", "tests/langchain"]
    options += [f"--deselect={test}" for test in LONG]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    report.unlink(missing_ok=True)
    subprocess.run([sys.executable, "-m", "pytest", *options], cwd=ROOT, env=environment, check=False)
    (suite,) = ElementTree.parse(report).getroot()
    told = {item.get("name", ""): item.get("value", "") for item in suite.iterfind("properties/property")}
    if told.get("langchain-core") != core:
        raise SystemExit(f"the tests ran on langchain-core {told.get('langchain-core')}, not on {core}")
    return Run(core, [_outcome(case) for case in suite.iterfind("testcase")], told)


def markdown(runs: list[Run]) -> str:
    """The page on all runs."""
    rows = [
        f"| {run.core} | {suite} | {granularity} | " + " | ".join(str(run.counts(name)[one]) for one in RESULTS) + " |"
        for run in runs
        for name, (suite, granularity) in SUITES.items()
    ]
    drafts = [
        f"Drafted turns on {run.core}{', thinking' if 'Thinking' in name else ''}: "
        f"{run.properties[f'{name}: accepted']} accepted, {run.properties[f'{name}: replaced']} replaced."
        for run in runs
        for name in ("TestIntegrationInTurns", "TestIntegrationInThinkingTurns")
    ]
    tests: dict[tuple[str, str], list[str]] = defaultdict(list)
    for outcome in (outcome for run in runs for outcome in run.outcomes if outcome.reason and outcome.suite):
        names = tests[SUITES[outcome.suite][1], outcome.reason]
        names += [outcome.test] if outcome.test not in names else []
    reasons = [
        f"| {granularity} | {reason} | {', '.join(map('`{}`'.format, names))} |"
        for (granularity, reason), names in sorted(tests.items(), key=lambda item: item[0][0], reverse=True)
    ]
    others = {run.core: ", ".join(f"{n} {result}" for result, n in run.counts("").items()) for run in runs}
    return HEAD.format(
        tests=version("langchain-tests"),
        declared=declared(),
        rows="\n".join(rows),
        drafts="\n".join(drafts),
        reasons="\n".join(reasons),
        others="\n".join(f"On {core}: {told}." for core, told in others.items()),
        long=", ".join(f"`{test.rpartition('/')[2]}`" for test in LONG),
    )


def main() -> None:
    """The command."""
    oldest = re.findall(r">=([\d.]+)", declared())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", nargs="+", default=[*oldest, NEWEST], help="versions of langchain-core")
    parser.add_argument("--markdown", type=Path, help="file to write the page to")
    asked = parser.parse_args()
    runs = [run(core) for core in asked.core]
    page = markdown(runs)
    if asked.markdown:
        asked.markdown.write_text(page)
    print(page)
    failed = [f"{run.core}: {outcome.test}" for run in runs for outcome in run.outcomes if outcome.result == "failed"]
    raise SystemExit("\n".join(["failed:", *failed]) if failed else 0)


def _outcome(case: ElementTree.Element) -> Outcome:
    suite = case.get("classname", "").rpartition(".")[2]
    skipped = case.find("skipped")
    result, reason = "passed", ""
    if case.find("failure") is not None or case.find("error") is not None:
        result = "failed"
    elif skipped is not None:
        result = "xfailed" if skipped.get("type") == "pytest.xfail" else "skipped"
        reason = skipped.get("message", "")
    return Outcome(suite if suite in SUITES else "", case.get("name", ""), result, reason)


if __name__ == "__main__":
    main()
