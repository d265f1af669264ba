"""A server's kind, window and concurrency, detected by asking it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rsd_core import ConfigurationError, Path, StepRequest, as_prompt
from rsd_core.blocking import wait_for
from rsd_integrations.openai_compatible import OpenAIGenerator
from rsd_integrations.openai_compatible.server import Server
from tests.openai_compatible.server import Habits, Refusal

Connect = Callable[..., OpenAIGenerator]


def learnt(model: OpenAIGenerator) -> Server:
    return wait_for(model.server())


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
    vllm.told = lambda path: asked.append(path)  # type: ignore[method-assign]
    try:
        assert learnt(connect(vllm, retries=0)).profile.name == "generic"
    finally:
        del vllm.told
    assert asked == []


def test_a_window_that_all_slots_share_and_that_is_full_is_waited_for(
    servers: dict[str, Habits], connect: Connect, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama-server fails all that it is working on: that is back-pressure, in one piece and in streams."""
    llama = servers["llamacpp"]
    full = {"error": {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}}
    events = Habits.events
    refused: list[str] = []

    def some_events(server: Habits, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if len(refused) < 2:
            refused.append("stream")
            if len(refused) == 1:
                raise Refusal(500, full)
            yield next(events(server, body))
            yield full
            return
        yield from events(server, body)

    monkeypatch.setattr(Habits, "events", some_events)
    model = connect(llama, retries=0, patience=20)
    (step,) = wait_for(model.generate(Path(as_prompt(questions[0])), StepRequest((0,), 60))).steps
    assert (step.ending, len(refused)) == ("delimiter", 2)


def test_a_route_that_takes_no_ids_is_refused_with_what_to_do(
    vllm: Habits, connect: Connect, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As LiteLLM's are, but for one."""

    def refuse(server: Habits, body: dict[str, Any]) -> list[int]:
        raise Refusal(500, {"error": {"message": "OpenAIException - Unmapped prompt format.", "code": "500"}})

    monkeypatch.setattr(Habits, "checked", refuse)
    with pytest.raises(ConfigurationError, match=r"accepts no token ids.*text-completion-openai.*remove profile="):
        wait_for(connect(vllm).generate(Path(as_prompt(questions[0])), StepRequest((0,), 60)))
    assert len(vllm.requests) == 1, "it is not tried again"


@pytest.mark.usefixtures("untried")
def test_a_route_that_makes_a_prompt_of_each_message_is_refused(
    vllm: Habits, connect: Connect, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Habits.answer

    def one_each(server: Habits, body: dict[str, Any]) -> dict[str, Any]:
        data = answer(server, body)
        return data | {"choices": data["choices"] * len(body["messages"])}

    monkeypatch.setattr(Habits, "answer", one_each)
    with pytest.raises(ConfigurationError, match="took each message for a separate prompt"):
        wait_for(connect(vllm, None).generate(Path(as_prompt(questions[0])), StepRequest((0,), 60)))
    path, whole = Path(as_prompt([("system", "Add."), ("user", "1 + 1?")])), StepRequest((0,), 60, None)
    with pytest.raises(ConfigurationError, match="took each message"):
        wait_for(connect(vllm, None).generate(path, whole))
