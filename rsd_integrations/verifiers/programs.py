"""Unit tests of the code in a step, run where it can do no harm and cannot fake its test results."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath

from rsd_core import ConfigurationError, Explanation, Path, Price, Scores, Step, Usage, Verifier
from rsd_core.concurrency import run_calls
from rsd_core.queueing import Slots
from rsd_integrations.findings import Finding
from rsd_integrations.prm_formats import problem, shown, shown_response
from rsd_integrations.verifiers.charging import joined
from rsd_integrations.verifiers.sandbox import Choice, find
from rsd_integrations.verifiers.supervisor import Outcome, run_tests

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
logger = logging.getLogger(__name__)
LONGEST = 86400
"""Maximum number of seconds for a step's tests."""


class Programs(Verifier):
    """The share of unit tests that the program passes after a step.

    The program is the last Python block of the answer; code in a thought does not count. If the step adds none, or the
    problem has no tests, the verifier abstains. Tests are Python statements, such as `assert add(2, 3) == 5`.

    The program and its tests run in two processes, each in its own sandbox: bubblewrap or a container, with only
    Python's standard library to read, no network, no other process and no environment, and with limits on time, memory
    and processes. A test statement runs in the process of the tests; calls to names of the program go to the other
    process and come back as data. So a program provides values but never a verdict. The documentation of reward models
    says what tests can do, and what a program still can.

    Args:
        tests: The tests of each problem, by the problem's text.
        seconds: Time for all tests of a step together, up to a day. Tests that passed by then count.
        memory: Megabytes of address space for each of the two processes, from 64.
        parallel: Number of programs that run at once.
        sandbox: `auto` is the first of `bwrap`, `docker` and `podman` that works here, checked once. `none` runs
            programs with the user's rights to read files, and warns.

    Raises:
        ConfigurationError: A number is out of range, or the sandbox is not available.
    """

    name = "code"
    flops_per_token = 0.0
    price = Price(0, 0)
    may_abstain = True

    def __init__(
        self,
        tests: Mapping[str, Sequence[str]],
        *,
        seconds: float = 5.0,
        memory: int = 512,
        parallel: int = 4,
        sandbox: Choice = "auto",
    ) -> None:
        if not 0 < seconds <= LONGEST or not 64 <= memory < 2**32 or parallel < 1:
            raise ConfigurationError(
                f"seconds={seconds}, memory={memory}, parallel={parallel}: above 0 and up to {LONGEST}, "
                "from 64 MB, and from 1"
            )
        self.tests = {" ".join(text.split()): list(own) for text, own in tests.items()}
        self.seconds, self.memory = seconds, memory
        self.sandbox = find(sandbox)
        self._slots = Slots(parallel)
        self._warned_of: set[str] = set()
        if self.sandbox.name == "none":
            warnings.warn("sandbox=none: programs written by a model can read your files", UserWarning, stacklevel=2)

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """The share of passed tests for each candidate."""
        tests = self.tests.get(" ".join(problem(path.prompt).split()), [])
        return joined(await run_calls(self._judge(path, step, tests) for step in steps))

    def explain(self, path: Path, step: Step) -> Explanation:
        """The program to be run."""
        return Explanation(_program(path, step) or "the step adds no Python block")

    def findings(self) -> list[Finding]:
        """How programs are isolated here, for `rsd doctor`."""
        if self.sandbox.name == "none":
            return [Finding("sandbox", None, "none: programs written by a model can read your files")]
        kept = "programs see none of your files, no network and no other process"
        return [
            Finding("sandbox", True, "; ".join([f"{self.sandbox.name}: {kept}", *filter(None, [self.sandbox.note])]))
        ]

    async def run(self, code: str, tests: Sequence[str]) -> list[bool]:
        """Which tests a program passes; after it exceeds a time limit, the remaining ones fail."""
        return (await self._run(code, tests)).passed

    async def _judge(self, path: Path, step: Step, tests: Sequence[str]) -> Scores:
        code = _program(path, step)
        if code is None or not tests:
            return Scores((None,), Usage())
        outcome = await self._run(code, tests)
        return Scores((sum(outcome.passed) / len(tests),), Usage(seconds=outcome.seconds))

    async def _run(self, code: str, tests: Sequence[str]) -> Outcome:
        async with self._slots:
            outcome = await run_tests(self.sandbox, code, tests, seconds=self.seconds, memory=self.memory << 20)
        for reason in outcome.reasons:
            logger.debug("a test failed: %s", reason)
            if reason.startswith("Unsupported: ") and reason not in self._warned_of:  # independent of the program
                self._warned_of.add(reason)
                logger.warning("a test of code: counts as failed: %s", reason.removeprefix("Unsupported: "))
        return outcome


def _program(path: Path, step: Step) -> str | None:
    """The last block of the answer that ends in this step; it may begin in an earlier one."""
    before, last = shown_response(path).answer, None
    for block in _BLOCK.finditer(before + shown(path, step).answer):
        if block.end() > len(before):
            last = block[1]
    return last


def read_tests(file: str) -> dict[str, list[str]]:
    """Tests from a JSONL file with `problem` (or `question`, `prompt`) and `tests`, a list of statements.

    Raises:
        ConfigurationError: No such file, or a line in another format.
    """
    tests: dict[str, list[str]] = {}
    try:
        lines = FilePath(file).read_text(encoding="utf-8-sig").split("\n")  # other line ends may occur inside strings
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the tests {file!r} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text = next(row[key] for key in ("problem", "question", "prompt") if key in row)
            tests[text] = _statements(row["tests"])
            for test in tests[text]:
                compile(test, f"{file}:{number}", "exec")
        except (ValueError, TypeError, KeyError, StopIteration, SyntaxError) as error:
            wrong = {KeyError: "it has no `tests`", StopIteration: "it has no `problem`"}.get(type(error), str(error))
            raise ConfigurationError(
                f'{file}, line {number}: {wrong}. Each line is {{"problem": "…", "tests": ["assert …"]}}'
            ) from error
    return tests


def _statements(tests: object) -> list[str]:
    if not isinstance(tests, list) or not all(isinstance(test, str) for test in tests):  # a text is iterable too
        raise TypeError(f"`tests` is {json.dumps(tests)}, not a list of texts")
    return tests
