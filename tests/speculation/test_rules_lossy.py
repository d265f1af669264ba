"""Lossy rules: each against a simple computation of its formula; without its limits, the exact rule."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsd_core import ConfigurationError
from rsd_core.methods import parse_method
from rsd_integrations.speculation.corrections import Calibrated, Corrections, Noting
from rsd_integrations.speculation.parsing import parse_rule
from rsd_integrations.speculation.rules import AcceptanceRule, Exact, Judged
from tests.speculation.five_tokens import SIZE, judged, random_judged, rows

KINDS = st.sampled_from([(True, False), (False, True), (False, False)])
"""Greedy decoding; sampling after a drafter that draws; sampling after one that does not."""


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corrections of every pair of different tokens, (x, t) x + t times."""
    file = tmp_path_factory.mktemp("memory") / "corrections.json"
    Corrections("words", {(x, t): x + t for x in range(SIZE) for t in range(SIZE) if x != t}).save(file)
    return file


OFF = [
    "typical:epsilon=1,delta=inf",
    "relaxed:k=0",
    "fly:window=2,entropy=1.1",
    "fly:window=6,entropy=0",  # no draft is longer
    "easd:draft_entropy=inf",
    "easd:target_entropy=inf",
    "csd:memory={memory},times=inf",
]
ON = [
    "typical",
    "typical:epsilon=0.3,delta=0.5",
    "relaxed",
    "relaxed:k=2,ratio=0.8",
    "fly:window=2,entropy=0.5",
    "easd:draft_entropy=0.5,target_entropy=0.8,n=3,overlap=0.6",
    "csd:memory={memory},times=3,ratio=0.2",
]


def made(text: str, memory: Path) -> AcceptanceRule:
    return parse_rule(text.format(memory=memory))


@pytest.mark.parametrize("text", OFF)
@given(seed=st.integers(0, 10**6), kind=KINDS)
def test_a_rule_without_its_limits_is_the_exact_rule(
    text: str, memory: Path, seed: int, kind: tuple[bool, bool]
) -> None:
    proposed = random_judged(seed, greedy=kind[0], drawn=kind[1])
    exact, own = Exact().judge(proposed), made(text, memory).judge(proposed)
    assert torch.equal(exact.accepted, own.accepted)
    assert torch.equal(exact.corrections, own.corrections)
    assert own.overridden is not None
    assert not own.overridden.any()


@pytest.mark.parametrize("text", ON)
@given(seed=st.integers(0, 10**6), kind=KINDS)
def test_what_differs_from_the_exact_rule_is_reported_and_nothing_depends_on_the_batch(
    text: str, memory: Path, seed: int, kind: tuple[bool, bool]
) -> None:
    rule, proposed = made(text, memory), random_judged(seed, greedy=kind[0], drawn=kind[1])
    exact, own = Exact().judge(proposed), rule.judge(proposed)
    assert own.overridden is not None
    assert torch.equal(own.overridden, exact.accepted != own.accepted)
    assert torch.equal(own.corrections[~own.overridden], exact.corrections[~own.overridden])
    for chain in proposed.chains:
        alone = rule.judge(rows(proposed, chain))
        assert torch.equal(alone.accepted, own.accepted[chain.start : chain.stop])
        assert torch.equal(alone.corrections, own.corrections[chain.start : chain.stop])


def nats(row: list[float]) -> float:
    return -sum(p * math.log(p) for p in row if p > 0)


def believed(proposed: Judged, i: int) -> list[float]:
    """p, or where it has one token the softmax of the logits."""
    p = proposed.target[i].tolist()
    return p if sum(x > 0 for x in p) > 1 else proposed.logits[i].softmax(0).tolist()


def typical(proposed: Judged, i: int, memory: Path) -> bool:
    p = proposed.target[i].tolist()
    return bool(p[int(proposed.tokens[i])] > min(0.3, 0.5 * math.exp(-nats(p))))


def relaxed(proposed: Judged, i: int, memory: Path) -> bool:
    p, x = believed(proposed, i), int(proposed.tokens[i])
    return x in sorted(range(SIZE), key=lambda token: -p[token])[:2] and p[x] >= 0.8 * max(p)


def fly(proposed: Judged, i: int, memory: Path) -> bool:
    p, exact = believed(proposed, i), Exact().judge(proposed).accepted.tolist()
    best = sorted(p)[-3:]
    (chain,) = (chain for chain in proposed.chains if i in chain)
    following = [exact[j] for j in (i + 1, i + 2) if j in chain]
    return nats([x / sum(best) for x in best]) >= 0.5 and following == [True, True] and p[int(proposed.tokens[i])] > 0


