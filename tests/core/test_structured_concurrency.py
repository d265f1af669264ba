"""The helpers for concurrency: nothing outlives its caller."""

import asyncio
import gc
import inspect
import logging
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from rsd_core import Interrupted, RunError, Usage, add_usage, blocking, usage_of
from rsd_core.blocking import in_thread, iterate, wait_for
from rsd_core.concurrency import contained, run_all, run_calls, settle
from rsd_core.interfaces import Generation
from rsd_core.queueing import Slots


async def after(seconds: float, value: Any) -> Any:
    await asyncio.sleep(seconds)
    if isinstance(value, BaseException):
        raise value
    return value


class Sleeper:
    """Work that notes its beginning and its end, and may take its time to leave."""

    def __init__(self, *, lingers: bool = False) -> None:
        self.begun = self.ended = False
        self.may_leave = asyncio.Event()
        if not lingers:
            self.may_leave.set()

    async def sleep(self) -> None:
        self.begun = True
        try:
            await asyncio.sleep(30)
        finally:
            await self.may_leave.wait()
            self.ended = True


def others() -> set[asyncio.Task[Any]]:
    current = asyncio.current_task()
    return {task for task in asyncio.all_tasks() if task is not current}


async def test_results_come_in_the_order_of_the_works() -> None:
    works = [after(0.03, "slow"), after(0, "fast"), after(0.01, "middling")]
    assert await run_all(works) == ["slow", "fast", "middling"]
    assert await run_all([after(0, "alone")]) == ["alone"]
    assert await run_all([]) == []


@pytest.mark.parametrize("at_once", [1, 2, 5, 9, None])
async def test_concurrency_is_limited(at_once: int | None) -> None:
    inside = crowd = 0

    async def work(i: int) -> int:
        nonlocal inside, crowd
        inside += 1
        crowd = max(crowd, inside)
        await asyncio.sleep(0.001 * (i % 3))
        inside -= 1
        return i

    assert await run_all([work(i) for i in range(7)], at_once) == list(range(7))
    assert crowd == min(at_once or 7, 7)


async def test_the_first_error_wins_and_the_others_are_cancelled_and_awaited() -> None:
    slow = Sleeper()
    with pytest.raises(ValueError, match="first"):
        await run_all([slow.sleep(), after(0.01, ValueError("first")), after(0.02, KeyError("second"))])
    assert slow.ended
    assert not others()


async def test_works_that_had_not_begun_are_closed() -> None:
    late = [Sleeper(), Sleeper()]
    works = [late[0].sleep(), late[1].sleep()]
    with pytest.raises(ValueError, match="gone"):
        await run_all([after(0, ValueError("gone")), *works], at_once=1)
    assert not any(sleeper.begun for sleeper in late)
    assert all(inspect.getcoroutinestate(work) == inspect.CORO_CLOSED for work in works)


async def test_a_caller_that_is_cancelled_again_and_again_waits_for_the_end_all_the_same() -> None:
    slow = [Sleeper(lingers=True), Sleeper(lingers=True)]
    task = asyncio.create_task(run_all([one.sleep() for one in slow]))
    await asyncio.sleep(0.01)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.005)
        assert not task.done()
    for one in slow:
        one.may_leave.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(one.ended for one in slow)
    assert not others()


async def test_a_timeout_around_it_is_a_timeout() -> None:
    slow = [Sleeper(), Sleeper()]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await run_all([one.sleep() for one in slow])
    assert all(one.ended for one in slow)


async def test_ignored_errors_make_no_noise(caplog: pytest.LogCaptureFixture) -> None:
    async def breaks_on_leaving() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            raise KeyError("second")

    with caplog.at_level(logging.ERROR), pytest.raises(ValueError, match="first"):
        await run_all([after(0.01, ValueError("first")), breaks_on_leaving()])
    gc.collect()
    assert not caplog.records


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_what_would_end_the_process_reaches_the_caller_and_not_the_loop(error: BaseException) -> None:
    """A task lets these two out of its loop, which stands still from then on."""
    slow = Sleeper()
    with pytest.raises(type(error)):
        await run_all([slow.sleep(), after(0.01, error)])
    assert slow.ended


