"""`rsd ngrams` and `rsd corrections` as a user types them, and decoding with the files that they write."""

from __future__ import annotations

import json
from pathlib import Path as Folder

import pytest

from rsd_core import ConfigurationError, Path, SpeculativeDecoding, TargetOnly, as_prompt, load
from rsd_integrations.evaluation.tasks import find_task
from rsd_integrations.inprocess.path_cache import shared
from rsd_integrations.speculation.corrections import Corrections
from rsd_integrations.speculation.ngram_table import NgramTable
from rsd_integrations.speculation.parsing import parse_proposer
from tests.cli.test_cli import rsd
from tests.speculation.test_ngrams import counted, same

MODELS = ("--draft", "embedded:draft", "--target", "embedded:target")


def test_a_table_of_a_corpus_proposes_what_its_texts_say(tmp_path: Folder) -> None:
    target = load("embedded:target")
    items = find_task({"kind": "embedded", "split": "dev"}).draw(24, 1)
    results = TargetOnly(target=target).run_many([item.prompt for item in items])
    corpus, plain, out = tmp_path / "corpus.jsonl", tmp_path / "more.txt", tmp_path / "table.safetensors"
    corpus.write_text("".join(json.dumps({"solution": result.text}) + "\n" for result in results[1:]))
    plain.write_text(results[0].text)
    said = rsd("ngrams", str(corpus), str(plain), "--column", "solution", "--model", "embedded:target", "-o", str(out))
    table = NgramTable.read(out)
    assert f"{len(table.pairs):,} pairs of tokens" in said.replace("\n", " ")
    encode = target.vocabulary.encode
    expected = counted([encode(result.text) for result in results])
    assert len(table.pairs) == len(expected)
    assert all(same(table.successors(pair), after) for pair, after in expected.items())

    prompt = target.vocabulary.ids(Path(as_prompt(items[0].prompt)))[0]

    def passes(proposer: str) -> int:
        """How many the target would need for a text that the corpus has."""
        state, left, count = parse_proposer(proposer).begin(prompt, 0), encode(results[0].text), 0
        while left:
            proposed = state.propose(4).tokens
            right = shared(proposed, tuple(left)) + 1
            state.accept(left[:right])
            left, count = left[right:], count + 1
        return count

    assert passes(f"ngram:{out}") < passes("ngram")
    sped = SpeculativeDecoding(target=target, proposer=f"ngram:table={out},tree=true").run(items[0].prompt)
    assert sped.text == results[0].text


def test_corrections_are_those_of_greedy_decoding(tmp_path: Folder) -> None:
    out = tmp_path / "corrections.json"
    rsd("corrections", *MODELS, "-n", "12", "--concurrency", "5", "--seed", "3", "-o", str(out))
    found = Corrections.read(out)
    drafter, target = load("embedded:draft"), load("embedded:target")
    assert found.vocabulary == target.vocabulary.identity
    items = find_task({"kind": "embedded", "split": "dev"}).draw(12, 3)
    results = SpeculativeDecoding(drafter=drafter, target=target).run_many([item.prompt for item in items])
    assert 0 < found.total <= sum(result.ledger.target.discarded for result in results)
    assert all(proposed != own for proposed, own in found.pairs)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ngrams", "none.txt", "--model", "embedded:target"), "there is no file none.txt"),
        (("ngrams", "short.txt", "--model", "embedded:target"), "no text has three tokens"),
        (("ngrams", "rows.jsonl", "--model", "embedded:target"), "no text in the column 'text'; --column names"),
        (("ngrams", "short.txt", "--model", "scripted:target"), "gives no token ids"),
        (("ngrams", "short.txt", "--model", "embeded:target"), "did you mean"),
        (("corrections", "--draft", "embedded:draft", "--target", "embeded:target"), "did you mean"),
    ],
)
def test_errors_are_reported(
    words: tuple[str, ...], said: str, tmp_path: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Folder("short.txt").write_text("a")
    Folder("rows.jsonl").write_text('{"solution": "x"}\n')
    with pytest.raises(ConfigurationError) as caught:
        rsd(*words, "-o", "out")
    assert said in str(caught.value)
    assert not Folder("out").exists()
