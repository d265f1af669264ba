"""A provider of models for LangChain's real partner classes: one loopback server that speaks all of their APIs.

A test scripts its answers and looks at what arrived, so that nothing of the classes is mocked:

    with provider() as served:
        served.answers("Paris.", Reply("cut", reason="length"), Reply(status=401))
        chat_openai(served).invoke("The capital of France?")
        assert served.asked[-1].body["model"] == "gpt-4.1-nano"

What it speaks, told apart by the path: chats, responses and completions of OpenAI (Azure, Mistral and DeepSeek with
them), messages of Anthropic, Google's generateContent, Bedrock's Converse, chat and generate of Ollama; streams of all
but Converse. What it does not know is answered with a 404. `CHATS` and `LLMS` make the partner classes, by name.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel, BaseLLM
from pydantic import SecretStr

KEY = "sk-secret-of-the-tests"
"""The key of all clients; it must turn up nowhere but in headers."""
Api = Literal["chat", "responses", "completions", "anthropic", "google", "bedrock", "ollama", "ollama-text"]


@dataclass(frozen=True)
class Call:
    """A call of a tool. `arguments` is JSON text where the API has text there, and may be broken or cut."""

    name: str
    arguments: str = "{}"
    id: str = "call_1"

    @property
    def parsed(self) -> Any:
        """The arguments as data, for APIs that carry data; broken ones are empty."""
        try:
            return json.loads(self.arguments)
        except ValueError:
            return {}


@dataclass(frozen=True)
class Reply:
    """One scripted answer of the provider."""

    text: str = ""
    reason: str = "stop"
    """`stop`, `length`, `tool_calls`, `stop_sequence` or `filter`, as the API asked writes it; else as it stands."""
    calls: Sequence[Call] = ()
    thought: str = ""
    """Reasoning, where the API has a field for it."""
    read: int = 10
    wrote: int = 5
    status: int = 200
    """From 400 on the reply is an error with `text` as its message."""
    delay: float = 0.0
    """Seconds before it is sent."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    api: Api
    path: str
    body: dict[str, Any]
    headers: Mapping[str, str]

    @property
    def model(self) -> str:
        """The model's name."""
        found = re.search(r"/models?/([^/:]+)", self.path)
        return str(self.body.get("model") or (found and found[1]))

    @property
    def messages(self) -> list[tuple[str, str]]:
        """Role and text of each message as sent, whatever the API; a completion's prompt is a user's message."""
        body = self.body
        if "prompt" in body:
            prompt = body["prompt"]
            return [("user", prompt[0] if isinstance(prompt, list) else prompt)]
        system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
        sent = body.get("messages") or body.get("contents") or body.get("input") or []
        return [(_ROLES.get(one.get("role", "tool"), one.get("role", "tool")), _text(one)) for one in [*system, *sent]]

    @property
    def beginning(self) -> str:
        """The text of the assistant's message that comes last; empty where another one does."""
        role, text = self.messages[-1]
        return text if role == "assistant" else ""

    @property
    def streams(self) -> bool:
        """Whether the answer is to be streamed."""
        return bool(self.body.get("stream")) or "streamGenerateContent" in self.path


_ROLES = {"model": "assistant", "developer": "system"}


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content", message.get("parts", ""))
    if isinstance(content, str):
        return content
    return "".join(str(block.get("text") or "") for block in content or [] if isinstance(block, dict))


Answer = Callable[[Asked], Reply | str]


class Provider:
    """What clients reach at `url`. Answers come from a script or a function; requests are kept."""

    def __init__(self) -> None:
        self.url = ""
        """With no path: classes differ in what they append."""
        self.asked: list[Asked] = []
        self._script: list[Reply | str] = []
        self._answer: Answer = lambda _: Reply("fine")

    def answers(self, *replies: Reply | str) -> None:
        """Answer with these one after the other, and from then on with the last."""
        self._script = list(replies)
        self._answer = lambda _: self._script.pop(0) if len(self._script) > 1 else self._script[0]

    def answers_by(self, function: Answer) -> None:
        """Answer by a function of the request."""
        self._answer = function

    @property
    def sent(self) -> dict[str, Any]:
        """The body of the last request."""
        return self.asked[-1].body


