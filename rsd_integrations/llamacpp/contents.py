"""The header of a GGUF file: values by key, and tensors with their types.

The format is that of ggml, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A vocabulary is an array of a
hundred thousand strings or so; arrays are skipped and read on demand.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rsd_core import ConfigurationError
from rsd_integrations.llamacpp.tensor_types import TENSOR_TYPES

MAGIC, VERSIONS = b"GGUF", (2, 3)

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Array:
    """An array not yet read from its file."""

    file: Path
    kind: int
    count: int
    start: int

    def read(self) -> list[Any]:
        """Its values."""
        with self.file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(self.file, data, self.start)
            if self.kind == _STRING:
                return [reader.string() for _ in range(self.count)]
            form = struct.Struct(f"<{self.count}{_SCALARS[self.kind][1]}")
            return list(form.unpack_from(data, self.start))

    def strings(self) -> Iterator[str]:
        """Its strings, one by one."""
        with self.file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(self.file, data, self.start)
            for _ in range(self.count):
                yield reader.string()


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as the file lists it."""

    name: str
    shape: tuple[int, ...]
    """Inputs first, as ggml counts: a matrix of 64 inputs and 192 outputs is (64, 192)."""
    type: str
    bytes: int
    file: Path
    start: int
    """Its offset in the file."""

    @property
    def weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Contents:
    """The header of one file."""

    version: int
    """Of the format."""
    metadata: Mapping[str, Any]
    """Numbers, texts and `Array`s by key."""
    tensors: tuple[Tensor, ...]


def read_contents(file: Path) -> Contents:
    """Read a file's header.

    Raises:
        ConfigurationError: It is not a GGUF file, has another version or byte order, or is truncated or damaged.
    """
    try:
        with file.open("rb") as opened:
            start = opened.read(8)
            if start[:4] != MAGIC:
                raise ConfigurationError(f"{file} is not a GGUF file: it begins with {start[:4]!r}, not with {MAGIC!r}")
            _check_version(file, start[4:])
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(file, data, 4).contents()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror or error}") from error
    except (struct.error, OverflowError, MemoryError) as error:
        raise ConfigurationError(
            f"{file} is truncated or damaged: it ends within its header; fetch it again"
        ) from error
    except (KeyError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"{file} is damaged ({error}); fetch it again") from error


def _check_version(file: Path, number: bytes) -> None:
    version = int.from_bytes(number, "little")
    if version in VERSIONS:
        return
    if int.from_bytes(number, "big") in VERSIONS:
        raise ConfigurationError(f"{file} is in big-endian byte order, for other machines; fetch or convert it again")
    raise ConfigurationError(f"{file} has GGUF version {version}; versions 2 and 3 are supported. Convert it again")


class _Reader:
    """A position in a file."""

    def __init__(self, file: Path, data: mmap.mmap, at: int) -> None:
        self.file, self.data, self.at = file, data, at

    def contents(self) -> Contents:
        version, tensors, values = self.number("<I"), self.number("<Q"), self.number("<Q")
        metadata = {self.string(): self.value() for _ in range(values)}
        listed = [self.tensor() for _ in range(tensors)]
        return Contents(version, metadata, tuple(self._placed(metadata.get("general.alignment", 32), listed)))

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def string(self) -> str:
        size = self.number("<Q")
        self._skip(size)
        return self.data[self.at - size : self.at].decode()

    def value(self) -> Any:
        kind = self.number("<I")
        if kind == _STRING:
            return self.string()
        return self.array() if kind == _ARRAY else self.number(_SCALARS[kind])

    def array(self) -> Array:
        kind, count = self.number("<I"), self.number("<Q")
        array = Array(self.file, kind, count, self.at)
        if kind == _STRING:
            self._skip_strings(count)
        else:
            self._skip(count * struct.calcsize(_SCALARS[kind]))
        return array

    def tensor(self) -> Tensor:
        """A tensor, with its offset in the data."""
        name = self.string()
        dimensions = self.number("<I")
        if dimensions > 4:
            raise ValueError(f"the tensor {name} has {dimensions} dimensions")
        shape = tuple(self.number("<Q") for _ in range(dimensions))
        number = self.number("<I")
        if number not in TENSOR_TYPES:
            raise ConfigurationError(
                f"{self.file}: its tensor {name} has the type {number}, which is not supported; fetch the file in "
                "another quantisation"
            )
        type_ = TENSOR_TYPES[number]
        if shape and shape[0] % type_.weights:
            raise ValueError(f"rows of the tensor {name} hold {shape[0]} weights, not a multiple of {type_.weights}")
        size = math.prod(shape) // type_.weights * type_.bytes
        return Tensor(name, shape, type_.name, size, self.file, self.number("<Q"))

    def _skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise struct.error

    def _skip_strings(self, count: int) -> None:
        at, data, size_at = self.at, self.data, _LENGTH.unpack_from
        for _ in range(count):
            at += 8 + size_at(data, at)[0]
        self.at = at
        self._skip(0)

    def _placed(self, alignment: Any, listed: Sequence[Tensor]) -> Iterator[Tensor]:
        """Tensors with their offsets in the file, validated."""
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"general.alignment is {alignment}, not a power of two")
        start = -(-self.at // alignment) * alignment
        for tensor in listed:
            if tensor.start % alignment:
                raise ValueError(f"the tensor {tensor.name} begins at {tensor.start}, not a multiple of {alignment}")
            end = start + tensor.start + tensor.bytes
            if end > len(self.data):
                raise ConfigurationError(
                    f"{self.file} is truncated: it has {len(self.data):,} bytes, but its tensor {tensor.name} ends "
                    f"at {end:,}; fetch it again"
                )
            yield replace(tensor, start=start + tensor.start)
