"""A server that is down or busy: calls wait within their patience, one probes, and all continue once it is back."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import wraps
from typing import Any

import pytest

from rsd_core import Limits, Path, RewardGuidedDecoder, Settings, StepRequest, as_prompt
from rsd_core.blocking import wait_for
from rsd_core.queueing import CALLER, Caller
from rsd_core.testing import ScriptedDrafter, ScriptedVerifier
from rsd_integrations.openai_compatible import Endpoint, EndpointError, OpenAIGenerator, Refused
from rsd_integrations.openai_compatible.breaker import Breaker
from rsd_integrations.openai_compatible.retry import backoff
from rsd_integrations.waiting import waiting
from tests.openai_compatible.answering import Reply, Scripted, scripted

DONE, AWAY, BROKEN = Reply(), Reply(502, "<html><title>502 Bad Gateway</title></html>"), Reply(500, {"error": "broken"})
INTERACTIVE, BATCH = None, 64
Test = Callable[..., Coroutine[Any, Any, None]]


def on_the_loop(test: Test) -> Callable[..., None]:
    """Run a test on the loop that requests are sent from."""

    @wraps(test)
    def run(**fixtures: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(10):
                await test(**fixtures)

        wait_for(bounded())

    return run


@asynccontextmanager
async def connected(server: Scripted, **options: Any) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint("m", server.url, **{"timeout": 5.0, **options})
    endpoint.breaker.first_trial = 0.1
    try:
        yield endpoint
    finally:
        await endpoint.aclose()


async def ask(endpoint: Endpoint, prompt: str = "", concurrency: int | None = BATCH) -> str:
    """A call that is a separate request."""
    CALLER.set(Caller(concurrency=concurrency))
    answer = await endpoint.post("completions", {"prompt": prompt})
    return str(answer["choices"][0]["text"])


def crowd(endpoint: Endpoint, size: int, concurrency: int | None = BATCH) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(ask(endpoint, f"{i}", concurrency)) for i in range(size)]


async def heard(endpoint: Endpoint, server: Scripted) -> None:
    """Let it answer once."""
    answer, server.answer = server.answer, lambda *_: DONE
    await ask(endpoint)
    server.answer = answer
    server.requests.clear()


def away_for(seconds: float, reply: Reply = AWAY) -> Callable[..., Reply]:
    """Fails for some time from the first request on."""
    end: list[float] = []

    def answer(*_: Any) -> Reply:
        end[:] = end or [time.monotonic() + seconds]
        return DONE if time.monotonic() >= end[0] else reply

    return answer


class Unread:
    """A reader of a stream that is given nothing."""

    complete = False

    def take(self, event: Any) -> bool:
        raise AssertionError(event)


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - of things that have no event
        await asyncio.sleep(0.005)


def seconds_since(started: float) -> float:
    return time.monotonic() - started


@pytest.mark.parametrize(("concurrency", "seconds"), [(BATCH, 1.0), (INTERACTIVE, 0.3)])
@on_the_loop
async def test_a_second_of_502_fails_nobody(concurrency: int | None, seconds: float) -> None:
    """A gateway without its server: with 64 in flight, no request uses up its retries."""
    async with scripted(away_for(seconds)) as server, connected(server, retries=0) as endpoint:
        assert await asyncio.gather(*crowd(endpoint, 64, concurrency)) == ["done"] * 64
        assert 64 < len(server.requests) < 2 * 64 + 8, "each once more, and those that tried"
        assert endpoint.waiting_since is None
        assert server.times[-1] - server.times[0] < seconds + 1.5


@pytest.mark.parametrize("fault", ["refused", "reset"])
@on_the_loop
async def test_a_batch_waits_for_a_server_that_is_restarted(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with scripted(lambda *_: Reply(hang_up=True)) as server, connected(server, concurrency=8) as endpoint:
        if fault == "refused":
            await server.kill()
        calls = crowd(endpoint, 40)
        await asyncio.sleep(0.5)
        assert not any(call.done() for call in calls)
        assert endpoint.waiting_since is not None
        assert 0.3 < waiting()[endpoint.base_url] < 0.7
        server.answer = lambda *_: DONE
        if fault == "refused":
            await server.start()
        assert await asyncio.gather(*calls) == ["done"] * 40
    opened, closed = [message for message in caplog.messages if "breaker" in message]
    assert "failed 5 times in a row" in opened
    assert "answers again after 0." in closed
    assert server.url in opened
    assert server.url in closed


@on_the_loop
async def test_no_call_waits_interactively_for_a_server_that_never_answered() -> None:
    """The port may be wrong; the error does not mention a patience that was never set."""
    async with scripted(lambda *_: DONE) as server, connected(server) as endpoint:
        await server.kill()
        started = time.monotonic()
        with pytest.raises(EndpointError, match="is the server up"):
            await ask(endpoint, concurrency=INTERACTIVE)
        assert 0.5 < seconds_since(started) < 2, "two retries, with their back-off"
        for _ in range(3):  # the breaker opens
            with pytest.raises(EndpointError) as caught:
                await ask(endpoint, concurrency=INTERACTIVE)
        assert "has never answered, so calls do not wait for it; the last fault:" in str(caught.value)


@on_the_loop
async def test_calls_wait_for_a_server_that_answered_before() -> None:
    async with scripted(lambda *_: DONE) as server, connected(server, retries=0) as endpoint:
        await heard(endpoint, server)
        await server.kill()
        call = asyncio.create_task(ask(endpoint, concurrency=INTERACTIVE))
        await asyncio.sleep(0.3)
        await server.start()
        assert await call == "done"


@on_the_loop
async def test_no_patience_is_none() -> None:
    """An explicit 0: calls fail after their retries, and fresh ones at once while the breaker is open."""
    async with scripted(lambda *_: AWAY) as server, connected(server, retries=1, patience=0) as endpoint:
        endpoint.breaker.first_trial = 2.0
        started = time.monotonic()
        failed = await asyncio.gather(*crowd(endpoint, 8), return_exceptions=True)
        assert all(isinstance(error, EndpointError) and "502 Bad Gateway" in str(error) for error in failed)
        assert seconds_since(started) < 1
        asked, started = len(server.requests), time.monotonic()
        with pytest.raises(EndpointError, match=r"unavailable .*patience=0.*502 Bad Gateway"):
            await ask(endpoint)
        assert seconds_since(started) < 0.1
        assert len(server.requests) == asked == 8


@on_the_loop
async def test_retries_are_worth_something_while_the_breaker_is_open() -> None:
    async with scripted(away_for(0.3)) as server, connected(server, patience=0) as endpoint:
        assert await asyncio.gather(*crowd(endpoint, 64)) == ["done"] * 64


@on_the_loop
async def test_patience_counts_from_the_beginning_of_an_outage() -> None:
    async with scripted(lambda *_: AWAY) as server, connected(server, retries=0, patience=0.8) as endpoint:
        calls = crowd(endpoint, 8)
        await until(lambda: endpoint.breaker.is_open)
        started = time.monotonic()
        await asyncio.sleep(0.6)
        calls.append(asyncio.create_task(ask(endpoint)))
        failed = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, EndpointError) for error in failed)
        assert 0.7 < seconds_since(started) < 1.3, "who came late did not wait as long again"
        started = time.monotonic()
        with pytest.raises(EndpointError):
            await ask(endpoint)
        assert seconds_since(started) < 0.1
        server.answer = lambda *_: DONE
        answers: list[str] = []
        while not answers:  # now and then one tries, patience or not
            with suppress(EndpointError):
                answers.append(await ask(endpoint))
            await asyncio.sleep(0.02)


@on_the_loop
async def test_all_go_on_as_soon_as_one_is_answered() -> None:
    """One at a time tries, and the older requests go first."""
    async with scripted(lambda *_: AWAY) as server, connected(server, concurrency=16) as endpoint:
        calls = crowd(endpoint, 16)
        await until(lambda: endpoint.breaker.is_open)
        late = crowd(endpoint, 16)
        await until(lambda: len(server.requests) == 19)
        trials = [0, *(later - server.times[16] for later in server.times[17:])]
        assert trials == pytest.approx([0, 0.1, 0.3], abs=0.08)
        server.answer = lambda *_: DONE
        await asyncio.gather(*calls, *late)
        assert [int(one["prompt"]) for one in server.requests[16:20]] == [0, 1, 2, 3], "each of them once"
        assert [int(one["prompt"]) for one in server.requests[20:]] == [0, 1, 2, *range(4, 16), *range(16)]
        assert server.times[-1] - server.times[20] < 0.5


@on_the_loop
async def test_more_try_while_a_trial_is_at_work() -> None:
    """Who is back and writes a long answer is not waited for by everybody."""

    enough = asyncio.Event()

    async def slowly(*_: Any) -> Reply:
        await enough.wait()
        return DONE

    async with scripted(lambda *_: AWAY) as server, connected(server) as endpoint:
        calls = crowd(endpoint, 8)
        await until(lambda: endpoint.breaker.is_open)
        server.answer = slowly
        await until(lambda: len(server.requests) == 16)
        assert endpoint.breaker.is_open, "1, 1, 2 and 4 of them, after 0.4 s"
        enough.set()
        await asyncio.gather(*calls)


@on_the_loop
async def test_a_poisoned_request_fails_alone() -> None:
    """A server that fails at one prompt and is at work on the others: retries are for that, and no breaker opens."""

    async def answer(_: Scripted, body: dict[str, Any]) -> Reply:
        if body["prompt"] == "3":
            return BROKEN
        await asyncio.sleep(0.7)
        return DONE

    async with scripted(answer) as server, connected(server, retries=1) as endpoint:
        endpoint.breaker.limit = 2
        started = time.monotonic()
        calls = crowd(endpoint, 16)
        with pytest.raises(EndpointError, match="HTTP 500: broken"):
            await calls[3]
        assert seconds_since(started) < 1.2
        assert [one["prompt"] for one in server.requests].count("3") == 2
        assert not endpoint.breaker.is_open
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(one == "done" for one in done) == 15
        assert len(server.requests) == 17


@pytest.mark.parametrize("reply", [Reply(504), Reply(hang_up=True)])
@on_the_loop
async def test_a_fault_of_a_single_request_is_not_an_outage(reply: Reply, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that gives up on one long answer, or a server that breaks off, and all others are answered."""
    monkeypatch.setattr("rsd_integrations.openai_compatible.sending.LONG_ATTEMPT", 0.1)

    async def answer(_: Scripted, body: dict[str, Any]) -> Reply:
        if body["prompt"] != "long":
            return DONE
        await asyncio.sleep(0.2)
        return reply

    async with scripted(answer) as server, connected(server, retries=0) as endpoint:
        call = asyncio.create_task(ask(endpoint, "long"))
        while not call.done():
            await ask(endpoint)
            await asyncio.sleep(0.02)
        with pytest.raises(EndpointError, match=r"HTTP 504|is the server up"):
            await call
        asked = [one["prompt"] for one in server.requests].count("long")
        assert 2 <= asked <= 4, "the first may have been an outage, and a kept connection may have been stale"