def csd(proposed: Judged, i: int, memory: Path) -> bool:
    z, x = proposed.logits[i].tolist(), int(proposed.tokens[i])
    own = z.index(max(z))
    return Corrections.read(memory).pairs.get((x, own), 0) > 3 and math.exp(z[x] - z[own]) >= 0.2


@pytest.mark.parametrize(
    ("text", "rescued"), [(ON[1], typical), (ON[3], relaxed), (ON[4], fly), (ON[6], csd)], ids=lambda x: str(x)[:7]
)
@pytest.mark.parametrize("kind", [(True, False), (False, True), (False, False)])
def test_rescues_are_those_of_the_formula(
    text: str, rescued: Callable[[Judged, int, Path], bool], kind: tuple[bool, bool], memory: Path
) -> None:
    proposed = random_judged(11, n=600, greedy=kind[0], drawn=kind[1])
    exact, own = Exact().judge(proposed), made(text, memory).judge(proposed)
    expected = [bool(exact.accepted[i]) or rescued(proposed, i, memory) for i in range(600)]
    assert own.accepted.tolist() == expected
    assert expected != exact.accepted.tolist() or (rescued is typical and kind[0])


def test_tokens_that_both_models_doubt_alike_are_drawn_again_without_them(memory: Path) -> None:
    proposed = random_judged(12, n=2000)
    exact, own = Exact().judge(proposed), made(ON[5], memory).judge(proposed)
    assert proposed.draft is not None
    doubted = 0
    for i in range(2000):
        p, q, x = proposed.target[i].tolist(), proposed.draft[i].tolist(), int(proposed.tokens[i])
        best = [set(sorted(range(SIZE), key=lambda token: -row[token])[:3]) for row in (p, q)]
        again = nats(q) >= 0.5 and nats(p) >= 0.8 and len(best[0] & best[1]) / 3 >= 0.6
        assert bool(own.accepted[i]) == (bool(exact.accepted[i]) and not again)
        if bool(exact.accepted[i]) and again:
            doubted += 1
            left = [0.0 if token == x else share for token, share in enumerate(p)]
            point, token = float(proposed.uniforms[i, 1]) * sum(left), 0
            while sum(left[: token + 1]) <= point:
                token += 1
            assert int(own.corrections[i]) == token != x
    assert 100 < doubted < 1900


def test_a_token_that_is_all_the_target_has_is_never_doubted() -> None:
    rule = parse_rule("easd:draft_entropy=0,target_entropy=0,n=1,overlap=0")
    logits = torch.tensor([[9.0, 0, 0, 0, 0]])
    one = judged(
        logits, torch.tensor([0]), torch.tensor([[0.2, 0.9]]), top_p=0.5, draft=torch.tensor([[1.0, 0, 0, 0, 0]])
    )
    assert rule.judge(one).accepted.tolist() == [True]


def test_fly_needs_its_whole_window_within_one_chain() -> None:
    # The target is torn between tokens 0 and 1, and prefers 0; tokens 1, 0, 0, 0 are proposed.
    logits = torch.tensor([[1.0, 0.9, -9, -9, -9]]).repeat(8, 1)
    tokens = torch.tensor([1, 0, 0, 0, 1, 0, 0, 1])
    uniforms = torch.zeros(8, 2)
    proposed = judged(logits, tokens, uniforms, temperature=0.0, chains=[range(4), range(4, 8)])
    assert parse_rule("fly:window=2").judge(proposed).accepted.tolist() == [True] * 7 + [False]
    assert parse_rule("fly:window=3").judge(proposed).accepted.tolist() == [True] * 4 + [False, True, True, False]
    assert parse_rule("fly:window=4").judge(proposed).accepted.tolist() == [
        False,
        *[True] * 3,
        False,
        True,
        True,
        False,
    ]


def test_a_calibration_run_counts_what_the_target_puts_first_in_each_chain() -> None:
    logits = torch.tensor([[0.0, 1, 0, 0, 0], [0.0, 0, 2, 0, 0], [0.0, 0, 0, 3, 0], [4.0, 0, 0, 0, 0]])
    tokens = torch.tensor([1, 0, 0, 4])  # right, wrong, after a wrong one; wrong in its own chain
    proposed = judged(logits, tokens, torch.zeros(4, 2), temperature=0.0, chains=[range(3), range(3, 4)])
    noting = Noting()
    for _ in range(3):
        assert torch.equal(noting.judge(proposed).accepted, Exact().judge(proposed).accepted)
    assert noting.corrections("words") == Corrections("words", {(0, 2): 3, (4, 0): 3})


