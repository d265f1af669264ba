"""Whichever loops and threads ask at once, nothing is mixed up, asked twice or left behind."""

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rsd_core import (
    BinaryStep,
    ConfigurationError,
    Interrupted,
    Limits,
    Path,
    RewardGuidedDecoder,
    RunError,
    Settings,
    Step,
    StepRequest,
    Usage,
    as_prompt,
)
from rsd_core.blocking import background_loop, wait_for
from rsd_core.testing import ScriptedTarget, ScriptedVerifier
from rsd_integrations.openai_compatible import Endpoint, EndpointError, OpenAIGenerator
from rsd_integrations.openai_compatible.background import Once, on_background_loop
from rsd_integrations.prm_formats import FORMATS, bind
from tests.huggingface.reward_models import qwen
from tests.inprocess.test_reward_models import STEPS, extended, step
from tests.openai_compatible.server import Habits, wait_until
from tests.openai_compatible.test_reward_models import causal, in_a_run

Connect = Callable[..., OpenAIGenerator]
PLAIN = StepRequest((0,), max_tokens=60)
AHEAD = StepRequest((0,), max_tokens=60, ahead=8)
BODY = {"model": "draft", "prompt": "Count.", "max_tokens": 4, "temperature": 0}


def in_loops(calls: list[Callable[[], Coroutine[Any, Any, Any]]]) -> list[Any]:
    """The results of calls, each in its own loop and thread, all begun at once."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        barrier.wait()
        return asyncio.run(call())

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def working() -> set[str]:
    """What the background loop is at, clients' keep-alive aside."""

    async def tasks() -> set[str]:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        return {str(task.get_coro()) for task in others}

    return wait_for(tasks())


def test_a_server_is_asked_once_by_all_loops(vllm: Habits, connect: Connect, questions: list[str]) -> None:
    model = connect(vllm)
    paths = [Path(as_prompt(question)) for question in questions[:2]] * 3
    steps = in_loops([lambda path=path: model.generate(path, PLAIN) for path in paths])  # type: ignore[misc]
    assert [one.steps for one in steps] == [wait_for(model.generate(path, PLAIN)).steps for path in paths]
    assert vllm.listings == 1


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize("kind", ["generic", "ollama"])
def test_the_way_answers_are_continued_is_tried_once_by_all_loops(
    servers: dict[str, Habits], connect: Connect, questions: list[str], kind: str
) -> None:
    server = servers[kind]
    model, path = connect(server, **({"tokenizer": None} if kind == "ollama" else {})), Path(as_prompt(questions[0]))
    steps = in_loops([lambda: model.generate(path, PLAIN)] * 4)
    assert len({one.steps for one in steps}) == 1
    assert len(server.requests) == 4 + (6 if kind == "ollama" else 1)


def test_loops_that_share_a_path_get_the_same_steps_from_streams(
    vllm: Habits, connect: Connect, questions: list[str]
) -> None:
    """One stream has one next step: who asks for it as well gets a stream of his own."""
    vllm.pace = 0.01
    model, path = connect(vllm), Path(as_prompt(questions[0]))
    wanted, plain = list[Step](), Path(as_prompt(questions[0]))
    for _ in range(3):
        wanted += wait_for(model.generate(plain, PLAIN)).steps
        plain = plain.extend(wanted[-1])
    for step_ in wanted:
        for found in in_loops([lambda path=path: model.generate(path, AHEAD)] * 3):  # type: ignore[misc]
            assert found.steps[0] == step_
            last = found.steps[0]
        path = path.extend(last)
    wait_for(model.aclose())
    assert wait_until(lambda: vllm.inside == 0)


def test_requests_of_several_loops_keep_their_streams_apart(
    vllm: Habits, connect: Connect, questions: list[str]
) -> None:
    def decoder(lookahead: int) -> RewardGuidedDecoder:
        return RewardGuidedDecoder(
            drafter=model,
            verifier=ScriptedVerifier([0.9, 0.1, 0.9], delay=0.005),
            target=ScriptedTarget(["So be it.\n\n"]),
            policy=BinaryStep(delta=0.5),
            settings=Settings(limits=Limits(max_steps=6), lookahead=lookahead),
        )

    model = connect(vllm)
    wanted = [decoder(0).run(question).steps for question in questions[:4]]
    results = in_loops([lambda question=question: decoder(3).arun(question) for question in questions[:4]])  # type: ignore[misc]
    assert [result.steps for result in results] == wanted
    assert not any(result.degradations for result in results)


