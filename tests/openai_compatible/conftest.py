"""Servers of the tests: real HTTP on loopback around the family's drafter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from rsd_core import load
from rsd_core.blocking import wait_for
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.openai_compatible import OpenAIGenerator
from tests.openai_compatible.server import OWNERS, Habits, listening, wait_until

TOKENIZER = str(FOLDER / "draft")


@pytest.fixture(scope="session")
def every_kind() -> Iterator[dict[str, Habits]]:
    """A server of each kind; they share one model."""
    with ExitStack() as stack:
        first = stack.enter_context(listening(Habits("draft", "vllm")))
        yield {"vllm": first} | {
            kind: stack.enter_context(listening(first.twin(kind))) for kind in OWNERS if kind != "vllm"
        }


@pytest.fixture
def servers(every_kind: dict[str, Habits]) -> dict[str, Habits]:
    """The same, as they come."""
    for server in every_kind.values():
        assert wait_until(lambda server=server: server.inside == 0), "clients of other tests are still there"  # type: ignore[misc]
        server.requests.clear()
        server.key, server.dropped, server.crowd, server.context, server.pace = None, 0, 0, 512, 0.0
        server.listings, server.listing_fault, server.owner, server.slots = 0, None, None, 1
        server.streams_ids, server.thinks_apart, server.most = True, False, 10**9
        server.fault = lambda number: None
    return every_kind


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
