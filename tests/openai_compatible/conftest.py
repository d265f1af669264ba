"""Servers of the tests: real HTTP on loopback around the family's drafter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from rsd_core import Path, StepRequest, as_prompt, load
from rsd_core.blocking import wait_for
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.openai_compatible import OpenAIGenerator, trials
from rsd_integrations.openai_compatible.short_answers import QUESTION
from tests.openai_compatible.server import OWNERS, Gateway, Habits, listening, wait_until

TOKENIZER = str(FOLDER / "draft")


WAYS: list[tuple[str, dict[str, Any]]] = [
    ("vllm", {"tokenizer": TOKENIZER}),
    ("vllm", {"mode": "completions"}),
    ("vllm", {}),
    ("sglang", {"tokenizer": TOKENIZER}),
    ("sglang", {}),
    ("llamacpp", {"tokenizer": TOKENIZER}),
    ("llamacpp", {}),
    ("llama_cpp_python", {"tokenizer": TOKENIZER}),
    ("ollama", {}),
    ("transformers", {"tokenizer": TOKENIZER, "profile": "transformers"}),
    ("generic", {"tokenizer": TOKENIZER}),
]
"""How the servers are asked by most tests. What is tried out at first use is tried out before: it has its own tests."""


@pytest.fixture(scope="session")
def tried(every_kind: dict[str, Habits]) -> tuple[dict[Any, Any], set[Any]]:
    """What was proved of them."""
    for kind, options in WAYS:
        model = load(f"openai:draft@{every_kind[kind].url}", **options)
        wait_for(model.generate(Path(as_prompt(QUESTION)), StepRequest((0,), 16)))
        wait_for(model.aclose())
    return trials.STEP_ENDS.copy(), trials.GOES_ON.copy()


@pytest.fixture(scope="session")
def every_kind() -> Iterator[dict[str, Habits]]:
    """A server of each kind; they share one model."""
    with ExitStack() as stack:
        first = stack.enter_context(listening(Habits("draft", "vllm")))
        yield {"vllm": first} | {
            kind: stack.enter_context(listening(first.twin(kind))) for kind in OWNERS if kind != "vllm"
        }


@pytest.fixture
def servers(every_kind: dict[str, Habits], tried: tuple[dict[Any, Any], set[Any]]) -> dict[str, Habits]:
    """The same, as they come."""
    trials.STEP_ENDS.clear()
    trials.STEP_ENDS.update(tried[0])
    trials.GOES_ON.clear()
    trials.GOES_ON.update(tried[1])
    for server in every_kind.values():
        assert wait_until(lambda server=server: server.inside == 0), "clients of other tests are still there"  # type: ignore[misc]
        server.requests.clear()
        server.key, server.dropped, server.crowd, server.context, server.pace = None, 0, 0, 512, 0.0
        server.listings, server.listing_fault, server.owner, server.slots = 0, None, None, 1
        server.streams_ids, server.thinks_apart, server.most = True, False, 10**9
        server.fault, server.gateway, server.cuts = (lambda number: None), Gateway(), False
    return every_kind


@pytest.fixture
def untried(servers: dict[str, Habits]) -> None:
    """Nothing was proved of the servers yet."""
    trials.STEP_ENDS.clear()
    trials.GOES_ON.clear()


@pytest.fixture
def vllm(servers: dict[str, Habits]) -> Habits:
    return servers["vllm"]


@pytest.fixture
def connect() -> Iterator[Callable[..., OpenAIGenerator]]:
    """Makes clients of servers and closes them."""
    made: list[OpenAIGenerator] = []

    def make(server: Habits, tokenizer: str | None = TOKENIZER, **options: Any) -> OpenAIGenerator:
        if tokenizer is not None:
            options["tokenizer"] = tokenizer
        made.append(load(f"openai:draft@{server.url}", **options))
        return made[-1]

    yield make
    for model in made:
        wait_for(model.aclose())
