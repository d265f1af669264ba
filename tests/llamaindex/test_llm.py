"""RSD as a LlamaIndex LLM, on scripted models: every face gives the same text, usage, trace and events."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import ThinkingBlock, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.llm import LLMChatStartEvent, LLMCompletionStartEvent
from llama_index.core.llms import ChatMessage, CompletionResponse, ImageBlock, MessageRole, TextBlock
from llama_index.core.llms.llm import LLM
from llama_index.core.rate_limiter import BaseRateLimiter

from rsd_core import (
    ConfigurationError,
    Constant,
    PromptError,
    RewardGuidedDecoder,
    RoleWarning,
    RunError,
    Settings,
    TargetOnly,
    catalogue,
)
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.llamaindex import RSDLLM, RSDStepEvent, result_of
from tests.llamaindex import worlds
from tests.llamaindex.worlds import ASYNC, FACES, TEXT, ask, llm, text
from tests.two_loops import in_two_loops


@pytest.fixture
def heard() -> Iterator[list[BaseEvent]]:
    """Every event of LlamaIndex's instrumentation."""
    events: list[BaseEvent] = []

    class Listener(BaseEventHandler):
        def handle(self, event: BaseEvent, **_: Any) -> None:
            events.append(event)

    root = get_dispatcher()
    before = list(root.event_handlers)
    root.add_event_handler(Listener())
    yield events
    root.event_handlers = before


@pytest.mark.parametrize("face", FACES)
async def test_every_face_gives_the_decoders_text_and_trace(face: str) -> None:
    responses = await ask(llm(), face)
    result = result_of(responses[-1])
    assert text(responses[-1]) == result.text == TEXT
    assert [step.author for step in result.steps] == ["draft", "target", "draft"]
    assert (result.steps[1].reward, result.steps[1].discarded_draft) == (0.1, "")
    assert "12-2=9" not in str(responses)  # nothing that reaches users tells a rejected text
    assert result.finish_reason == responses[-1].raw["finish_reason"] == "stop"


@pytest.mark.parametrize("face", FACES)
async def test_sampled_text_is_that_of_the_bare_decoder(face: str) -> None:
    def dice(path: Any, random: Any) -> str:
        return f"{random.random()}" + ("\n\n" if path.depth < 3 else "")

    decoder = RewardGuidedDecoder(
        drafter=ScriptedDrafter(dice),
        verifier=ScriptedVerifier([0.5]),
        target=ScriptedTarget(dice),
        policy=Constant(p=0.5),
    )
    responses = await ask(RSDLLM(decoder=decoder), face, seed=7)
    assert text(responses[-1]) == decoder.run("q", seed=7).text != decoder.run("q").text


@pytest.mark.parametrize("face", [face for face in FACES if "stream" in face])
async def test_a_stream_grows_by_accepted_step_and_ends_with_the_trace(face: str) -> None:
    responses = await ask(llm(), face)
    so_far = ""
    for response in responses:
        so_far += response.delta
        assert text(response) == so_far
    assert [response.raw is None for response in responses] == [True] * (len(responses) - 1) + [False]
    assert len([response for response in responses if response.delta]) == 3
    assert "12-2=9" not in so_far
    with pytest.raises(ValueError, match="the last one"):
        result_of(responses[0])


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("stop", ["12-2=10", "12.\n\nTwo", "\\boxed"])
async def test_stop_holds_across_steps(face: str, stop: str) -> None:
    for responses in (await ask(llm(), face, stop=[stop]), await ask(llm(stop=[stop]), face)):
        assert text(responses[-1]) == TEXT[: TEXT.index(stop)]
        assert "".join(response.delta or "" for response in responses) in ("", text(responses[-1]))
        assert result_of(responses[-1]).text == text(responses[-1])


async def test_a_calls_stop_replaces_the_models_own() -> None:
    model = llm(stop=["Two"])
    assert model.complete("q", stop=["\\boxed"]).text == TEXT[: TEXT.index("\\boxed")]
    assert model.complete("q", stop=None).text == TEXT[: TEXT.index("Two")]


