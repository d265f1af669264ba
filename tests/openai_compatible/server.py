"""A real HTTP server around an embedded model that has the habits of each kind of server, and faults on demand."""

from __future__ import annotations

import copy
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rsd_integrations.embedded.models import FOLDER

PLAIN = {
    "model",
    "prompt",
    "messages",
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "stream",
    "stream_options",
}
OWNERS = {
    "vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp", "ollama": "library", "transformers": "hub",
    "generic": "openai", "llama_cpp_python": "me",
}  # fmt: skip


class Refusal(Exception):  # noqa: N818
    """An answer with an error status."""

    def __init__(self, status: int, body: Any, **headers: str) -> None:
        self.status, self.body, self.headers = status, body, headers


@dataclass
class Written:
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    reason: str = "length"
    stop: str | None = None


@dataclass
class Gateway:
    """What a gateway makes of requests, and of replies or the events of a stream."""

    request: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: body
    reply: Callable[[dict[str, Any]], dict[str, Any]] = lambda data: data


class Habits:
    """The model and what this kind of server makes of requests."""

    def __init__(self, name: str, kind: str, context: int = 512) -> None:
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(FOLDER / name, dtype=torch.float32)
        self.words: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(FOLDER / name)
        self.name, self.kind, self.context = name, kind, context
        self.key: str | None = None
        self.fault: Callable[[int], str | None] = lambda number: None
        """The fault of each request by its number, the first one being 0; asked in order."""
        self.requests: list[dict[str, Any]] = []
        self.listings = 0
        """How often the models were asked for."""
        self.listing_fault: str | None = None
        """The fault of every such request: `hang` or `http500`."""
        self.dropped = 0
        """Requests whose client went away before the answer was written."""
        self.inside = self.crowd = 0
        """Requests at work, and the most there were."""
        self.thinks_apart = False
        """Whether a reasoning parser is on, and all that is written is a thought."""
        self.streams_ids = True
        """Whether streams tell ids, as old versions and some proxies do not."""
        self.most = 10**9
        """Cap on the tokens of any answer."""
        self.owner: str | None = None
        """Whom its models are said to belong to, where that is not the usual."""
        self.slots = 1
        """Requests that it works on at once, as it says."""
        self.cuts = False
        """Whether prompts that are too long are cut without a word."""
        self.gateway = Gateway()
        """What stands between the server and its clients."""
        self.pace = 0.0
        """Seconds that a streamed token takes at least."""
        self.url = ""
        self.lock = threading.Lock()

    def twin(self, kind: str) -> Habits:
        """Another server around the same model."""
        other = copy.copy(self)
        other.kind, other.requests = kind, []
        return other

    def told(self, path: str) -> dict[str, Any] | None:
        """What is at a route that is only read."""
        if path == "/v1/models":
            return self.models()
        if path == "/props" and self.kind == "llamacpp":
            return {"total_slots": self.slots, "default_generation_settings": {"n_ctx": self.context}}
        return {"version": "0.13.0"} if path == "/api/version" and self.kind == "ollama" else None

    def models(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"id": self.name, "object": "model", "owned_by": self.owner or OWNERS[self.kind]}
        if self.kind in ("vllm", "sglang"):
            entry["max_model_len"] = self.context
        if self.kind == "llamacpp":
            entry["meta"] = {"n_ctx": self.context, "n_ctx_train": 32768}
        return {"object": "list", "data": [entry]}

    def ids_of(self, body: dict[str, Any]) -> list[int]:
        if "messages" in body:
            asks = bool(body.get("continue_final_message"))
            last = body["messages"][-1]["role"] == "assistant"
            if self.kind == "vllm" and asks and body.get("add_generation_prompt", True):
                raise Refusal(
                    400, {"error": {"message": "continue_final_message and add_generation_prompt are not compatible"}}
                )
            goes_on = last and (self.kind in ("ollama", "llamacpp") or (asks and self.kind in ("vllm", "sglang")))
            text = self.words.apply_chat_template(
                body["messages"], tokenize=False, add_generation_prompt=not goes_on, continue_final_message=goes_on
            )
        else:
            text = body["prompt"]
            if not isinstance(text, str):
                if self.kind not in ("vllm", "sglang", "llamacpp"):
                    raise Refusal(400, {"detail": "prompt must be a string."})
                return [int(id_) for id_ in text]
            if self.kind == "ollama":
                text = self.words.apply_chat_template(
                    [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
                )
        ids: list[int] = self.words(str(text), add_special_tokens=False)["input_ids"]
        return ids

    def checked(self, body: dict[str, Any]) -> list[int]:
        if self.kind == "transformers" and set(body) - PLAIN:
            raise Refusal(422, {"detail": f"Unexpected fields in the request: {set(body) - PLAIN}"})
        if body["model"] != self.name:
            raise Refusal(404, {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}})
        ids = self.ids_of(body)
        if len(ids) >= self.context:
            if self.kind == "ollama" or self.cuts:
                return ids[-self.context // 2 :]
            if self.kind != "transformers":
                raise Refusal(
                    400, {"error": {"message": f"This model's maximum context length is {self.context} tokens."}}
                )
        return ids

    @torch.inference_mode()
    def write(self, ids: list[int], body: dict[str, Any]) -> Iterator[Written]:
        """The tokens one by one, as they come."""
        made, cache, feed = Written(), None, ids
        room = min(int(body.get("max_tokens", 16)), self.most, max(1, self.context - len(ids)))
        stops = body.get("stop") or []
        stops = [stops] if isinstance(stops, str) else stops
        random = torch.Generator().manual_seed(int(body.get("seed") or 0))
        if self.kind == "transformers":
            body = {**body, "temperature": 0}
        while len(made.ids) < room:
            with self.lock:
                out: Any = self.model(input_ids=torch.tensor([feed]), past_key_values=cache, use_cache=True)
            cache, logits = out.past_key_values, out.logits[0, -1].float()
            logprobs = logits.log_softmax(-1)
            warmth = float(body.get("temperature", 1.0))
            token = int(
                torch.multinomial((logits / warmth).softmax(-1), 1, generator=random) if warmth else logits.argmax()
            )
            made.ids.append(token)
            made.logprobs.append(float(logprobs[token]))
            feed = [token]
            text = self.text(made.ids)
            made.stop = next((stop for stop in stops if stop in text), None)
            if token == self.words.eos_token_id or made.stop is not None:
                made.reason = "stop"
                yield made
                return
            if len(made.ids) < room:
                yield made
        yield made

    def text(self, ids: list[int]) -> str:
        return str(self.words.decode(ids, skip_special_tokens=True))

    def shown(self, made: Written, body: dict[str, Any]) -> str:
        """What of the text the server gives, a stop string cut off by most."""
        text = self.text(made.ids)
        if made.stop is None or self.kind == "transformers":
            return text
        keeps = body.get({"vllm": "include_stop_str_in_output", "sglang": "no_stop_trim"}.get(self.kind, ""))
        return text[: text.index(made.stop) + (len(made.stop) if keeps else 0)]

    def ended(self, made: Written, body: dict[str, Any]) -> dict[str, Any]:
        told: dict[str, Any] = {"finish_reason": made.reason}
        if self.kind == "vllm":
            told["stop_reason"] = made.stop
            if body.get("return_token_ids"):
                told["token_ids"] = made.ids
        if self.kind == "sglang":
            told["matched_stop"] = made.stop or (made.ids[-1] if made.reason == "stop" else None)
        return told

    @torch.inference_mode()
    def likely(self, ids: list[int], made: Written, body: dict[str, Any]) -> dict[str, Any] | None:
        asked = body.get("logprobs")
        if asked is None or asked is False or self.kind == "transformers":
            return None
        with self.lock:
            out: Any = self.model(input_ids=torch.tensor([ids + made.ids]))
        logprobs = out.logits[0].float().log_softmax(-1)
        if body.get("echo"):
            values = [None, *(float(logprobs[i, id_]) for i, id_ in enumerate((ids + made.ids)[1:]))]
            return {"token_logprobs": values, "top_logprobs": None, "tokens": [str(i) for i in ids + made.ids]}
        here = logprobs[len(ids) - 1]
        count = body.get("top_logprobs", 0) if "messages" in body else int(asked)
        top = [int(i) for i in here.topk(max(1, count)).indices]
        if "messages" in body:
            entries = [{"token": self.text([i]), "logprob": float(here[i])} for i in top]
            if self.kind == "llamacpp" and not count:
                return None
            written = [
                {"token": self.text([id_]), "logprob": value}
                for id_, value in zip(made.ids, made.logprobs, strict=True)
            ]
            written[0]["top_logprobs"] = entries
            return {"content": written}
        top += body.get("logprob_token_ids") or []
        named = body.get("return_token_ids") or body.get("return_tokens_as_token_ids")
        likely = {f"token_id:{i}" if named else self.text([i]): float(here[i]) for i in top}
        return {"token_logprobs": made.logprobs, "top_logprobs": [likely]}

    @torch.inference_mode()
    def ranked(self, ids: list[int]) -> list[dict[str, Any] | None]:
        with self.lock:
            out: Any = self.model(input_ids=torch.tensor([ids]))
        logprobs = out.logits[0].float().log_softmax(-1)
        return [
            None,
            *(
                {str(id_): {"logprob": float(here[id_]), "rank": int((here >= here[id_]).sum()), "decoded_token": "?"}}
                for here, id_ in zip(logprobs, ids[1:], strict=False)
            ),
        ]

    def usage(self, ids: list[int], made: Written) -> dict[str, Any]:
        return {
            "prompt_tokens": len(ids), "completion_tokens": len(made.ids),
            "total_tokens": len(ids) + len(made.ids), "prompt_tokens_details": {"cached_tokens": len(ids) // 2},
        }  # fmt: skip

    def timings(self, ids: list[int], made: Written, behind: int, body: dict[str, Any]) -> dict[str, Any]:
        """What an event of llama.cpp says that was read and written; it is sent some tokens behind."""
        if self.kind != "llamacpp" or not body.get("timings_per_token"):
            return {}
        cached = len(ids) // 2
        return {"timings": {"cache_n": cached, "prompt_n": len(ids) - cached, "predicted_n": len(made.ids) - behind}}

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = self.checked(body)
        only_reads = body.get("echo") and body.get("max_tokens") == 0
        made = Written() if only_reads else list(self.write(ids, body))[-1]
        chat = "messages" in body
        text = self.shown(made, body)
        if chat and self.kind == "llamacpp" and body["messages"][-1]["role"] == "assistant":
            text = body["messages"][-1]["content"] + text
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self.thinks_apart:
            message |= {"content": None, "reasoning": text}
        content = {"message": message} if chat else {"text": text}
        choice = {"index": 0, **content, **self.ended(made, body), "logprobs": self.likely(ids, made, body)}
        if self.kind == "vllm" and body.get("prompt_logprobs") is not None:
            choice["prompt_logprobs"] = self.ranked(ids)
        return {"id": "1", "object": "x", "model": self.name, "choices": [choice], "usage": self.usage(ids, made)}

    def events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        ids, told, made, sent = self.checked(body), "", Written(), 0
        last, counts = dict[str, Any](), dict[str, Any]()
        options = body.get("stream_options") or {}
        counting = options.get("continuous_usage_stats") and self.kind in ("vllm", "sglang")
        for made in self.write(ids, body):
            time.sleep(self.pace)
            text = self.shown(made, body).rstrip("\ufffd")  # a character that is not whole is held back
            fresh, told = text[len(told) :], text
            content: dict[str, Any] = {"delta": {"content": fresh}} if "messages" in body else {"text": fresh}
            if self.kind == "vllm" and body.get("return_token_ids") and self.streams_ids:
                content["token_ids"] = made.ids[sent:]
                content["prompt_token_ids"] = None if sent else ids
                sent = len(made.ids)
            if self.kind == "llamacpp" and body.get("logprobs") and ("prompt" in body or body.get("top_logprobs")):
                new = zip(made.ids[sent:], made.logprobs[sent:], strict=True)
                content["logprobs"] = {
                    "content": [{"id": id_, "token": self.text([id_]), "logprob": value} for id_, value in new]
                }
                sent = len(made.ids)
            if last:
                counts |= self.timings(ids, made, 1, body)
                yield {"choices": [{"index": 0, **last, "finish_reason": None}], **counts}
            last, counts = content, {"usage": self.usage(ids, made)} if counting else {}
        if self.kind == "vllm":  # tells the reason with the last token
            ended = {key: value for key, value in self.ended(made, body).items() if key != "token_ids"}
            yield {"choices": [{"index": 0, **ended, **last}]}
        else:
            yield {"choices": [{"index": 0, **last, "finish_reason": None}], **self.timings(ids, made, 0, body)}
            last = {"delta": {}} if "messages" in body else {"text": ""}
            yield {"choices": [{"index": 0, **self.ended(made, body), **last}]}
        if options.get("include_usage") and self.kind != "llama_cpp_python":
            yield {"choices": [], "usage": self.usage(ids, made)}


def spoilt(data: dict[str, Any], fault: str) -> dict[str, Any]:
    """A reply that was paid for and is of no use."""
    (choice,) = data["choices"]
    if fault == "no choices":
        return {**data, "choices": []}
    if fault in ("abort", "error", "repetition", "content_filter", "no reason"):
        choice["finish_reason"] = None if fault == "no reason" else fault
    if fault == "wrong ids":
        choice["token_ids"] = [10**6]
    return data


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    habits: Habits

    def do_GET(self) -> None:
        self.habits.listings += self.path == "/v1/models"
        if self.habits.listing_fault == "http500":
            return self.send_json(500, {"error": "no list"})
        try:
            if self.habits.listing_fault == "hang":
                return self.hang()
            told = self.habits.told(self.path)
            return self.send_json(404, {"detail": "Not Found"}) if told is None else self.send_json(200, told)
        except ConnectionError:
            self.habits.dropped += 1
            self.close_connection = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        habits = self.habits
        with habits.lock:
            number = len(habits.requests)
            habits.requests.append(body)
            fault = habits.fault(number)
            habits.inside += 1
            habits.crowd = max(habits.crowd, habits.inside)
        try:
            self.reply(body, fault)
        except (BrokenPipeError, ConnectionResetError):
            habits.dropped += 1
            self.close_connection = True
        finally:
            with habits.lock:
                habits.inside -= 1

    def reply(self, body: dict[str, Any], fault: str | None) -> None:
        habits = self.habits
        if habits.key is not None and self.headers.get("Authorization") != f"Bearer {habits.key}":
            return self.send_json(401, {"error": {"message": f"Incorrect API key: {self.headers['Authorization']}"}})
        if fault == "hang":
            return self.hang()
        if fault == "http500 last":  # once all others are answered
            assert wait_until(lambda: habits.inside == 1)
            time.sleep(0.1)  # and the answers are read
        if fault in ("http500", "http500 last"):
            return self.send_json(500, {"error": {"message": "EngineCore encountered an issue."}})
        if fault and fault[:3] in ("429", "503"):
            times = {" without a time": None, " in a second": "1", " in an hour": "3600"}
            later = times.get(fault[3:], "0.05")
            headers = {} if later is None else {"Retry-After": later}
            return self.send_json(int(fault[:3]), {"error": {"message": "slow down"}}, **headers)
        try:
            if body.get("stream"):
                return self.send_stream(body, fault)
            data = habits.gateway.reply(habits.answer(habits.gateway.request(body)))
        except Refusal as refusal:
            return self.send_json(refusal.status, refusal.body, **refusal.headers)
        text = json.dumps(data if fault is None else spoilt(data, fault))
        if fault == "malformed":
            text = text[: len(text) // 2]
        return self.send_text(200, text, cut=fault == "cut")

    def hang(self) -> None:
        """Wait until the client goes away."""
        for _ in range(1000):
            if select.select([self.connection], [], [], 0.01)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                raise ConnectionResetError
        raise AssertionError("nobody went away")

    def send_json(self, status: int, data: Any, **headers: str) -> None:
        self.send_text(status, json.dumps(data), cut=False, **headers)

    def send_text(self, status: int, text: str, cut: bool = False, **headers: str) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True

    def send_stream(self, body: dict[str, Any], fault: str | None) -> None:
        habits, started = self.habits, False
        events = map(habits.gateway.reply, habits.events(habits.gateway.request(body)))
        for number, event in enumerate(events):
            if not started:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                started = True
                if fault == "silent":
                    self.hang()
            if fault == "cut" and number == 3:
                break
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            if select.select([self.connection], [], [], 0)[0]:
                raise ConnectionResetError
        else:
            if habits.kind != "transformers":
                self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def listening(habits: Habits) -> Iterator[Habits]:
    """Habits behind a port of the loopback interface."""
    handler = type("OwnHandler", (Handler,), {"habits": habits})

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients go away as they please."""

    http = Quiet(("127.0.0.1", 0), handler)
    habits.url = f"http://127.0.0.1:{http.server_port}/v1"
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield habits
    finally:
        http.shutdown()
        http.server_close()


def wait_until(true: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether something comes true in time."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.005)
    return true()
