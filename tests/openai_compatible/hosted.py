"""Hosted APIs as their documents have them: what each takes, how it refuses the rest, and the shape of its replies.

They answer one question, with a thought where the model thinks, and refuse every field that is not documented.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VERDICT = "It is right.\nScore: 9"
THOUGHT, ANSWER = "17 + 25 = 42, so 42.", "So 42."
BASE = {"model", "messages", "stream", "stream_options"}
SAMPLING = {"temperature", "top_p", "seed"}
Body = dict[str, Any]


def openai_refuses(name: str, body: Body) -> tuple[int, Any]:
    more = "" if name != "max_tokens" else " Use 'max_completion_tokens' instead."
    message = f"Unsupported parameter: '{name}' is not supported with this model.{more}"
    if name in ("temperature", "top_p"):
        message = f"Unsupported value: '{name}' does not support {body[name]} with this model. Only the default (1) "
        message += "value is supported."
    if name.startswith("messages."):
        message = f"Unknown parameter: 'messages[1].{name[9:]}'."
        name = f"messages[1].{name[9:]}"
    error = {"message": message, "type": "invalid_request_error", "param": name, "code": "unsupported_parameter"}
    return 400, {"error": error}


def mistral_refuses(name: str, body: Body) -> tuple[int, Any]:
    where = ["body", *(["messages", 1, "assistant"] if name.startswith("messages.") else []), name.rpartition(".")[2]]
    detail = [{"type": "extra_forbidden", "loc": where, "msg": "Extra inputs are not permitted", "input": 1}]
    return 422, {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error", "param": None}


def anthropic_refuses(name: str, body: Body) -> tuple[int, Any]:
    message = f"`{name}` is deprecated for this model."
    return 400, {"error": {"code": "invalid_request_error", "message": message, "type": "invalid_request_error"}}


def google_refuses(name: str, body: Body) -> tuple[int, Any]:
    message = f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'
    return 400, [{"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}]


def groq_refuses(name: str, body: Body) -> tuple[int, Any]:
    return 400, {"error": {"message": f"property '{name}' is unsupported", "type": "invalid_request_error"}}


def in_field(name: str) -> Callable[[str, str], Body]:
    return lambda thought, answer: {"content": answer or None, name: thought}


def in_parts(thought: str, answer: str) -> Body:
    parts: list[Body] = [{"type": "thinking", "thinking": [{"type": "text", "text": thought}]}] if thought else []
    return {"content": [*parts, {"type": "text", "text": answer}] if parts else answer}


def in_text(opening: str, close: str) -> Callable[[str, str], Body]:
    def message(thought: str, answer: str) -> Body:
        return {"content": f"{opening}{thought}{close if answer else ''}{answer}" if thought else answer}

    return message


def nowhere(thought: str, answer: str) -> Body:
    return {"content": answer}


@dataclass(frozen=True)
class Vendor:
    """One API."""

    takes: set[str]
    """Fields of a request."""
    refuses: Callable[[str, Body], tuple[int, Any]]
    """Status and body for a field that it does not take."""
    message: Callable[[str, str], Body]
    """The fields of a message, by thought and answer."""
    off: Callable[[Body], bool] = lambda body: False
    """Whether a request switches thinking off."""
    message_takes: frozenset[str] = frozenset()
    """Fields of an assistant's message beyond the content."""
    most: int = 10**6
    """Most tokens of an answer."""
    counts_thoughts_apart: bool = False
    """Whether the tokens of thoughts are in the total alone."""
    ends: str = "stop"
    repeats: bool = False
    """Whether an answer repeats the text that it goes on with."""


def _off(name: str, value: Any) -> Callable[[Body], bool]:
    return lambda body: body.get(name) == value


VENDORS: dict[str, Vendor] = {
    "openai_reasoning": Vendor(
        BASE | {"max_completion_tokens", "reasoning_effort"}, openai_refuses, nowhere, _off("reasoning_effort", "none")
    ),
    "openai": Vendor(
        BASE | SAMPLING | {"max_completion_tokens", "max_tokens", "logprobs", "top_logprobs"},
        openai_refuses, nowhere, lambda body: True, most=16384,
    ),
    "azure": Vendor(BASE | SAMPLING | {"max_completion_tokens", "logprobs", "top_logprobs"}, openai_refuses, nowhere),
    "deepseek": Vendor(
        BASE | {"max_tokens", "temperature", "top_p", "thinking", "reasoning_effort"},
        openai_refuses, in_field("reasoning_content"), _off("thinking", {"type": "disabled"}),
        frozenset({"reasoning_content"}), most=8192,
    ),
    "mistral": Vendor(
        (BASE - {"stream_options"}) | {"max_tokens", "temperature", "top_p", "random_seed", "reasoning_effort"},
        mistral_refuses, in_parts, _off("reasoning_effort", "none"), frozenset({"prefix"}), repeats=True,
    ),
    "anthropic": Vendor(BASE | {"max_tokens", "temperature", "thinking"}, anthropic_refuses, nowhere),
    "google": Vendor(
        BASE | {"max_tokens", "temperature", "top_p", "reasoning_effort", "extra_body"},
        google_refuses,
        lambda thought, answer: {"content": answer},
        _off("reasoning_effort", "none"), counts_thoughts_apart=True,
    ),
    "bedrock": Vendor(
        BASE | {"max_completion_tokens", "temperature", "top_p"}, openai_refuses,
        in_text("<reasoning>", "</reasoning>"),
    ),
    "huggingface": Vendor(BASE | SAMPLING | {"max_tokens"}, openai_refuses, in_field("reasoning")),
    "openrouter": Vendor(
        BASE | SAMPLING | {"max_tokens", "reasoning", "provider", "api_key"}, openai_refuses, in_field("reasoning"),
        _off("reasoning", {"enabled": False}), frozenset({"reasoning"}),
    ),
    "groq": Vendor(
        BASE | SAMPLING | {"max_completion_tokens", "reasoning_format", "reasoning_effort"}, groq_refuses,
        in_field("reasoning"), _off("reasoning_effort", "none"), frozenset({"reasoning"}),
    ),
    "together": Vendor(
        BASE | SAMPLING | {"top_k", "max_tokens", "reasoning", "chat_template_kwargs", "logprobs", "top_logprobs"},
        openai_refuses, in_field("reasoning"), _off("reasoning", {"enabled": False}), ends="eos",
    ),
    "fireworks": Vendor(
        BASE | SAMPLING | {"top_k", "max_tokens", "reasoning_effort", "logprobs", "top_logprobs"}, openai_refuses,
        in_field("reasoning_content"), _off("reasoning_effort", "none"), frozenset({"reasoning_content"}),
    ),
}  # fmt: skip


