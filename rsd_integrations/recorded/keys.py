"""The identity of a call: the model, its input, and the request."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from weakref import WeakKeyDictionary

from rsd_core import Message, Path, Prompt, Splitter, Step, StepRequest

_known: WeakKeyDictionary[Path, bytes] = WeakKeyDictionary()


def call_key(model: str, call: str, read: bytes, asked: object = None) -> str:
    """The key of a call: 96 bits in 16 characters, the same in every process.

    Args:
        model: The model's spec.
        call: The name of its method.
        read: The digest of its input.
        asked: Anything else that determines its reply, as JSON data.
    """
    digest = hashlib.blake2b(f"{json.dumps([model, call, asked])}\n".encode() + read, digest_size=12).digest()
    return base64.urlsafe_b64encode(digest).decode()


def path_digest(path: Path) -> bytes:
    """The digest of a prompt and the steps so far, by their text and the sampled ids.

    Each path is hashed once: a response of n steps costs n hashes, however many calls are about it.
    """
    new: list[Path] = []
    for node in path.up():
        if node in _known:
            break
        new.append(node)
    for node in reversed(new):
        if node.parent is None or node.step is None:
            thinking = None if node.thinking is None else asdict(node.thinking)
            _known[node] = _digest(b"", [prompt_data(node.prompt), thinking])
        else:
            _known[node] = _digest(_known[node.parent], step_data(node.step))
    return _known[path]


def prompt_digest(prompt: Prompt) -> bytes:
    """The digest of a prompt."""
    return _digest(b"", prompt_data(prompt))


def prompt_data(prompt: Prompt) -> list[list[Any]]:
    """Messages as JSON data."""
    return [_message(message) for message in prompt]


def step_data(step: Step) -> list[Any]:
    """The parts of a step that a model reads."""
    return [step.text, list(step.tokens), step.partial]


def steps_data(steps: Sequence[Step]) -> list[list[Any]]:
    """Candidates, each with a flag for the end of the answer."""
    return [[*step_data(step), step.ending == "end"] for step in steps]


def request_data(request: StepRequest) -> list[Any]:
    """The request for a step, without its speculation.

    Greedy steps depend only on the number of seeds. With speculation they may depend on the seeds, since a proposer may
    sample, and a lossy rule accept its sample.
    """
    greedy = request.sampling.temperature == 0 and request.speculation is None
    seeds: int | list[int] = len(request.seeds) if greedy else list(request.seeds)
    delimiter = request.delimiter
    ends = delimiter.model_dump(mode="json") if isinstance(delimiter, Splitter) else delimiter
    how = request.sampling
    sampling = None if greedy else [how.temperature, how.top_p, *([how.top_k] if how.top_k else [])]
    return [seeds, request.max_tokens, ends, sampling, request.close]


def _message(message: Message) -> list[Any]:
    extra = json.loads(json.dumps(dict(message.extra), sort_keys=True, default=repr))
    return [message.role, message.content, *([extra] if extra else [])]


def _digest(before: bytes, data: object) -> bytes:
    return hashlib.blake2b(before + json.dumps(data).encode(), digest_size=16).digest()