def test_a_reward_model_scores_in_several_loops_and_is_explained_meanwhile() -> None:
    """Tokenizers are not made for several threads at once."""
    model = in_a_run(causal(False))
    paths = [extended(STEPS[:n]) for n in (0, 1, 2)] * 2
    alone = in_a_run(causal(False))
    wanted = [asyncio.run(alone.score(path, [step(STEPS[2])])).rewards for path in paths]
    explained = list[Any]()

    def explain() -> None:
        explained.extend(model.explain(extended(STEPS[:1]), step(f"So {n}.")) for n in range(40))

    thread = threading.Thread(target=explain)
    thread.start()
    scores = in_loops([lambda path=path: model.score(path, [step(STEPS[2])]) for path in paths])  # type: ignore[misc]
    thread.join()
    assert [one.rewards for one in scores] == wanted
    assert len(explained) == 40
    assert bind(FORMATS["qwen2.5-math-prm"], qwen(), "prm").format is model.reader.format


def test_who_is_cancelled_while_the_server_is_asked_cancels_nobody_else(
    vllm: Habits, connect: Connect, questions: list[str]
) -> None:
    model, path = connect(vllm, retries=5, timeout=5), Path(as_prompt(questions[0]))
    vllm.listing_fault = "hang"

    async def two() -> Any:
        first, second = (asyncio.ensure_future(model.generate(path, PLAIN)) for _ in range(2))
        await asyncio.to_thread(wait_until, lambda: vllm.listings == 1)
        first.cancel()
        await asyncio.wait([first])
        assert vllm.dropped == 0
        second.cancel()  # the last one
        await asyncio.wait([second])
        assert first.cancelled()
        assert second.cancelled()

    asyncio.run(two())
    assert not [work for work in working() if "learn" in work]
    assert wait_until(lambda: vllm.dropped == 1)
    vllm.listing_fault = None
    assert wait_for(model.generate(path, PLAIN)).steps


def test_closing_ends_what_is_under_way_and_says_so(vllm: Habits, connect: Connect, questions: list[str]) -> None:
    model, path = connect(vllm, timeout=5), Path(as_prompt(questions[0]))
    vllm.listing_fault = "hang"

    async def closed() -> None:
        call = asyncio.ensure_future(model.generate(path, PLAIN))
        await asyncio.to_thread(wait_until, lambda: vllm.listings == 1)
        await model.aclose()
        with pytest.raises(RunError, match="closed"):
            await call

    asyncio.run(closed())
    assert wait_until(lambda: vllm.dropped == 1)
    assert not [work for work in working() if "learn" in work]
    vllm.listing_fault = None
    assert wait_for(model.generate(path, PLAIN)).steps, "the next call opens new connections"


@pytest.mark.parametrize("request_", [PLAIN, AHEAD])
def test_closing_fails_requests_in_flight_at_once(
    vllm: Habits, connect: Connect, questions: list[str], request_: StepRequest
) -> None:
    model, path = connect(vllm, timeout=30, retries=5), Path(as_prompt(questions[0]))
    model.endpoint.breaker.limit = 1
    wait_for(model.generate(path, PLAIN))
    vllm.fault = lambda number: "hang"
    before = len(vllm.requests)

    async def closed() -> None:
        call = asyncio.ensure_future(model.generate(path, request_))
        await asyncio.to_thread(wait_until, lambda: len(vllm.requests) > before)
        await model.aclose()
        with pytest.raises(RunError, match="closed"):
            await asyncio.wait_for(call, 2)

    asyncio.run(closed())
    assert wait_until(lambda: vllm.inside == 0)
    assert len(vllm.requests) == before + 1
    assert not model.endpoint.breaker.is_open


def test_closing_ends_a_pause_between_attempts(vllm: Habits, connect: Connect, questions: list[str]) -> None:
    model, path = connect(vllm, retries=9), Path(as_prompt(questions[0]))
    wait_for(model.generate(path, PLAIN))
    vllm.fault = lambda number: "http500"
    before = len(vllm.requests)

    async def closed() -> None:
        call = asyncio.ensure_future(model.generate(path, PLAIN))
        await asyncio.to_thread(wait_until, lambda: len(vllm.requests) > before)
        await asyncio.sleep(0.05)
        await model.aclose()
        with pytest.raises(EndpointError, match="was closed"):
            await asyncio.wait_for(call, 0.2)

    asyncio.run(closed())


