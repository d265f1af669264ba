"""Models behind URLs: where they are, and how many calls wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry.trace import SpanKind

from rsd_core import BinaryStep, Limits, RewardGuidedDecoder, Settings, TargetOnly, load
from rsd_core.testing import ScriptedTarget, ScriptedVerifier
from rsd_integrations.telemetry.described import describe
from tests.openai_compatible.conftest import TOKENIZER
from tests.openai_compatible.server import Habits, listening
from tests.telemetry.conftest import Told, attributes


@pytest.fixture(scope="module")
def server() -> Iterator[Habits]:
    with listening(Habits("draft", "vllm")) as habits:
        yield habits


def test_calls_of_servers_say_where_they_went(told: Told, server: Habits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "sk-very-secret")
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    drafter = load(f"openai,tokenizer={TOKENIZER},key_env=SECRET:draft@{server.url}")
    judge = load(f"judge:openai,tokenizer={TOKENIZER}:draft@{server.url}")
    rsd = RewardGuidedDecoder(
        drafter=drafter,
        verifier=judge,
        target=ScriptedTarget(["That is \\boxed{1}."]),
        policy=BinaryStep(),
        settings=Settings(limits=Limits(max_steps=2)),
    )
    with rsd:
        result = rsd.run("Mia has 45 apples. She buys 12 more. How many?")
    draft, judged = told.spans("text_completion draft")[0], told.spans("score draft")[0]
    for span in (draft, judged):
        assert span.kind is SpanKind.CLIENT
        assert (
            attributes(span).items()
            >= {
                "server.address": "127.0.0.1",
                "server.port": port,
                "gen_ai.request.model": "draft",
                "gen_ai.provider.name": "openai",
            }.items()
        )
    for role in ("drafter", "verifier"):
        account = result.ledger.account(role)
        spans = [attributes(span) for span in told.spans() if attributes(span).get("rsd.role") == role]
        assert sum(span["gen_ai.usage.output_tokens"] for span in spans) == account.generated
        assert sum(span["gen_ai.usage.input_tokens"] for span in spans) == account.read
        assert sum(span["gen_ai.usage.cache_read.input_tokens"] for span in spans) == account.reused
    assert "secret" not in "".join(span.to_json() for span in told.spans())


def test_the_depth_of_a_servers_queue_is_reported_while_calls_wait(told: Told, server: Habits) -> None:
    server.pace = 0.02
    target = load(f"openai,tokenizer={TOKENIZER},concurrency=1:draft@{server.url}")

    async def crowd() -> list[float]:
        async with TargetOnly(target=target, settings=Settings(limits=Limits(max_tokens=8))) as decoder:
            work = asyncio.ensure_future(decoder.arun_many([f"Count to {n}." for n in range(4)]))
            depths = [0.0]
            while not work.done():
                depths.append(told.total("rsd.queue.depth", gen_ai__request__model="draft"))
                await asyncio.sleep(0.01)
            await work
            return [*depths, told.total("rsd.queue.depth")]

    depths = asyncio.run(crowd())
    server.pace = 0.0
    assert max(depths) == 3
    assert depths[-1] == 0


@pytest.mark.parametrize(
    ("url", "provider", "port"),
    [
        ("https://api.groq.com/openai/v1", "groq", 443),
        ("https://my.openai.azure.com/openai/v1", "azure.ai.openai", 443),
        ("http://vllm.internal:8000/v1", "openai", 8000),
        ("http://[::1]:8000/v1", "openai", 8000),
    ],
)
def test_providers_have_the_names_of_the_conventions(
    url: str, provider: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "k")
    told = describe("target", load(f"openai,key_env=KEY:m@{url}")).attributes
    assert (told["gen_ai.provider.name"], told["server.port"]) == (provider, port)
    assert told["gen_ai.operation.name"] == "chat"


def test_a_verifier_of_several_servers_is_reported_by_its_own_name() -> None:
    spec = "ensemble:(judge:openai:a@http://127.0.0.1:1)|(judge:openai:b@http://127.0.0.1:2)|rule:arithmetic"
    described = describe("verifier", load(spec))
    assert len(described.endpoints) == 2
    assert "server.address" not in described.attributes
    assert described.span.startswith("score ensemble")
    assert describe("verifier", ScriptedVerifier([1.0])).endpoints == ()
