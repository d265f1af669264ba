"""Contexts that grow during use, and windows that are not overwritten."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsd_core.errors import ConfigurationError
from rsd_integrations.llamacpp.cells import Cells
from rsd_integrations.llamacpp.context import Context
from rsd_integrations.llamacpp.model import Model
from tests.llamacpp import gguf_files

TOLERANCE = 0.1
"""Tolerance of logits: in single precision they change by up to 0.04 with the batch, and by 1 with a wrong token."""


@functools.cache
def model(name: str) -> Model:
    return Model.load(gguf_files.windowed() if name == "windowed" else gguf_files.embedded(name))


@functools.cache
def reference(name: str) -> Context:
    return Context(model(name), cells=2048, batch=2048, sequences=1, cache_type="f32")


def fresh(name: str, ids: list[int]) -> np.ndarray:
    """The logits after the last of these tokens, read by a context that has read nothing else."""
    one = reference(name)
    one.clear()
    assert one.decode([(0, 0, ids)], [len(ids) - 1])
    row: np.ndarray = one.logits(1)[0]
    return row


class Plain:
    """Sequences of tokens, each token with its own number, so that copies can be distinguished from equals."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.sequences: dict[int, list[tuple[int, int]]] = {}
        self.made = 0

    def tokens(self, count: int) -> list[tuple[int, int]]:
        self.made += count
        return [(self.random.randrange(3, 500), self.made - at) for at in range(count)]

    def ids(self, sequence: int) -> list[int]:
        return [id_ for id_, _ in self.sequences.get(sequence, [])]

    @property
    def cells(self) -> int:
        return len({token for sequence in self.sequences.values() for token in sequence})


def check(one: Context, plain: Plain, name: str) -> None:
    """Lengths, free cells, and the logits of every sequence."""
    assert one.free_cells == one.cells - plain.cells
    for sequence in range(one.sequences):
        ids = plain.ids(sequence)
        assert one.length(sequence) == len(ids)
        if ids:
            one.rollback(sequence, len(ids) - 1)
            assert one.decode([(sequence, len(ids) - 1, ids[-1:])], [0])
            assert np.abs(one.logits(1)[0] - fresh(name, ids)).max() < TOLERANCE
            plain.sequences[sequence][-1:] = [(ids[-1], plain.tokens(1)[0][1])]  # its own cell from now on
    assert one.free_cells == one.cells - plain.cells


@pytest.mark.parametrize("name", ["draft", "windowed"])
@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**20),
    operations=st.lists(st.sampled_from(["extend", "extend", "copy", "rollback", "grow", "check"]), max_size=25),
)
def test_whatever_was_done_before_it_grew_nothing_is_lost(name: str, seed: int, operations: list[str]) -> None:
    one, plain = Context(model(name), cells=256, batch=256, sequences=4, cache_type="f32"), Plain(seed)
    for kind in operations:
        sequence, other = plain.random.randrange(one.sequences), plain.random.randrange(one.sequences)
        if kind == "extend":
            tokens = plain.tokens(plain.random.randint(1, 60))
            ids = [id_ for id_, _ in tokens]
            if one.decode([(sequence, one.length(sequence), ids)], []):
                plain.sequences.setdefault(sequence, []).extend(tokens)
            else:
                assert len(ids) > one.cells - plain.cells
        elif kind == "copy" and not plain.ids(other) and other != sequence:
            one.copy(sequence, other)
            plain.sequences[other] = list(plain.sequences.get(sequence, []))
        elif kind == "rollback":
            length = plain.random.randint(0, one.length(sequence))
            one.rollback(sequence, length)
            del plain.sequences.get(sequence, [])[length:]
        elif kind == "grow":
            sequences = min(32, one.sequences * plain.random.choice((1, 2)))
            one.grow(cells=min(2048, one.cells * plain.random.choice((1, 2))), batch=256, sequences=sequences)
        elif kind == "check":
            check(one, plain, name)
        assert one.free_cells == one.cells - plain.cells
    check(one, plain, name)
    one.close()