@on_the_loop
async def test_a_poisoned_request_leaves_the_next_trial_to_others() -> None:
    async with scripted(lambda *_: AWAY) as server, connected(server, retries=0) as endpoint:
        calls = crowd(endpoint, 6)
        await until(lambda: endpoint.breaker.is_open)
        server.answer = lambda _, body: BROKEN if body["prompt"] == "0" else DONE
        failed, *done = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(failed, EndpointError)
        assert done == ["done"] * 5
        assert [one["prompt"] for one in server.requests[6:8]] == ["0", "1"]


@on_the_loop
async def test_a_server_that_fails_at_everything_is_waited_for() -> None:
    """A gateway that reports an outage as 500: a fault of all requests is not a fault of one."""
    async with scripted(away_for(0.5, BROKEN)) as server, connected(server, retries=1) as endpoint:
        assert await asyncio.gather(*crowd(endpoint, 32)) == ["done"] * 32


@on_the_loop
async def test_answers_from_before_an_outage_do_not_end_it() -> None:
    """A server that shuts down refuses what is new and finishes what it has."""

    async def answer(_: Scripted, body: dict[str, Any]) -> Reply:
        if body["prompt"] != "begun before":
            return AWAY
        await asyncio.sleep(0.15)
        return DONE

    async with scripted(answer) as server, connected(server, retries=0, patience=0.4) as endpoint:
        before = asyncio.create_task(ask(endpoint, "begun before"))
        await asyncio.sleep(0.05)
        calls = crowd(endpoint, 8)
        assert await before == "done"
        assert endpoint.breaker.is_open
        await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("told", ["seconds", "date"])
