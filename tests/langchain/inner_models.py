"""Chat models that answer by rules, for the roles behind `ChatRSD` in turns: a careful one and a hurried one.

They do what a provider's model does, without a network: call the tool a question names with arguments read from it by
the tool's schema, honour `tool_choice` and `stop`, look at media, answer after a tool, stream, count tokens.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput, ModelProfile
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import PrivateAttr

VAGUE = "I am not sure."
_NUMBER = re.compile(r"-?\d+")
_QUOTED = re.compile(r"'([^']+)'")
_NAME = re.compile(r"(?<=[a-z] )[A-Z]\w*(?:,? [A-Z]\w*)*")
_MEDIA = {b"\x89PNG": "a PNG image", b"%PDF": "a PDF document", b"RIFF": "a WAV sound"}


class CarefulModel(BaseChatModel):
    """Answers by rules, always well. It has the blocking face alone, like many models of LangChain."""

    model_name: str = "careful"
    _asked: list[str] = PrivateAttr(default_factory=list)

    @property
    def asked(self) -> list[str]:
        """The questions of all calls so far."""
        return self._asked

    @property
    def _llm_type(self) -> str:
        return "rules"

    def _resolve_model_profile(self) -> ModelProfile:
        return ModelProfile(
            tool_calling=True, tool_choice=True, image_inputs=True, image_url_inputs=True, pdf_inputs=True
        ) | ModelProfile(audio_inputs=True, image_tool_message=True, pdf_tool_message=True)

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], tool_choice=tool_choice, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        tools: Sequence[dict[str, Any]] = (),
        tool_choice: str | None = None,
        **_: Any,
    ) -> Iterator[ChatGenerationChunk]:
        question = next((str(m.text) for m in reversed(messages) if isinstance(m, HumanMessage)), "")
        self._asked.append(question)
        functions = [tool["function"] for tool in tools]
        reply = self._answer(
            messages[-1],
            question,
            choose(functions, tool_choice, question, answered=isinstance(messages[-1], ToolMessage)),
        )
        text = str(reply.text)
        for cut in stop or ():
            text = text.partition(cut)[0]
        words = re.findall(r"\S+\s*", text)
        for word in words:
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        calls = [
            tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=i)
            for i, call in enumerate(reply.tool_calls)
        ]
        read, wrote = sum(len(str(m.content).split()) for m in messages), len(words) + 5 * len(calls)
        last = AIMessageChunk(
            content="",
            tool_call_chunks=calls,
            usage_metadata=UsageMetadata(
                input_tokens=read,
                output_tokens=wrote,
                total_tokens=read + wrote,
                input_token_details=InputTokenDetails(cache_read=read // 2),
            ),
            response_metadata={"model_name": self.model_name, "finish_reason": "tool_calls" if calls else "stop"},
            chunk_position="last",
        )
        yield ChatGenerationChunk(message=last)

    def _answer(self, last: BaseMessage, question: str, function: dict[str, Any] | None) -> AIMessage:
        if function is not None:
            args = arguments_for(function["parameters"], question)
            return AIMessage(
                "", tool_calls=[{"name": function["name"], "args": args, "id": f"call_{len(self._asked)}"}]
            )
        seen = [_described(block) for block in last.content_blocks if block["type"] in ("image", "audio", "file")]
        shown = f" I was shown {' and '.join(seen)}." if seen else ""
        if isinstance(last, ToolMessage):
            return AIMessage(f"The tool says: {last.text}.{shown}")
        return AIMessage(f"You wrote {question!r}.{shown} What else can I do for you?")


class HurriedModel(CarefulModel):
    """Answers in the same way, but goes wrong on about every fifth question. It has its own asynchronous methods."""

    model_name: str = "hurried"

    def _answer(self, last: BaseMessage, question: str, function: dict[str, Any] | None) -> AIMessage:
        reply = super()._answer(last, question, function)
        if len(question) % 5 != 3:
            return reply
        for call in reply.tool_calls:
            wrong = {name: value + 1000 for name, value in call["args"].items() if isinstance(value, int)}
            if wrong:
                return AIMessage("", tool_calls=[call | {"args": call["args"] | wrong}])
        return AIMessage(VAGUE)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages, stop, **kwargs))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(messages, stop, **kwargs):
            yield chunk


class Thinks(CarefulModel):
    """Thinks before it answers, as models of DeepSeek and behind vLLM do: the thought comes apart from the content."""

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        chunks = list(super()._stream(messages, *args, **kwargs))
        reply = "".join(str(chunk.text) for chunk in chunks)
        thought = f"{self.model_name}: after {len(messages)} messages I say {reply[:12]!r}".split(" ")
        for i, word in enumerate(thought):
            piece = {"reasoning_content": word if i == 0 else f" {word}"}
            yield ChatGenerationChunk(message=AIMessageChunk(content="", additional_kwargs=piece))
        counts: Any = chunks[-1].message
        counts.usage_metadata["output_tokens"] += len(thought)
        counts.usage_metadata["total_tokens"] += len(thought)
        counts.usage_metadata["output_token_details"] = {"reasoning": len(thought)}
        yield from chunks


class CarefulThinker(Thinks):
    """`CarefulModel` that thinks."""

    model_name: str = "careful thinker"


class HurriedThinker(Thinks, HurriedModel):
    """`HurriedModel` that thinks."""

    model_name: str = "hurried thinker"


class Grounded:
    """A verifier's rule: a reply says something, and the numbers in its tool calls come from the conversation."""

    def __init__(self) -> None:
        self.rewards: list[float] = []

    def __call__(self, messages: list[BaseMessage], reply: AIMessage) -> float:
        known = set(_NUMBER.findall(" ".join(str(message.text) for message in messages)))
        told = set(_NUMBER.findall(json.dumps([call["args"] for call in reply.tool_calls])))
        self.rewards.append(float(reply.text != VAGUE and told <= known))
        return self.rewards[-1]


def choose(
    functions: list[dict[str, Any]], choice: str | None, question: str, *, answered: bool
) -> dict[str, Any] | None:
    """The function to call: the one that must be, else the one the question names, none after a tool's answer."""

    def named(function: dict[str, Any]) -> int:
        return sum(part in question.lower() for part in function["name"].lower().split("_"))

    forced = choice not in (None, "auto")
    wanted = [function for function in functions if choice in (None, "auto", "any", function["name"])]
    best = max(wanted, key=named, default=None)
    if best is None or forced:
        return best
    return best if named(best) and not answered else None


def arguments_for(schema: Mapping[str, Any], question: str) -> dict[str, Any]:
    """Values for a function's parameters: numbers and names in their order, optional ones where they are named."""
    numbers = map(int, _NUMBER.findall(question))
    names = iter(_QUOTED.findall(question) or _NAME.findall(question))
    args: dict[str, Any] = {}
    for name, parameter in schema.get("properties", {}).items():
        if name not in schema.get("required", ()) and (name not in question or f"no {name}" in question):
            continue
        if parameter.get("type") in ("integer", "number"):
            args[name] = next(numbers, 0)
        else:
            args[name] = next(names, f"{name} for: {question}")
    return args


def _described(block: Any) -> str:
    """What a block shows, seen from its bytes."""
    if "base64" not in block:
        return f"something at {block['url']}"
    data = base64.b64decode(block["base64"])
    return next(f"{kind} of {len(data)} bytes" for magic, kind in _MEDIA.items() if data.startswith(magic))