@given(st.lists(st.tuples(st.sampled_from(["extend", "cut", "share"]), *[st.integers(0, 3)] * 3), max_size=30))
def test_the_most_is_shared_with_whom_it_is_shared(operations: list[tuple[str, int, int, int]]) -> None:
    cells, plain, made = Cells(64, 4), [list[int]() for _ in range(4)], 0
    for kind, first, second, number in operations:
        if kind == "extend" and 0 < number <= cells.free:
            cells.extend(first, len(plain[first]), number)
            plain[first] += range(made, made + number)
            made += number
        elif kind == "cut" and number < len(plain[first]):
            cells.cut(first, number, len(plain[first]))
            del plain[first][number:]
        elif kind == "share" and plain[first] and not plain[second]:
            cells.share(first, second, len(plain[first]))
            plain[second] = list(plain[first])

    def common(a: list[int], b: list[int]) -> int:
        return next((at for at, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), min(len(a), len(b)))

    for sequence, own in enumerate(plain):
        others = {other: len(tokens) for other, tokens in enumerate(plain) if other != sequence and tokens}
        best, count = cells.most_shared(sequence, len(own), others)
        assert count == max((common(own, plain[other]) for other in others), default=0)
        assert common(own, plain[best]) == count if count else best == sequence


def test_a_context_that_cannot_grow_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    one, ids = Context(model("draft"), cells=256, batch=64, sequences=4, cache_type="f32"), [281, 355, 68, 83]
    one.decode([(0, 0, ids)], [])
    with pytest.raises(ValueError, match="are fewer than"):
        one.grow(cells=128, batch=64, sequences=4)
    with monkeypatch.context() as patched:
        patched.setattr(one._call, "llama_init_from_model", lambda *_: None)
        with pytest.raises(ConfigurationError, match="out of memory"):
            one.grow(cells=512, batch=64, sequences=8)
    assert (one.cells, one.sequences, one.length(0), one.free_cells) == (256, 4, 4, 252)
    assert one.decode([(0, 4, [378])], [0])
    assert np.abs(one.logits(1)[0] - fresh("draft", [*ids, 378])).max() < TOLERANCE


def test_what_is_behind_a_window_is_not_written_over() -> None:
    """Left to itself, the library takes such cells for other sequences, also in a cache of full size."""
    one, plain = Context(model("windowed"), cells=512, batch=512, sequences=4, cache_type="f32"), Plain(0)
    for sequence, count in ((0, 200), (1, 40), (2, 200)):
        plain.sequences[sequence] = plain.tokens(count)
        one.decode([(sequence, 0, plain.ids(sequence))], [])
    one.rollback(1, 0)  # a hole in front of a long sequence
    plain.sequences[1] = []
    plain.sequences[3] = plain.tokens(80)
    assert one.decode([(3, 0, plain.ids(3))], [])
    check(one, plain, "windowed")
    for sequence in (0, 2):  # back to where the window would not reach any more
        one.rollback(sequence, 20)
        del plain.sequences[sequence][20:]
    check(one, plain, "windowed")


def test_models_with_windows_have_half_as_many_sequences(tmp_path: Path) -> None:
    plain, windowed = (Context(model(name), cells=256, batch=256, sequences=1) for name in ("draft", "windowed"))
    assert (plain.most_sequences, windowed.most_sequences) == (256, 128)
    with pytest.raises(ValueError, match="sequences=129 is not between 1 and 128"):
        windowed.grow(cells=512, batch=256, sequences=129)
    windowed.grow(cells=512, batch=256, sequences=128)
    assert windowed.decode([(sequence, 0, [5, 6]) for sequence in range(128)], range(1, 256, 2))
    rows = windowed.logits(128)
    assert np.abs(rows - fresh("windowed", [5, 6])).max() < TOLERANCE
