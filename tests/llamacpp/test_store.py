"""Room for sequences: eviction, waiting, growth, and release."""

from __future__ import annotations

import gc

from rsd_integrations.inprocess.runner import PREFILL_CHUNK
from rsd_integrations.inprocess.sequences import IDLE
from rsd_integrations.llamacpp.context import Context
from rsd_integrations.llamacpp.model import Model
from rsd_integrations.llamacpp.store import NumberedSequence, UnifiedStore, batch_size
from tests.llamacpp import gguf_files


def store(cells: int = 256, most: int = 256, sequences: int = 4, *, separate: bool = False) -> UnifiedStore:
    model = Model.load(gguf_files.embedded("draft"))
    context = Context(model, cells=cells, batch=batch_size(cells, sequences), sequences=sequences, separate=separate)
    return UnifiedStore(context, most)


def read(own: UnifiedStore, sequence: NumberedSequence, count: int) -> bool:
    """Let a sequence read some more tokens, if there is room; one that was idle is idle again afterwards."""
    length, was_idle = len(sequence.ids), sequence.arrival == IDLE
    if was_idle:
        sequence.activate()
    if not own.reserve(sequence, length + count):
        return False
    ids = [5] * count
    assert sequence.number is not None
    assert own.context.decode([(sequence.number, length, ids)], [])
    sequence.ids += ids
    own.settle()
    if was_idle:
        sequence.deactivate()
    return True


def filled(own: UnifiedStore, count: int) -> NumberedSequence:
    sequence = own.sequence()
    assert read(own, sequence, count)
    return sequence


def test_what_was_idle_longest_goes_first() -> None:
    own = store()
    first, second = filled(own, 100), filled(own, 100)
    assert read(own, first, 10)
    third = filled(own, 100)
    assert [len(one.ids) for one in (first, second, third)] == [110, 0, 100]
    assert own.evicted == 1


def test_a_rejected_candidate_is_evicted_before_all_others_without_a_log() -> None:
    own = store()
    first, rejected = filled(own, 100), filled(own, 100)
    rejected.passed_over = True
    first.activate()
    filled(own, 100)
    assert (len(first.ids), len(rejected.ids), own.evicted) == (100, 0, 0)


def test_a_later_arrival_is_preempted_and_an_earlier_one_never() -> None:
    own = store()
    early, late = own.sequence(), own.sequence()
    early.activate()
    late.activate()
    assert read(own, early, 100)
    assert read(own, late, 100)
    assert not own.reserve(late, 200)
    assert read(own, early, 100)
    assert (len(early.ids), len(late.ids), late.number) == (200, 0, None)


def test_rows_of_older_requests_preempt_those_of_younger_ones_that_were_there_before() -> None:
    own = store()
    young, old = own.sequence(), own.sequence()
    young.activate(7)
    assert read(own, young, 200)
    old.activate(3)
    assert read(own, old, 100)
    assert (len(old.ids), len(young.ids)) == (100, 0)
    assert not own.reserve(young, 200)


def test_room_that_is_promised_is_not_given_twice() -> None:
    own = store()
    first, second = own.sequence(), own.sequence()
    first.activate()
    second.activate()
    assert own.reserve(first, 200)
    assert not own.reserve(second, 57)
    assert own.reserve(second, 56)
    own.settle()
    assert own.reserve(first, 256)  # nothing was computed, so that all of it is there again


def test_it_grows_before_it_evicts_but_drops_rejected_candidates_before_it_grows() -> None:
    own = store(cells=256, most=1024)
    first = filled(own, 200)
    second = filled(own, 200)
    assert (own.context.cells, len(first.ids), len(second.ids)) == (512, 200, 200)
    first.passed_over = True
    third = filled(own, 200)
    assert (own.context.cells, len(first.ids), len(third.ids)) == (512, 0, 200)


def test_sequences_are_made_as_cells_are() -> None:
    own = store(sequences=2)
    first, second = filled(own, 10), filled(own, 10)
    third = filled(own, 10)
    assert own.context.sequences == 4
    fourth = filled(own, 10)
    first.passed_over = True
    fifth = filled(own, 10)
    assert own.context.sequences == 4
    assert [len(one.ids) for one in (first, second, third, fourth, fifth)] == [0, 10, 10, 10, 10]


def test_separate_sequences_are_as_many_as_there_were() -> None:
    own = store(cells=512, most=512, sequences=2, separate=True)
    first, second = filled(own, 10), filled(own, 10)
    filled(own, 10)
    assert (own.context.sequences, len(first.ids), len(second.ids)) == (2, 0, 10)


def test_a_branch_arrives_later_and_goes_on_from_what_the_model_gave() -> None:
    own = store()
    source = filled(own, 50)
    source.activate()
    source.last_output = object()
    copy = own.branch(source)
    assert copy is not None
    assert (copy.ids, copy.last_output) == (source.ids, source.last_output)
    assert source.arrival < copy.arrival < IDLE
    assert own.context.free_cells == 256 - 50  # they share their cells
    copy.truncate(20)
    assert (own.context.length(copy.number or 0), own.context.length(source.number or 0)) == (20, 50)
    assert copy.last_output is None


def test_room_is_given_back_by_objects_that_die_and_all_of_it_by_clear() -> None:
    own = store()
    sequence = filled(own, 200)
    del sequence
    gc.collect()
    assert len(own.freed) == 1
    second = filled(own, 200)
    assert (own.evicted, own.context.cells) == (0, 256)
    second.evict()
    third = filled(own, 10)
    own.reserve(third, 20)
    own.clear()
    assert (second.number, third.number, third.ids, list(own.freed)) == (None, None, [], [])
    sequences = [filled(own, 64) for _ in range(4)]
    assert sorted(one.number or 0 for one in sequences) == [0, 1, 2, 3]
    assert own.context.free_cells == 0


def test_a_pass_holds_a_chunk_of_prefill_and_a_token_of_every_sequence() -> None:
    assert batch_size(4096, 8) == PREFILL_CHUNK + 8
    assert batch_size(256, 8) == 256
