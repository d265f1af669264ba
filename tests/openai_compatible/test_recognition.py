"""What kind of server it is, how long its window is and how much it does at once: found out by asking it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rsd_core.blocking import wait_for
from rsd_integrations.openai_compatible import OpenAIGenerator
from rsd_integrations.openai_compatible.background import on_background_loop
from rsd_integrations.openai_compatible.server import Server
from tests.openai_compatible.server import Habits

Connect = Callable[..., OpenAIGenerator]


def learnt(model: OpenAIGenerator) -> Server:
    return wait_for(on_background_loop(model.server()))


@pytest.mark.parametrize(
    ("kind", "owner", "profile"),
    [
        ("vllm", "organization-owner", "vllm"),  # Ray Serve
        ("llamacpp", "somebody", "llamacpp"),  # a gateway that lists the models itself
        ("ollama", "bartowski", "ollama"),  # a model that somebody else published
        ("llama_cpp_python", "me", "llama_cpp_python"),
        ("generic", "openai", "generic"),
    ],
)
def test_a_server_is_known_by_its_list_of_models_or_by_what_it_alone_has(
    servers: dict[str, Habits], connect: Connect, kind: str, owner: str, profile: str
) -> None:
    servers[kind].owner = owner
    assert learnt(connect(servers[kind])).profile.name == profile


def test_slots_are_requests_at_once_and_a_slots_window_is_the_window(
    servers: dict[str, Habits], connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama = servers["llamacpp"]
    llama.slots = 3
    for profile in (None, "llamacpp"):
        model = connect(llama, profile=profile)
        server = learnt(model)
        assert (server.concurrency, model.endpoint.concurrency, server.context) == (3, 3, 512)
    chosen = connect(llama, concurrency=2)
    assert learnt(chosen).concurrency == 3
    assert chosen.endpoint.concurrency == 2
    monkeypatch.setattr(Habits, "models", lambda server: {"data": [{"id": "draft", "owned_by": "openai"}]})
    assert learnt(connect(llama)).context == 512, "also behind a gateway that has a list of its own"


@pytest.mark.parametrize("told", [{}, {"total_slots": "many"}, {"total_slots": 0}])
def test_a_server_that_does_not_tell_its_slots_has_as_many_as_its_kind(
    servers: dict[str, Habits], connect: Connect, monkeypatch: pytest.MonkeyPatch, told: dict[str, Any]
) -> None:
    models = Habits.told
    monkeypatch.setattr(
        Habits, "told", lambda server, path: (told or None) if path == "/props" else models(server, path)
    )
    assert learnt(connect(servers["llamacpp"])).concurrency == 4


def test_a_server_with_faults_is_asked_for_its_models_alone(vllm: Habits, connect: Connect) -> None:
    asked: list[str] = []
    vllm.listing_fault = "http500"
    vllm.told = lambda path: asked.append(path)  # type: ignore[method-assign, assignment, func-returns-value]
    try:
        assert learnt(connect(vllm, retries=0)).profile.name == "generic"
    finally:
        del vllm.told
    assert asked == []
