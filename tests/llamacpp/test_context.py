"""Contexts: what sequences hold is what a fresh computation gives, and no input ends the process."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsd_core.errors import ConfigurationError
from rsd_integrations.llamacpp.cells import Cells
from rsd_integrations.llamacpp.context import Context
from rsd_integrations.llamacpp.library import library
from rsd_integrations.llamacpp.model import Model
from tests.llamacpp import gguf_files
from tests.llamacpp.test_library import run

IDS = [281, 355, 68, 83, 378, 526, 285, 224, 41, 85, 275, 441, 325]


@functools.cache
def draft() -> Model:
    return Model.load(gguf_files.embedded("draft"))


@functools.cache
def smollm2() -> Model:
    return Model.load(gguf_files.smollm2())


EXACT: dict[str, Any] = {"cache_type": "f32", "flash_attention": False}
"""What keeps the single precision of a file."""


def context(model: Model | None = None, **options: Any) -> Context:
    """A small context, of the drafter in its own precision."""
    sizes: dict[str, Any] = {"cells": 512, "batch": 64, "sequences": 8}
    return Context(model or draft(), **sizes | (EXACT if model in (None, draft()) else {}) | options)


def fresh(model: Model, ids: list[int]) -> np.ndarray:
    """The logits after the last of these tokens, read by a context that has read nothing else."""
    one = read_alone(model)
    one.clear()
    for first in range(0, len(ids), 50):
        assert one.decode([(0, first, ids[first : first + 50])], [len(ids[first : first + 50]) - 1])
    logits: np.ndarray = one.logits(1)[0]
    return logits


@functools.cache
def read_alone(model: Model) -> Context:
    return context(model, sequences=1)


def lengths(one: Context) -> list[int]:
    return [one.length(sequence) for sequence in range(one.sequences)]


def test_tokens_read_one_by_one_together_and_next_to_others_give_the_same_logits() -> None:
    together, single, beside = context(), context(), context()
    assert together.decode([(0, 0, IDS)], range(len(IDS)))
    whole = together.logits(len(IDS))
    assert whole.shape == (len(IDS), draft().vocab_size)
    assert whole.dtype == np.float32
    for place, id_ in enumerate(IDS):
        assert single.decode([(0, place, [id_])], [0])
        assert np.abs(single.logits(1)[0] - whole[place]).max() < 1e-3
    assert beside.decode([(3, 0, [7, 8]), (5, 0, IDS), (3, 2, [9])], [2, 14, 15])
    rows = beside.logits(3)
    assert np.abs(rows[:2] - whole[[0, 12]]).max() < 1e-3
    assert np.abs(rows[2] - fresh(draft(), [7, 8, 9])).max() < 1e-3
    assert lengths(beside) == [0, 0, 0, 3, 0, 13, 0, 0]


def test_logits_are_a_copy_and_those_that_were_asked_for() -> None:
    one = context()
    one.decode([(0, 0, IDS)], [3, 7])
    first = one.logits(2)
    before = first.copy()
    assert np.array_equal(one.logits(1), first[:1])
    one.decode([(0, 13, [5])], [0])
    assert np.array_equal(first, before)
    one.decode([(0, 14, [5])], [])
    assert one.logits(0).shape == (0, draft().vocab_size)
    with pytest.raises(ValueError, match="had 0 outputs; 1 are asked for"):
        one.logits(1)
    with pytest.raises(ValueError, match="-1 are asked for"):
        one.logits(-1)


def test_a_branch_shares_its_cells_and_goes_its_own_way() -> None:
    one = context()
    one.decode([(0, 0, IDS)], [])
    free = one.free_cells
    assert free == 512 - len(IDS)
    for target in range(1, 8):
        one.copy(0, target)
    assert one.free_cells == free
    one.rollback(0, 4)
    assert one.free_cells == free  # the others hold what it gave up
    spans = [(sequence, one.length(sequence), [sequence + 20]) for sequence in range(8)]
    one.decode(spans, range(8))
    rows = one.logits(8)
    assert np.abs(rows[0] - fresh(draft(), [*IDS[:4], 20])).max() < 1e-3
    for sequence in range(1, 8):
        assert np.abs(rows[sequence] - fresh(draft(), [*IDS, sequence + 20])).max() < 1e-3
    for sequence in range(1, 8):
        one.rollback(sequence, 0)
    assert one.free_cells == 512 - 5
    one.clear()
    assert one.free_cells == 512
    assert lengths(one) == [0] * 8


def test_no_room_changes_nothing() -> None:
    one = context(cells=256)
    ids = list(range(1, 65))
    for first in range(0, 192, 64):
        assert one.decode([(0, first, ids)], [])
    assert one.decode([(1, 0, ids[:60])], [])
    assert one.free_cells == 4
    assert not one.decode([(1, 60, [1, 2]), (2, 0, [3, 4, 5])], [0])
    assert lengths(one)[:3] == [192, 60, 0]
    assert one.decode([(1, 60, [1, 2]), (2, 0, [3, 4])], [3])
    assert one.free_cells == 0
    assert np.abs(one.logits(1)[0] - fresh(draft(), [3, 4])).max() < 1e-3
    one.rollback(0, 100)
    assert one.free_cells == 256 - 100 - 62 - 2


def test_windows_are_kept_whole() -> None:
    """Gemma looks back 512 tokens in most layers; a rollback behind that must find what was there."""
    model = Model.load(gguf_files.gemma())
    ids = [2, *(1000 + at % 700 for at in range(799))]
    one = Context(model, cells=1024, batch=256, sequences=2)
    for first in range(0, 800, 200):
        assert one.decode([(0, first, ids[first : first + 200])], [])
    one.rollback(0, 100)
    assert one.decode([(0, 100, [5])], [0])
    again = Context(model, cells=1024, batch=256, sequences=2)
    assert again.decode([(0, 0, ids[:100])], [])
    assert again.decode([(0, 100, [5])], [0])
    assert np.array_equal(one.logits(1), again.logits(1))


def test_hidden_states_of_the_wanted_tokens() -> None:
    one, plain = context(hidden=True), context()
    assert one.decode([(0, 0, IDS[:6])], [])  # read for nothing: no output is computed
    with pytest.raises(ValueError, match="had 0 outputs"):
        one.hidden(1)
    assert one.decode([(0, 6, IDS[6:]), (1, 0, IDS)], [0, 2, 7, 19])
    states, logits = one.hidden(4), one.logits(4)
    assert states.shape == (4, draft().width)
    assert plain.decode([(0, 0, IDS)], range(13))
    expected = plain.logits(13)
    assert np.abs(logits - expected[[6, 8, 0, 12]]).max() < 1e-3
    every = context(hidden=True)
    assert every.decode([(0, 0, IDS)], range(13))
    assert np.abs(states - every.hidden(13)[[6, 8, 0, 12]]).max() < 1e-3
    assert np.array_equal(one.hidden(2), states[:2])
    with pytest.raises(ValueError, match="created without `hidden`"):
        plain.hidden(1)


def test_hidden_states_are_those_before_the_output_head() -> None:
    import gguf

    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(gguf_files.embedded("draft")).tensors}
    head = tensors.get("output.weight", tensors["token_embd.weight"])
    one = context(hidden=True)
    one.decode([(0, 0, IDS)], [5, 12])
    assert np.abs(one.hidden(2) @ head.T - one.logits(2)).max() < 1e-3


@pytest.mark.parametrize(("cache_type", "tolerance"), [("f32", 1e-3), ("f16", 0.1), ("q8_0", 1)])
@pytest.mark.parametrize("separate", [False, True])
def test_types_of_the_cache(cache_type: str, tolerance: float, separate: bool) -> None:
    options = EXACT if cache_type == "f32" else {"flash_attention": None, "cache_type": cache_type}
    one = context(separate=separate, **options)
    one.decode([(0, 0, IDS)], [12])
    assert np.abs(one.logits(1)[0] - fresh(draft(), IDS)).max() < tolerance


def test_threads_change_when_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    one = context()
    asked: list[int] = []
    original = library().llama_set_n_threads

    def set_threads(address: object, threads: int, also: int) -> None:
        asked.append(threads)
        original(address, threads, also)

    monkeypatch.setattr(library(), "llama_set_n_threads", set_threads)
    for threads in (1, 2, 2, 1):
        one.use_threads(threads)
    assert asked == [2, 1]
    assert library().llama_n_threads(one._address) == 1
    for threads in (0, -1, 513):
        with pytest.raises(ValueError, match="is not between 1 and 512"):
            one.use_threads(threads)


@pytest.mark.parametrize(
    ("spans", "outputs", "said"),
    [
        ([], [], "nothing to decode"),
        ([(0, 13, [])], [], "a batch takes 1 to 64 tokens"),
        ([(0, 13, [1] * 65)], [], "these are 65"),
        ([(0, 13, [1] * 60), (1, 0, [1] * 5)], [], "these are 65"),
        ([(0, 12, [1])], [], "sequence 0 has 13 tokens, so it cannot continue at 12"),
        ([(0, 14, [1])], [], "cannot continue at 14"),
        ([(1, 1, [1])], [], "sequence 1 has 0 tokens"),
        ([(1, -1, [1])], [], "cannot continue at -1"),
        ([(0, 13, [1]), (0, 13, [1])], [], "sequence 0 has 14 tokens"),
        ([(0, 13, [1]), (0, 15, [1])], [], "sequence 0 has 14 tokens"),
        ([(8, 0, [1])], [], "sequence 8 does not exist; sequences are numbered from 0 to 7"),
        ([(-1, 0, [1])], [], "sequence -1 does not exist"),
        ([(256, 0, [1])], [], "sequence 256 does not exist"),
        ([(0, 13, [557])], [], "ids go from 0 to 556; these go from 557 to 557"),
        ([(0, 13, [1, -1])], [], "these go from -1 to 1"),
        ([(0, 13, [2**40])], [], "ids go from 0"),
        ([(0, 13, [1, 2])], [2], "outputs are places from 0 to 1, ascending"),
        ([(0, 13, [1, 2])], [-1], "outputs are places"),
        ([(0, 13, [1, 2])], [1, 0], "outputs are places"),
        ([(0, 13, [1, 2])], [0, 0], "outputs are places"),
    ],
)
def test_what_would_end_the_process_is_refused_and_changes_nothing(
    spans: list[Any], outputs: list[int], said: str
) -> None:
    for hidden in (False, True):
        one = context(hidden=hidden)
        one.decode([(0, 0, IDS)], [12])
        with pytest.raises(ValueError, match=said):
            one.decode(spans, outputs)
        assert lengths(one) == [13, 0, 0, 0, 0, 0, 0, 0]
        assert one.free_cells == 512 - 13
        one.decode([(0, 13, [1]), (1, 0, IDS)], [0, 13])
        assert np.abs(one.logits(2) - [fresh(draft(), [*IDS, 1]), fresh(draft(), IDS)]).max() < 1e-3


def test_sequences_that_there_are_not_and_lengths_that_they_have_not() -> None:
    one = context()
    one.decode([(0, 0, IDS)], [])
    for sequence in (-1, 8, 256, 2**31):
        for call in (one.length, lambda at: one.rollback(at, 0), lambda at: one.copy(at, 1)):
            with pytest.raises(ValueError, match="sequences are numbered from 0 to 7"):
                call(sequence)
        with pytest.raises(ValueError, match="sequences are numbered from 0 to 7"):
            one.copy(0, sequence)
    for length in (-1, 14):
        with pytest.raises(ValueError, match="sequence 0 has 13 tokens, not"):
            one.rollback(0, length)
    with pytest.raises(ValueError, match="sequence 0 is not empty"):
        one.copy(0, 0)
    one.copy(0, 1)
    with pytest.raises(ValueError, match="sequence 1 is not empty"):
        one.copy(0, 1)
    one.copy(2, 3)  # nothing into nothing
    assert lengths(one) == [13, 13, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sequences": 257, "batch": 512}, "sequences=257 is not between 1 and 256"),
        ({"sequences": 0}, "sequences=0"),
        ({"cells": 0}, "cells=0"),
        ({"cells": 2**32}, "cells=4294967296"),
        ({"cells": -5}, "cells=-5"),
        ({"batch": 7}, "batch=7 is not between 8 and"),
        ({"batch": 0, "sequences": 1}, "batch=0"),
        ({"threads": 0}, "threads=0"),
        ({"threads": 513}, "threads=513"),
        ({"cache_type": "q9"}, "cache_type 'q9' is not one of f32, f16, q8_0"),
    ],
)
def test_sizes_out_of_their_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        context(**options)


@pytest.mark.parametrize(
    ("options", "cells", "batch"),
    [
        ({"cells": 1}, 256, 64),
        ({"cells": 257, "batch": 5000}, 512, 512),
        ({"sequences": 256, "batch": 256, "cells": 1024}, 1024, 256),
        ({"sequences": 1, "batch": 1}, 512, 1),
    ],
)
def test_sizes_at_their_ends_work(options: dict[str, Any], cells: int, batch: int) -> None:
    for hidden in (False, True):
        one = context(**options, hidden=hidden)
        assert (one.cells, one.batch) == (cells, batch)
        last = one.sequences - 1
        assert one.decode([(last, 0, [5] * batch)], range(batch))
        assert one.logits(batch).shape[0] == batch
        one.rollback(last, 0)
        spans = [(sequence, 0, [5]) for sequence in range(min(one.sequences, batch))]
        assert one.decode(spans, range(len(spans)))
        assert np.abs(np.diff(one.logits(len(spans)), axis=0)).max(initial=0) < 1e-3


def test_a_context_that_does_not_fit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"no context of 2,147,483,136 tokens for draft\.gguf: it takes .* GB"):
        context(cells=2**31 - 512)
    monkeypatch.setattr(library(), "llama_init_from_model", lambda *_: None)
    with pytest.raises(
        ConfigurationError, match=r"no context of 512 tokens for draft\.gguf: out of memory.*Try a smaller"
    ):
        context()


def test_a_context_that_cannot_grow_is_as_it_was() -> None:
    for separate in (False, True):
        one = context(separate=separate)
        one.decode([(0, 0, IDS), (3, 0, IDS[:5])], [12])
        for options in ({"cells": 2**31 - 512, "sequences": 8}, {"cells": 2**40, "sequences": 8}):
            with pytest.raises((ConfigurationError, ValueError), match=r"no context of|is not between"):
                one.grow(batch=64, **options)
        with pytest.raises(ValueError, match="are fewer than"):
            one.grow(cells=one.cells - 1, batch=64, sequences=8)
        assert lengths(one) == [13, 0, 0, 5, 0, 0, 0, 0]
        one.grow(cells=2 * one.cells, batch=64, sequences=8)
        assert lengths(one) == [13, 0, 0, 5, 0, 0, 0, 0]
        assert one.decode([(0, 13, [5]), (3, 5, [6])], [0, 1])
        expected = [fresh(draft(), [*IDS, 5]), fresh(draft(), [*IDS[:5], 6])]
        assert np.abs(one.logits(2) - expected).max() < 1e-3
    with pytest.raises(ValueError, match="cells are fewer than 512 for each of 16 sequences"):
        one.grow(cells=one.cells, batch=64, sequences=16)


def test_sequences_with_cells_of_their_own_share_none() -> None:
    one = context(separate=True, cells=1000)
    assert (one.cells, one.most_tokens) == (8 * 256, 256)
    one.decode([(0, 0, IDS)], [])
    one.copy(0, 5)
    assert one.free_cells == 8 * 256 - 2 * len(IDS)
    one.rollback(0, 4)
    one.decode([(0, 4, [9]), (5, 13, [20])], [0, 1])
    expected = [fresh(draft(), [*IDS[:4], 9]), fresh(draft(), [*IDS, 20])]
    assert np.abs(one.logits(2) - expected).max() < 1e-3
    for at in range(5, 256):
        one.decode([(0, at, [7])], [])
    with pytest.raises(ValueError, match="a sequence has at most 256 tokens; this one would have 257"):
        one.decode([(0, 256, [7])], [])
    assert one.decode_one(0, 256, 7) is None


def test_a_model_that_cannot_be_rolled_back_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for function, answer, said in (
        ("llama_model_is_recurrent", True, "is recurrent, so that it cannot be rolled back"),
        ("llama_model_is_hybrid", True, "is recurrent"),
        ("llama_model_is_diffusion", True, "is a diffusion model"),
        ("llama_model_has_encoder", True, "is an encoder"),
        ("llama_model_has_decoder", False, "is an encoder"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(library(), function, lambda _, answer=answer: answer)
            with pytest.raises(ConfigurationError, match=rf"draft\.gguf \(qwen2\) {said}"):
                context()


def test_a_deviation_of_the_library_is_not_a_silent_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    one = context()
    one.decode([(0, 0, IDS)], [])
    with monkeypatch.context() as patched:
        patched.setattr(library(), "llama_memory_seq_rm", lambda *_: True)  # and nothing is removed
        with pytest.raises(
            RuntimeError, match=r"sequence 0 should have 4 tokens now; llama\.cpp has the positions 0 to 12"
        ):
            one.rollback(0, 4)
    with monkeypatch.context() as patched:
        patched.setattr(one, "_decode", lambda *_: -3)
        with pytest.raises(RuntimeError, match="code -3"):
            one.decode([(0, 13, [1])], [0])
    assert one.length(0) == 13
    with monkeypatch.context() as patched:
        patched.setattr(one, "_decode", lambda *_: 1)
        assert not one.decode([(0, 13, [1])], [0])
    assert one.decode([(0, 13, [1])], [0])


class Checked:
    """A context and its expected content: the tokens of each sequence, distinguished where cells are shared.

    Args:
        model: Loads the model.
        tolerance: Largest difference of logits from those of a fresh computation.
        options: Of the context.
    """

    def __init__(self, model: Callable[[], Model], tolerance: float, **options: Any) -> None:
        self.model, self.tolerance = model, tolerance
        self.context = used_again(model, **options)
        self.context.clear()
        self.size = self.context.cells
        self.sequences: list[list[tuple[int, int]]] = [[] for _ in range(6)]
        self.made = 0

    def ids(self, sequence: int) -> list[int]:
        return [id_ for id_, _ in self.sequences[sequence]]

    def extend(self, sequence: int, ids: list[int]) -> None:
        self.sequences[sequence] += [(id_, self.made + at) for at, id_ in enumerate(ids)]
        self.made += len(ids)

    def room(self) -> int:
        return self.size - len({cell for tokens in self.sequences for _, cell in tokens})

    def decode(self, first: int, second: int, number: int) -> None:
        random, spans, outputs, count = np.random.default_rng(number), [], [], 0
        for sequence in sorted({first, second}):
            size = int(random.integers(1, 25))
            if len(self.ids(sequence)) + size > self.context.most_tokens:
                return
            ids = random.integers(1, draft().vocab_size, size=size).tolist()
            spans.append((sequence, len(self.ids(sequence)), ids))
            count += size
            outputs.append(count - 1)
        fits = count <= self.room()
        assert self.context.decode(spans, outputs) == fits
        if fits:
            for sequence, _, ids in spans:
                self.extend(sequence, ids)
            for row, (sequence, _, _) in zip(self.context.logits(len(spans)), spans, strict=True):
                self.check(sequence, row)

    def check(self, sequence: int, row: np.ndarray) -> None:
        assert np.abs(row - fresh(self.model(), self.ids(sequence))).max() <= self.tolerance

    def rollback(self, first: int, second: int, number: int) -> None:
        length = number % (len(self.ids(first)) + 1)
        self.context.rollback(first, length)
        del self.sequences[first][length:]

    def copy(self, first: int, second: int, number: int) -> None:
        if first != second:
            self.rollback(second, second, 0)
            self.context.copy(first, second)
            self.sequences[second] = list(self.sequences[first])
            if self.context.separate:
                self.sequences[second] = []
                self.extend(second, self.ids(first))

    def clear(self, first: int, second: int, number: int) -> None:
        if number % 4 == 0:
            self.context.clear()
            self.sequences = [[] for _ in range(6)]

    def run(self, operations: list[tuple[str, int, int, int]]) -> None:
        for kind, first, second, number in operations:
            getattr(self, kind)(first, second, number)
            assert lengths(self.context) == [len(tokens) for tokens in self.sequences]
            assert self.context.free_cells == self.room()
        for sequence, length in enumerate(lengths(self.context)):
            if length:
                last = self.ids(sequence)[-1]
                self.context.rollback(sequence, length - 1)
                if self.context.free_cells:  # none where a full cache holds the last cell for others too
                    assert self.context.decode([(sequence, length - 1, [last])], [0])
                    self.check(sequence, self.context.logits(1)[0])


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["decode", "decode", "decode", "rollback", "copy", "clear"]),
        st.integers(0, 5),
        st.integers(0, 5),
        st.integers(0, 1 << 30),
    ),
    min_size=5,
    max_size=40,
)


@functools.cache
def used_again(model: Callable[[], Model], **options: Any) -> Context:
    """One context for all examples: what one left behind is cleared by the next."""
    return Context(model(), **{"cells": 256, "batch": 48, "sequences": 6} | options)


@settings(max_examples=40)
@given(operations=OPERATIONS, hidden=st.booleans())
def test_whatever_is_done_sequences_hold_what_they_should(operations: list[Any], hidden: bool) -> None:
    """In half precision, in which a cell's place in the cache shows in the second decimal of a logit."""
    Checked(draft, 0.1, hidden=hidden).run(operations)


