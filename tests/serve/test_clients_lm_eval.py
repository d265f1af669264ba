"""lm-evaluation-harness evaluates `rsd serve` as it does any server."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import lm_eval
import pytest

from rsd_core import Decoder
from rsd_integrations.embedded.task import problems
from tests.lm_eval.counting import counting


@pytest.mark.parametrize(
    ("model", "route"), [("local-chat-completions", "chat/completions"), ("local-completions", "completions")]
)
def test_a_task_comes_out_as_with_the_bare_decoder(
    served: str, bare: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, route: str
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    drawn = list(itertools.islice(problems("test", 11), 6))
    told: Any = lm_eval.simple_evaluate(
        model=model,
        model_args=f"model=rsd,base_url={served}/v1/{route},num_concurrent=3,max_retries=1,tokenizer_backend=None",
        tasks=["counting"],
        task_manager=counting(tmp_path, drawn),
        apply_chat_template=route.startswith("chat"),
        bootstrap_iters=0,
    )
    alone = [bare.run(problem.question) for problem in drawn]
    right = sum(result.answer == str(problem.answer) for result, problem in zip(alone, drawn, strict=True))
    assert told["results"]["counting"]["exact_match,boxed"] == right / len(drawn)
    assert [sample["resps"][0][0] for sample in told["samples"]["counting"]] == [result.text for result in alone]