@on_the_loop
async def test_retry_after_is_obeyed_within_the_patience(status: int, told: str) -> None:
    def later(seconds: float) -> Reply:
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
        return Reply(status, {"error": "slow down"}, f"Retry-After: {seconds if told == 'seconds' else date}\r\n")

    def once(server: Scripted, _: Any) -> Reply:
        return later(0.6 if told == "seconds" else 1.6) if len(server.requests) == 1 else DONE

    async with scripted(once) as server, connected(server, retries=0) as endpoint:
        assert await ask(endpoint, concurrency=INTERACTIVE) == "done"
        assert 0.5 < server.times[1] - server.times[0] < 1.8, "dates are in whole seconds"
        server.answer = lambda *_: later(3600)
        for impatient in (None, 1.0, 0):
            endpoint.patience, started = impatient, time.monotonic()
            with pytest.raises(EndpointError, match=f"HTTP {status}: slow down"):
                await ask(endpoint)
            assert seconds_since(started) < 0.1
        assert len(server.requests) == 5, "none of them was asked again"
        assert not endpoint.breaker.is_open


@on_the_loop
async def test_a_time_of_0_again_and_again_is_backed_off_from() -> None:
    busy = Reply(429, {"error": "busy"}, "Retry-After: 0\r\n")
    async with scripted(lambda *_: busy) as server, connected(server, retries=0, patience=1) as endpoint:
        with pytest.raises(EndpointError, match="busy"):
            await ask(endpoint)
        assert 3 <= len(server.requests) <= 4