class _Server(ThreadingHTTPServer):
    request_queue_size = 128


@contextmanager
def provider(*, keeps_alive: bool = False) -> Iterator[Provider]:
    """A provider behind a port of the loopback interface.

    Args:
        keeps_alive: Whether connections stay open after an answer, as those of real providers do.
    """
    served, lock = Provider(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1" if keeps_alive else "HTTP/1.0"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
            api = _api(self.path)
            if api is None:
                return self._send(404, {"error": {"message": f"no {self.path}"}})
            asked = Asked(api, self.path, body, dict(self.headers))
            with lock:
                served.asked.append(asked)
                made = served._answer(asked)
            reply = Reply(made) if isinstance(made, str) else made
            time.sleep(reply.delay)
            if reply.status >= 400:
                return self._send(reply.status, _error(api, reply), reply.headers)
            if not asked.streams:
                return self._send(200, _WHOLE[api](asked, reply), reply.headers)
            data = b"".join(_STREAMED[api](asked, reply))
            return self._write(200, data, {"Content-Type": _STREAM_TYPES.get(api, "text/event-stream")})

        def _send(self, status: int, data: Any, headers: Mapping[str, str] | None = None) -> None:
            self._write(status, json.dumps(data).encode(), {"Content-Type": "application/json", **(headers or {})})

        def _write(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # a client that waits no longer
                self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    http = _Server(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield served
    finally:
        http.shutdown()
        http.server_close()


def _api(path: str) -> Api | None:
    path = path.partition("?")[0]
    ends: dict[str, Api] = {
        "/chat/completions": "chat",
        "/completions": "completions",
        "/responses": "responses",
        "/v1/messages": "anthropic",
        "enerateContent": "google",
        "/converse": "bedrock",
        "/api/chat": "ollama",
        "/api/generate": "ollama-text",
    }
    return next((api for end, api in ends.items() if path.endswith(end)), None)


def _error(api: Api, reply: Reply) -> Any:
    message = reply.text or f"status {reply.status}"
    if api in ("ollama", "ollama-text"):
        return {"error": message}
    if api == "bedrock":
        return {"message": message}
    if api == "google":
        return {"error": {"code": reply.status, "message": message, "status": "INVALID_ARGUMENT"}}
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(reply.status, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


# --- whole answers, one function for each API -------------------------------------------------------------------------


def _reason(api: Api, reply: Reply) -> str:
    return _REASONS.get(api, {}).get(reply.reason, reply.reason)


_REASONS: dict[Api, dict[str, str]] = {
    "chat": {"stop_sequence": "stop", "filter": "content_filter"},
    "completions": {"stop_sequence": "stop", "filter": "content_filter"},
    "anthropic": {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "filter": "refusal"},
    "bedrock": {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "filter": "content_filtered"},
    "google": {
        "stop": "STOP",
        "length": "MAX_TOKENS",
        "tool_calls": "STOP",
        "stop_sequence": "STOP",
        "filter": "SAFETY",
    },
    "ollama": {"tool_calls": "stop", "stop_sequence": "stop"},
    "ollama-text": {"stop_sequence": "stop"},
}


def _openai_usage(reply: Reply) -> dict[str, int]:
    total = reply.read + reply.wrote
    return {"prompt_tokens": reply.read, "completion_tokens": reply.wrote, "total_tokens": total}


def _openai_calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {"id": call.id, "type": "function", "index": i, "function": {"name": call.name, "arguments": call.arguments}}
        for i, call in enumerate(reply.calls)
    ]


def _chat(asked: Asked, reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.calls:
        message["tool_calls"] = _openai_calls(reply)
    if reply.thought:
        message["reasoning_content"] = reply.thought
    choice = {"index": 0, "message": message, "finish_reason": _reason("chat", reply), "logprobs": None}
    return _openai_object(asked, "chat.completion") | {"choices": [choice], "usage": _openai_usage(reply)}


def _openai_object(asked: Asked, kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 0, "model": asked.model}


def _completions(asked: Asked, reply: Reply) -> dict[str, Any]:
    prompts = asked.body["prompt"] if isinstance(asked.body["prompt"], list) else [asked.body["prompt"]]
    choices = [
        {"index": i, "text": reply.text, "finish_reason": _reason("completions", reply), "logprobs": None}
        for i in range(len(prompts))
    ]
    return _openai_object(asked, "text_completion") | {"choices": choices, "usage": _openai_usage(reply)}


def _responses(asked: Asked, reply: Reply) -> dict[str, Any]:
    output: list[dict[str, Any]] = []
    if reply.thought:
        summary = [{"type": "summary_text", "text": reply.thought}]
        output.append({"type": "reasoning", "id": "rs_1", "summary": summary})
    if reply.text or not reply.calls:
        content = [{"type": "output_text", "text": reply.text, "annotations": []}]
        output.append(
            {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}
        )
    output += [
        {
            "type": "function_call",
            "id": f"fc_{call.id}",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
            "status": "completed",
        }
        for call in reply.calls
    ]
    cut = reply.reason == "length"
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 0,
        "model": asked.model,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "error": None,
        "instructions": None,
        "metadata": {},
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": {
            "input_tokens": reply.read,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": reply.wrote,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": reply.read + reply.wrote,
        },
    }


def _anthropic_blocks(reply: Reply) -> list[dict[str, Any]]:
    thought = [{"type": "thinking", "thinking": reply.thought, "signature": "s"}] if reply.thought else []
    text = [{"type": "text", "text": reply.text}] if reply.text else []
    calls = [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.parsed} for call in reply.calls]
    return [*thought, *text, *calls]


def _anthropic(asked: Asked, reply: Reply) -> dict[str, Any]:
    stopped = reply.reason == "stop_sequence"
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "content": _anthropic_blocks(reply),
        "stop_reason": _reason("anthropic", reply),
        "stop_sequence": (asked.body.get("stop_sequences") or [None])[0] if stopped else None,
        "usage": {"input_tokens": reply.read, "output_tokens": reply.wrote},
    }


