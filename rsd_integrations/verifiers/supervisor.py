"""Runs the tests of one program: starts two sandboxed processes, relays requests between them and keeps time.

The tests' process gets a secret for each test and returns it if the test passed. The program's process gets neither
tests nor secrets, and its output goes only to the tests: no line of it can pass for a verdict.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rsd_core import VerifierError
from rsd_integrations.verifiers.sandbox import Sandbox
from rsd_integrations.verifiers.sandboxed.wire import GONE

_STARTING = 60.0
"""Seconds that the two processes may take to start on a busy machine."""
_LONGEST = 16 << 20
"""Maximum bytes of a line between a program and its tests."""
_Process = asyncio.subprocess.Process


@dataclass(slots=True)
class Outcome:
    """The outcome of the tests."""

    passed: list[bool]
    seconds: float = 0.0
    """Including the start of the processes."""
    reasons: list[str] = field(default_factory=list)
    """Why tests failed, as far as their process reported it."""


async def run_tests(sandbox: Sandbox, code: str, tests: Sequence[str], *, seconds: float, memory: int) -> Outcome:
    """Run each test of a program, with the program freshly loaded.

    Args:
        sandbox: Where to run them.
        code: The program.
        tests: Python statements.
        seconds: Limit for all tests together, once the processes have started. Tests that passed by then count.
        memory: Bytes of address space for each process.

    Raises:
        VerifierError: The processes do not start, which says nothing about the program.
    """
    started = time.perf_counter()
    marks = [secrets.token_hex(16) for _ in tests]
    passed: set[str] = set()
    outcome = Outcome([])
    limits = {"seconds": int(seconds) + 1, "memory": memory}
    async with _process(sandbox, "tester") as tester, _process(sandbox, "program") as program:
        await _begin(sandbox, program, limits)
        await _begin(sandbox, tester, {**limits, "code": code, "tests": list(zip(marks, tests, strict=True))})
        with contextlib.suppress(TimeoutError, OSError, ValueError):  # timeout, end of process, or overlong line
            async with asyncio.timeout(seconds):
                async for verdict in _verdicts(tester, program):
                    passed.add(verdict.get("passed", ""))
                    outcome.reasons += [verdict["failed"]] if "failed" in verdict else []
    outcome.passed = [mark in passed for mark in marks]
    outcome.seconds = time.perf_counter() - started
    return outcome


async def _verdicts(tester: _Process, program: _Process) -> AsyncIterator[dict[str, str]]:
    """The verdicts from the tests' process, while its requests to the program are relayed."""
    (to_tester, questions), (to_program, answers) = _pipes(tester), _pipes(program)
    while line := await questions.readline():
        if line.startswith((b'{"passed"', b'{"failed"')):
            yield json.loads(line)
            continue
        with contextlib.suppress(ConnectionError):
            to_program.write(line)
        to_tester.write(await answers.readline() or GONE)


def _pipes(process: _Process) -> tuple[asyncio.StreamWriter, asyncio.StreamReader]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


async def _begin(sandbox: Sandbox, process: _Process, job: Mapping[str, object]) -> None:
    """Send a process its job, and wait until it has dropped its privileges."""
    (lines, answers), ready = _pipes(process), b""
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(_STARTING):
            lines.write(json.dumps(job).encode() + b"\n")
            await lines.drain()
            ready = await answers.readline()
    if ready != b"ready\n":
        raise VerifierError(f"code: the sandbox {sandbox.name} no longer starts Python; it did earlier")


@contextlib.asynccontextmanager
async def _process(sandbox: Sandbox, module: str) -> AsyncIterator[_Process]:
    """A module of `sandboxed` as a sandboxed process, killed on exit with everything it started."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *sandbox.command(module),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=sandbox.environment(),
            cwd="/" if os.name == "posix" else None,
            start_new_session=True,
            limit=_LONGEST,
        )
    )
    try:
        # A plain cancellation would kill one process, not the group, and hang waiting for bubblewrap's children.
        yield await asyncio.shield(starting)
    finally:
        process = await starting
        if sandbox.patience:
            _end(process, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), sandbox.patience)
        _end(process, None)
        transport: Any = process._transport  # type: ignore[attr-defined]
        for number in (0, 1):  # without a sandbox, a process that left the group may hold the other ends
            transport.get_pipe_transport(number).close()
        await process.wait()


def _end(process: _Process, number: int | None) -> None:
    with contextlib.suppress(ProcessLookupError):
        if os.name != "posix":
            process.kill()
        else:
            os.killpg(process.pid, number or signal.SIGKILL)