@on_the_loop
async def test_back_pressure_of_a_server_holds_for_all() -> None:
    """If no request is let in, the others wait as asked, and one of them probes."""
    busy = away_for(0.4, Reply(429, {"error": "slow down"}, "Retry-After: 0.5\r\n"))
    async with scripted(busy) as server, connected(server, retries=0, concurrency=8) as endpoint:
        calls = crowd(endpoint, 40)
        await asyncio.sleep(0.4)
        refused = len(server.requests)
        assert 8 <= refused < 16, "places are free until five were refused"
        assert await asyncio.gather(*calls) == ["done"] * 40
        assert len(server.requests) == refused + 40


@pytest.mark.parametrize("reply", [Reply(429, {"error": "slow down"}), Reply(529, {"error": "overloaded"})])
@on_the_loop
async def test_back_pressure_uses_up_no_retries_and_opens_no_breaker(reply: Reply) -> None:
    def each_once(server: Scripted, body: dict[str, Any]) -> Reply:
        return reply if server.requests.count(body) < 2 else DONE

    async with scripted(each_once) as server, connected(server, retries=0) as endpoint:
        calls = crowd(endpoint, 8)
        await asyncio.sleep(0.1)
        assert len(server.requests) == 8
        assert not endpoint.breaker.is_open
        assert await asyncio.gather(*calls) == ["done"] * 8


@on_the_loop
async def test_a_refusal_shows_that_a_server_is_well() -> None:
    refusal = Reply(404, {"error": "no such model"})
    async with scripted(lambda *_: refusal) as server, connected(server, retries=0) as endpoint:
        for number in range(endpoint.breaker.limit - 1):
            endpoint.breaker.failed(EndpointError("a fault"), number)
        with pytest.raises(Refused):
            await ask(endpoint)
        endpoint.breaker.failed(EndpointError("another one, and none in a row"), 99)
        assert not endpoint.breaker.is_open