def test_closing_waits_for_the_end_of_streams(vllm: Habits, connect: Connect, questions: list[str]) -> None:
    vllm.pace = 0.05
    model, path = connect(vllm), Path(as_prompt(questions[0]))
    wait_for(model.generate(path, StepRequest((0,), max_tokens=1, ahead=50)))
    assert any("_write_on" in work for work in working())
    wait_for(model.aclose())
    assert not any("_write_on" in work for work in working())
    assert wait_until(lambda: vllm.dropped == 1)


def test_a_step_that_is_cancelled_leaves_no_stream(vllm: Habits, connect: Connect, questions: list[str]) -> None:
    vllm.pace = 0.05
    model, path = connect(vllm), Path(as_prompt(questions[0]))
    wait_for(model.generate(path, PLAIN))

    async def cancelled() -> set[str]:
        call = asyncio.ensure_future(model.generate(path, AHEAD))
        await asyncio.sleep(0.3)
        call.cancel()
        await asyncio.wait([call])
        return working()

    assert not any("_write_on" in work for work in asyncio.run(cancelled()))


def test_candidates_that_are_cut_leave_nothing(vllm: Habits, connect: Connect, questions: list[str]) -> None:
    model, path = connect(vllm, retries=0), Path(as_prompt(questions[0]))
    wait_for(model.generate(path, PLAIN))
    first = len(vllm.requests)
    vllm.fault = lambda number: "http500" if number == first + 1 else "hang"
    with pytest.raises(EndpointError, match="HTTP 500"):
        asyncio.run(model.log_likelihoods(path, [Step("a", "end"), Step("b", "end"), Step("c", "end")]))
    assert not any("of_one" in work or "_send" in work for work in working())
    assert wait_until(lambda: vllm.dropped == 2)


def test_endless_cancelling_waits_for_the_end_all_the_same() -> None:
    """After a second cancellation the work is still reported, and nothing continues."""
    ended = threading.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            await asyncio.sleep(0.2)
            ended.set()
            raise Interrupted(Usage(computed=7)) from None

    async def cancelled() -> Usage:
        call = asyncio.ensure_future(on_background_loop(work()))
        await asyncio.sleep(0.05)
        for _ in range(3):
            call.cancel()
            await asyncio.sleep(0.02)
        with pytest.raises(Interrupted) as cut:
            await call
        assert ended.is_set()
        return cut.value.usage

    assert asyncio.run(cancelled()) == Usage(computed=7)


def test_a_call_that_ended_before_it_could_be_cancelled_is_charged() -> None:
    class Done:
        usage = Usage(computed=3)

    async def stubborn(fails: bool) -> Done:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            if fails:
                raise EndpointError("too late") from None
            return Done()
        raise AssertionError

    async def cancelled(fails: bool) -> None:
        call = asyncio.ensure_future(on_background_loop(stubborn(fails)))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError) as cut:
            await call
        assert getattr(cut.value, "usage", None) == (None if fails else Usage(computed=3))

    asyncio.run(cancelled(False))
    asyncio.run(cancelled(True))


def test_work_that_is_done_once() -> None:
    begun = list[int]()
    fails = True

    async def work() -> int:
        begun.append(len(begun))
        await asyncio.sleep(0.05)
        if fails:
            raise ConfigurationError("not yet")
        return begun[-1]

    async def go() -> None:
        nonlocal fails
        once = Once(work)
        results = await asyncio.gather(*(once.result() for _ in range(3)), return_exceptions=True)
        assert [str(result) for result in results] == ["not yet"] * 3
        fails = False
        assert list(await asyncio.gather(once.result(), once.result())) == [1, 1]
        assert await once.result() == 1
        await once.aclose()
        first, second = (asyncio.ensure_future(once.result()) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        assert await second == 2
        assert first.cancelled()
        assert await once.result() == 2

    asyncio.run(go())
    assert begun == [0, 1, 2]


def test_an_endpoint_that_nobody_holds_closes_its_connections(vllm: Habits) -> None:
    endpoint = Endpoint("draft", vllm.url)
    wait_for(endpoint.post("completions", BODY))
    connection = endpoint._connection
    assert connection is not None
    del endpoint
    gc.collect()
    assert wait_until(lambda: connection.client.is_closed)
    assert background_loop().is_running()