@pytest.mark.parametrize("face", FACES)
async def test_tokens_are_counted_once_and_as_the_answers_own_call(face: str) -> None:
    # CustomLLM's chat calls complete, so that a handler hears of one answer twice.
    counter = TokenCountingHandler(tokenizer=str.split)
    responses = await ask(llm(callback_manager=CallbackManager([counter])), face, "how many are free?")
    result = result_of(responses[-1])
    wrote = sum(step.size for step in result.steps)
    assert (counter.prompt_llm_token_count, counter.completion_llm_token_count) == (result.prompt_tokens, wrote)
    assert 0 < wrote < result.ledger.total.generated  # a draft was rejected
    assert 0 < result.prompt_tokens < result.ledger.total.read
    assert len(counter.llm_token_counts) == 1
    usage = responses[-1].additional_kwargs
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] == counter.total_llm_token_count


@pytest.mark.parametrize("face", [face for face in FACES if "chat" in face])
async def test_the_trace_stays_out_of_the_message(face: str) -> None:
    # Memories keep messages, and LlamaIndex writes their additional_kwargs into later prompts.
    assert all(response.message.additional_kwargs == {} for response in await ask(llm(), face))


@pytest.mark.parametrize("face", FACES)
async def test_every_step_is_an_event_of_its_call(face: str, heard: list[BaseEvent]) -> None:
    await ask(llm(), face)
    (start,) = [event for event in heard if isinstance(event, LLMChatStartEvent | LLMCompletionStartEvent)]
    steps = [event for event in heard if isinstance(event, RSDStepEvent)]
    assert [(step.step, step.author, step.accepted) for step in steps] == [
        (0, "draft", True),
        (1, "target", False),
        (2, "draft", True),
    ]
    assert steps[1].discarded_draft == "Two seats are taken: 12-2=9.\n\n"
    # A stream is read after its call returned, when another span is the active one.
    assert {step.span_id for step in steps} == {start.span_id}
    assert str(start.span_id).startswith(f"RSDLLM.{face}-")
    assert steps[0].model_dump()["class_name"] == "RSDStepEvent"


async def test_a_stream_tells_of_a_step_before_the_next_one(heard: list[BaseEvent]) -> None:
    known = [sum(isinstance(event, RSDStepEvent) for event in heard) async for _ in await llm().astream_complete("q")]
    assert known == [1, 2, 3, 3]


@pytest.mark.parametrize("face", ASYNC)
async def test_concurrent_calls_overlap(face: str) -> None:
    # CustomLLM's async methods call the blocking ones on the event loop, one after the other.
    model = llm(draft=ScriptedDrafter(["a\n\n", "b"], delay=0.1), verifier=ScriptedVerifier([1], delay=0.1))
    start = time.monotonic()
    answers = await asyncio.gather(*(ask(model, face, str(i)) for i in range(8)))
    assert {text(responses[-1]) for responses in answers} == {"a\n\nb"}
    assert time.monotonic() - start < 1.6  # one after the other takes 3.2 s, side by side 0.4 s


