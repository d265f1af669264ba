"""JSON by a schema after reasoning in steps, behind vLLM and behind llama.cpp's own server: ids, texts and chats."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from rsd_core import RewardGuidedDecoder, Settings, StructuredDecoder, load
from rsd_core.testing import ScriptedVerifier
from rsd_integrations.embedded.models import FOLDER
from tests.servers.launcher import LlamaServer, Server, running

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]
QUESTION = "Mia has 45 apples. Then she buys 12 more. How many apples does Mia have now?"
SCHEMA: dict[str, Any] = {"enum": ["apples", "pens"]}
"""Without places for white space, which the servers' grammars let models write, and these small ones do, to the end of
their context."""


@pytest.fixture(scope="module")
def llama() -> Iterator[dict[str, LlamaServer]]:
    servers = {name: LlamaServer(name, FOLDER / name, slots=2) for name in ("draft", "target")}
    with running(*servers.values()):
        yield servers


def answers_fit(drafter: str, target: str) -> None:
    """The JSON drafted and kept, and drafted and replaced."""
    for rewards in ([0.9], [0.1]):
        decoder = RewardGuidedDecoder(
            drafter=load(drafter),
            verifier=ScriptedVerifier(rewards),
            target=load(target),
            settings=Settings(on_verifier_error="raise"),
        )
        with StructuredDecoder(decoder, SCHEMA, ask="JSON: {schema}") as structured:  # a context of 512 tokens is short
            result = structured.run(QUESTION)
        assert result.finish_reason == "stop", result.text
        jsonschema.validate(json.loads(result.text), SCHEMA)
        assert "boxed" in result.thought
        assert result.steps[-1].author == ("draft" if rewards == [0.9] else "target")
        assert not result.degradations


def test_vllm_by_ids(family_servers: dict[str, Server]) -> None:
    answers_fit(family_servers["draft"].spec, family_servers["target"].spec)


def test_vllm_by_chat(family_servers: dict[str, Server]) -> None:
    draft, target = (family_servers[name] for name in ("draft", "target"))
    answers_fit(f"openai:{draft.name}@{draft.url}", f"openai:{target.name}@{target.url}")


def test_llama_server_by_ids(llama: dict[str, LlamaServer]) -> None:
    answers_fit(llama["draft"].spec, llama["target"].spec)


def test_llama_server_by_chat(llama: dict[str, LlamaServer]) -> None:
    draft, target = llama["draft"], llama["target"]
    answers_fit(f"openai:{draft.name}@{draft.url}", f"openai:{target.name}@{target.url}")