def _google(asked: Asked, reply: Reply) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"text": reply.thought, "thought": True}] if reply.thought else []
    parts += [{"text": reply.text}] if reply.text or not reply.calls else []
    parts += [{"functionCall": {"name": call.name, "args": call.parsed}} for call in reply.calls]
    content = {"role": "model", "parts": parts}
    usage = {"promptTokenCount": reply.read, "candidatesTokenCount": reply.wrote}
    return {
        "candidates": [{"index": 0, "content": content, "finishReason": _reason("google", reply)}],
        "usageMetadata": usage | {"totalTokenCount": reply.read + reply.wrote},
        "modelVersion": asked.model,
        "responseId": "r1",
    }


def _bedrock(asked: Asked, reply: Reply) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    if reply.thought:
        content.append({"reasoningContent": {"reasoningText": {"text": reply.thought, "signature": "s"}}})
    if reply.text:
        content.append({"text": reply.text})
    content += [{"toolUse": {"toolUseId": call.id, "name": call.name, "input": call.parsed}} for call in reply.calls]
    total = reply.read + reply.wrote
    return {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": _reason("bedrock", reply),
        "usage": {"inputTokens": reply.read, "outputTokens": reply.wrote, "totalTokens": total},
        "metrics": {"latencyMs": 1},
    }


def _ollama_end(asked: Asked, reply: Reply) -> dict[str, Any]:
    counts = {"prompt_eval_count": reply.read, "eval_count": reply.wrote, "total_duration": 1, "load_duration": 1}
    counts |= {"prompt_eval_duration": 1, "eval_duration": 1}
    return {"done": True, "done_reason": _reason("ollama", reply), **counts}