@pytest.mark.parametrize("face", ASYNC)
async def test_loading_does_not_hold_the_event_loop_up(face: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = catalogue.Backend("slow", "tests.llamaindex.worlds:load", "", "")
    monkeypatch.setitem(catalogue.BUILT_IN, "slow", slow)
    late = 0.0

    async def beat() -> None:
        nonlocal late
        while True:
            start = time.monotonic()
            await asyncio.sleep(0.01)
            late = max(late, time.monotonic() - start - 0.01)

    heart = asyncio.create_task(beat())
    worlds.loads.clear()
    model = llm(draft="slow:one")
    await asyncio.gather(*(ask(model, face, str(i)) for i in range(3)))
    await asyncio.sleep(0.05)  # a beat that was held up counts itself now
    heart.cancel()
    assert late < 0.3  # loading blocks its thread for 0.5 s
    assert worlds.loads == ["one"]


@pytest.mark.parametrize("face", FACES)
async def test_the_blocking_faces_work_inside_a_running_loop_too(face: str) -> None:
    assert asyncio.get_running_loop().is_running()
    assert text((await ask(llm(), face))[-1]) == TEXT


def test_a_zero_of_a_call_goes_before_the_models_own_value() -> None:
    seen: list[float] = []

    class Drafter(ScriptedDrafter):
        async def generate(self, path: Any, request: Any) -> Any:
            seen.append(request.sampling.temperature)
            return await super().generate(path, request)

    model = llm(draft=Drafter(["x"]), verifier=ScriptedVerifier([1]), temperature=0.5)
    model.complete("q", temperature=0)
    model.complete("q")
    assert seen == [0.0, 0.5]


@pytest.mark.parametrize("face", ASYNC)
def test_one_llm_answers_two_loops_and_a_thread_at_once(face: str) -> None:
    # Models by spec are loaded by whoever comes first, and shared.
    model = llm()
    blocking: list[str] = []
    thread = threading.Thread(target=lambda: blocking.extend(model.complete("q").text for _ in range(3)))
    thread.start()
    answers = in_two_loops(lambda: ask(model, face))
    thread.join(20)
    assert [text(responses[-1]) for responses in answers] == [TEXT] * 8
    assert blocking == [TEXT] * 3


def test_a_drafter_that_never_works_is_told_once_over_all_calls() -> None:
    model = llm(draft=ScriptedDrafter([ConnectionError("401")]), target=ScriptedTarget(["fine"]))
    for _ in range(7):
        model.complete("q")
    with pytest.warns(RoleWarning, match="the drafter has failed at its first 8 calls: 401"):
        model.model_copy().complete("q")
    for _ in range(9):
        model.complete("q")  # another warning would be an error here


def test_a_model_that_leaves_the_program_is_an_error() -> None:
    def leave(*_: Any) -> str:
        raise SystemExit(3)

    with pytest.raises(RunError, match=r"sys.exit\(3\)"):
        llm(draft=ScriptedDrafter([""]), target=ScriptedTarget(leave), max_retries=0).complete("q")
    assert llm().complete("q").text == TEXT  # the background loop is alive


async def test_cancelling_a_call_cancels_its_model() -> None:
    ended = asyncio.Event()

    class Endless(ScriptedTarget):
        async def generate(self, path: Any, request: Any) -> Any:
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

    call = asyncio.create_task(RSDLLM(decoder=TargetOnly(target=Endless([]))).achat([ChatMessage(content="q")]))
    await asyncio.sleep(0.1)
    call.cancel()
    await asyncio.wait_for(ended.wait(), 5)
    with pytest.raises(asyncio.CancelledError):
        await call


class Echo(ScriptedTarget):
    """Keeps the prompts it saw."""

    def __init__(self) -> None:
        super().__init__(["ok"])

    @property
    def seen(self) -> list[tuple[str, str]]:
        return [(message.role, message.content) for message in self.calls[-1].prompt]


@pytest.mark.parametrize("face", ["chat", "stream_chat", "achat", "astream_chat"])
async def test_messages_reach_the_models_as_messages(face: str) -> None:
    # CustomLLM would write "system: be brief\nuser: hi\nassistant: " into one string.
    echo = Echo()
    model = RSDLLM(decoder=TargetOnly(target=echo))
    messages = [
        ChatMessage(role=MessageRole.DEVELOPER, content="be brief"),
        ChatMessage(role=MessageRole.USER, content="hi"),
        ChatMessage(role=MessageRole.CHATBOT, blocks=[ThinkingBlock(content="hm"), TextBlock(text="hello")]),
        ChatMessage(role=MessageRole.USER, content="and?"),
    ]
    given = getattr(model, face)(messages)
    given = await given if face in ASYNC else given
    if "astream" in face:
        [_ async for _ in given]
    elif "stream" in face:
        list(given)
    assert echo.seen == [("system", "be brief"), ("user", "hi"), ("assistant", "hello"), ("user", "and?")]


def test_tool_histories_reach_the_models_in_the_form_of_chat_templates() -> None:
    echo = Echo()
    call = ToolCallBlock(tool_call_id="1", tool_name="add", tool_kwargs='{"a": 3}')
    broken = ToolCallBlock(tool_call_id="2", tool_name="add", tool_kwargs="{a: 3")
    RSDLLM(decoder=TargetOnly(target=echo)).chat(
        [
            ChatMessage(role="user", content="3?"),
            ChatMessage(role="assistant", blocks=[call, broken]),
            ChatMessage(role="tool", content="3", additional_kwargs={"tool_call_id": "1", "name": "add", "other": 0}),
        ]
    )
    assert echo.seen == [("user", "3?"), ("assistant", ""), ("tool", "3")]
    calls = echo.calls[-1].prompt[1].extra["tool_calls"]
    assert [item["function"] for item in calls] == [
        {"name": "add", "arguments": {"a": 3}},
        {"name": "add", "arguments": "{a: 3"},
    ]
    assert echo.calls[-1].prompt[2].extra == {"tool_call_id": "1", "name": "add"}


def test_what_no_text_model_sees_is_refused() -> None:
    image = ChatMessage(
        role="user", blocks=[TextBlock(text="what is it?"), ImageBlock(url="https://example.org/a.png")]
    )
    with pytest.raises(PromptError, match="image"):
        llm().chat([image])
    with pytest.raises(PromptError, match="empty"):
        llm().chat([])


def test_templates_of_the_user_are_applied_once() -> None:
    echo = Echo()
    model = RSDLLM(
        decoder=TargetOnly(target=echo),
        completion_to_prompt=lambda prompt: f"[INST]{prompt}[/INST]",
        messages_to_prompt=lambda messages: "|".join(str(message.content) for message in messages),
    )
    model.complete("hi")
    assert echo.seen == [("user", "[INST]hi[/INST]")]
    model.complete("[INST]hi[/INST]", formatted=True)
    assert echo.seen == [("user", "[INST]hi[/INST]")]
    model.chat([ChatMessage(role="system", content="s"), ChatMessage(role="user", content="u")])
    assert echo.seen == [("user", "s|u")]


@pytest.mark.parametrize("face", FACES)
async def test_a_rate_limiter_is_asked_once_per_call(face: str) -> None:
    class Limiter(BaseRateLimiter):
        asked = 0

        def acquire(self, num_tokens: int = 0) -> None:
            self.asked += 1

        async def async_acquire(self, num_tokens: int = 0) -> None:
            self.asked += 1

    limiter = Limiter()
    await ask(llm(rate_limiter=limiter), face)
    assert limiter.asked == 1


@pytest.mark.parametrize("face", FACES)
async def test_a_failed_request_keeps_what_was_written(face: str) -> None:
    model = llm(target=ScriptedTarget([RuntimeError("gone")]), max_retries=0)
    with pytest.raises(RunError, match="gone") as caught:
        await ask(model, face)
    assert caught.value.partial is not None
    assert caught.value.partial.text == TEXT[: TEXT.index("Two")]


@pytest.mark.parametrize("face", FACES)
async def test_options_of_a_call_hold_for_that_call(face: str) -> None:
    model = llm()
    assert (await ask(model, face, max_tokens=8))[-1].raw["finish_reason"] == "length"
    assert text((await ask(model, face))[-1]) == TEXT
    with pytest.raises(ConfigurationError, match="does not accept logit_bias, min_p; it accepts temperature"):
        await ask(model, face, min_p=0.1, logit_bias={})
    with pytest.raises(ConfigurationError, match=r"temperature.*less than or equal to 5.*got 9"):
        await ask(model, face, temperature=9)


def test_a_timeout_ends_the_answer_where_it_stands() -> None:
    model = llm(draft=ScriptedDrafter(lambda path, _: f"{path.depth}\n\n", delay=0.1), verifier=ScriptedVerifier([1]))
    response = model.complete("q", timeout=0.35)
    assert response.text.startswith("0\n\n1\n\n")
    assert result_of(response).finish_reason == "max_seconds"


def test_it_is_what_llamaindex_takes_for_an_llm() -> None:
    assert {LLM.__name__, BaseLLM.__name__} <= {base.__name__ for base in RSDLLM.__mro__}
    metadata = llm(max_tokens=99, context_window=512).metadata
    assert (metadata.context_window, metadata.num_output, metadata.is_chat_model) == (512, 99, True)
    assert not metadata.is_function_calling_model
    # More room for the answer than the context has would leave query engines none for what they found.
    assert llm().metadata.num_output < llm().metadata.context_window
    assert all(getattr(RSDLLM, face).__module__ == RSDLLM.__module__ for face in FACES)


def test_a_trace_is_asked_of_its_own_responses_only() -> None:
    with pytest.raises(ValueError, match="no RSD trace"):
        result_of(CompletionResponse(text="x", raw={"usage": {}}))


def test_settings_of_a_decoder_are_the_base_of_a_call() -> None:
    decoder = TargetOnly(target=ScriptedTarget(["a\n\n", "b\n\n", "c"]), settings=Settings(target_retries=5))
    model = RSDLLM(decoder=decoder, max_tokens=2)
    assert model.complete("q").text == "a\n\nb\n\n"
    assert decoder.run("q").text == "a\n\nb\n\nc"