@settings(max_examples=20)
@given(operations=OPERATIONS)
def test_in_single_precision_to_the_third_decimal(operations: list[Any]) -> None:
    Checked(draft, 1e-3, **EXACT).run(operations)


@settings(max_examples=20)
@given(operations=OPERATIONS)
def test_with_cells_of_its_own_a_sequence_depends_on_no_other(operations: list[Any]) -> None:
    Checked(draft, 1e-3, separate=True, cells=6 * 256, **EXACT).run(operations)


@settings(max_examples=3)
@given(operations=OPERATIONS.map(lambda operations: operations[:8]))
def test_then_a_quantised_model_gives_the_same_to_the_last_bit(operations: list[Any]) -> None:
    Checked(smollm2, 0, separate=True, cells=6 * 256).run(operations)


@given(
    st.lists(
        st.tuples(st.sampled_from(["extend", "cut", "share"]), st.integers(0, 3), st.integers(0, 3), st.integers(0, 9))
    )
)
def test_cells_are_counted_once(operations: list[tuple[str, int, int, int]]) -> None:
    cells, plain, made = Cells(32, 4), [list[int]() for _ in range(4)], 0
    for kind, first, second, number in operations:
        own = plain[first]
        if kind == "extend" and 0 < number <= cells.free:
            cells.extend(first, len(own), number)
            own += range(made, made + number)
            made += number
        elif kind == "cut" and number < len(own):
            cells.cut(first, number, len(own))
            del own[number:]
        elif kind == "share" and first != second and not plain[second]:
            cells.share(first, second, len(own))
            plain[second] = list(own)
        assert cells.free == 32 - len({cell for tokens in plain for cell in tokens})


