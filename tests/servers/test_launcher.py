"""Whatever becomes of the holder, nothing of what it started is left. No model is needed for this."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers.launcher import ROOT

TREE = """
import subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", {worker!r}])
open({out!r}, "w").write(str(worker.pid))
time.sleep(600)
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
HOLDER = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
guard = subprocess.Popen([sys.executable, "-m", "tests.servers.guard", sys.executable, "-c", {tree!r}],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
print(guard.stdout.readline().strip(), flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def gone(*pids: int) -> bool:
    patience = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < patience:
        time.sleep(0.05)
    return not any(map(alive, pids))


@pytest.fixture
def held(tmp_path: Path) -> tuple[subprocess.Popen[str], int, int]:
    """A process that holds a server with a worker; the ids of both."""
    tree = TREE.format(worker="import time; time.sleep(600)", out=str(tmp_path / "worker"))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(tree=tree)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    server = int(holder.stdout.readline())
    holder.stdout.close()
    while not (tmp_path / "worker").exists() or not (tmp_path / "worker").read_text():
        time.sleep(0.05)
    return holder, server, int((tmp_path / "worker").read_text())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_server_ends_with_its_holder(held: tuple[subprocess.Popen[str], int, int], how: signal.Signals) -> None:
    holder, server, worker = held
    assert alive(server)
    assert alive(worker)
    holder.send_signal(how)
    holder.wait(30)
    assert gone(server, worker)


def test_a_server_may_say_a_lot() -> None:
    loud = "import sys; sys.stdout.write('x' * 10**6); sys.stderr.write('y' * 10**6); sys.exit(7)"
    guard = subprocess.Popen(
        [sys.executable, "-m", "tests.servers.guard", sys.executable, "-c", loud],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert guard.wait(30) == 7  # an unread pipe would have stopped it
    for pipe in (guard.stdin, guard.stdout):
        assert pipe is not None
        pipe.close()


def test_workers_end_with_a_server_that_was_killed(held: tuple[subprocess.Popen[str], int, int]) -> None:
    holder, server, worker = held
    os.kill(server, signal.SIGKILL)
    assert gone(server, worker)
    holder.kill()
    holder.wait()


def test_a_worker_that_ignores_sigterm_ends_too(tmp_path: Path) -> None:
    tree = TREE.format(worker=STUBBORN, out=str(tmp_path / "worker"))
    guard = subprocess.Popen(
        [sys.executable, "-m", "tests.servers.guard", sys.executable, "-c", tree],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert guard.stdin is not None
    assert guard.stdout is not None
    guard.stdout.readline()
    while not (tmp_path / "worker").exists() or not (tmp_path / "worker").read_text():
        time.sleep(0.05)
    time.sleep(0.5)  # it needs a moment to turn deaf
    guard.stdin.close()
    guard.wait()
    guard.stdout.close()
    assert gone(int((tmp_path / "worker").read_text()))
