"""However work ends, nothing waits for ever, nothing is printed unasked, and the text so far is kept."""

import asyncio
import gc
import logging
import subprocess
import sys
from collections.abc import Generator
from typing import Any

import pytest

from rsd_core import (
    Backtracking,
    BestOfN,
    Decoder,
    DraftOnly,
    Event,
    Generation,
    Interrupted,
    MajorityVote,
    Path,
    RewardGuidedDecoder,
    RoleWarning,
    RunError,
    Settings,
    StepBeam,
    StepRequest,
    Usage,
)
from rsd_core.blocking import background_loop
from rsd_core.concurrency import run_all
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier

SCRIPTED = """
from rsd_core import RSDConfig
decoder = RSDConfig(drafter="scripted:draft", verifier="scripted:verifier", target="scripted:target").build()
"""


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("events = decoder.stream('q'); next(events)", ""),
        ("import atexit; atexit.register(lambda: print(decoder.run('q').answer))", "10"),
        (
            "from rsd_core import RunError\n"
            "class Late:\n"
            "    def __del__(self, decoder=decoder, RunError=RunError, print=print):\n"
            "        try: decoder.run('q')\n"
            "        except RunError as error: print(error)\n"
            "late = Late()\n",
            "a blocking method was called while the interpreter shuts down; call it earlier",
        ),
    ],
)
def test_the_end_of_the_interpreter_waits_for_nobody(code: str, printed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPTED + code], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, printed, "")


def test_a_stream_left_behind_may_be_collected_by_the_background_loop() -> None:
    class Holder:
        events: Generator[Event, None, None]
        itself: Any

    def leave() -> None:
        holder = Holder()
        holder.itself = holder
        holder.events = DraftOnly(drafter=ScriptedDrafter(["1\n\n", "2"])).stream("q")
        next(holder.events)

    async def collect() -> list[asyncio.Task[Any]]:
        gc.collect()
        await asyncio.sleep(0.05)
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    gc.disable()
    try:
        leave()
        left = asyncio.run_coroutine_threadsafe(collect(), background_loop()).result(5)
    finally:
        gc.enable()
    assert left == []  # and pytest reports errors that could not be caught


