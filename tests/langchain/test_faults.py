"""Faults inside LangChain models and functions: nothing hangs, no paid work is lost, nothing continues."""

import asyncio
import logging
import math
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import httpx
import openai
import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import StructuredOutputValidationError, ToolStrategy
from langchain_core.language_models import LLM, BaseChatModel
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel

from rsd_core import (
    BatchError,
    Cancellation,
    DrafterError,
    Path,
    RewardGuidedDecoder,
    RoleWarning,
    RunError,
    Settings,
    Step,
    StepRequest,
    TargetError,
    Usage,
    VerifierError,
    as_prompt,
)
from rsd_core.blocking import wait_for
from rsd_core.model import Interrupted, usage_of
from rsd_integrations.langchain import (
    RSDLLM,
    ChatRSD,
    FunctionVerifier,
    LangChainDrafter,
    LangChainJudge,
    LangChainTarget,
    RSDMiddleware,
    RSDRunnable,
    result_of,
)
from tests.langchain.fakes import Inner, always, good

PATH = Path(as_prompt("q"))
TURN = Settings(granularity="turn", target_retries=0)


def paid(message: str, **metadata: Any) -> AIMessage:
    """A reply for which a provider takes the price of 10 tokens in and 4 out."""
    usage = UsageMetadata(input_tokens=10, output_tokens=4, total_tokens=14)
    return AIMessage(message, usage_metadata=usage, response_metadata=metadata)


class Replying(Inner):
    """Gives its answer as it is, metadata included."""

    def _made(self, messages: list[BaseMessage], stop: Any, kwargs: dict[str, Any]) -> Any:
        answer = self.answer(messages, kwargs)
        if isinstance(answer, BaseException):
            raise answer
        return [ChatGenerationChunk(message=AIMessageChunk(**answer.model_dump(exclude={"type"})))]


def replying(*answers: Any, **options: Any) -> Replying:
    """A model that gives one answer after the other, the last one for ever."""
    rest = list(answers)
    return Replying(answer=lambda *_: rest.pop(0) if len(rest) > 1 else rest[0], **options)


# What is paid


@pytest.mark.parametrize("on_loop", [wait_for, asyncio.run], ids=["blocking", "native"])
def test_a_judges_reply_without_a_score_is_paid(on_loop: Callable[[Any], Any]) -> None:
    judge = LangChainJudge(replying(paid("Score: 9"), paid("who knows"), paid("Score: 3")))
    scores = on_loop(judge.score(PATH, [Step("one", "end")] * 3))
    assert sorted(scores.rewards, key=str) == [3 / 9, 1.0, None]
    assert (scores.usage.prefix, scores.usage.generated) == (30, 12)
    decoder = RewardGuidedDecoder(
        drafter=LangChainDrafter(always("one")),
        verifier=LangChainJudge(replying(paid("who knows"))),
        target=LangChainTarget(always("fine")),
        settings=TURN,
    )
    account = decoder.run("q").ledger.verifier
    assert (account.calls, account.computed, account.generated) == (1, 14, 4)
    assert (account.failed, account.abstained) == (0, 1)


def test_a_judge_that_never_gives_a_score_is_warned_of_once() -> None:
    judge = LangChainJudge(always("I would rather not say"))
    with pytest.warns(RoleWarning, match="gave no score in any of its first 8 replies") as told:
        scores = wait_for(judge.score(PATH, [Step("one", "end")] * 12))
    assert scores.rewards == (None,) * 12
    assert len(told) == 1
    once = LangChainJudge(replying(paid("Score: 8"), paid("who knows")))
    for _ in range(12):
        wait_for(once.score(PATH, [Step("one", "end")]))


@pytest.mark.parametrize("failure", [ConnectionError("gone"), paid("", finish_reason="error")], ids=["call", "reply"])
@pytest.mark.parametrize("on_loop", [wait_for, asyncio.run], ids=["blocking", "native"])
def test_a_failed_candidate_leaves_the_others_charged(failure: Any, on_loop: Callable[[Any], Any]) -> None:
    lock = threading.Lock()
    seeds: list[int] = []

    def answer(_: Any, options: dict[str, Any]) -> Any:
        with lock:
            seeds.append(options["seed"])
        if options["seed"] == 3:
            time.sleep(0.1)  # until the others have answered
            return failure
        return paid("fine")

    drafter = LangChainDrafter(Replying(answer=answer), sends=["seed"])
    with pytest.raises((ConnectionError, RunError)) as caught:
        on_loop(drafter.generate(PATH, StepRequest(seeds=(1, 2, 3), delimiter=None)))
    usage = usage_of(caught.value)
    assert sorted(seeds) == [1, 2, 3]
    assert usage is not None
    assert usage.generated == (8 if isinstance(failure, Exception) else 12)


