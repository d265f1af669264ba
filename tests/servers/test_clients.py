"""Clients that cannot live with ours, and LiteLLM's proxy, before `rsd serve` on the embedded family."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from rsd_core import RSDConfig
from rsd_integrations.embedded.task import problems
from tests.langchain.providers import Asked, Call, Reply, provider
from tests.servers.gateways import KEY, LITELLM, LiteLLM
from tests.servers.launcher import ROOT, Server, running

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]
ASKED = [problem.question for _, problem in zip(range(4), problems("test", 8), strict=False)]
SEED = 5
CLIENTS = Path(__file__).parent / "clients"


class RSDServe(Server):
    """`rsd serve` as it comes."""

    environment: Mapping[str, str] = {"OMP_NUM_THREADS": "1"}
    program = Path(sys.executable)

    def __init__(self) -> None:
        super().__init__("rsd", ROOT)

    def _command(self) -> list[str]:
        return [str(self.program), "-m", "rsd_integrations.cli", "serve", "--port", str(self.port)]

    def answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=5).is_success
        except httpx.HTTPError:
            return False


@pytest.fixture(scope="module")
def served() -> Iterator[RSDServe]:
    server = RSDServe()
    with running(server):
        yield server


@pytest.fixture(scope="module")
def wanted() -> list[str]:
    with RSDConfig().build() as decoder:
        return [result.text for result in decoder.run_many(ASKED, seed=SEED)]


def told_by(python: Path, client: str, url: str) -> dict[str, Any]:
    """What a client got, by the way in which it asked."""
    assert python.exists(), f"`make servers` installs {python}"
    ran = subprocess.run(
        [str(python), str(CLIENTS / client), url],
        input=json.dumps(ASKED),
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize(
    ("environment", "client", "ways"), [(".venv-clients", "llamaindex.py", 6), (".venv-litellm", "litellm_sdk.py", 5)]
)
def test_all_ways_of_a_client_get_the_texts_of_the_bare_decoder(
    served: RSDServe, wanted: list[str], environment: str, client: str, ways: int
) -> None:
    told = told_by(ROOT / environment / "bin" / "python", client, served.url)
    assert told == dict.fromkeys(told, wanted)
    assert len(told) == ways


def test_llamaindexs_own_openai_class_plays_the_roles() -> None:
    def answer(asked: Asked) -> Reply:
        if asked.model in ("cheap", "strong") and "moved" not in json.dumps(asked.body["messages"]):
            amount = {"cheap": 999, "strong": 100}[asked.model]
            return Reply(calls=[Call("transfer", json.dumps({"amount": amount}))], reason="tool_calls")
        return {
            "cut": Reply(calls=[Call("transfer", '{"amount": 100')], reason="length"),
            "locked": Reply("a wrong key", status=401),
            "judge": Reply("Fine. Score (0-9): 9."),
        }.get(asked.model, Reply(f"Done by {asked.model}."))

    with provider() as made:
        made.answers_by(answer)
        told = told_by(ROOT / ".venv-clients" / "bin" / "python", "llamaindex_roles.py", made.url)
        drafts = [asked.body for asked in made.asked if asked.model == "cheap"]
    agent = ["Done by cheap.", [100], ["draft"], 2, 30]
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    assert told == {"agent True": agent, "agent False": agent, "cut": [], "error": 401, "judge": [usage, 1.0]}
    assert drafts[0].items() >= {"max_tokens": 99, "top_p": 0.5}.items()
    assert isinstance(drafts[0]["seed"], int)


def test_litellms_proxy_hands_answers_streams_and_refusals_on(served: RSDServe, wanted: list[str]) -> None:
    assert LITELLM.exists(), "`make servers` installs LiteLLM"
    gateway = LiteLLM({"mine": ("openai", served), "text": ("text-completion-openai", served)})
    with running(gateway), openai.OpenAI(base_url=gateway.url, api_key=KEY, max_retries=0) as client:
        for question, text in zip(ASKED, wanted, strict=True):
            asked: dict[str, Any] = {"model": "mine", "messages": [{"role": "user", "content": question}], "seed": SEED}
            chat = client.chat.completions.create(**asked, extra_body={"rsd": {"trace": True}})
            assert chat.choices[0].message.content == text
            own: Any = chat.choices[0].model_extra  # LiteLLM's place for what it does not know
            assert own["provider_specific_fields"]["rsd"]["trace"]["text"] == text
            assert chat.usage is not None
            assert (chat.usage.model_extra or {})["rsd"]["drafter"]["calls"] > 0
            chunks = client.chat.completions.create(**asked, stream=True)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
            assert client.completions.create(model="text", prompt=question, seed=SEED).choices[0].text == text
        with pytest.raises(openai.BadRequestError, match="mixture"):
            client.chat.completions.create(**asked, logprobs=True)
