"""How attention calls cover a batch: results do not depend on the cover, and little is read in vain."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsd_integrations.huggingface import attention
from rsd_integrations.huggingface.attention import Batch, _neighbours, _Span
from rsd_integrations.huggingface.runner import TorchRunner
from tests.huggingface.test_fused_decoder import alone, make


def read(spans: list[_Span], call: float) -> float:
    """Tokens that a cover reads, where each call costs as much as some."""
    return sum(call + len(span.lengths) * max(span.lengths) for span in spans)


@given(
    lengths=st.dictionaries(st.integers(0, 40), st.integers(1, 500), min_size=1, max_size=20),
    call=st.sampled_from((0.0, 10.0, 300.0, 1e9)),
)
def test_calls_cover_every_sequence_once_and_read_no_more_than_a_call_for_each(
    lengths: dict[int, int], call: float
) -> None:
    singles = sorted(lengths.items())
    spans = _neighbours(singles, call)
    covered = [
        (span.first + at, span.lengths[at])
        for span in spans
        for at in (range(len(span.lengths)) if span.active is None else span.active)
    ]
    assert covered == singles
    assert read(spans, call) <= sum(call + length for _, length in singles)
    if call == 1e9:
        assert len(spans) == 1


def test_a_long_sequence_does_not_make_all_others_long() -> None:
    spans = _neighbours([(0, 90), (1, 100), (2, 4000), (3, 95), (4, 100)], 300.0)
    assert [(span.first, len(span.lengths)) for span in spans] == [(0, 2), (2, 1), (3, 2)]
    assert len(_neighbours([(slot, 90 + slot) for slot in range(32)], 300.0)) == 1


@pytest.mark.parametrize("call", [0.0, 2e4, 1e12])
def test_results_do_not_depend_on_the_cover(call: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "LAUNCH_BYTES_CPU", call)
    model = make()
    texts = [torch.randint(3, 640, (length,)).tolist() for length in (40, 8, 60, 9, 9, 25)]
    some = [0, 1, 2, 5]  # two slots between are idle
    wanted = torch.stack([logits[-1] for logits in alone(model, [texts[i] for i in some])])
    runner = TorchRunner(model, threads=1)
    sequences = [runner.store.sequence() for _ in texts]
    with torch.inference_mode():
        for sequence, text in zip(sequences, texts, strict=True):
            sequence.activate()
            assert runner.store.reserve(sequence, len(text))
            runner._run(Batch(runner.store, [(sequence.slot or 0, 0, len(text) - 1)], text[:-1]), [])
        spans = [(sequences[i].slot or 0, len(texts[i]) - 1, 1) for i in some]
        batch = Batch(runner.store, spans, [texts[i][-1] for i in some])
        assert (len(batch._spans) == 1) is (call == 1e12)
        found = runner._run(batch, list(range(len(some)))).logits
    assert found is not None
    assert torch.allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()))
