"""Every token is computed once, and what is computed again for want of room is told."""

from __future__ import annotations

import itertools

from rsd_core import DraftOnly, Settings
from rsd_integrations.embedded.task import problems
from rsd_integrations.llamacpp import load_generator
from tests.benchmarks.gguf_soak import accounting, equal_to_plain
from tests.llamacpp.gguf_files import embedded, gemma, smollm2


def test_no_token_is_computed_twice() -> None:
    found = accounting(12, Settings())
    assert found["rejected"] > 3
    assert found["told"] == found["seen"]
    assert (found["recomputed_tokens"], found["evicted"]) == (0, 0)


def test_with_candidates_too() -> None:
    found = accounting(6, Settings(candidates=3, temperature=0.5))
    assert found["told"] == found["seen"]
    assert (found["recomputed_tokens"], found["evicted"]) == (0, 0)


def test_what_is_computed_again_is_told() -> None:
    found = accounting(12, Settings(), cells=768)
    assert found["told"] == found["seen"]
    assert found["recomputed_tokens"] > 0
    assert found["evicted"] > 0


def test_texts_are_those_of_plain_generation() -> None:
    """Of one sequence in a context of its own."""
    assert equal_to_plain(smollm2(), 3, tokens=8) == {"prompts": 3, "equal": 3}
    assert equal_to_plain(gemma(), 2, tokens=8, alone=True) == {"prompts": 2, "equal": 2}
    assert equal_to_plain(embedded("target"), 5, tokens=60)["equal"] == 5


def test_a_model_whose_batches_differ_says_so_once(caplog: object) -> None:
    model = load_generator(str(embedded("draft")), context=500)
    model.runner.batch_invariant = False
    asked = [problem.question for problem in itertools.islice(problems("test", 5), 4)]
    with caplog.at_level("INFO"):  # type: ignore[attr-defined]
        for _ in range(2):
            DraftOnly(drafter=model).run_many(asked, concurrency=4)
    said = [record.message for record in caplog.records if "alone=true" in record.message]  # type: ignore[attr-defined]
    assert len(said) == 1
