"""What a GGUF file says of its model, read without its weights.

The format is that of ggml, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: counts, values by key, tensors by
name with their type and place, then the data. A vocabulary is an array of some hundred thousand strings there; arrays
are passed over until somebody asks for one.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from rsd_core import ConfigurationError
from rsd_integrations.llamacpp.shards import shards

MAGIC, VERSIONS = b"GGUF", (2, 3)


class TensorType(NamedTuple):
    """How the weights of a tensor are stored."""

    name: str
    """As llama.cpp calls it."""
    weights: int
    """Of one block."""
    bytes: int
    """Of one block."""


TENSOR_TYPES = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    9: TensorType("Q8_1", 32, 40),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    15: TensorType("Q8_K", 256, 292),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    24: TensorType("I8", 1, 1),
    25: TensorType("I16", 1, 2),
    26: TensorType("I32", 1, 4),
    27: TensorType("I64", 1, 8),
    28: TensorType("F64", 1, 8),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
    39: TensorType("MXFP4", 32, 17),
    40: TensorType("NVFP4", 64, 36),
}
"""By their number in the file."""

FILE_TYPES = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K"},
    **{11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K"},
    **{19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL"},
    **{26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16"},
    **{36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4"},
}
"""The mix of types that a file was quantised to, by its number in the file."""

ROW_BY_ROW = frozenset({"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"})
"""Types whose products do not depend on how many rows are multiplied at once, to the last bit (b11549, AVX2)."""

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
_LOOKED_UP = ("token_embd.", "per_layer_token_embd.", "position_embd.", "token_types.")
"""Tensors of which a token takes a row each."""


@dataclass(frozen=True, slots=True)
class Array:
    """An array that is still in its file."""

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


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as the file lists it."""

    name: str
    shape: tuple[int, ...]
    """Inputs first, as ggml counts: a matrix of 64 inputs and 192 outputs is (64, 192)."""
    type: str
    bytes: int

    @property
    def weights(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a file says; of a model in several files, what all of them say together.

    Numbers that the file does not give are 0, texts are empty.
    """

    files: tuple[Path, ...]
    version: int
    """Of the format."""
    metadata: Mapping[str, Any]
    """Numbers, texts and `Array`s by key, of the first file."""
    tensors: tuple[Tensor, ...]

    @property
    def architecture(self) -> str:
        """As llama.cpp calls it, such as `llama` or `qwen3moe`."""
        return str(self.metadata["general.architecture"])

    @property
    def name(self) -> str:
        """Of the model."""
        return str(self.metadata.get("general.name", ""))

    @property
    def context(self) -> int:
        """Tokens that the model was trained for."""
        return self._number("context_length")

    @property
    def layers(self) -> int:
        """Transformer blocks."""
        return self._number("block_count")

    @property
    def width(self) -> int:
        """Of the hidden states."""
        return self._number("embedding_length")

    @property
    def heads(self) -> int:
        """Attention heads of a layer; of the layer with the most, where they differ."""
        return max(self._of_layers("attention.head_count"), default=0)

    @property
    def feed_forward(self) -> int:
        """Width inside of a layer's feed-forward network; of the widest, where they differ."""
        return max(self._of_layers("feed_forward_length"), default=0)

    @property
    def sliding_window(self) -> int:
        """Tokens that layers with a sliding window look back; 0 where all layers see everything."""
        return self._number("attention.sliding_window")

    @property
    def vocabulary_size(self) -> int:
        """Tokens of the vocabulary."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        return tokens.count if isinstance(tokens, Array) else 0

    @property
    def tokenizer(self) -> str:
        """Its kind: `gpt2` (byte-level BPE), `llama` (SentencePiece), `bert` (WordPiece), `t5` (unigram), and so on."""
        return str(self.metadata.get("tokenizer.ggml.model", ""))

    @property
    def has_chat_template(self) -> bool:
        """Whether the file holds one."""
        return "tokenizer.chat_template" in self.metadata

    @property
    def file_type(self) -> str:
        """What it was quantised to, such as Q4_K_M; by the type of most weights where the file does not say."""
        number = self.metadata.get("general.file_type")
        if number in FILE_TYPES:
            return FILE_TYPES[number]
        weights = self.types
        return max(weights, key=lambda type_: weights[type_]) if weights else ""

    @cached_property
    def types(self) -> dict[str, int]:
        """How many weights are stored in each type, such as Q4_K."""
        weights: Counter[str] = Counter()
        for tensor in self.tensors:
            weights[tensor.type] += tensor.weights
        return dict(weights)

    @cached_property
    def parameters(self) -> int:
        """Weights of the model."""
        return sum(tensor.weights for tensor in self.tensors)

    @cached_property
    def bytes(self) -> int:
        """Size of the weights, all of which are in memory while the model runs."""
        return sum(tensor.bytes for tensor in self.tensors)

    @cached_property
    def flops_per_token(self) -> float:
        """Two for each weight that a token is multiplied by: of experts those in use, of embeddings none."""
        used, experts = self._number("expert_used_count"), self._number("expert_count")
        share = used / experts if experts else 1.0
        return sum(2.0 * t.weights * (share if "_exps." in t.name else 1.0) for t in self._multiplied)

    @property
    def batch_invariant(self) -> bool:
        """Whether the results of a sequence are the same to the last bit whatever is computed beside it.

        It follows from how the matrices are stored: products with K-quants and with floating-point weights are rounded
        in another order where there are more rows.
        """
        return {tensor.type for tensor in self._multiplied if len(tensor.shape) > 1} <= ROW_BY_ROW

    @cached_property
    def _multiplied(self) -> list[Tensor]:
        tied = not any(tensor.name == "output.weight" for tensor in self.tensors)
        looked_up = _LOOKED_UP[1:] if tied else _LOOKED_UP  # tied embeddings are the output head as well
        return [tensor for tensor in self.tensors if not tensor.name.startswith(looked_up)]

    def cache_bytes(self, bytes_per_number: float = 2.0) -> float:
        """Bytes that a token takes in the KV cache, windows being kept whole.

        Args:
            bytes_per_number: Of the type of the cache: 2 in F16, 4 in F32, 34/32 in Q8_0.
        """
        heads = self._of_layers("attention.head_count_kv") or self._of_layers("attention.head_count")
        size = self.width // self.heads if self.heads else 0
        numbers = sum(self._number(f"attention.{part}_length") or size for part in ("key", "value"))
        shared = self._number("attention.shared_kv_layers")  # the last layers read what an earlier one has stored
        return bytes_per_number * numbers * sum(heads[: len(heads) - shared])

    def array(self, key: str) -> list[Any]:
        """The values of an array; empty where the file has none of this key."""
        value = self.metadata.get(key)
        return value.read() if isinstance(value, Array) else []

    def _number(self, key: str) -> int:
        value = self.metadata.get(f"{self.architecture}.{key}", 0)
        return int(value) if isinstance(value, int) else 0

    def _of_layers(self, key: str) -> Sequence[int]:
        """A number of each layer; files give one for all where layers are alike."""
        full = f"{self.architecture}.{key}"
        return self.array(full) or ([self._number(key)] * self.layers if full in self.metadata else [])


def read_header(file: Path) -> Header:
    """Read what a file says; of the first of several files, what all of them say.

    Raises:
        ConfigurationError: It is no GGUF file, of another version or byte order, cut short, or damaged; or one of the
            files of a model is missing.
    """
    files = shards(file)
    headers = [_read(one) for one in files]
    first = headers[0]
    count = first.metadata.get("split.count", 1)
    if count not in (0, len(files)):
        raise ConfigurationError(
            f"{file} is one of {count} files of a model, and named like a whole one; rename them "
            f"{file.stem}-00001-of-{count:05}.gguf and so on"
        )
    return Header(tuple(files), first.version, first.metadata, tuple(t for header in headers for t in header.tensors))


def _read(file: Path) -> Header:
    try:
        with file.open("rb") as opened:
            start = opened.read(8)
            if start[:4] != MAGIC:
                raise ConfigurationError(f"{file} is no GGUF file: it begins with {start[:4]!r}, not with {MAGIC!r}")
            _check_version(file, start[4:])
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(file, data, 4).header()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror or error}") from error
    except (struct.error, OverflowError, MemoryError) as error:
        raise ConfigurationError(
            f"{file} is cut short, or damaged: it ends within its header; fetch it again"
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
    raise ConfigurationError(f"{file} is of version {version} of GGUF; versions 2 and 3 can be read. Convert it again")


class _Reader:
    """A place in a file."""

    def __init__(self, file: Path, data: mmap.mmap, at: int) -> None:
        self.file, self.data, self.at = file, data, at

    def header(self) -> Header:
        version, tensors, values = self.number("<I"), self.number("<Q"), self.number("<Q")
        metadata = {self.string(): self.value() for _ in range(values)}
        if not isinstance(metadata.get("general.architecture"), str):
            raise ValueError("general.architecture is missing")
        listed = [self.tensor() for _ in range(tensors)]
        self._check_places(metadata.get("general.alignment", 32), listed)
        return Header((self.file,), version, metadata, tuple(tensor for tensor, _ in listed))

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

    def tensor(self) -> tuple[Tensor, int]:
        """A tensor, and where it begins in the data."""
        name = self.string()
        dimensions = self.number("<I")
        if dimensions > 4:
            raise ValueError(f"the tensor {name} has {dimensions} dimensions")
        shape = tuple(self.number("<Q") for _ in range(dimensions))
        number = self.number("<I")
        if number not in TENSOR_TYPES:
            raise ConfigurationError(
                f"{self.file}: its tensor {name} has the type {number}, which is unknown here; "
                "fetch the file in another quantisation"
            )
        type_ = TENSOR_TYPES[number]
        if shape and shape[0] % type_.weights:
            raise ValueError(f"rows of the tensor {name} hold {shape[0]} weights, no multiple of {type_.weights}")
        size = math.prod(shape) // type_.weights * type_.bytes
        return Tensor(name, shape, type_.name, size), self.number("<Q")

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

    def _check_places(self, alignment: Any, listed: Sequence[tuple[Tensor, int]]) -> None:
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"general.alignment is {alignment}, no power of two")
        start = -(-self.at // alignment) * alignment
        for tensor, at in listed:
            if at % alignment:
                raise ValueError(f"the tensor {tensor.name} begins at {at}, no multiple of {alignment}")
            if start + at + tensor.bytes > len(self.data):
                raise ConfigurationError(
                    f"{self.file} is cut short: it has {len(self.data):,} bytes, and its tensor {tensor.name} ends at "
                    f"{start + at + tensor.bytes:,}; fetch it again"
                )
