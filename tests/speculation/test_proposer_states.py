"""States of proposers by path: they propose what new ones would, are read on instead of again, and do not stay."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import PrivateAttr

from rsd_core import Path, Sampling, Speculation, Step, StepRequest, as_prompt
from rsd_integrations.huggingface import HuggingFaceGenerator
from rsd_integrations.inprocess import proposer_states
from rsd_integrations.inprocess.path_cache import shared
from rsd_integrations.inprocess.proposer_states import ProposerStates
from rsd_integrations.speculation.ngrams import Ngrams, NgramState
from rsd_integrations.speculation.parsing import parse_proposer
from rsd_integrations.speculation.proposers import ProposerState, TextState
from tests.speculation.scripted import Scripted

SPECS = ("lookup", "lookup:n=1", "ngram", "ngram:tree=true,iterations=20")
TEXT = st.lists(st.integers(0, 3), max_size=12)
PROMPT = "Mia has 45 apples. Then she buys 3 more. How many apples does Mia have now?"


@given(TEXT, TEXT, st.integers(0, 40))
def test_what_two_texts_share(a: list[int], b: list[int], more: int) -> None:
    plain = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert shared(a, b) == shared(tuple(b), tuple(a)) == plain
    assert shared([*range(more), *a], [*range(more), *b]) == more + plain


@settings(max_examples=150, deadline=None)
@given(
    spec=st.sampled_from(SPECS),
    prompt=TEXT,
    turns=st.lists(
        st.tuples(st.integers(0, 9), TEXT, st.booleans(), st.integers(0, 3), st.booleans()), min_size=1, max_size=12
    ),
)
def test_a_state_that_is_kept_proposes_what_a_new_one_would(
    spec: str, prompt: list[int], turns: list[tuple[int, list[int], bool, int, bool]]
) -> None:
    """After accepted, rejected and replaced steps, on branches that share a prefix, and while another is at work."""
    proposer, states = parse_proposer(spec), ProposerStates()
    paths: list[tuple[Path, list[int]]] = [(Path(as_prompt("x")), prompt)]
    working: list[tuple[Path, ProposerState]] = []
    for seed, (which, written, accepted, dropped, side_by_side) in enumerate(turns):
        path, ids = paths[which % len(paths)]
        state, new = states.claim(path, proposer, ids, seed), proposer.begin(ids, seed)
        for begin in range(0, len(written) + 1, 3):
            assert state.propose(4) == new.propose(4)
            state.accept(written[begin : begin + 3])
            new.accept(written[begin : begin + 3])
        if side_by_side:
            working.append((path, state))
        else:
            states.put(path, proposer, state)
        if accepted:  # as it was written, or with another end: what a text's tokens are may change with what follows
            kept = [*ids, *written]
            paths.append((path.extend(Step("", "length")), kept[: max(0, len(kept) - dropped)] if dropped else kept))
        while len(working) > 2:
            path, state = working.pop(0)
            states.put(path, proposer, state)


@given(st.lists(st.integers(0, 3), max_size=60), st.data())
def test_n_grams_that_are_rolled_back_are_as_if_never_read(ids: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(ids)))
    state, new = NgramState(None, 0, 0), NgramState(None, 0, 0)
    state.accept(ids)
    state.truncate(count)
    new.accept(ids[:count])
    pairs = [(a, b) for a in range(4) for b in range(4)]
    assert [state.successors(pair) for pair in pairs] == [new.successors(pair) for pair in pairs]
    assert state.__dict__ == new.__dict__


def test_of_a_pair_that_comes_often_the_latest_places_count() -> None:
    state = NgramState(None, 0, 0)
    state.accept([0, 1, 2] * 3 + [0, 1, 3] * 63 + [0, 1])
    assert state.successors((0, 1)) == [(3, 3.0), (2, 0.25)]
    state.accept([3, 0, 1])
    assert state.successors((0, 1)) == [(3, 3.0)]


class Noting(Ngrams):
    """N-grams that note what is read anew."""

    _begun: list[int] = PrivateAttr(default_factory=list)
    _states: list[weakref.ref[TextState]] = PrivateAttr(default_factory=list)

    def begin(self, prefix: Sequence[int], seed: int) -> NgramState:
        state = super().begin(prefix, seed)
        self._begun.append(len(prefix))
        self._states.append(weakref.ref(state))
        return state

    @property
    def begun(self) -> list[int]:
        return self._begun

    @property
    def alive(self) -> int:
        return sum(state() is not None for state in self._states)


def test_a_path_is_read_once_and_forgotten_with_it(target: HuggingFaceGenerator) -> None:
    """Also where steps are rejected, and others take their place."""
    noting = Noting()

    async def written() -> Path:
        path, lines = Path(as_prompt(PROMPT)), StepRequest((0,), delimiter="\n")
        for turn in range(6):
            generation = await target.generate(path, replace(lines, speculation=Speculation(noting)))
            (step,) = generation.steps
            assert step == (await target.generate(path, lines)).steps[0]
            if turn % 3 == 2:
                step = Step("So it is.\n", "delimiter")
            path = path.extend(step)
        return path

    path = asyncio.run(written())
    assert noting.begun == [len(target.vocabulary.ids(Path(as_prompt(PROMPT)), goes_on=True)[0])]
    assert (path.depth, noting.alive) == (6, 1)
    del path
    gc.collect()
    assert noting.alive == 0


def test_calls_side_by_side_have_states_of_their_own(target: HuggingFaceGenerator) -> None:
    noting, path = Noting(), Path(as_prompt(PROMPT))

    async def written(speculation: Speculation | None) -> list[Step]:
        requests = [StepRequest((seed,), 30, None, Sampling(1.0), speculation=speculation) for seed in range(4)]
        made = await asyncio.gather(*(target.generate(path, request) for request in requests))
        return [generation.steps[0] for generation in made]

    plain = asyncio.run(written(None))
    for _ in range(2):
        assert asyncio.run(written(Speculation(noting))) == plain
    assert len(noting.begun) == 4  # those of the second time are rolled back to the prompt


def test_states_that_waited_longest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposer_states, "IDLE_TOKENS", 100)
    noting, states = Noting(), ProposerStates()
    paths = [Path(as_prompt(str(i))) for i in range(4)]
    for path in paths[:3]:
        states.put(path, noting, states.claim(path, noting, [1] * 30, 0))
    states.put(paths[0], noting, states.claim(paths[0], noting, [1] * 35, 0))
    states.put(paths[3], noting, states.claim(paths[3], noting, [1] * 30, 0))
    gc.collect()
    assert noting.alive == 3
    for i, again in ((0, False), (2, False), (3, False), (1, True)):
        before = len(noting.begun)
        states.claim(paths[i], noting, [1] * 40, 0)
        assert (len(noting.begun) > before) is again


def test_each_proposer_has_its_own_and_some_cannot_be_kept() -> None:
    path, states = Path(as_prompt("x")), ProposerStates()
    lookup, ngrams = (parse_proposer(spec).begin([1, 2], 0) for spec in ("lookup", "ngram"))
    states.put(path, parse_proposer("lookup"), lookup)
    states.put(path, parse_proposer("ngram"), ngrams)
    assert states.claim(path, parse_proposer("lookup:n=2"), [1, 2], 0) not in (lookup, ngrams)
    assert states.claim(path.extend(Step("x", "end")), parse_proposer("ngram"), [1, 2, 3], 7) is ngrams
    assert states.claim(path, parse_proposer("lookup"), [1], 0) is lookup
    script = Scripted()
    scripted = script.begin([1], 0)
    states.put(path, script, scripted)
    assert states.claim(path, script, [1], 0) is not scripted
