"""A row leaves with its sequence the model's output at its end, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from rsd_integrations.inprocess.score_call import ScoreRow
from rsd_integrations.inprocess.sequences import CachedSequence
from rsd_integrations.llamacpp.output import NumpyOutput
from rsd_integrations.prm_formats import Layout


class Sequence(CachedSequence):
    """One without a model."""

    def evict(self) -> None:
        self.ids, self.last_output = [], None


def row() -> ScoreRow:
    """One that has read four tokens, and wanted what the model gives at the second and the last."""
    sequence, output = Sequence(), NumpyOutput(None, np.arange(6, dtype=np.float32).reshape(2, 3))
    one = ScoreRow(
        cast("Any", SimpleNamespace(request_number=0)), sequence, [7, 8, 9, 10], [1, 3], Layout((9, 10), read=(-1, 1))
    )
    sequence.ids += one.ids
    one.add(output, 2)
    return one


def test_what_the_model_gave_at_the_end_stays() -> None:
    one = row()
    one.keep_last_output()
    assert one.sequence.last_output.logits.tolist() == [[3, 4, 5]]


def test_a_row_that_was_preempted_or_cut_leaves_nothing() -> None:
    preempted, cut = row(), row()
    preempted.sequence.evict()
    cut.sequence.truncate(3)
    for one in (preempted, cut):
        one.keep_last_output()
        assert one.sequence.last_output is None