async def made(computed: int, seconds: float = 0.0) -> Generation:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        raise Interrupted(Usage(computed=1)) from None
    return Generation((), Usage(computed=computed))


async def test_a_call_made_of_others_tells_the_work_of_all_when_one_of_them_fails() -> None:
    error = add_usage_to(ValueError("gone"), Usage(computed=100))
    with pytest.raises(ValueError, match="gone") as caught:
        await run_calls([made(10), made(20, 30), after(0.01, error)])
    assert usage_of(caught.value) == Usage(computed=111)


async def test_a_call_made_of_others_tells_the_work_of_all_when_it_is_cancelled() -> None:
    task = asyncio.create_task(run_calls([made(10), made(20, 30), made(40, 30)]))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(Interrupted) as caught:
        await task
    assert caught.value.usage == Usage(computed=12)
    assert [reply.usage.computed for reply in await run_calls([made(1), made(2)])] == [1, 2]


def add_usage_to(error: Exception, usage: Usage) -> Exception:
    add_usage(error, usage)
    return error


async def test_settling_outlasts_a_cancellation() -> None:
    slow = Sleeper(lingers=True)
    inner = asyncio.ensure_future(slow.sleep())
    await asyncio.sleep(0)
    task = asyncio.create_task(settle([inner]))
    await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.sleep(0.005)
    assert not task.done()
    slow.may_leave.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slow.ended


async def test_an_end_of_the_process_becomes_an_error_of_its_owner() -> None:
    with pytest.raises(RunError, match=r"'the plugin' called sys.exit\(3\)"):
        await contained("the plugin", after(0, SystemExit(3)))


class TestSlots:
    """A semaphore for all loops and threads."""

    async def test_the_limit_holds_across_loops(self) -> None:
        slots, inside, crowd, lock = Slots(2), 0, 0, threading.Lock()

        async def work() -> None:
            nonlocal inside, crowd
            async with slots:
                with lock:
                    inside += 1
                    crowd = max(crowd, inside)
                await asyncio.sleep(0.002)
                with lock:
                    inside -= 1

        async def many() -> None:
            await run_all([work() for _ in range(10)])

        threads = [threading.Thread(target=asyncio.run, args=(many(),), daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join, 10)
        assert not any(thread.is_alive() for thread in threads)
        assert (inside, crowd) == (0, 2)

    async def test_one_after_the_other_in_the_order_of_arrival(self) -> None:
        slots, order = Slots(1), []

        async def work(i: int) -> None:
            async with slots:
                order.append(i)
                await asyncio.sleep(0.001)

        await run_all([work(i) for i in range(5)])
        assert order == list(range(5))

    async def test_a_waiter_that_is_cancelled_takes_no_place_along(self) -> None:
        slots = Slots(1)

        async def enter() -> None:
            async with slots:
                pass

        async with slots:
            waiters = [asyncio.create_task(enter()) for _ in range(3)]
            await asyncio.sleep(0)
            waiters[0].cancel()  # while it waits
            await asyncio.sleep(0)
        waiters[1].cancel()  # when it was just given the place
        await asyncio.wait_for(waiters[2], 5)
        await asyncio.wait_for(enter(), 5)
        assert [waiter.cancelled() for waiter in waiters] == [True, True, False]

    async def test_a_waiter_whose_loop_is_gone_does_not_keep_the_place(self) -> None:
        slots = Slots(1)
        waiters: list[asyncio.Task[Slots]] = []

        def wait_and_leave() -> None:
            loop = asyncio.new_event_loop()
            waiters.append(loop.create_task(slots.__aenter__()))
            loop.call_soon(loop.stop)
            loop.run_forever()
            loop.close()

        async with slots:
            await asyncio.to_thread(wait_and_leave)
        await asyncio.wait_for(slots.__aenter__(), 5)
        waiters[0]._log_destroy_pending = False  # type: ignore[attr-defined]

    async def test_a_waiter_that_is_dropped_just_when_it_got_the_place_hands_it_on(self) -> None:
        slots = Slots(1)
        async with slots:
            waiter = slots.__aenter__()
            waiter.send(None)
        waiter.close()  # as what is left of a loop that was closed
        await asyncio.wait_for(slots.__aenter__(), 5)


class TestThread:
    """Blocking work of a call."""

    async def test_a_cancelled_caller_waits_for_its_thread(self) -> None:
        may_end, ended = threading.Event(), threading.Event()

        def work() -> None:
            may_end.wait(30)
            ended.set()

        task = asyncio.create_task(in_thread(work))
        for _ in range(3):
            await asyncio.sleep(0.01)
            task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    @pytest.mark.parametrize("fails", [False, True])
    async def test_the_work_of_a_cancelled_thread_is_reported(self, fails: bool) -> None:
        may_end = threading.Event()

        def work() -> Generation:
            may_end.wait(30)
            if fails:
                raise RunError("cut", usage=Usage(computed=7))
            return Generation((), Usage(computed=7))

        task = asyncio.create_task(in_thread(work))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0)
        may_end.set()
        with pytest.raises(Interrupted) as caught:
            await task
        assert caught.value.usage.computed == 7

    @pytest.mark.parametrize("error", [SystemExit(3), ValueError("no"), asyncio.CancelledError()])
    async def test_an_error_of_the_work_reaches_the_caller(self, error: BaseException) -> None:
        def work() -> None:
            raise error

        with pytest.raises(type(error)):
            async with asyncio.timeout(5):
                await in_thread(work)

    async def test_an_exhausted_iterator_in_the_work_is_an_error_and_no_standstill(self) -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            async with asyncio.timeout(5):
                await in_thread(lambda: next(iter(())))