def _ollama(asked: Asked, reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.thought:
        message["thinking"] = reply.thought
    if reply.calls:
        message["tool_calls"] = [{"function": {"name": call.name, "arguments": call.parsed}} for call in reply.calls]
    return _ollama_object(asked) | {"message": message} | _ollama_end(asked, reply)


def _ollama_object(asked: Asked) -> dict[str, Any]:
    return {"model": asked.model, "created_at": "2026-01-01T00:00:00Z"}


def _ollama_text(asked: Asked, reply: Reply) -> dict[str, Any]:
    return _ollama_object(asked) | {"response": reply.text} | _ollama_end(asked, reply)


_WHOLE: dict[Api, Callable[[Asked, Reply], dict[str, Any]]] = {
    "chat": _chat,
    "responses": _responses,
    "completions": _completions,
    "anthropic": _anthropic,
    "google": _google,
    "bedrock": _bedrock,
    "ollama": _ollama,
    "ollama-text": _ollama_text,
}


# --- streams ----------------------------------------------------------------------------------------------------------


def _pieces(text: str) -> list[str]:
    """A text in pieces of a word each."""
    return re.findall(r"\S+\s*|\s+", text)


def _event(data: Any, name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


def _chat_stream(asked: Asked, reply: Reply) -> Iterator[bytes]:
    def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return _event(_openai_object(asked, "chat.completion.chunk") | {"choices": [choice]})

    yield chunk({"role": "assistant", "content": ""})
    for piece in _pieces(reply.thought):
        yield chunk({"reasoning_content": piece})
    for piece in _pieces(reply.text):
        yield chunk({"content": piece})
    for i, call in enumerate(_openai_calls(reply)):
        if asked.model.startswith("ministral"):  # whose API streams calls as a whole
            yield chunk({"tool_calls": [call]})
            continue
        yield chunk({"tool_calls": [call | {"function": call["function"] | {"arguments": ""}}]})
        for piece in _pieces(call["function"]["arguments"]):
            yield chunk({"tool_calls": [{"index": i, "function": {"arguments": piece}}]})
    end = _openai_object(asked, "chat.completion.chunk") | {"usage": _openai_usage(reply)}
    yield chunk({}, _reason("chat", reply))
    yield _event(end | {"choices": []})
    yield b"data: [DONE]\n\n"


def _completions_stream(asked: Asked, reply: Reply) -> Iterator[bytes]:
    for piece in _pieces(reply.text):
        choice = {"index": 0, "text": piece, "finish_reason": None, "logprobs": None}
        yield _event(_openai_object(asked, "text_completion") | {"choices": [choice]})
    last = {"index": 0, "text": "", "finish_reason": _reason("completions", reply), "logprobs": None}
    yield _event(_openai_object(asked, "text_completion") | {"choices": [last]})
    yield _event(_openai_object(asked, "text_completion") | {"choices": [], "usage": _openai_usage(reply)})
    yield b"data: [DONE]\n\n"


def _responses_stream(asked: Asked, reply: Reply) -> Iterator[bytes]:
    whole, count = _responses(asked, reply), 0

    def event(kind: str, **more: Any) -> bytes:
        nonlocal count
        count += 1
        return _event({"type": kind, "sequence_number": count, **more}, kind)

    yield event("response.created", response=whole | {"status": "in_progress", "output": [], "usage": None})
    for i, item in enumerate(whole["output"]):
        at = {"output_index": i, "item_id": item["id"]}
        empty: dict[str, Any] = {"content": []} if item["type"] == "message" else {}
        empty |= {"arguments": ""} if "arguments" in item else {}
        yield event("response.output_item.added", output_index=i, item=item | empty)
        if item["type"] == "message":
            part = item["content"][0]
            yield event("response.content_part.added", **at, content_index=0, part=part | {"text": ""})
            for piece in _pieces(part["text"]):
                yield event("response.output_text.delta", **at, content_index=0, delta=piece, logprobs=[])
            yield event("response.output_text.done", **at, content_index=0, text=part["text"], logprobs=[])
            yield event("response.content_part.done", **at, content_index=0, part=part)
        if item["type"] == "function_call":
            for piece in _pieces(item["arguments"]):
                yield event("response.function_call_arguments.delta", **at, delta=piece)
            yield event("response.function_call_arguments.done", **at, arguments=item["arguments"], name=item["name"])
        yield event("response.output_item.done", output_index=i, item=item)
    yield event(f"response.{whole['status']}", response=whole)


def _anthropic_stream(asked: Asked, reply: Reply) -> Iterator[bytes]:
    def event(kind: str, **more: Any) -> bytes:
        return _event({"type": kind, **more}, kind)

    whole = _anthropic(asked, reply)
    started: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None}
    yield event("message_start", message=whole | started | {"usage": {"input_tokens": reply.read, "output_tokens": 1}})
    for i, block in enumerate(whole["content"]):
        kind = block["type"]
        empty = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}, "tool_use": {"input": {}}}[kind]
        yield event("content_block_start", index=i, content_block=block | empty)
        if kind == "tool_use":
            call = next(call for call in reply.calls if call.id == block["id"])
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in _pieces(call.arguments)]
        elif kind == "thinking":
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in _pieces(block["thinking"])]
            deltas.append({"type": "signature_delta", "signature": "s"})
        else:
            deltas = [{"type": "text_delta", "text": piece} for piece in _pieces(block["text"])]
        for delta in deltas:
            yield event("content_block_delta", index=i, delta=delta)
        yield event("content_block_stop", index=i)
    ending = {"stop_reason": whole["stop_reason"], "stop_sequence": whole["stop_sequence"]}
    yield event("message_delta", delta=ending, usage={"output_tokens": reply.wrote})
    yield event("message_stop")


