"""A small OpenAI-compatible server around an embedded model, with the habits that real servers have."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rsd_integrations.embedded.models import FOLDER


class Server:
    """Answers like vLLM. `strips` and `forgets` make it strip stop strings although it was asked to keep them, and
    open a new turn where it was to continue one."""

    def __init__(self, name: str) -> None:
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(FOLDER / name)
        self.words: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(FOLDER / name)
        self.strips = self.forgets = False
        self.requests: list[dict[str, Any]] = []
        self.url = ""
        self._lock = threading.Lock()

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.requests.append(body)
        words = self.words
        if path.endswith("/chat/completions"):
            goes_on = bool(body.get("continue_final_message")) and not self.forgets
            shown: Any = words.apply_chat_template(
                body["messages"], tokenize=False, add_generation_prompt=not goes_on, continue_final_message=goes_on
            )
        else:
            (shown,) = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        ids = torch.tensor([words(shown, add_special_tokens=False)["input_ids"]])
        room = int(body.get("max_tokens") or body.get("max_completion_tokens") or 256)
        with self._lock, torch.inference_mode():
            out: Any = self.model.generate(  # type: ignore[operator]
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=room, do_sample=False, pad_token_id=0
            )
        made = out[0, ids.shape[1] :].tolist()
        ended = made[-1] == words.eos_token_id
        text = str(words.decode(made, skip_special_tokens=True))
        reason = "stop" if ended else "length"
        stops: Any = body.get("stop") or []
        for mark in [stops] if isinstance(stops, str) else stops:
            at = text.find(mark)
            if at >= 0:
                keep = body.get("include_stop_str_in_output") and not self.strips
                text, reason = text[: at + len(mark) if keep else at], "stop"
        wrote = len(words(text)["input_ids"])
        usage = {"prompt_tokens": ids.shape[1], "completion_tokens": wrote, "total_tokens": ids.shape[1] + wrote}
        chat = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
        choice = {"index": 0, "finish_reason": reason, **chat}
        return {"id": "1", "object": "x", "created": 0, "model": "m", "choices": [choice], "usage": usage}


@contextmanager
def serving(name: str) -> Iterator[Server]:
    """A copy of an embedded model behind a port of the loopback interface."""
    server = Server(name)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            data = json.dumps(server.answer(self.path, body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