class TestBlockingBridge:
    """`run` and `stream` of callers that have no loop."""

    def test_a_thread_may_wait_from_anywhere(self) -> None:
        assert wait_for(after(0, 5)) == 5
        with pytest.raises(ValueError, match="no"):
            wait_for(after(0, ValueError("no")))
        with pytest.raises(RunError, match=r"sys.exit\(4\)"):
            wait_for(after(0, SystemExit(4)))
        assert wait_for(after(0, 6)) == 6  # its loop lives

    def test_a_generator_that_is_left_is_closed(self) -> None:
        closed = []

        async def numbers() -> Any:
            try:
                for i in range(9):
                    yield i
            finally:
                closed.append(True)

        numbers_seen = iterate(numbers())
        assert [next(numbers_seen), next(numbers_seen)] == [0, 1]
        numbers_seen.close()
        assert closed == [True]

    def test_a_forked_process_has_a_loop_of_its_own(self) -> None:
        code = """
import os, signal
from rsd_core.blocking import wait_for
async def five():
    return 5
assert wait_for(five()) == 5
child = os.fork()
if not child:
    signal.alarm(20)  # the parent's loop has no thread here, and would be waited for without end
    os._exit(wait_for(five()))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
        assert run_python(code).stdout.split() == ["5"]

    def test_an_interrupt_waits_for_the_end(self) -> None:
        """As Ctrl-C does it: the blocking caller goes when the work has ended, and not before."""
        code = """
import asyncio, os, signal, threading
from rsd_core.blocking import wait_for
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have what runs in the background ignore it
async def work():
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        await asyncio.sleep(30)
    finally:
        await asyncio.sleep(0.2)
        print("ended")
try:
    wait_for(work())
except KeyboardInterrupt:
    print("interrupted")
"""
        assert run_python(code).stdout.split() == ["ended", "interrupted"]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run in a separate process, since the tested code would hang this one."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)


def test_an_interrupt_before_the_work_begins_leaves_nothing_unawaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would tell the user so: "coroutine was never awaited"."""
    loop, free = blocking.background_loop(), threading.Event()

    class Interrupted(Future[None]):
        def result(self, timeout: float | None = None) -> None:
            threading.Timer(0.05, free.set).start()  # the cancellation is then in the queue next to the work
            raise KeyboardInterrupt

    async def work() -> None:
        raise AssertionError("it never begins")

    monkeypatch.setattr(blocking, "Future", Interrupted)
    loop.call_soon_threadsafe(free.wait)
    waiting = work()
    with pytest.raises(KeyboardInterrupt):
        blocking.wait_for(waiting)
    assert inspect.getcoroutinestate(waiting) == inspect.CORO_CLOSED
