"""Shared by the tests of LlamaIndex: a small scripted world and all eight interfaces of an LLM."""

from __future__ import annotations

import threading
import time
from typing import Any

from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse

from rsd_core.testing import ScriptedDrafter
from rsd_integrations.llamaindex import RSDLLM

SPECS = {"draft": "scripted:draft", "target": "scripted:target", "verifier": "scripted:verifier"}
TEXT = "There are 3 rows of 4 seats: 3*4=12.\n\nTwo seats are taken: 12-2=10.\n\nThe answer is \\boxed{10}."
SYNC = ("complete", "stream_complete", "chat", "stream_chat")
ASYNC = ("acomplete", "astream_complete", "achat", "astream_chat")
FACES = SYNC + ASYNC

loads: list[str] = []
"""What `load` was asked for."""


def llm(**options: Any) -> RSDLLM:
    return RSDLLM(**(SPECS | options))


async def ask(model: RSDLLM, face: str, prompt: str = "q", **options: Any) -> list[Any]:
    """The responses of one call, several for a stream."""
    asked: Any = [ChatMessage(role="user", content=prompt)] if "chat" in face else prompt
    given = getattr(model, face)(asked, **options)
    if face in ASYNC:
        given = await given
    if "stream" not in face:
        return [given]
    return [response async for response in given] if face in ASYNC else list(given)


def text(response: CompletionResponse | ChatResponse) -> str:
    return response.text if isinstance(response, CompletionResponse) else str(response.message.content)


def load(name: str) -> ScriptedDrafter:
    """A drafter whose weights take their time, behind `slow:` specs of a test."""
    loads.append(name)
    time.sleep(0.5)
    return ScriptedDrafter(["done"])


class Locked(ScriptedDrafter):
    """A typical model: it holds a lock, which does not pickle, and a key, which must stay secret."""

    def __init__(self) -> None:
        super().__init__(["mine"])
        self.lock = threading.Lock()
        self.api_key = "sk-very-secret"
