"""Logs of the in-process models: lost work, and faults with their place."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path as Folder
from typing import Any

import pytest
import torch

from rsd_core import Path, Step, StepRequest, as_prompt
from rsd_integrations.huggingface import load_generator, load_shared
from rsd_integrations.huggingface.fused_decoder import FusedDecoder
from rsd_integrations.huggingface.kv_store import KVStore, LayerShape
from tests.huggingface.soak import PROMPTS
from tests.huggingface.test_shared import with_head
from tests.huggingface.tiny import make_causal_lm

ROOM = "rsd_integrations"


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if record.levelno == level and record.name.startswith(ROOM)
    ]


def test_sequences_that_make_room_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A preempted row costs time that a user wonders about; that idle sequences go is everyday."""
    caplog.set_level(logging.DEBUG, ROOM)
    shape = LayerShape(1, 8, 8)
    store = KVStore([shape], torch.float32, torch.device("cpu"), budget=16 * 4 * 32, context=32)  # one sequence
    early, late = store.sequence(), store.sequence()
    early.activate()
    late.activate()
    assert store.reserve(late, 20)
    late.ids = list(range(20))
    assert store.reserve(early, 5)
    early.ids = list(range(5))
    assert messages(caplog, logging.INFO) == ["preempted a row of 20 tokens: 0.002048 MB are full (cache_bytes)"]
    assert not store.reserve(late, 20)  # who came later waits
    early.deactivate()
    assert store.reserve(late, 20)
    assert messages(caplog, logging.DEBUG) == ["evicted a sequence of 5 tokens"]


def test_a_fault_of_a_model_is_a_warning_with_its_traceback_below(
    checkpoint: Folder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_generator(str(checkpoint))
    caplog.set_level(logging.DEBUG, ROOM)

    def broken(*_: object) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.runner, "_run", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        asyncio.run(model.generate(Path(as_prompt(PROMPTS[0])), StepRequest((0,))))
    assert messages(caplog, logging.WARNING) == ["1 calls of Qwen2ForCausalLM failed: RuntimeError: out of memory"]
    assert [record.exc_info is not None for record in caplog.records if "where they failed" in record.message] == [True]


def test_a_reward_head_that_fails_is_a_warning(tmp_path: Folder, caplog: pytest.LogCaptureFixture) -> None:
    model = load_shared(str(with_head(make_causal_lm(tmp_path / "lm"))))
    model.head.layers = torch.nn.Linear(3, 1)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        asyncio.run(model.score(Path(as_prompt(PROMPTS[0])), [Step("No.\n\n", "delimiter")]))
    (message,) = messages(caplog, logging.WARNING)
    assert message.startswith("the rewards of 1 candidates failed: RuntimeError: mat1 and mat2")


def test_a_model_that_runs_more_slowly_than_it_could_says_so(
    checkpoint: Folder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: Any = FusedDecoder.__call__
    monkeypatch.setattr(FusedDecoder, "__call__", lambda *args: (None, 1 - plain(*args)[1]))
    load_generator(str(checkpoint))
    assert messages(caplog, logging.WARNING) == [
        "Qwen2ForCausalLM runs its own modules, more slowly: fused, its results differ"
    ]
