"""A server that writes a given text a few characters at a time, without a network: for many texts in little time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from rsd_integrations.openai_compatible import OpenAIGenerator
from rsd_integrations.openai_compatible.step_ends import QUESTIONS

PROMPT = "Go on."
Stops = Literal["kept", "left", "named", "stripped", "trimmed", "ignored"]


@dataclass
class Scripted:
    """Stands in for an endpoint whose completions continue texts.

    `kept` cuts right after the stop string, `left` after the token that completes it, `named` and `stripped` before it;
    `trimmed` keeps it and strips white space at the end of what is not streamed; `ignored` knows no stop strings.
    """

    answer: str
    stops: Stops
    trial: str = "One, two, three."
    """What it answers when it is tried out."""
    token: int = 3
    """Characters of a token."""
    model: str = "m"
    base_url: str = "http://scripted/v1"
    key_env: str | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)

    def __repr__(self) -> str:
        return "<scripted>"

    def suggest(self, concurrency: int) -> None:
        """Nobody waits."""

    async def get(self, path: str, read: Callable[[dict[str, Any]], Any]) -> Any:
        return read({"data": [{"id": self.model, "owned_by": "somebody"}]})

    def write(self, body: dict[str, Any]) -> Iterator[tuple[str, str | None, str | None]]:
        """What is written, with the reason once it ends, and the stop string of that."""
        prompt, stops = body["prompt"], body.get("stop") or [] if self.stops != "ignored" else []
        begun = next(one for one in (PROMPT, *QUESTIONS) if prompt.startswith(one))
        whole = self.answer if begun == PROMPT else self.trial
        assert (begun + whole).startswith(prompt), "what is sent is what was written"
        rest, room = whole[len(prompt) - len(begun) :], int(body["max_tokens"]) * self.token
        for end in range(self.token, len(rest) + self.token, self.token):
            text = rest[:end]
            stop = next((stop for stop in stops if stop in text), None)
            if stop is not None:
                kept = self.stops in ("kept", "trimmed")
                cut = len(text) if self.stops == "left" else text.index(stop) + (len(stop) if kept else 0)
                yield text[:cut], "stop", stop
                return
            if end >= room:
                yield text, "length", None
                return
            yield text, None, None
        yield rest, "stop", None

    async def post(self, path: str, body: dict[str, Any], read: Any, charge: Any) -> Any:
        self.asked.append(body)
        text, reason, stop = list(self.write(body))[-1]
        choice: dict[str, Any] = {"text": text.rstrip() if self.stops == "trimmed" else text, "finish_reason": reason}
        if self.stops == "named":
            choice["stop_reason"] = stop
        reply = {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 1 + len(text) // self.token}}
        result = read(reply)
        charge(reply, result, 0.0)
        return result

    async def stream(self, path: str, body: dict[str, Any], make: Any, charge: Any) -> Any:
        self.asked.append({**body, "stream": True})
        reader, told = make(), ""
        for text, reason, _ in self.write(body):
            event = {"choices": [{"text": text[len(told) :], "finish_reason": reason}]}
            told = text
            if reader.take(event):
                break
        else:
            reader.end()
        charge(reader, 0.0)
        return reader


def behind(server: Any, profile: str | None) -> OpenAIGenerator:
    """A base model behind it."""
    from rsd_core import load

    made: OpenAIGenerator = load("openai:m@http://127.0.0.1:9", mode="completions", profile=profile)
    made.endpoint = server
    return made
