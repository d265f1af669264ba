"""Reward models of published layouts, in process and behind vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path as Folder
from typing import Any

import pytest

from rsd_core import load
from rsd_integrations.huggingface import load_verifier
from tests.huggingface.reward_models import CASES, make
from tests.inprocess.test_reward_models import QUESTION, STEPS, extended, step
from tests.servers.launcher import Server, running


@dataclass(frozen=True)
class Served:
    """A reward model in both places."""

    case: str
    """Its name in `CASES`."""
    checkpoint: Folder
    """As published."""
    server: Server
    options: dict[str, Any] = field(default_factory=dict)

    def behind_server(self, **options: Any) -> Any:
        """The verifier that asks the server."""
        kind = "pooling" if self.server.pooling else "token_logits"
        own: dict[str, Any] = {"tokenizer": str(self.checkpoint), "retries": 0}
        return load(f"{kind}:{self.server.name}@{self.server.url}", **own | self.options | options)

    def check(self) -> None:
        """Compare scores with those in process and with the computation of the model's card."""
        local = load_verifier(str(self.checkpoint), **self.options)
        remote = self.behind_server()
        path, read = extended([]), []
        for text in STEPS:
            candidates = [step(text), step(STEPS[0] + " Then 3."), step("So - 1")]
            ours, theirs = (asyncio.run(model.score(path, candidates)) for model in (local, remote))
            assert theirs.rewards == pytest.approx(ours.rewards, abs=1e-4)
            read.append(theirs.rewards[0])
            path = path.extend(step(text))
        assert read == pytest.approx(CASES[self.case].rewards(self.checkpoint, QUESTION, STEPS), abs=1e-4)
        assert max(read) - min(read) > 1e-3
        if self.server.pooling:
            run = asyncio.run(remote.score_run(extended([]), [step(text) for text in STEPS]))
            assert [scores.rewards[0] for scores in run] == pytest.approx(read, abs=1e-4)


@contextmanager
def running_all(*models: Served) -> Iterator[dict[str, Served]]:
    """Their servers, side by side."""
    with running(*(model.server for model in models)):
        yield {model.case: model for model in models}


def published(case: str, root: Folder) -> Folder:
    """A checkpoint of a layout."""
    return make(case, root / case)
