"""LLMs of LlamaIndex as drafter, target and judge: every class, every face, what arrives at its provider."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import ollama as ollama_sdk
import openai
import pytest
from botocore.exceptions import ClientError
from llama_index.core.base.llms.types import CitationBlock, ImageBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    CustomLLM,
    LLMMetadata,
    MockLLM,
    TextBlock,
)
from llama_index.llms.ollama import Ollama
from pydantic import PrivateAttr

from rsd_core import (
    ConfigurationError,
    Path,
    PromptError,
    RewardGuidedDecoder,
    RoleWarning,
    RunError,
    Settings,
    Step,
    StepRequest,
)
from rsd_core.blocking import wait_for
from rsd_core.testing import ScriptedDrafter, ScriptedTarget
from rsd_core.thoughts.markers import MARKERS, Thinking
from rsd_integrations.llamaindex import (
    RSDLLM,
    LlamaIndexDrafter,
    LlamaIndexJudge,
    LlamaIndexTarget,
    result_of,
    rsd_bill,
)
from tests.langchain.providers import KEY, Asked, Provider, Reply, provider
from tests.llamaindex.partners import LLMS, anthropic, bedrock, ollama, openai_rules
from tests.llamaindex.worlds import FACES, ask, text
from tests.two_loops import in_two_loops

CLASSES = tuple(LLMS)


@pytest.fixture
def served() -> Iterator[Provider]:
    with provider() as made:
        yield made


@pytest.fixture
def cheap() -> Iterator[Provider]:
    with provider() as made:
        yield made


def short(messages: list[ChatMessage], reply: ChatMessage) -> float:
    """Long answers are bad."""
    return 1.0 if len(str(reply.content)) < 10 else 0.0


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("kind", CLASSES)
async def test_a_draft_is_kept_or_replaced_whatever_the_classes_and_the_face(
    kind: str, face: str, cheap: Provider, served: Provider
) -> None:
    cheap.answers("Paris.", Reply("Let me think about it at length.", read=30, wrote=9))
    served.answers(Reply("Rome.", read=70, wrote=4))
    model = RSDLLM(draft=LLMS[kind](cheap), target=LLMS[kind](served), verifier=short)
    kept, replaced = (await ask(model, face, "q"))[-1], (await ask(model, face, "q"))[-1]
    assert (text(kept), text(replaced)) == ("Paris.", "Rome.")
    assert [step.author for result in map(result_of, (kept, replaced)) for step in result.steps] == ["draft", "target"]
    assert len(served.asked) == 1
    assert kept.raw["usage"] == {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    assert replaced.raw["usage"] == {"prompt_tokens": 70, "completion_tokens": 4, "total_tokens": 74}
    ledger = result_of(replaced).ledger
    assert (ledger.drafter.read, ledger.drafter.generated, ledger.drafter.discarded) == (30, 9, 9)
    assert (ledger.target.read, ledger.target.generated, ledger.total.estimated) == (70, 4, 0)
    assert replaced.raw["inner"]  # what its provider sent
    assert KEY not in str(replaced)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_judge_of_every_class_scores_and_is_charged(kind: str, served: Provider) -> None:
    served.answers("Fine.\nScore: 9.", "Hm. 2/10.", "I cannot say.")
    model = RSDLLM(draft=MockLLM(), target=ScriptedTarget(["mine"]), verifier=LLMS[kind](served))
    results = [result_of(model.complete("q")) for _ in range(3)]
    assert [result.steps[0].reward for result in results] == [1.0, 0.2, None]
    assert [result.ledger.verifier.abstained for result in results] == [0, 0, 1]
    assert [result.ledger.verifier.generated for result in results] == [5, 5, 5]
    system, user = served.asked[0].messages
    assert system[1].startswith("You judge the work of an assistant")
    assert "# The latest step\n" in user[1]


def test_a_judge_that_was_cut_is_a_fault_and_its_cap_reaches_its_class(served: Provider) -> None:
    served.answers(Reply("Let me see", reason="length"))
    for kind, (place, name) in {
        "openai": ((), "max_tokens"),
        "anthropic": ((), "max_tokens"),
        "ollama": (("options",), "num_predict"),
        "bedrock": (("inferenceConfig",), "maxTokens"),
    }.items():
        judge = LlamaIndexJudge(LLMS[kind](served), max_tokens=7)
        with pytest.raises(RunError, match="cut before its score after 5 tokens, max_tokens=7"):
            wait_for(judge.score(Path(()), [Step("x", "end")]))
        sent: Any = served.sent
        for key in place:
            sent = sent[key]
        assert sent[name] == 7


ARRIVES: dict[str, dict[str, Any]] = {
    "openai": {"temperature": 0.5, "top_p": 0.9, "max_tokens": 64, "seed": True, "stop": ["END"]},
    "anthropic": {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "max_tokens": 64, "stop_sequences": ["END"]},
    "ollama": {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "num_predict": 64, "seed": True, "stop": ["END"]},
    "bedrock": {"temperature": 0.5, "maxTokens": 64},
}
"""What of the fields of `RSDLLM` reaches each provider, under which name."""


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("per_call", [False, True])
@pytest.mark.parametrize("face", ["chat", "achat"])
async def test_fields_reach_every_class_by_its_own_names(
    kind: str, per_call: bool, face: str, served: Provider
) -> None:
    fields: dict[str, Any] = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 64, "seed": 3, "stop": ["END"]}
    if kind == "bedrock":
        del fields["top_p"]  # which is refused, see below
    if "top_k" in ARRIVES[kind]:
        fields["top_k"] = 7
    roles: dict[str, Any] = {"draft": LLMS[kind](served), "target": LLMS[kind](served), "verifier": short}
    model = RSDLLM(**roles) if per_call else RSDLLM(**roles, **fields)
    await ask(model, face, **(fields if per_call else {}))
    sent = served.sent.get("options") or served.sent.get("inferenceConfig") or served.sent
    for name, value in ARRIVES[kind].items():
        assert isinstance(sent[name], int) if name == "seed" else sent[name] == value, name
    await ask(RSDLLM(**roles), face)
    unset = served.sent.get("options") or served.sent.get("inferenceConfig") or served.sent
    assert not {"top_p", "top_k", "seed", "stop", "stop_sequences", "num_predict"} & set(unset)


def test_what_a_class_has_no_way_to_take_is_refused_before_anything_is_asked(served: Provider) -> None:
    roles: dict[str, Any] = {"draft": bedrock(served), "target": bedrock(served), "verifier": short}
    with pytest.raises(ValueError, match=r"top_p cannot reach BedrockConverse: .*does not accept it.*when creating"):
        RSDLLM(**roles, top_p=0.5)
    with pytest.raises(ConfigurationError, match="top_p cannot reach"):
        RSDLLM(**roles).complete("q", top_p=0.5)
    with pytest.raises(ValueError, match=r"top_k cannot reach \w+: .*does not accept it"):
        RSDLLM(**roles, top_k=5)
    assert served.asked == []
    assert RSDLLM(**roles, seed=4).complete("q").text == "fine"  # RSD has a use for the seed itself


def test_other_options_of_a_call_go_to_the_models(served: Provider) -> None:
    model = RSDLLM(draft=openai_rules(served), target=openai_rules(served), verifier=short)
    model.complete("q", logit_bias={"1": 2}, extra_headers={"X-Mine": "1"})
    assert served.sent["logit_bias"] == {"1": 2}
    assert served.asked[-1].headers["x-mine"] == "1"


# Errors


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("kind", CLASSES)
async def test_a_targets_error_keeps_its_providers_type(kind: str, face: str, served: Provider) -> None:
    expected: type[Exception] = {
        "openai": openai.AuthenticationError,
        "anthropic": httpx.HTTPStatusError,
        "ollama": ollama_sdk.ResponseError,
        "bedrock": ClientError,
    }[kind]
    served.answers(Reply("a wrong key", status=401))
    model = RSDLLM(draft=MockLLM(), target=LLMS[kind](served), verifier=lambda *_: 0.0)
    with pytest.raises(expected, match="a wrong key") as caught, rsd_bill() as bill:
        await ask(model, face)
    assert isinstance(caught.value, RunError)
    assert caught.value.partial is not None
    assert len(served.asked) == 1  # it cannot pass, so it is not tried again
    assert bill.ledger.drafter.generated > 0
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("kind", CLASSES)
async def test_a_drafter_with_a_wrong_key_is_reported_once(kind: str, cheap: Provider, served: Provider) -> None:
    cheap.answers(Reply("a wrong key", status=401))
    model = RSDLLM(draft=LLMS[kind](cheap), target=LLMS[kind](served), verifier=short)
    with pytest.warns(RoleWarning, match="the drafter has failed .*a wrong key") as told:
        answers = [(await model.acomplete("q")).text for _ in range(10)]
    assert answers == ["fine"] * 10
    assert len(told) == 1


@pytest.mark.parametrize("face", FACES)
async def test_a_timeout_with_nothing_written_raises(face: str, served: Provider) -> None:
    served.answers(Reply("late", delay=0.6))
    model = RSDLLM(draft=openai_rules(served), target=openai_rules(served), verifier=short, timeout=0.1)
    with pytest.raises(TimeoutError, match="nothing written") as caught:
        await ask(model, face)
    assert isinstance(caught.value, RunError)
    assert caught.value.partial is not None
    assert caught.value.partial.finish_reason == "max_seconds"


async def test_a_server_that_is_down_does_not_affect_the_others(served: Provider) -> None:
    away = Ollama(model="qwen3", base_url="http://127.0.0.1:9", request_timeout=2)  # asks for its window at first
    model = RSDLLM(draft=away, target=openai_rules(served), verifier=short, context_window=None)
    assert (await model.acomplete("q")).text == "fine"
    assert model.metadata.context_window == 200000
    assert model.metadata.is_function_calling_model


# What classes there are


class Completes(CustomLLM):
    """A model of completions, whose asynchronous face is the blocking one by another name."""

    answer: str = "fine"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=512, num_output=32, model_name="mine")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        time.sleep(0.2)
        return CompletionResponse(text=self.answer)

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        yield self.complete(prompt)


async def test_a_blocking_class_holds_no_event_loop_up() -> None:
    model = RSDLLM(draft=Completes(), target=Completes(), verifier=short)
    started = time.monotonic()
    answers = await asyncio.gather(*(model.acomplete("q") for _ in range(10)))
    assert {answer.text for answer in answers} == {"fine"}
    assert time.monotonic() - started < 1.2  # one after the other, 2 s
    assert result_of(answers[0]).ledger.drafter.estimated > 0  # nobody counted
    assert (model.metadata.context_window, model.metadata.num_output) == (512, 32)
    assert not model.metadata.is_function_calling_model
    assert (
        RSDLLM(draft=Completes(), target=Completes(), verifier=short, context_window=99).metadata.context_window == 99
    )


class OneFace(MockLLM):
    """Has one of the two faces alone."""

    def __init__(self, blocks: bool) -> None:
        super().__init__()
        self._blocks = blocks

    _blocks: bool = PrivateAttr()

    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        if not self._blocks:
            raise NotImplementedError("it cannot block")
        return ChatResponse(message=ChatMessage(role="assistant", content="by one face"))

    async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        if self._blocks:
            raise NotImplementedError("it cannot wait")
        return ChatResponse(message=ChatMessage(role="assistant", content="by one face"))


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("face", FACES)
async def test_one_face_of_a_model_is_enough(blocks: bool, face: str) -> None:
    model = RSDLLM(draft=OneFace(blocks=blocks), target=OneFace(blocks=blocks), verifier=lambda *_: 1.0)
    assert text((await ask(model, face))[-1]) == "by one face"


@pytest.mark.parametrize("kind", CLASSES)
def test_two_loops_and_the_blocking_face_share_a_client(kind: str, served: Provider) -> None:
    model = RSDLLM(draft=LLMS[kind](served), target=LLMS[kind](served), verifier=short, temperature=0.5)
    answers = in_two_loops(lambda: ask(model, "acomplete"))
    assert [text(responses[-1]) for responses in answers] == ["fine"] * 8
    assert model.complete("q").text == "fine"


def test_an_invalid_model_is_refused_with_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"cannot be the drafter.* a LlamaIndex LLM"):
        RSDLLM(draft=3)
    with pytest.raises(ValueError, match=r"cannot be the verifier.* a function of \(messages, reply\)"):
        RSDLLM(verifier=3)
    with pytest.raises(ConfigurationError, match="is not a LlamaIndex LLM"):
        LlamaIndexDrafter("gpt")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"sends=.*min_p"):
        LlamaIndexTarget(MockLLM(), sends=["min_p"])
    with pytest.raises(ValueError, match="remove thoughts"):
        RSDLLM(draft=MockLLM(), target=MockLLM(), thoughts={"policy": "constant:0"})


def test_in_the_core_they_write_turns_and_refuse_steps(served: Provider) -> None:
    served.answers("Paris.", "Score: 9")
    decoder = RewardGuidedDecoder(
        drafter=LlamaIndexDrafter(anthropic(served)),
        verifier=LlamaIndexJudge(anthropic(served)),
        target=LlamaIndexTarget(ollama(served)),
        settings=Settings(granularity="turn"),
    )
    assert decoder.run("The capital of France?").text == "Paris."
    assert [call.messages[-1][0] for call in served.asked] == ["user", "user"]
    with pytest.raises(ConfigurationError, match="granularity='turn'"):
        wait_for(LlamaIndexTarget(MockLLM()).generate(Path(()), StepRequest(seeds=(1,))))


def test_candidates_are_asked_for_side_by_side(served: Provider) -> None:
    served.answers("one", "two", "three")
    model = RSDLLM(
        draft=openai_rules(served),
        target=openai_rules(served),
        verifier=lambda _, reply: {"one": 0.8, "two": 0.95, "three": 0.9}[str(reply.content)],
        temperature=0.7,
        seed=1,
        settings={"candidates": 3, "temperature": 0.7},
    )
    response = model.complete("q")
    assert response.text == "two"
    assert len({call.body["seed"] for call in served.asked}) == 3
    assert result_of(response).ledger.drafter.generated == 15


# Messages of other providers


HISTORY = [
    ChatMessage(role="system", content="Be brief."),
    ChatMessage(role="user", content="Transfer 100."),
    ChatMessage(
        role="assistant",
        blocks=[
            ThinkingBlock(content="signed", additional_information={"signature": "s"}),
            ThinkingBlock(content="unsigned"),
            TextBlock(text="I do."),
            CitationBlock(cited_content=TextBlock(text="law"), source="s", title="t", additional_location_info={}),
            ImageBlock(url="https://example.org/made.png"),
            ToolCallBlock(tool_call_id="1", tool_name="transfer", tool_kwargs='{"amount": 100}'),
            ToolCallBlock(tool_call_id="2", tool_name="transfer", tool_kwargs='{"amount": 9'),
        ],
    ),
    ChatMessage(role="tool", content="done", additional_kwargs={"tool_call_id": "1"}),
    ChatMessage(role="user", content="Thanks."),
]
"""A history as several providers made it together."""


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_reads_what_others_wrote(kind: str, served: Provider) -> None:
    before = [message.model_dump_json() for message in HISTORY]
    model = RSDLLM(draft=LLMS[kind](served), target=LLMS[kind](served), verifier=short)
    assert model.chat(HISTORY).message.content == "fine"
    assert [message.model_dump_json() for message in HISTORY] == before
    sent = str(served.sent)
    assert "I do." in sent
    assert "example.org" not in sent
    assert "law" not in sent
    # Two take their own signed thoughts back, one the last thought of all, one none.
    assert ("'unsigned'" in sent) == (kind == "ollama")
    assert ("'signed'" in sent) == (kind in ("anthropic", "bedrock"))
    assistant = next(one for one in served.sent["messages"] if one["role"] == "assistant")
    readers: dict[str, Callable[[], list[tuple[str, Any]]]] = {
        "openai": lambda: [(call["id"], call["function"]["arguments"]) for call in assistant["tool_calls"]],
        "anthropic": lambda: [(one["id"], one["input"]) for one in assistant["content"] if one["type"] == "tool_use"],
        "bedrock": lambda: [
            (one["toolUse"]["toolUseId"], one["toolUse"]["input"]) for one in assistant["content"] if "toolUse" in one
        ],
        "ollama": lambda: [("1", call["function"]["arguments"]) for call in assistant["tool_calls"]],
    }
    assert readers[kind]() == [("1", '{"amount": 100}' if kind == "openai" else {"amount": 100})]
    assert '"amount": 9' in str(assistant).replace("\\", "")  # the cut call is seen as what it is, a text


def test_models_of_text_read_the_same_history_and_see_no_image_of_the_users() -> None:
    echo = ScriptedTarget(["fine"])
    model = RSDLLM(draft="scripted:draft", target=echo, policy="constant:0", verifier="scripted:verifier")
    assert model.chat(HISTORY).message.content == "fine"
    assistant = echo.calls[-1].prompt[2]
    assert assistant.content == "I do."
    assert assistant.extra["reasoning_content"] == "signed\n\nunsigned"
    assert [call["function"]["arguments"] for call in assistant.extra["tool_calls"]] == [
        {"amount": 100},
        '{"amount": 9',
    ]
    with pytest.raises(PromptError, match="'image'"):
        model.chat([ChatMessage(role="user", blocks=[ImageBlock(url="https://example.org/a.png")])])


def test_older_histories_hold_calls_next_to_the_blocks(served: Provider) -> None:
    function = {"type": "function", "id": "1", "function": {"name": "add", "arguments": '{"a": 1}'}}
    held = ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [function]})
    result = ChatMessage(role="tool", content="2", additional_kwargs={"tool_call_id": "1"})
    for kind in CLASSES:
        RSDLLM(draft=LLMS[kind](served), target=LLMS[kind](served), verifier=short).chat(
            [ChatMessage(role="user", content="q"), held, result]
        )
        assert "add" in str(served.sent["messages"])
    echo = ScriptedTarget(["fine"])
    RSDLLM(target=echo, policy="constant:0").chat([ChatMessage(role="user", content="q"), held, result])
    assert echo.calls[-1].prompt[1].extra["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}


def test_a_thought_is_a_block_whether_separate_or_in_the_text(served: Provider) -> None:
    served.answers(Reply("Ten.", thought="12-2=10."), "<think>\n12-2=10.\n</think>\n\nTen.")
    for llm in (anthropic(served), ollama(served)):
        response = RSDLLM(draft=llm, target=llm, verifier=short).chat([ChatMessage(content="q")])
        thought, said = response.message.blocks
        assert (thought.content, said.text) == ("12-2=10.", "Ten.")
        assert result_of(response).thought == "12-2=10."
        assert result_of(response).text == "Ten."


# Copies, data, pickles, counting


def test_they_travel_as_their_classes_do_and_show_no_key(served: Provider) -> None:
    model = RSDLLM(draft=anthropic(served), target=openai_rules(served), verifier=LlamaIndexJudge(ollama(served)))
    shown = [repr(model), str(model.to_dict()), model.to_json(), str(model.to_payload()), repr(model.draft)]
    assert KEY not in "".join(shown)
    assert "claude-sonnet-4-5" in repr(model.draft)
    served.answers("fine", "Score: 9")
    for other in (model.model_copy(), model.model_copy(deep=True), model.model_copy(update={"policy": "constant:1"})):
        assert other.draft is model.draft
        assert other.complete("q").text
    with pytest.raises(ValueError, match="names no model"):
        RSDLLM.from_dict(model.to_dict())
    plain = RSDLLM(draft=MockLLM(max_tokens=2), target=MockLLM(), verifier="scripted:verifier")
    assert pickle.loads(pickle.dumps(plain)).complete("one two three").text == plain.complete("one two three").text


@pytest.mark.parametrize("face", FACES)
async def test_counters_hear_of_the_answers_own_call_and_bills_of_all(
    face: str, cheap: Provider, served: Provider
) -> None:
    cheap.answers(Reply("a long and winding draft", read=11, wrote=7))
    served.answers(Reply("Rome.", read=13, wrote=3))
    counter = TokenCountingHandler(tokenizer=str.split)
    model = RSDLLM(
        draft=openai_rules(cheap),
        target=openai_rules(served),
        verifier=short,
        callback_manager=CallbackManager([counter]),
    )
    with rsd_bill() as outer:
        await ask(model, face)
        with rsd_bill() as bill:
            await asyncio.gather(*(ask(model, face) for _ in range(3)))
    assert (counter.prompt_llm_token_count, counter.completion_llm_token_count) == (4 * 13, 4 * 3)
    assert (bill.requests, outer.requests) == (3, 4)
    total = bill.ledger.total
    assert (total.read, total.generated, bill.ledger.drafter.discarded) == (3 * 24, 3 * 10, 3 * 7)
    await ask(model, face)
    assert outer.requests == 4


def test_prompts_that_were_read_from_a_cache_are_counted_once(served: Provider) -> None:
    from rsd_integrations.llamaindex.replies import usage_of_response

    openai = {"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 60}}
    claude = {"input_tokens": 40, "output_tokens": 5, "cache_read_input_tokens": 60}
    writing = {**claude, "input_tokens": 30, "cache_creation_input_tokens": 10}
    bedrock = {"inputTokens": 40, "outputTokens": 5, "cacheReadInputTokens": 60}
    google = {"prompt_token_count": 100, "candidates_token_count": 3, "thoughts_token_count": 2}
    cases: list[tuple[dict[str, Any], int]] = [
        ({"usage": openai}, 60),
        ({"usage": claude}, 60),
        ({"usage": writing}, 60),
        ({"usage": bedrock}, 60),
        ({"usage_metadata": {**google, "cached_content_token_count": 60}}, 60),
        ({"prompt_eval_count": 100, "eval_count": 5}, 0),
    ]
    for raw, reused in cases:
        response = ChatResponse(message=ChatMessage(role="assistant", content="x"), raw=raw)
        usage = usage_of_response(response, [], 0)
        assert (usage.prefix, usage.reused, usage.generated, usage.estimated) == (100, reused, 5, 0), raw
        assert usage.computed == 100 - reused + 5


def test_asked_is_what_arrived(served: Provider) -> None:
    seen: list[Asked] = []

    def answer(asked: Asked) -> str:
        seen.append(asked)
        return "ok"

    served.answers_by(answer)
    model = RSDLLM(
        draft=anthropic(served), target=anthropic(served), verifier=short, completion_to_prompt=lambda text: f"[{text}]"
    )
    model.complete("hi")
    assert seen[-1].messages == [("user", "[hi]")]


# Functions as verifiers


async def test_a_function_may_be_asynchronous_and_sees_the_conversation_and_the_whole_reply(served: Provider) -> None:
    seen: list[tuple[list[ChatMessage], ChatMessage]] = []

    async def judge(messages: list[ChatMessage], reply: ChatMessage) -> float:
        await asyncio.sleep(0)
        seen.append((messages, reply))
        return 1.0

    served.answers(Reply("Ten.", thought="12-2=10."))
    asked = ChatMessage(role="user", content="q")
    await RSDLLM(draft=anthropic(served), target=MockLLM(), verifier=judge).achat([asked])
    (messages, reply), *_ = seen
    assert messages == [asked]
    assert [block.block_type for block in reply.blocks] == ["thinking", "text"]
    seen.clear()
    steps = ScriptedDrafter(["<think>\nOne.\n</think>\n\n", "Two.\n\n", "Three."], thinking=Thinking(MARKERS["think"]))
    RSDLLM(draft=steps, target=ScriptedTarget(["no"]), verifier=judge).complete("q")
    assert [str(reply.content) for _, reply in seen][-1] == "Two.\n\nThree."
    assert [block.block_type for block in seen[-1][1].blocks] == ["thinking", "text"]


@pytest.mark.parametrize("given", ["0.9", None, 2, -1, float("nan"), object()])
def test_what_a_function_returns_is_a_number_from_0_to_1(given: Any) -> None:
    response = RSDLLM(draft=MockLLM(), target=ScriptedTarget(["mine"]), verifier=lambda *_: given).complete("q")
    assert response.text == "mine"
    (fault,) = result_of(response).degradations
    assert (fault.kind, "it must return a number from 0 to 1" in fault.message) == ("verifier_error", True)
