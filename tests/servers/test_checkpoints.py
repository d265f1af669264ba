"""Reward models of published layouts behind vLLM score as they do in process.

These servers stop before those of the embedded family start: the files of this folder run in the order of their names.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as Folder
from typing import Any

import pytest
import torch

from rsd_core import VerifierError, load
from rsd_integrations.huggingface import load_verifier
from rsd_integrations.openai_compatible.faults import EndpointError, Refused
from tests.huggingface.reward_models import CASES, _mlp, _qwen_lm, make, put_on
from tests.huggingface.test_reward_models import QUESTION, STEPS, extended, step
from tests.servers.launcher import Server, running, step_tag

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]


def value_model(folder: Folder) -> Folder:
    """Qwen2.5-Math-RM's layout: a value at every token."""
    torch.manual_seed(0)
    return put_on(_qwen_lm(folder), _mlp(1), architectures=["Qwen2ForRewardModel"])


@dataclass(frozen=True)
class Served:
    """A checkpoint in process and behind a server."""

    folder: Folder
    kind: str
    options: dict[str, Any]
    server: Server

    def behind_server(self, kind: str | None = None, **options: Any) -> Any:
        model = f"{kind or self.kind}:{self.server.name}@{self.server.url}"
        return load(model, tokenizer=str(self.folder), retries=0, **self.options | options)

    def in_process(self) -> Any:
        return load_verifier(str(self.folder), **self.options)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    root = tmp_path_factory.mktemp("served")
    qwen, value = make("qwen", root / "qwen"), value_model(root / "value")
    shepherd, rlhflow = make("math-shepherd", root / "math-shepherd"), make("rlhflow", root / "rlhflow")
    made = {
        "qwen": Served(
            qwen,
            "pooling",
            {"format": "qwen2.5-math-prm"},
            Server("qwen", qwen, pooling=True, arguments=step_tag(qwen, "<extra_0>")),
        ),
        "value": Served(value, "pooling", {"format": "outcome"}, Server("value", value, pooling=True)),
        "math-shepherd": Served(shepherd, "token_logits", CASES["math-shepherd"].options, Server("shepherd", shepherd)),
        "rlhflow": Served(rlhflow, "token_logits", CASES["rlhflow"].options, Server("rlhflow", rlhflow)),
    }
    with running(*(one.server for one in made.values())):
        yield made


@pytest.mark.parametrize("name", ["qwen", "value", "math-shepherd", "rlhflow"])
def test_a_server_scores_as_in_process(served: dict[str, Served], name: str) -> None:
    server, local = served[name].behind_server(), served[name].in_process()
    path, seen = extended([]), []
    for text in STEPS:
        candidates = [step(text), step(STEPS[0] + " Then 3."), step("So - 1")]
        ours, theirs = (asyncio.run(model.score(path, candidates)) for model in (local, server))
        assert theirs.rewards == pytest.approx(ours.rewards, abs=1e-4)
        seen += ours.rewards
        path = path.extend(step(text))
    assert max(seen) - min(seen) > 1e-3


@pytest.mark.parametrize("name", ["qwen", "math-shepherd", "rlhflow"])
def test_a_server_scores_as_the_card_computes(served: dict[str, Served], name: str) -> None:
    model = served[name].behind_server()
    wanted = CASES[name].rewards(served[name].folder, QUESTION, STEPS)
    scores = [asyncio.run(model.score(extended(STEPS[:i]), [step(STEPS[i])])).rewards[0] for i in range(len(STEPS))]
    assert scores == pytest.approx(wanted, abs=1e-4)


def test_a_server_without_rows_at_the_separator_is_told_what_it_needs(served: dict[str, Served]) -> None:
    model = served["qwen"].behind_server(format="trl", separator=" So")
    with pytest.raises(EndpointError, match=r"0 rows for 1 steps.*step_tag_id"):
        asyncio.run(model.score(extended([]), [step(STEPS[0])]))


def test_a_server_of_the_other_kind_is_refused(served: dict[str, Served]) -> None:
    with pytest.raises(Refused, match="404"):
        asyncio.run(served["rlhflow"].behind_server("pooling", format="outcome").score(extended([]), [step("a")]))


def test_an_overlong_path_is_the_verifiers_fault_and_not_the_end(served: dict[str, Served]) -> None:
    for name in ("qwen", "math-shepherd"):
        with pytest.raises(VerifierError, match="Limit the answer"):
            asyncio.run(served[name].behind_server().score(extended(STEPS * 30), [step("So")]))
