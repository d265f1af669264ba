"""N-grams as a proposer: counted as a plain count has them, overlaid by the request's own text, searched as a tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rsd_core import ConfigurationError
from rsd_integrations.speculation import ngram_table, ngrams, tree_search
from rsd_integrations.speculation.ngram_table import NgramTable, Successor, count
from rsd_integrations.speculation.parsing import parse_proposer
from rsd_integrations.speculation.proposals import Proposal

TEXTS = st.lists(st.lists(st.integers(0, 5), max_size=30), max_size=8)


def counted(texts: list[list[int]], most: int = 12) -> dict[tuple[int, int], list[Successor]]:
    """The table by dictionaries."""
    times: dict[tuple[int, int], Counter[int]] = {}
    for ids in texts:
        for a, b, c in zip(ids, ids[1:], ids[2:], strict=False):
            times.setdefault((a, b), Counter())[c] += 1
    return {
        pair: [(c, n / after.total()) for c, n in sorted(after.items(), key=lambda item: (-item[1], item[0]))[:most]]
        for pair, after in times.items()
    }


def same(found: object, expected: list[Successor]) -> bool:
    return [c for c, _ in found] == [c for c, _ in expected] and all(  # type: ignore[attr-defined]
        abs(w - v) < 1e-6
        for (_, w), (_, v) in zip(found, expected, strict=True)  # type: ignore[call-overload]
    )


@given(texts=TEXTS, chunk=st.integers(1, 50), most=st.integers(1, 12))
def test_a_corpus_is_counted_in_pieces_of_any_size(texts: list[list[int]], chunk: int, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram_table, "CHUNK", chunk)
        patch.setattr(ngram_table, "SUCCESSORS", most)
        table = count(texts, "words", 6)
    expected = counted(texts, most)
    for pair in [(a, b) for a in range(7) for b in range(7)]:
        assert same(table.successors(pair), expected.get(pair, []))


def test_the_most_frequent_pairs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram_table, "PAIRS", 2)
    table = count([[1, 2, 3], [4, 5, 6, 4, 5, 6, 4, 5]], "words", 7)
    assert len(table.pairs) == 2
    assert (table.successors((4, 5)), table.successors((5, 6))) == ([(6, 1.0)], [(4, 1.0)])
    assert table.successors((1, 2)) == ()


def test_ids_of_large_vocabularies_do_not_overflow() -> None:
    last = 2_000_000 - 1
    assert count([[last, last - 1, last]], "words", last + 1).successors((last, last - 1)) == [(last, 1.0)]


@given(texts=TEXTS, own=st.lists(st.integers(0, 5), max_size=30))
def test_the_requests_own_text_lies_over_the_frozen_table(texts: list[list[int]], own: list[int]) -> None:
    state = ngrams.NgramState(count(texts, "words", 6), 0, seed=0)
    state.accept(own[:7])
    state.accept(own[7:])
    weights = {pair: dict(after) for pair, after in counted(texts).items()}
    gains = Counter(zip(own, own[1:], own[2:], strict=False))
    for (a, b, c), times in gains.items():
        after = weights.setdefault((a, b), {})
        after[c] = after.get(c, 0.0) + min(3.0, 0.25 * times)
    for pair, after in weights.items():
        assert same(state.successors(pair), sorted(after.items(), key=lambda item: (-round(item[1], 5), item[0])))


def test_what_a_request_adds_is_bounded_and_stays_its_own() -> None:
    proposer = parse_proposer("ngram")
    first, second = proposer.begin([1, 2, 3, 1, 2], 0), proposer.begin([1, 2], 0)
    assert first.propose(4).tokens == (3, 1, 2, 3)
    assert second.propose(4).tokens == ()
    state = ngrams.NgramState(None, 0, seed=0)
    for token in [*range(2, 15), *[2] * 3]:
        state.accept([0, 1, token, 0])
    after = state.successors((0, 1))
    assert len(after) == ngram_table.SUCCESSORS
    assert after[0] == (2, 0.75)
    assert 14 in [token for token, _ in after]  # of equal ones the newest is not forgotten


def random_table(seed: int, words: int = 8, length: int = 400) -> NgramTable:
    return count([[int(Random(f"{seed} {i}").expovariate(0.5)) % words for i in range(length)]], "words", words)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 64), iterations=st.integers(1, 60))
def test_a_tree_is_made_of_known_successors(seed: int, size: int, iterations: int) -> None:
    table = random_table(seed % 7)
    tokens, parents = tree_search.propose_tree(table, (0, 1), size, iterations, Random(seed))
    assert len(tokens) <= size
    Proposal(tokens, parents)  # parents come before their children
    assert len(set(zip(parents, tokens, strict=True))) == len(tokens)
    places: list[tuple[int, int]] = []
    for token, parent in zip(tokens, parents, strict=True):
        pair = (0, 1) if parent < 0 else places[parent]
        assert token in [known for known, _ in table.successors(pair)]
        places.append((pair[1], token))
    assert tree_search.propose_tree(table, (0, 1), size, iterations, Random(seed)) == (tokens, parents)


def test_all_that_is_known_is_proposed_where_it_fits() -> None:
    table = count([[1, 2, 3, 4, 5, 6, 7], [1, 2, 8, 9]], "words", 10)
    tokens, parents = tree_search.propose_tree(table, (1, 2), 64, 1, Random(0))
    paths = [[tokens[i]] if parents[i] < 0 else [tokens[parents[i]], tokens[i]] for i in range(len(tokens))]
    assert tokens == (3, 8, 4, 9, 5, 6)
    assert paths == [[3], [8], [3, 4], [8, 9], [4, 5], [5, 6]]  # four levels, and not the fifth


def test_the_search_finds_the_heavy_branch_among_many() -> None:
    texts = [[0, 1, first, second, third] for first in range(2, 14) for second in range(14, 20) for third in (20, 21)]
    texts += [[0, 1, 5, 15, 21]] * 300
    table = count(texts, "words", 22)
    tokens, parents = tree_search.propose_tree(table, (0, 1), 8, 150, Random(3))
    first = next(i for i in range(len(tokens)) if parents[i] < 0)
    below = [tokens[i] for i in range(len(tokens)) if parents[i] == first]
    assert (tokens[first], 15 in below) == (5, True)


def test_puct_is_the_formula_of_the_released_code() -> None:
    root = tree_search.Place((0, 1), 0.0, None)
    root.children = [tree_search.Place((1, c), weight, root) for c, weight in ((2, 0.6), (3, 0.3))]
    (first, second), root.visits = root.children, 9
    first.visits, first.total, second.visits, second.total = 6, 9.0, 3, 6.0

    def puct(mean: float, weight: float, visits: int) -> float:
        return mean + (32 + float(torch.log(torch.tensor((9 + 8 + 1) / 8)))) * weight * 3 / (1 + visits)

    assert puct(1.5, 0.6, 6) > puct(2.0, 0.3, 3)
    assert root.best() is first
    first.visits, first.total = 40, 60.0
    assert puct(1.5, 0.6, 40) < puct(2.0, 0.3, 3)
    assert root.best() is second
    second.visits = 0
    assert root.best() is second


@pytest.mark.parametrize("spec", ["ngram:{file}", "ngram:table={file},tree=true"])
def test_a_table_comes_from_its_file(spec: str, tmp_path: Path) -> None:
    file = tmp_path / "table.safetensors"
    table = random_table(1)
    table.save(file)
    proposer = parse_proposer(spec.format(file=file))
    assert proposer.vocabulary == "words"
    assert proposer != parse_proposer(spec.format(file=file))  # which may have changed since
    state = proposer.begin([0, 1], seed=3)
    assert state.propose(5).tokens[0] == table.successors((0, 1))[0][0]
    assert state.propose(5) == state.propose(5)  # the position is the same, and so is what is drawn
    assert (state.propose(5).parents is None) == ("tree" not in spec)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ngram:/no/such", "rsd ngrams"),
        ("ngram:iterations=0", "greater than or equal to 1"),
        ("ngram:tree=maybe", "tree"),
        ("ngrams", "did you mean 'ngram'"),
        ("ngram:{text}", "not a safetensors file"),
        ("ngram:{other}", "no n-gram table"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("words")
    save_file({"pairs": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ConfigurationError) as caught:
        parse_proposer(text.format(text=tmp_path / "text", other=tmp_path / "other"))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("pairs", lambda pairs: pairs.flip(0), "pairs are not ascending"),
        ("pairs", lambda pairs: pairs - pairs[0] - 1, "pairs are not ascending"),
        ("pairs", lambda pairs: pairs + 2**62, "pairs are not ascending"),
        ("pairs", lambda pairs: pairs.float(), "pairs is torch.float32 .* but must be torch.int64"),
        ("pairs", lambda pairs: pairs[:-1], r"pairs is torch.int64 .* but must be torch.int64 \["),
        ("starts", lambda starts: starts + 1, "starts do not ascend from 0"),
        ("starts", lambda starts: starts.roll(1), "starts do not ascend from 0"),
        ("starts", lambda starts: starts[0], "0-d tensor"),
        ("tokens", lambda tokens: -1 - tokens, "tokens are below 0"),
        ("tokens", lambda tokens: tokens[:, None], "tokens is torch.int32"),
        ("weights", lambda weights: weights * float("nan"), r"weights are not in \(0, 1\]"),
        ("weights", lambda weights: weights * 0, r"weights are not in \(0, 1\]"),
        ("weights", lambda weights: weights + 1, r"weights are not in \(0, 1\]"),
        ("more", lambda _: torch.zeros(1), "more"),
    ],
)
def test_a_table_that_would_fail_later_is_refused_when_it_is_read(
    name: str, change: Callable[[torch.Tensor], torch.Tensor], said: str, tmp_path: Path
) -> None:
    table, file = random_table(1), tmp_path / "table.safetensors"
    tensors = {part: getattr(table, part) for part in ("pairs", "starts", "tokens", "weights")}
    tensors[name] = change(tensors.get(name, table.pairs)).contiguous()
    save_file(tensors, file, metadata={"format": ngram_table.FORM, "vocabulary": "words"})
    with pytest.raises(ConfigurationError, match=rf"(?s)table.safetensors' is broken \(.*{said}.*again with rsd"):
        NgramTable.read(file)


def test_a_table_without_a_pair_is_one(tmp_path: Path) -> None:
    count([[1, 2]], "words", 10).save(tmp_path / "table.safetensors")
    assert NgramTable.read(tmp_path / "table.safetensors").successors((1, 2)) == ()
