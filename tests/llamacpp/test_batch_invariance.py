"""Statements about a file hold: which types give the same logits whatever else is computed with a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from rsd_integrations.llamacpp.context import Context
from rsd_integrations.llamacpp.header import INVARIANT_BATCH, read_header
from rsd_integrations.llamacpp.model import Model
from rsd_integrations.llamacpp.tensor_types import ROW_BY_ROW
from tests.llamacpp.gguf_files import embedded, gemma, smollm2

LENGTH, OTHERS = 21, 8


def requantised(source: Path, file: Path, type_: str) -> Path:
    """A file with its matrices in another type."""
    reader, kind = gguf.GGUFReader(source), gguf.GGMLQuantizationType[type_]
    writer = gguf.GGUFWriter(file, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        matrix = len(tensor.shape) > 1
        writer.add_tensor(
            tensor.name, gguf.quantize(values, kind) if matrix else values, raw_dtype=kind if matrix else None
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def logits(model: Model, *, pass_: int, beside: int, separate: bool = True) -> NDArray[np.float32]:
    """Logits of a sequence, with a number of its tokens per call and a number of other sequences."""
    numbers = np.random.default_rng(3)
    sequences = numbers.integers(256, 500, (beside + 1, LENGTH)).tolist()
    sequences[0] = list(range(300, 300 + LENGTH))
    context, rows = Context(model, cells=1024, batch=512, sequences=16, separate=separate), []
    try:
        for begin in range(0, LENGTH, pass_):
            spans = [(number, begin, ids[begin : begin + pass_]) for number, ids in enumerate(sequences)]
            count = len(spans[0][2])
            assert context.decode(spans, range(count))
            rows.append(context.logits(count))
    finally:
        context.close()
    return np.concatenate(rows)


def difference(model: Model, ways: Sequence[tuple[int, int]]) -> float:
    """The largest difference that longer passes and company make to a logit."""
    alone = logits(model, pass_=1, beside=0)
    return max(float(np.abs(logits(model, pass_=pass_, beside=beside) - alone).max()) for pass_, beside in ways)


WAYS = ((LENGTH, 0), (1, 1), (1, 3), (1, OTHERS), (7, OTHERS), (LENGTH, 2))
"""Tokens of the sequence per call, and other sequences."""


def test_the_largest_calls_are_the_largest_that_may_be() -> None:
    assert max(pass_ * (beside + 1) for pass_, beside in WAYS) == INVARIANT_BATCH


@pytest.mark.parametrize("type_", [*sorted(ROW_BY_ROW), "F32", "F16"])
def test_rows_are_computed_apart_where_the_header_says_so(type_: str, tmp_path: Path) -> None:
    file = requantised(embedded("target"), tmp_path / f"{type_}.gguf", type_)
    assert read_header(file).row_by_row is (type_ in ROW_BY_ROW)
    assert (difference(Model.load(file), WAYS) == 0.0) is (type_ in ROW_BY_ROW)


def test_one_token_more_in_a_call_makes_a_difference(tmp_path: Path) -> None:
    model = Model.load(requantised(embedded("target"), tmp_path / "model.gguf", "Q8_0"))
    assert (logits(model, pass_=8, beside=7, separate=False) != logits(model, pass_=1, beside=0)).any()  # 64 tokens


def test_real_models_are_what_the_header_says() -> None:
    assert read_header(smollm2()).row_by_row
    assert difference(Model.load(smollm2()), [(LENGTH, 2)]) == 0.0
    assert not read_header(gemma()).row_by_row
    model = Model.load(gemma())
    alone, beside = (logits(model, pass_=1, beside=others, separate=False) for others in (0, OTHERS))
    assert (alone != beside).any()