def test_a_reply_that_is_not_a_message_is_an_error_that_names_the_model_and_charges_what_was_read() -> None:
    drafter = LangChainDrafter(RunnableLambda(lambda _: b"bytes"), name="mine")
    with pytest.raises(RunError, match=r"mine answered with b'bytes', which is neither a message nor a text") as caught:
        wait_for(drafter.generate(Path(as_prompt("x" * 400)), StepRequest(seeds=(1,), delimiter=None)))
    assert caught.value.usage is not None
    assert caught.value.usage.computed == caught.value.usage.prefix == 101  # four characters each, the role's too


class Weather(BaseModel):
    """The weather."""

    rain: bool


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_draft_that_the_agent_cannot_parse_is_paid(asynchronous: bool) -> None:
    def answer(rain: str) -> AIMessage:
        return AIMessage("", tool_calls=[{"name": "Weather", "args": {"rain": rain}, "id": "c"}])

    rsd = RSDMiddleware(draft=always(answer("perhaps")), verifier=good)
    form = ToolStrategy(Weather, handle_errors=False)
    agent: Any = create_agent(always(answer("true")), [], middleware=[rsd], response_format=form)
    question: Any = {"messages": [HumanMessage("q")]}
    state = asyncio.run(agent.ainvoke(question)) if asynchronous else agent.invoke(question)
    assert state["structured_response"] == Weather(rain=True)
    assert state["rsd"][0]["usage"]["input_tokens"] == 20  # ten of the draft, ten of the target
    assert "Failed to parse structured output" in state["rsd"][0]["degradations"][0]
    broken: Any = create_agent(always(answer("perhaps")), [], middleware=[rsd], response_format=form)
    with pytest.raises(StructuredOutputValidationError) as caught:
        broken.invoke(question)
    usage = usage_of(caught.value)
    assert usage is not None
    assert usage.prefix == 10


# What cannot be cut, and what can


class Slow(BaseChatModel):
    """Answers late, and has no asynchronous methods of its own."""

    answer: str = "late"

    @property
    def _llm_type(self) -> str:
        return "slow"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        time.sleep(0.3)
        return ChatResult(generations=[ChatGeneration(message=paid(self.answer))])