def cap_of(body: Body) -> int | None:
    """The most tokens that a request asks for."""
    caps: list[int] = [body[name] for name in ("max_tokens", "max_completion_tokens") if name in body]
    return caps[0] if caps else None


@dataclass
class Hosted:
    """A vendor at a port of the loopback interface."""

    vendor: Vendor
    url: str = ""
    requests: list[Body] = field(default_factory=list)
    refused: int = 0
    window: int | None = None
    """Tokens that prompt and answer may have together; a fifth of the characters are tokens."""

    def refusal(self, body: Body) -> tuple[int, Any] | None:
        """What it says to a request that it does not take."""
        vendor = self.vendor
        for name in sorted(body, key=lambda name: name != "max_tokens"):
            if name not in vendor.takes:
                return vendor.refuses(name, body)
        for message in body["messages"]:
            for name in message.keys() - {"role", "content"} - vendor.message_takes:
                return vendor.refuses(f"messages.{name}", body)
        cap = cap_of(body) or 0
        if cap > vendor.most:
            told = f"max_tokens is too large: {cap}. This model supports at most {vendor.most} completion tokens."
            return 400, {"error": {"message": told, "param": "max_tokens", "code": "invalid_value"}}
        read = self.read(body)
        if self.window is not None and read + cap > self.window:
            told = (
                f"This model's maximum context length is {self.window} tokens. However, you requested {read + cap} "
                f"tokens ({read} in the messages, {cap} in the completion)."
            )
            return 400, {"error": {"message": told, "code": "context_length_exceeded"}}
        return None

    @staticmethod
    def read(body: Body) -> int:
        return sum(len(str(message["content"])) // 5 + 4 for message in body["messages"])

    def reply(self, body: Body) -> Body:
        vendor = self.vendor
        thought = "" if vendor.off(body) else THOUGHT
        cap = cap_of(body) or 10**9
        own = VERDICT if "Score: " in str(body["messages"]) else ANSWER
        words = [*thought.split(), *own.split()]
        cut = len(words) > cap
        answer = "" if cap <= len(thought.split()) and thought else own
        if cut and thought:
            thought = " ".join(thought.split()[:cap])
        last = body["messages"][-1]
        begun = last["content"] if vendor.repeats and last["role"] == "assistant" else ""
        message = vendor.message("" if begun else thought, begun + answer)
        wrote, thinks = min(len(words), cap), len(thought.split()) if thought else 0
        read = self.read(body)
        usage = {
            "prompt_tokens": read,
            "completion_tokens": wrote - thinks if vendor.counts_thoughts_apart else wrote,
            "total_tokens": read + wrote,
            "completion_tokens_details": {"reasoning_tokens": thinks},
        }
        reason = "length" if cut else vendor.ends
        return {
            "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}],
            "usage": usage,
        }


@contextmanager
def hosting(name: str, **options: Any) -> Iterator[Hosted]:
    """A vendor, listening."""
    hosted = Hosted(VENDORS[name], **options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send(404, {"error": {"message": "no such route"}})

        def do_POST(self) -> None:
            body: Body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            hosted.requests.append(body)
            refusal = (
                hosted.refusal(body) if self.path.endswith("/chat/completions") else (404, {"error": "no such route"})
            )
            if refusal is not None:
                hosted.refused += 1
                return self.send(*refusal)
            reply = hosted.reply(body)
            return self.stream(reply) if body.get("stream") else self.send(200, reply)

        def stream(self, reply: Body) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            (choice,) = reply["choices"]
            for event in _events(choice, reply["usage"]):
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")
            self.close_connection = True

        def send(self, status: int, data: Any) -> None:
            text = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    hosted.url = f"http://127.0.0.1:{http.server_port}/v1"
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hosted
    finally:
        http.shutdown()
        http.server_close()


def _events(choice: Mapping[str, Any], usage: Body) -> Iterator[Body]:
    """A message in deltas of a few characters, thoughts first."""
    message = {name: value for name, value in choice["message"].items() if name != "role" and value}
    for name in sorted(message, key=lambda name: name == "content"):
        value = message[name]
        pieces = (
            [value[at : at + 5] for at in range(0, len(value), 5)]
            if isinstance(value, str)
            else [[one] for one in value]
        )
        for piece in pieces:
            yield {"choices": [{"index": 0, "delta": {name: piece}, "finish_reason": None}]}
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]}
    yield {"choices": [], "usage": usage}