def test_corrections_are_kept_in_a_file_the_most_frequent_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, all_of_them = tmp_path / "c.json", Corrections("words", {(1, 2): 7, (2, 1): 9, (3, 3): 8})
    all_of_them.save(file)
    assert Corrections.read(file) == all_of_them
    rule = parse_rule(f"csd:{file}")
    assert rule.vocabulary == "words"
    assert rule != parse_rule(f"csd:{file}")  # which may have changed since
    monkeypatch.setattr("rsd_integrations.speculation.corrections.MOST", 2)
    all_of_them.save(file)
    assert Corrections.read(file).pairs == {(2, 1): 9, (3, 3): 8}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("typicl", "did you mean 'typical'"),
        ("typical:epsilon=2", "less than or equal to 1 (got '2')"),
        ("typical:delta=nan", "greater than or equal to 0 (got 'nan')"),
        ("typical:0.1,0.2,0.3", "more values than typical has parameters (epsilon, delta)"),
        ("relaxed:top=3", "unknown name"),
        ("relaxed:ratio=-1", "greater than or equal to 0"),
        ("fly:window=0", "greater than or equal to 1"),
        ("easd:overlap=1.2", "less than or equal to 1"),
        ("csd", "memory"),
        ("csd:/no/such.json", "rsd corrections"),
        ("csd:memory=/no/such.json,ratio=0", "ratio"),
    ],
)
def test_what_is_wrong_with_a_rule_is_said(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_rule(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '{"format": "rsd-corrections-1"}', '{"format": "rsd-corrections-1", "pairs": [[1]]}']
)
def test_a_file_that_holds_no_corrections_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(content)
    with pytest.raises(ConfigurationError, match="rsd corrections"):
        parse_rule({"kind": "csd", "memory": str(file)})


@pytest.mark.parametrize(
    "row", ["[1]", "[1, 2, 0]", "[-1, 2, 3]", "[1, 2147483648, 3]", '[1, "2", 3]', "[1, 2.5, 3]", "7"]
)
def test_invalid_corrections_are_refused(row: str, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    for pairs, vocabulary in ((f"[[5, 6, 7], {row}]", '"words"'), ("[[5, 6, 7]]", "null")):
        file.write_text(f'{{"format": "rsd-corrections-1", "vocabulary": {vocabulary}, "pairs": {pairs}}}')
        with pytest.raises(ConfigurationError, match=r"cannot be read .* make them again by `rsd corrections`"):
            Corrections.read(file)


def test_a_memory_learns_on_request_as_one_rejection_after_the_other(memory: Path) -> None:
    fields = {"kind": "csd", "memory": str(memory), "times": 3, "ratio": 0.2}
    rule, frozen = parse_rule({**fields, "learn": True}), parse_rule(fields)
    assert isinstance(rule, Calibrated)
    assert rule.learns
    assert not frozen.learns
    counts = Counter(Corrections.read(memory).pairs)
    before, rescued = counts.copy(), 0
    for seed in range(20):
        proposed = random_judged(seed, n=60, greedy=True, drawn=False)
        verdicts, z = rule.judge(proposed), proposed.logits.tolist()
        for chain in proposed.chains:
            for i in chain:
                x, own = int(proposed.tokens[i]), z[i].index(max(z[i]))
                if x == own:
                    continue
                rescue = counts[x, own] > 3 and math.exp(z[i][x] - z[i][own]) >= 0.2
                counts[x, own] += 1
                assert bool(verdicts.accepted[i]) == rescue
                rescued += rescue
                if not rescue:
                    break
    assert rescued > 0
    assert counts != before
    assert rule.corrections.pairs == dict(counts)
    assert pickle.loads(pickle.dumps(rule)).corrections == rule.corrections
    assert isinstance(frozen, Calibrated)
    assert frozen.corrections.pairs == dict(before)


def test_what_learns_is_evaluated_in_order_and_from_chains_alone(memory: Path) -> None:
    learning = {"kind": "csd", "memory": str(memory), "learn": True}
    assert parse_method({"kind": "speculative", "rule": learning}).learns
    assert not parse_method({"kind": "speculative", "rule": {**learning, "learn": False}}).learns
    with pytest.raises(ConfigurationError, match=r"learns from chains, and .* proposes trees"):
        parse_method({"kind": "speculative", "rule": learning, "proposer": {"kind": "ngram", "tree": True}})