def test_a_second_failure_side_by_side_is_not_printed(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("first")

    async def fail_when_cancelled() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("second")

    async def main() -> None:
        with pytest.raises(ValueError, match="first"):
            await run_all([fail(), fail_when_cancelled()])
        gc.collect()

    asyncio.run(main())
    gc.collect()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


class CancelsItself(ScriptedDrafter):
    """A drafter whose own inner task is cancelled, but not by its caller."""

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        task = asyncio.ensure_future(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(task.cancel)
        await task
        raise AssertionError


class CancelsItselfAndTells(CancelsItself):
    """The same, with the work that it had done by then."""

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        try:
            return await super().generate(path, request)
        except asyncio.CancelledError:
            raise Interrupted(Usage(computed=3)) from None


@pytest.mark.parametrize(("drafter", "computed"), [(CancelsItself, 0), (CancelsItselfAndTells, 3)])
@pytest.mark.parametrize("lookahead", [0, 4])
def test_a_cancellation_that_nobody_asked_for_is_a_fault_of_its_model(
    drafter: type[CancelsItself], computed: int, lookahead: int
) -> None:
    decoder = RewardGuidedDecoder(
        drafter=drafter([]),
        verifier=ScriptedVerifier([0.9]),
        target=ScriptedTarget(["1\n\n", "2"]),
        settings=Settings(lookahead=lookahead),
    )
    results = decoder.run_many(["one", "two"])
    assert [result.text for result in results] == ["1\n\n2", "1\n\n2"]
    assert [item.kind for item in results[0].degradations] == ["drafter_error"] * 2
    assert "cancelled its own call" in results[0].degradations[0].message
    assert results[0].ledger.drafter.computed == 2 * computed
    with pytest.raises(RunError, match="cancelled its own call"):
        DraftOnly(drafter=drafter([])).run("q")


def _steps_then_fault(path: Path, *_: object) -> str | Exception:
    return RunError("gone") if path.depth == 2 else f"step {path.depth} \n\n"


SAMPLED = Settings(temperature=0.7)
STEADY, FAULTY = ScriptedVerifier([0.9]), ScriptedVerifier([RunError("gone")])


@pytest.mark.parametrize(
    ("decoder", "kept"),
    [
        (StepBeam(drafter=ScriptedDrafter(_steps_then_fault), verifier=STEADY, width=2, settings=SAMPLED), 2),
        (Backtracking(drafter=ScriptedDrafter(_steps_then_fault), verifier=STEADY, settings=SAMPLED), 2),
        (Backtracking(drafter=ScriptedDrafter(_steps_then_fault), verifier=ScriptedVerifier([0.1]), backtracks=0), 2),
        (MajorityVote(drafter=ScriptedDrafter(_steps_then_fault), n=3, settings=SAMPLED), 2),
        (BestOfN(drafter=ScriptedDrafter(_steps_then_fault), verifier=STEADY, n=3, settings=SAMPLED), 2),
        (
            BestOfN(
                drafter=ScriptedDrafter(["1\n\n", "2"]),
                verifier=FAULTY,
                n=3,
                settings=SAMPLED.updated(on_verifier_error="raise"),
            ),
            2,
        ),
    ],
)
def test_what_a_baseline_had_written_before_it_failed_is_kept_and_the_rest_is_discarded(
    decoder: Decoder, kept: int
) -> None:
    with pytest.raises(RunError, match="gone") as caught:
        decoder.run("q")
    partial = caught.value.partial
    assert partial is not None
    assert partial.finish_reason == "error"
    assert len(partial.steps) == kept
    drafter = partial.ledger.drafter
    assert drafter.generated == drafter.discarded + sum(step.size for step in partial.steps)


def test_a_child_that_is_forked_while_a_thread_begins_a_call_works() -> None:
    code = (
        "import os, threading, rsd_core.blocking as blocking\n"
        "begun, done = threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    with blocking._lock: begun.set(); done.wait(20)\n"
        "threading.Thread(target=hold, daemon=True).start(); begun.wait()\n"
        "child = os.fork()\n"
        "if not child: print(decoder.run('q').answer, flush=True); os._exit(0)\n"
        "os.waitpid(child, 0); done.set(); print(decoder.run('q').answer)\n"
    )
    done = subprocess.run([sys.executable, "-c", SCRIPTED + code], capture_output=True, text=True, timeout=15)
    assert (done.returncode, done.stdout.split()) == (0, ["10", "10"])


def test_a_warning_of_a_role_that_never_works_holds_no_control_characters() -> None:
    broken = ScriptedDrafter([RunError("\x1b]0;owned\x07")])
    target = ScriptedTarget([f"step {i}\n\n" for i in range(8)] + ["end"])
    decoder = RewardGuidedDecoder(drafter=broken, verifier=ScriptedVerifier([0.9]), target=target)
    with pytest.warns(
        RoleWarning, match=r"the drafter has failed at its first 8 calls: \\u001b\]0;owned\\u0007; the target"
    ):
        decoder.run("q")


def test_a_second_interrupt_of_a_stream_leaves_at_once() -> None:
    code = (
        "import os, signal, threading, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # shells have background jobs ignore it
        "from rsd_core import DraftOnly\n"
        "from rsd_core.blocking import in_thread\n"
        "from rsd_core.testing import ScriptedDrafter\n"
        "class Slow(ScriptedDrafter):\n"
        "    async def generate(self, path, request):\n"
        "        begun.set(); await in_thread(lambda: time.sleep(60))\n"
        "begun = threading.Event()\n"
        "def interrupt():\n"
        "    begun.wait(); time.sleep(0.1)\n"
        "    for _ in range(2): os.kill(os.getpid(), signal.SIGINT); time.sleep(0.3)\n"
        "threading.Thread(target=interrupt, daemon=True).start()\n"
        "try:\n"
        "    for event in DraftOnly(drafter=Slow(['x'])).stream('q'): pass\n"
        "except KeyboardInterrupt: print('left', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (0, "left\n")