def _google_stream(asked: Asked, reply: Reply) -> Iterator[bytes]:
    yield _event(_google(asked, reply))


def _ollama_stream(asked: Asked, reply: Reply) -> Iterator[bytes]:
    whole = _ollama(asked, reply)
    message = whole["message"]
    for kind in ("thinking", "content"):
        for piece in _pieces(message.get(kind, "")):
            part = {"role": "assistant", "content": "", kind: piece}
            yield json.dumps(_ollama_object(asked) | {"message": part, "done": False}).encode() + b"\n"
    yield json.dumps(whole | {"message": {**message, "content": "", "thinking": ""}}).encode() + b"\n"


def _ollama_text_stream(asked: Asked, reply: Reply) -> Iterator[bytes]:
    for piece in _pieces(reply.text):
        yield json.dumps(_ollama_object(asked) | {"response": piece, "done": False}).encode() + b"\n"
    yield json.dumps(_ollama_text(asked, reply) | {"response": ""}).encode() + b"\n"


_STREAMED: dict[Api, Callable[[Asked, Reply], Iterator[bytes]]] = {
    "chat": _chat_stream,
    "responses": _responses_stream,
    "completions": _completions_stream,
    "anthropic": _anthropic_stream,
    "google": _google_stream,
    "ollama": _ollama_stream,
    "ollama-text": _ollama_text_stream,
}
_STREAM_TYPES: dict[Api, str] = {"ollama": "application/x-ndjson", "ollama-text": "application/x-ndjson"}


# --- answers that depend on the beginning -----------------------------------------------------------------------------


def goes_on(whole: str) -> Answer:
    """Writes `whole`, and continues an answer that was begun with a part of it."""

    def answer(asked: Asked) -> str:
        begun = asked.beginning
        return whole[len(begun) :] if whole.startswith(begun) else whole

    return answer


def echoes(answer: Answer) -> Answer:
    """The same, with the beginning repeated before what follows it."""
    return lambda asked: asked.beginning + str(answer(asked))


def restarts(whole: str) -> Answer:
    """Restarts every begun answer: the last message is part of the conversation."""
    return lambda _: whole


# --- the partner classes ----------------------------------------------------------------------------------------------


def chat_openai(served: Provider, **options: Any) -> BaseChatModel:
    """`ChatOpenAI` over chat completions."""
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        **{"model": "gpt-4.1-nano", "base_url": f"{served.url}/v1", "api_key": SecretStr(KEY), "max_retries": 0}
        | {"use_responses_api": False}
        | options
    )


def chat_openai_responses(served: Provider, **options: Any) -> BaseChatModel:
    """`ChatOpenAI` over the responses API."""
    return chat_openai(served, **{"use_responses_api": True} | options)


