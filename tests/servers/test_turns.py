"""Whole turns of chats behind vLLM that call tools, or have a format, as a single request asks."""

import json
from typing import Any

import pytest

from rsd_core import ConfigurationError, Message, RewardGuidedDecoder, Settings, as_prompt, load
from rsd_core.blocking import wait_for
from rsd_core.testing import ScriptedVerifier
from rsd_integrations.tool_calls import ToolCallStream
from tests.servers.launcher import Server

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": [1]}, "b": {"enum": [2]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": SCHEMA}}]
PROMPT = [Message("tools", json.dumps(TOOLS)), *as_prompt("How much is 1 and 2?")]


def turn(server: Server, prompt: Any, **fields: Any) -> Any:
    """The one turn of RSD over a chat that both drafts and replaces, and that a single request asks so."""
    model = load(f"openai:{server.name}@{server.url}")
    chat = model.with_fields(fields)
    settings = Settings(granularity="turn", on_verifier_error="raise")
    decoder = RewardGuidedDecoder(drafter=chat, verifier=ScriptedVerifier([0.9]), target=chat, settings=settings)
    try:
        (step,) = decoder.run(prompt).steps
        return step
    finally:
        wait_for(model.aclose())


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
def test_a_call_that_is_asked_for_comes_as_the_servers_message(family_servers: dict[str, Server], choice: Any) -> None:
    step = turn(family_servers["draft"], PROMPT, tool_choice=choice)
    assert step.author == "draft"
    (call,) = step.native["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "add")
    assert json.loads(call["function"]["arguments"]) in ({}, {"a": 1, "b": 2})  # the model has never seen a tool
    _, (read,) = ToolCallStream().feed(step.text, last=True)
    assert (read.name, read.arguments) == ("add", call["function"]["arguments"])


def test_a_format_that_is_asked_for_is_that_of_the_turn(family_servers: dict[str, Server]) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA}}
    step = turn(family_servers["draft"], "How much is 1 and 2?", response_format=wanted)
    assert json.loads(step.text) == {"a": 1, "b": 2}


def test_a_server_that_reads_no_calls_is_named_with_what_it_is_started_with(family_servers: dict[str, Server]) -> None:
    with pytest.raises(ConfigurationError, match=r"Remedy: start the server with .* --tool-call-parser=NAME"):
        turn(family_servers["target"], PROMPT)
