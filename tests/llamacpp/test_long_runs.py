"""No text ends the process: vocabularies whose patterns llama.cpp matches by recursion, and runs that are too deep."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rsd_integrations.llamacpp.long_runs import LONGEST, parts
from tests.llamacpp.vocabularies import Kind, Words, all_bytes, write_vocabulary

PATTERNS = ("default", "deepseek-llm", "deepseek-v3", "tekken", "gpt-4o", "bloom", "afmoe", "superbpe", "seed-coder")
"""Of which each crashed at 30,000 characters of some run, with build 11549."""
RUNS = ("a", "A", "aB", "1", "a1", " ", "\n", " \u3000", "!", "_", "!_", "\u094d", "!\u094d", "\x1c!", "中", "अ\u094d")
CODE = """
import sys
from rsd_integrations.llamacpp.model import Model
for file in sys.argv[1].split(","):
    model = Model.load(file, vocabulary_only=True)
    pieces = [model.piece(id_) for id_ in range(model.vocab_size)]
    for run in sys.argv[2].split(","):
        text = "So " + (run * 40_000)[:40_000] + " it is"
        assert b"".join(pieces[id_] for id_ in model.encode(text)).decode() == text, (file, run)
"""


def test_long_runs_are_encoded_by_every_pattern(tmp_path: Path) -> None:
    tokens, merges = [*all_bytes(), "aa", "<end>"], ["a a"]
    kinds = [*[Kind.NORMAL] * 257, Kind.CONTROL]
    files = [
        str(
            write_vocabulary(
                tmp_path / f"{name}.gguf", Words(tokens, kinds, pattern=name, merges=merges, named={"eos": 257})
            )
        )
        for name in PATTERNS
    ]
    done = subprocess.run(
        [sys.executable, "-c", CODE, ",".join(files), ",".join(RUNS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("run", RUNS)
def test_a_long_run_is_cut(run: str) -> None:
    text = run * (5 * LONGEST)
    cut = parts(text)
    assert "".join(cut) == text
    assert max(map(len, cut)) <= 2 * LONGEST


def test_ordinary_texts_are_not_cut() -> None:
    words = "It is 10 am. " * 1000
    link = "https://example.org/" + "a-b.c=" * 1000
    prose = "今天天气很好，我们去公园。" * 500
    for text in ("", "a", "a" * LONGEST, words, link, prose):
        assert parts(text) == [text]