def azure_chat_openai(served: Provider, **options: Any) -> BaseChatModel:
    """`AzureChatOpenAI`."""
    from langchain_openai import AzureChatOpenAI

    return AzureChatOpenAI(
        **{"azure_deployment": "nano", "azure_endpoint": served.url, "api_key": SecretStr(KEY), "max_retries": 0}
        | {"api_version": "2025-04-01-preview"}
        | options
    )


def chat_anthropic(served: Provider, **options: Any) -> BaseChatModel:
    """`ChatAnthropic`."""
    from langchain_anthropic import ChatAnthropic

    return ChatAnthropic(
        **{"model": "claude-3-5-haiku-latest", "base_url": served.url, "api_key": SecretStr(KEY), "max_retries": 0}
        | options
    )


def chat_google(served: Provider, **options: Any) -> BaseChatModel:
    """`ChatGoogleGenerativeAI`."""
    from langchain_google_genai import ChatGoogleGenerativeAI

    return ChatGoogleGenerativeAI(
        **{"model": "gemini-2.5-flash-lite", "base_url": served.url, "api_key": SecretStr(KEY), "max_retries": 1}
        | options
    )


def chat_bedrock(served: Provider, **options: Any) -> BaseChatModel:
    """`ChatBedrockConverse`, with its own credentials: the machine's are not looked up."""
    from botocore.config import Config
    from langchain_aws import ChatBedrockConverse

    return ChatBedrockConverse(
        **{"model": "amazon.nova-micro-v1:0", "endpoint_url": served.url, "region_name": "us-east-1"}
        | {"aws_access_key_id": SecretStr("key-id"), "aws_secret_access_key": SecretStr(KEY)}
        | {"config": Config(retries={"total_max_attempts": 1})}
        | options
    )


def chat_mistral(served: Provider, **options: Any) -> BaseChatModel:
    """`ChatMistralAI`."""
    from langchain_mistralai import ChatMistralAI

    return ChatMistralAI(
        **{"model": "ministral-3b-latest", "endpoint": f"{served.url}/v1", "api_key": SecretStr(KEY)}
        | {"max_retries": 1}
        | options
    )


def chat_deepseek(served: Provider, **options: Any) -> BaseChatModel:
    """`ChatDeepSeek`."""
    from langchain_deepseek import ChatDeepSeek

    return ChatDeepSeek(
        **{"model": "deepseek-chat", "base_url": f"{served.url}/v1", "api_key": SecretStr(KEY), "max_retries": 0}
        | options
    )


def chat_ollama(served: Provider, **options: Any) -> BaseChatModel:
    """`ChatOllama`."""
    from langchain_ollama import ChatOllama

    return ChatOllama(**{"model": "qwen3:0.6b", "base_url": served.url} | options)


def openai_llm(served: Provider, **options: Any) -> BaseLLM:
    """`OpenAI`, for completions."""
    from langchain_openai import OpenAI

    return OpenAI(
        **{"model": "small", "base_url": f"{served.url}/v1", "api_key": SecretStr(KEY), "max_retries": 0} | options
    )


def ollama_llm(served: Provider, **options: Any) -> BaseLLM:
    """`OllamaLLM`, for raw prompts."""
    from langchain_ollama import OllamaLLM

    return OllamaLLM(**{"model": "qwen3:0.6b", "base_url": served.url} | options)


CHATS: dict[str, Callable[..., BaseChatModel]] = {
    "ChatOpenAI": chat_openai,
    "ChatOpenAI, Responses": chat_openai_responses,
    "AzureChatOpenAI": azure_chat_openai,
    "ChatAnthropic": chat_anthropic,
    "ChatGoogleGenerativeAI": chat_google,
    "ChatBedrockConverse": chat_bedrock,
    "ChatMistralAI": chat_mistral,
    "ChatDeepSeek": chat_deepseek,
    "ChatOllama": chat_ollama,
}
"""Each chat class, made for a provider and with further options."""
LLMS: dict[str, Callable[..., BaseLLM]] = {"OpenAI": openai_llm, "OllamaLLM": ollama_llm}
"""The same for LLMs."""
