"""Unit tests of the code that a step writes, run in a restricted process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath

from rsd_core import ConfigurationError, Explanation, Path, Price, Scores, Step, Usage, Verifier
from rsd_core.concurrency import run_calls
from rsd_core.queueing import Slots
from rsd_integrations.prm_formats import problem, shown, shown_response
from rsd_integrations.verifiers.charging import joined

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_RUNNER = FilePath(__file__).with_name("restricted.py")


class Programs(Verifier):
    """The share of unit tests that the program passes, as it stands after a step.

    The program is the last Python block of the answer; code in a thought is none. Where the step adds none, or the
    problem has no tests, the verifier abstains. Tests are Python statements, such as `assert add(2, 3) == 5`.

    The program runs in a process of its own with limits on time, memory, files and processes, without environment
    variables, and without network where the system lets a process give it up (Linux with user namespaces; the limit on
    processes does not hold for root). That stops accidents and careless programs. It is no jail against a hostile
    one, which could read files or forge its result: run those in a container.

    Args:
        tests: The tests of each problem, by the problem's text.
        seconds: Time for all tests of a step together.
        memory: Megabytes of address space.
        parallel: Programs that run at once.
    """

    name = "code"
    flops_per_token = 0.0
    price = Price(0, 0)

    def __init__(
        self, tests: Mapping[str, Sequence[str]], *, seconds: float = 5.0, memory: int = 512, parallel: int = 4
    ) -> None:
        if seconds <= 0 or memory < 64 or parallel < 1:
            raise ConfigurationError(
                f"seconds={seconds}, memory={memory}, parallel={parallel}: above 0, from 64 MB, and from 1"
            )
        self.tests = {" ".join(text.split()): list(own) for text, own in tests.items()}
        self.seconds, self.memory = seconds, memory
        self._slots = Slots(parallel)

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """The share of passed tests for each candidate."""
        tests = self.tests.get(" ".join(problem(path.prompt).split()), [])
        return joined(await run_calls(self._judge(path, step, tests) for step in steps))

    def explain(self, path: Path, step: Step) -> Explanation:
        """The program that would run."""
        return Explanation(_program(path, step) or "the step adds no Python block")

    async def run(self, code: str, tests: Sequence[str]) -> list[bool]:
        """Which of the tests a program passes; none of them where it breaks a limit."""
        return (await self._run(code, tests))[0]

    async def _judge(self, path: Path, step: Step, tests: Sequence[str]) -> Scores:
        code = _program(path, step)
        if code is None or not tests:
            return Scores((None,), Usage())
        passed, seconds = await self._run(code, tests)
        return Scores((sum(passed) / len(tests),), Usage(seconds=seconds))

    async def _run(self, code: str, tests: Sequence[str]) -> tuple[list[bool], float]:
        """Which tests pass, and the seconds that it took, without the wait for a place to run at."""
        job = {"code": code, "tests": list(tests), "seconds": int(self.seconds) + 1, "memory": self.memory << 20}
        async with self._slots:
            started = time.perf_counter()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_RUNNER)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={},
                cwd="/" if os.name == "posix" else None,
                start_new_session=True,
            )
            try:
                output, _ = await asyncio.wait_for(process.communicate(json.dumps(job).encode()), self.seconds)
            except TimeoutError:
                output = b""
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
                await process.wait()
            seconds = time.perf_counter() - started
        return _passed(output, len(tests)), seconds


def _passed(output: bytes, count: int) -> list[bool]:
    try:
        passed = json.loads(output)
    except ValueError:  # killed, or ended by the program itself
        return [False] * count
    complete = isinstance(passed, list) and len(passed) == count
    return [entry is True for entry in passed] if complete else [False] * count


def _program(path: Path, step: Step) -> str | None:
    """The last block of the answer that ends in this step; it may have begun in an earlier one."""
    before, last = shown_response(path).answer, None
    for block in _BLOCK.finditer(before + shown(path, step).answer):
        if block.end() > len(before):
            last = block[1]
    return last


def read_tests(file: str) -> dict[str, list[str]]:
    """Tests from a JSONL file with `problem` (or `question`, `prompt`) and `tests`, a list of statements.

    Raises:
        ConfigurationError: No such file, or a line that is none of this form.
    """
    tests: dict[str, list[str]] = {}
    try:
        lines = FilePath(file).read_text(encoding="utf-8-sig").split("\n")  # other line ends may be inside of strings
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the tests {file!r} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text = next(row[key] for key in ("problem", "question", "prompt") if key in row)
            tests[text] = [str(test) for test in row["tests"]]
            for test in tests[text]:
                compile(test, f"{file}:{number}", "exec")
        except (ValueError, TypeError, KeyError, StopIteration, SyntaxError) as error:
            raise ConfigurationError(
                f'{file}, line {number}: {error!r}. Each line is {{"problem": "…", "tests": ["assert …"]}}'
            ) from error
    return tests