class SlowText(LLM):
    """The most common custom LLM: one blocking method."""

    @property
    def _llm_type(self) -> str:
        return "slow"

    def _call(self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> str:
        time.sleep(0.3)
        return "late" * 4


def slow_models() -> list[Any]:
    return [
        Slow(),
        Slow().with_fallbacks([always("spare")]),
        Slow() | RunnableLambda(lambda message: message),
        SlowText(),
    ]


@pytest.mark.parametrize("n", range(4), ids=["chat model", "fallbacks", "chain", "LLM"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_blocking_model_is_waited_for_and_its_late_reply_is_charged(n: int, asynchronous: bool) -> None:
    model = ChatRSD(draft=slow_models()[n], target=always("t"), verifier=good, timeout=0.05)
    before = threading.active_count()
    started = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        asyncio.run(model.ainvoke("q")) if asynchronous else model.invoke("q")
    assert time.monotonic() - started >= 0.3
    result: Any = cast("RunError", caught.value).partial
    assert (result.finish_reason, result.text) == ("max_seconds", "")
    assert result.ledger.drafter.calls == 1
    assert result.ledger.drafter.generated == (5 if n == 3 else 4)  # an estimate where nothing is told
    assert threading.active_count() <= before + 1  # the background loop's own may have begun


def test_an_asynchronous_model_is_cut_at_once() -> None:
    ended = []

    class Native(Inner):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            try:
                await asyncio.sleep(30)
            finally:
                ended.append(True)

    model = ChatRSD(draft=Native(answer=None), target=always("t"), verifier=good, timeout=0.05)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(model.ainvoke("q"))
    assert time.monotonic() - started < 5
    assert ended == [True]


def test_a_caller_that_leaves_waits_for_blocking_calls_and_their_work_is_on_the_ledger() -> None:
    judge = LangChainJudge(Slow(answer="Score: 9"))

    async def leave() -> Usage:
        call = asyncio.ensure_future(judge.score(PATH, [Step("one", "end")] * 3))
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(Interrupted) as caught:
            await call
        return caught.value.usage

    usage = asyncio.run(leave())
    assert (usage.prefix, usage.generated) == (30, 12)


@pytest.mark.parametrize("kind", [ChatRSD, RSDRunnable])
def test_a_cancelled_batch_leaves_no_call_behind(kind: Any) -> None:
    running = 0

    class Native(Inner):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal running
            running += 1
            try:
                await asyncio.sleep(30)
            finally:
                await asyncio.sleep(0.05)  # cleaning up takes a moment
                running -= 1

    model = kind(draft=Native(answer=None), target=always("t"), verifier=good)

    async def leave() -> int:
        batch = asyncio.ensure_future(model.abatch(["a", "b", "c"]))
        await asyncio.sleep(0.2)
        assert running == 3
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
        return running

    assert asyncio.run(leave()) == 0


def test_a_cancelled_request_waits_for_a_verifier_function() -> None:
    ended: list[bool] = []

    def verifier(_: Any, reply: AIMessage) -> float:
        time.sleep(0.2)
        ended.append(True)
        return 1.0

    button = Cancellation()
    threading.Timer(0.1, button.cancel).start()
    decoder = RewardGuidedDecoder(
        drafter=LangChainDrafter(always("one")),
        verifier=FunctionVerifier(verifier),
        target=LangChainTarget(always("t")),
        settings=TURN,
    )
    result = decoder.run("q", cancel=button)
    assert (result.finish_reason, ended) == ("cancelled", [True])


# Exits, and rewards that are none


class Leaving(Slow):
    """Raises what no model should."""

    raises: Any

    def _generate(self, *_: Any, **__: Any) -> Any:
        raise self.raises


EXITS = [SystemExit(3), KeyboardInterrupt(), StopIteration()]


def ask_in_time(model: Any, asynchronous: bool = False) -> Any:
    """The answer of a model, or its error."""
    return finished_in_time(lambda: asyncio.run(model.ainvoke("q")) if asynchronous else model.invoke("q"))


def finished_in_time(work: Callable[[], Any]) -> Any:
    """The result of work that must not hang."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert results, "it hangs"
    return results[0]


@pytest.mark.parametrize("exit_", EXITS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("trace_inner", [False, True])
@pytest.mark.parametrize("limits", [{}, {"timeout": 10.0}], ids=["no limit", "timeout"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_exit_inside_a_model_is_a_clear_error(
    exit_: BaseException, trace_inner: bool, limits: dict[str, float], asynchronous: bool
) -> None:
    leaving = Leaving(raises=exit_)
    models: dict[str, Any] = {"draft": always("BAD"), "target": always("fine"), "verifier": good}

    def ask(**roles: Any) -> Any:
        model = ChatRSD(**(models | roles), max_retries=0, trace_inner=trace_inner, **limits)
        return ask_in_time(model, asynchronous)

    name = type(exit_).__name__
    error = ask(target=leaving)
    assert isinstance(error, TargetError)
    assert name in str(error)
    for role, kind in (("draft", "drafter_error"), ("verifier", "verifier_error")):
        (degradation,) = result_of(ask(**{role: leaving})).degradations
        assert degradation.kind == kind
        assert name in degradation.message
    assert ask().text == "fine"  # the background loop is alive


@pytest.mark.parametrize("exit_", [SystemExit(3), KeyboardInterrupt()], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_exit_inside_a_function_is_a_clear_error(exit_: BaseException, asynchronous: bool) -> None:
    def blocking(*_: Any) -> float:
        raise exit_

    async def native(*_: Any) -> float:
        raise exit_

    settings = Settings(on_verifier_error="raise")
    for function in (blocking, native):
        model = ChatRSD(draft=always("x"), target=always("y"), verifier=function, settings=settings)
        error = ask_in_time(model, asynchronous)
        assert isinstance(error, VerifierError)
        assert f"{function.__name__} raised {type(exit_).__name__}" in str(error)


def test_an_exit_behind_the_middleware_is_a_clear_error() -> None:
    agent: Any = create_agent(always("fine"), [], middleware=[RSDMiddleware(Leaving(raises=SystemExit(3)), good)])
    state = finished_in_time(lambda: agent.invoke({"messages": [HumanMessage("q")]}))
    assert state["messages"][-1].text == "fine"
    assert "SystemExit" in state["rsd"][0]["degradations"][0]


def test_a_fake_whose_messages_are_used_up_is_an_error_and_no_hang() -> None:
    model = ChatRSD(draft=GenericFakeChatModel(messages=iter([])), target=always("fine"), verifier=good)
    message = ask_in_time(model)
    assert message.text == "fine"
    assert "StopIteration" in result_of(message).degradations[0].message


def test_an_exit_on_the_callers_own_loop_ends_that_loop_and_no_other() -> None:
    # LangChain runs asynchronous methods as separate tasks, which hand an exit to the loop. Ctrl-C is one, too.
    class Native(Leaving):
        async def _agenerate(self, *_: Any, **__: Any) -> Any:
            raise self.raises

    for exit_ in (SystemExit(3), KeyboardInterrupt()):
        model = ChatRSD(draft=Native(raises=exit_), target=always("fine"), verifier=good)
        assert ask_in_time(model, asynchronous=True) is exit_
        assert ask_in_time(model).text == "fine"


@pytest.mark.parametrize("reward", ["yes", "0.9", b"1", math.nan, 1.5, -0.1, None, [1.0], 1j], ids=repr)
def test_a_function_that_gives_no_reward_is_named(reward: Any) -> None:
    def is_polite(messages: list[BaseMessage], reply: AIMessage) -> Any:
        return reward

    verifier = FunctionVerifier(is_polite)
    with pytest.raises(VerifierError, match=r"is_polite returned .*; it must return a number from 0 to 1") as caught:
        wait_for(verifier.score(PATH, [Step("one", "end")]))
    assert repr(reward) in str(caught.value)


def test_numbers_of_any_library_are_rewards() -> None:
    import numpy as np

    for reward, expected in ((True, 1.0), (0, 0.0), (np.float32(0.5), 0.5), (np.array([0.25]).mean(), 0.25)):
        scores = wait_for(FunctionVerifier(lambda *_, value=reward: value).score(PATH, [Step("one", "end")]))
        assert scores.rewards == (expected,)
        assert type(scores.rewards[0]) is float


# The provider's own errors


def limit_error() -> openai.RateLimitError:
    response: Any = httpx.Response(429, request=httpx.Request("POST", "http://127.0.0.1"), headers={"retry-after": "7"})
    return openai.RateLimitError("slow down", response=response, body=None)


class Recovering:
    """Fails twice, then answers."""

    def __init__(self, error: Exception) -> None:
        self.error, self.asked = error, 0

    def __call__(self, *_: Any) -> str | Exception:
        self.asked += 1
        return self.error if self.asked < 3 else "fine"


def adapter(kind: Any, target: Any) -> Any:
    if kind is not RSDLLM:
        return kind(draft=always("BAD"), target=target, verifier=good, max_retries=0)
    decoder = RewardGuidedDecoder(
        drafter=LangChainDrafter(always("BAD")),
        verifier=FunctionVerifier(good),
        target=LangChainTarget(target),
        settings=TURN,
    )
    return RSDLLM(decoder=decoder)


def text(answer: Any) -> str:
    return str(getattr(answer, "text", answer))


@pytest.mark.parametrize("kind", [ChatRSD, RSDRunnable, RSDLLM])
@pytest.mark.parametrize("error", [limit_error(), ConnectionError("down"), KeyError("choices")], ids=repr)
def test_retries_and_fallbacks_match_the_providers_own_type(kind: Any, error: Exception) -> None:
    wanted = type(error)
    options: Any = {"retry_if_exception_type": (wanted,), "wait_exponential_jitter": False, "stop_after_attempt": 3}
    asks: list[Callable[[Any], Any]] = [
        lambda model: model.invoke("q"),
        lambda model: asyncio.run(model.ainvoke("q")),
        lambda model: model.batch(["q"])[0],
        lambda model: asyncio.run(model.abatch(["q"]))[0],
    ]
    for ask in asks:
        target = Recovering(error)
        assert text(ask(adapter(kind, Inner(answer=target)).with_retry(**options))) == "fine"
        assert target.asked == 3
        spare: Any = RunnableLambda(lambda _: "spare")
        model = adapter(kind, always(error))
        assert text(ask(model.with_fallbacks([spare], exceptions_to_handle=(wanted,)))) == "spare"
        with pytest.raises((TargetError, BatchError)):
            ask(model.with_fallbacks([spare], exceptions_to_handle=(ZeroDivisionError,)))
    with pytest.raises(wanted):
        list(model.stream("q"))


def test_a_joined_error_has_what_both_have_and_pickles_as_ours() -> None:
    original = limit_error()
    with pytest.raises(openai.RateLimitError) as caught:
        adapter(ChatRSD, always(original)).invoke("q")
    error: Any = caught.value
    assert TargetError in type(error).__mro__
    assert str(error) == "the target 'inner' failed once at step 0: slow down"
    assert error.__cause__ is original
    assert error.partial.ledger.drafter.calls == 1
    assert error.response.headers["retry-after"] == "7"
    assert error.status_code == 429
    again: Any = pickle.loads(pickle.dumps(error))
    assert [type(again)] == [TargetError]
    assert (str(again), again.partial.finish_reason) == (str(error), "error")


def test_where_both_errors_have_an_attribute_it_is_ours() -> None:
    class TheirError(Exception):
        partial = usage = "theirs"

    original = TheirError("no")
    original.partial = original.usage = "theirs"
    with pytest.raises(TheirError) as caught:
        adapter(ChatRSD, always(original)).invoke("q")
    error: Any = caught.value
    assert error.partial.finish_reason == "error"
    assert error.usage is None
    assert original.usage == "theirs"


def test_an_error_that_no_provider_caused_is_as_it_was() -> None:
    reply = paid("", finish_reason="error")
    with pytest.raises(TargetError, match="the model gave up") as caught:
        adapter(ChatRSD, replying(reply)).invoke("q")
    assert [type(caught.value)] == [TargetError]
    assert not isinstance(caught.value, DrafterError)


# Nothing is silent


@pytest.mark.parametrize("kind", [ChatRSD, RSDRunnable, RSDLLM])
def test_a_drafter_that_never_works_is_reported_once_over_all_calls(kind: Any) -> None:
    broken = always(ConnectionError("401"))
    options: dict[str, Any] = {"draft": broken, "target": always("fine"), "verifier": good}
    if kind is RSDLLM:  # a text model's prompt reaches chat models as well
        options["granularity"] = "turn"
    model = kind(**options)
    for _ in range(7):
        model.invoke("q")
    with pytest.warns(RoleWarning, match="the drafter has failed at its first 8 calls: 401"):
        model.model_copy(update={"seed": 1}).invoke("q")
    for _ in range(9):
        model.invoke("q")  # another warning would be an error here


def test_an_agents_draft_that_never_works_is_reported_once_over_all_turns() -> None:
    rsd = RSDMiddleware(always(ConnectionError("401")), good)
    agent: Any = create_agent(always("fine"), [], middleware=[rsd])
    question: Any = {"messages": [HumanMessage("q")]}
    for _ in range(7):
        agent.invoke(question)
    with pytest.warns(RoleWarning, match="the drafter has failed at its first 8 calls: 401"):
        agent.invoke(question)
    for _ in range(9):
        agent.invoke(question)


def test_what_is_paid_in_vain_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "rsd_integrations.langchain"):
        with pytest.raises(TimeoutError):
            ChatRSD(draft=Slow(), target=always("t"), verifier=good, timeout=0.05).invoke("q")
        LangChainDrafter(SlowText(), prefix="completion")
    late, beyond = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert late[0] == beyond[0] == "INFO"
    assert "the blocking call of Slow outlasted its request" in late[1]
    assert "SlowText cannot ask its server to keep stop strings" in beyond[1]