@on_the_loop
async def test_who_is_cancelled_waits_no_longer_and_leaves_its_turn_to_others() -> None:
    answered = asyncio.Event()

    async def never(*_: Any) -> Reply:
        await answered.wait()
        return DONE

    async with scripted(lambda *_: AWAY) as server, connected(server) as endpoint:
        calls = crowd(endpoint, 8)
        await until(lambda: endpoint.breaker.is_open)
        server.answer = never
        calls[5].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[5]
        await until(lambda: len(server.requests) > 8)
        calls[0].cancel()  # which tries
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
        server.answer = lambda *_: DONE
        answered.set()
        others = [call for i, call in enumerate(calls) if i not in (0, 5)]
        assert await asyncio.gather(*others) == ["done"] * 6
        assert endpoint.waiting_since is None


@on_the_loop
async def test_closing_an_endpoint_waits_for_no_call() -> None:
    async with scripted(lambda *_: AWAY) as server, connected(server) as endpoint:
        calls = crowd(endpoint, 8)
        await until(lambda: endpoint.breaker.is_open)
        started = time.monotonic()
        await endpoint.aclose()
        failed = await asyncio.gather(*calls, return_exceptions=True)
        assert all("was closed" in str(error) for error in failed)
        assert seconds_since(started) < 0.2


@on_the_loop
async def test_a_deadline_ends_the_wait() -> None:
    async with scripted(lambda *_: AWAY) as server, connected(server) as endpoint:
        target = OpenAIGenerator(endpoint, profile="vllm", mode="completions")
        decoder = RewardGuidedDecoder(
            drafter=ScriptedDrafter(["A step.\n\n"]),
            verifier=ScriptedVerifier([0.1]),
            target=target,
            settings=Settings(limits=Limits(max_seconds=0.4)),
        )
        started = time.monotonic()
        (result,) = await decoder.arun_many(["a question"])
        assert result.finish_reason == "max_seconds"
        assert not result.degradations
        assert 0.3 < seconds_since(started) < 0.8


@pytest.mark.parametrize("streamed", [False, True])
@on_the_loop
async def test_a_web_page_is_not_an_answer(streamed: bool) -> None:
    """Without an API before, the URL is wrong, and there is no retry; later, it is a gateway whose server is down."""
    page = Reply(200, "<!DOCTYPE html>\n<html><head><title>Sign in\n here</title></head></html>")

    async def send(endpoint: Endpoint) -> Any:
        if not streamed:
            return await ask(endpoint)
        return await endpoint.stream("completions", {"prompt": ""}, Unread)

    async with scripted(lambda *_: page) as server, connected(server) as endpoint:
        with pytest.raises(Refused, match=r"web page: .*Remedy: check the base URL"):
            await send(endpoint)
        assert len(server.requests) == 1
        await heard(endpoint, server)
        server.answer = away_for(0.2, page)
        assert await asyncio.gather(*crowd(endpoint, 8)) == ["done"] * 8


@on_the_loop
async def test_a_web_page_in_place_of_a_list_of_models_is_reported_as_one() -> None:
    """And not as what an unknown server cannot do."""
    async with scripted(lambda *_: Reply(200, "<html><title>Welcome</title></html>")) as server:
        model = OpenAIGenerator(Endpoint("m", server.url))
        with pytest.raises(Refused, match="web page: Welcome"):
            await model.generate(Path(as_prompt("hello")), StepRequest((0,), 8, "\n\n"))
        await model.aclose()


def test_back_off_grows_and_is_jittered() -> None:
    assert len({backoff(1) for _ in range(20)}) > 10
    for attempt in range(1, 12):
        assert min(0.5 * 2 ** (attempt - 1), 8) / 2 <= backoff(attempt) <= min(0.5 * 2 ** (attempt - 1), 8)


@on_the_loop
async def test_pauses_between_trials_grow_to_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("rsd_integrations.openai_compatible.breaker.time.monotonic", lambda: clock[0])
    breaker, tried = Breaker("a server", faults=3), []
    for request in range(3):
        assert not breaker.is_open
        breaker.failed(EndpointError("it broke"), request)
    for _ in range(170):
        clock[0] = round(clock[0] + 0.1, 1)
        with suppress(TimeoutError):
            assert await breaker.turn(1, 0, 0.0)  # at once, or never
            breaker.failed(EndpointError("still"), 1, trial=True)
            breaker.tried()
            tried.append(round(clock[0] - 100, 1))
    assert tried == [0.5, 1.0, 2.0, 4.0, 7.0, 10.0, 13.0, 16.0]
