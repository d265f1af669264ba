"""The tensors of a checkpoint's safetensors files, in numpy: only the reward head is read, not the body."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from rsd_core import ConfigurationError

_NUMBERS = ("F64", "F32", "F16", "BF16")


class SafetensorsFiles:
    """The safetensors files of a folder.

    Args:
        folder: The folder.
        name: Its name in messages.

    Raises:
        ConfigurationError: There are none, or one of them is damaged.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Shapes of all tensors, by name."""
        self._types: dict[str, str] = {}
        self._files: dict[str, Path] = {}
        for file in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(file, framework="numpy") as opened:
                    for tensor in opened.keys():  # noqa: SIM118 - it is no dictionary
                        part = opened.get_slice(tensor)
                        self.shapes[tensor], self._types[tensor] = tuple(part.get_shape()), part.get_dtype()
                        self._files[tensor] = file
            except SafetensorError as error:
                raise ConfigurationError(f"{name}: {file.name} is damaged ({error}); fetch it again") from error

    def read(self, tensor: str) -> NDArray[np.float32]:
        """A tensor in single precision.

        Raises:
            ConfigurationError: It contains non-finite values, or is not floating point.
        """
        file, type_ = self._files[tensor], self._types[tensor]
        if type_ not in _NUMBERS:
            raise ConfigurationError(f"{self.name}: the tensor {tensor} is of the type {type_}, not of {_NUMBERS}")
        if type_ == "BF16":
            values = _bf16(file, tensor)
        else:
            with safe_open(file, framework="numpy") as opened:
                values = opened.get_tensor(tensor).astype(np.float32)
        if not np.isfinite(values).all():
            raise ConfigurationError(f"{self.name}: the tensor {tensor} is not finite; is the download complete?")
        return values


def _bf16(file: Path, tensor: str) -> NDArray[np.float32]:
    """A tensor in bf16, the upper half of single precision, which numpy does not support."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        entry = json.loads(stream.read(size))[tensor]
        begin, end = entry["data_offsets"]
        stream.seek(8 + size + begin)
        halves = np.frombuffer(stream.read(end - begin), "<u2")
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])