def test_threads_wait_for_each_other() -> None:
    one = context()
    wrong: list[object] = []

    def work(sequence: int) -> None:
        try:
            for at in range(30):
                assert one.decode([(sequence, at, [5 + sequence])], [0])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(sequence,)) for sequence in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert lengths(one) == [30] * 8
    assert one.decode([(3, 30, [1])], [0])
    assert np.abs(one.logits(1)[0] - fresh(draft(), [8] * 30 + [1])).max() < 1e-3


def test_a_closed_context_says_so() -> None:
    one = context()
    one.decode([(0, 0, IDS)], [12])
    one.close()
    one.close()
    for call in (
        lambda: one.decode([(0, 13, [1])], []),
        lambda: one.logits(1),
        lambda: one.rollback(0, 0),
        lambda: one.copy(0, 1),
        lambda: one.use_threads(2),
        one.clear,
    ):
        with pytest.raises(RuntimeError, match="the context is closed"):
            call()


SETUP = f"""
import logging, os, sys, threading
from rsd_integrations.llamacpp.context import Context
from rsd_integrations.llamacpp.model import Model
model = Model.load({{file!r}})
context = Context(model, cells=512, batch=64, sequences=8, hidden=True)
context.decode([(0, 0, {IDS})], [12])
"""


@pytest.mark.parametrize(
    "end",
    [
        "",
        "del model",
        "sys.exit()",
        "context.close()",
        "logging.basicConfig(level=1, stream=open(os.devnull, 'w'))",
        "cycle = [context, model]; cycle.append(cycle); del context, model",
        # A thread that decodes on while the interpreter ends, and is told that the context is gone.
        "threading.excepthook = lambda _: None\n"
        "def work():\n"
        "    while True: context.decode([(1, context.length(1), [1])], [0]); context.rollback(1, 0)\n"
        "threading.Thread(target=work, daemon=True).start()",
    ],
)
def test_a_process_ends_well_whatever_it_holds(end: str) -> None:
    assert run(SETUP.format(file=str(gguf_files.embedded("draft"))) + end) == ""


def test_a_child_process_goes_on_with_what_its_parent_loaded() -> None:
    code = SETUP + (
        "before = context.logits(1)\n"
        "def work():\n"
        "    while not stop: context.decode([(1, 0, [1])], [0]); context.rollback(1, 0)\n"
        "stop = []\n"
        "thread = threading.Thread(target=work); thread.start()\n"  # a lock may be held at the moment of the fork
        "import warnings; warnings.simplefilter('ignore')\n"
        "for _ in range(5):\n"
        "    child = os.fork()\n"
        "    if child == 0: sys.exit(3)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3\n"
        "stop.append(1); thread.join()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    assert context.decode([(2, 0, [5, 6])], [1]) and context.hidden(1).any()\n"
        "    sys.exit(4)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4\n"
        "assert context.decode([(0, 13, [1])], [0])\n"
    )
    assert run(code.format(file=str(gguf_files.embedded("draft")))) == ""
