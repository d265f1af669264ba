"""A GGUF file's description of its model, read in milliseconds without its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rsd_core import ConfigurationError
from rsd_integrations.llamacpp.contents import Array, Tensor, read_contents
from rsd_integrations.llamacpp.shards import shards
from rsd_integrations.llamacpp.tensor_types import FILE_TYPES, ROW_BY_ROW

INVARIANT_BATCH = 63
"""Maximum tokens of a micro-batch with independent results: from 64 on llama.cpp (b11549, on a processor) computes
attention in tiles, which rounds in another order."""
MAX_LAYERS = 512
"""Maximum number of layers in llama.cpp."""
_LOOKED_UP = ("token_embd.", "per_layer_token_embd.", "position_embd.", "token_types.")
"""Tensors of which each token uses one row."""


@dataclass(frozen=True)
class Header:
    """The header of a file, or of all files of a split model together.

    Missing numbers are 0, missing texts empty.
    """

    files: tuple[Path, ...]
    version: int
    """Of the format."""
    metadata: Mapping[str, Any]
    """Numbers, texts and `Array`s by key, of the first file."""
    tensors: tuple[Tensor, ...]

    @property
    def architecture(self) -> str:
        """llama.cpp's name for it, such as `llama` or `qwen3moe`."""
        return str(self.metadata["general.architecture"])

    @property
    def name(self) -> str:
        """Of the model."""
        return str(self.metadata.get("general.name", ""))

    @property
    def context(self) -> int:
        """Training context length in tokens."""
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
        """Attention heads per layer; the maximum if layers differ."""
        return max(self._of_layers("attention.head_count"), default=0)

    @property
    def feed_forward(self) -> int:
        """Width inside a layer's feed-forward network; the maximum if layers differ."""
        return max(self._of_layers("feed_forward_length"), default=0)

    @property
    def sliding_window(self) -> int:
        """Tokens that layers with a sliding window look back; 0 if all layers see everything."""
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
    def split_count(self) -> int:
        """Number of files of a split model, according to the first; 0 or 1 if not split."""
        count = self.metadata.get("split.count", 0)
        return count if isinstance(count, int) else 0

    @property
    def has_chat_template(self) -> bool:
        """Whether the file contains one."""
        return "tokenizer.chat_template" in self.metadata

    @property
    def file_type(self) -> str:
        """What it was quantised to, such as Q4_K_M; by the type of most weights if not stated."""
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
        """Size of the weights, all of which stay in memory while the model runs."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def flops_per_token(self) -> float:
        """Two per weight multiplied with a token: for experts only the active ones, for embeddings none."""
        return self._flops(self._multiplied)

    @property
    def body_flops_per_token(self) -> float:
        """The same without the output head."""
        return self._flops([tensor for tensor in self._multiplied if tensor.name != self._output_head])

    def _flops(self, tensors: Iterable[Tensor]) -> float:
        used, experts = self._number("expert_used_count"), self._number("expert_count")
        share = used / experts if experts else 1.0
        return sum(2.0 * t.weights * (share if "_exps." in t.name else 1.0) for t in tensors)

    @property
    def row_by_row(self) -> bool:
        """Whether products with its matrices are bitwise the same, however many rows are multiplied at once.

        This depends on the storage: products with K-quants and floating-point weights are rounded in another order with
        more rows.
        """
        return {tensor.type for tensor in self._multiplied if len(tensor.shape) > 1} <= ROW_BY_ROW

    @cached_property
    def _multiplied(self) -> list[Tensor]:
        head = self._output_head
        return [tensor for tensor in self.tensors if tensor.name == head or not tensor.name.startswith(_LOOKED_UP)]

    @property
    def _output_head(self) -> str:
        """Name of the tensor; tied embeddings are the output head as well."""
        untied = any(tensor.name == "output.weight" for tensor in self.tensors)
        return "output.weight" if untied else "token_embd.weight"

    def cache_bytes(self, bytes_per_number: float = 2.0) -> float:
        """Bytes per token in the KV cache, with windows kept whole.

        Args:
            bytes_per_number: For the cache's type: 2 in F16, 4 in F32, 34/32 in Q8_0.
        """
        heads = self._of_layers("attention.head_count_kv") or self._of_layers("attention.head_count")
        size = self.width // self.heads if self.heads else 0
        numbers = sum(self._number(f"attention.{part}_length") or size for part in ("key", "value"))
        shared = self._number("attention.shared_kv_layers")  # the last layers reuse an earlier one's entries
        return bytes_per_number * numbers * sum(heads[: len(heads) - shared])

    def array(self, key: str) -> list[Any]:
        """The values of an array; empty if the file lacks the key."""
        value = self.metadata.get(key)
        return value.read() if isinstance(value, Array) else []

    def strings(self, key: str) -> Iterator[str]:
        """The strings of an array, one by one."""
        value = self.metadata.get(key)
        return value.strings() if isinstance(value, Array) else iter(())

    def _number(self, key: str) -> int:
        value = self.metadata.get(f"{self.architecture}.{key}", 0)
        return int(value) if isinstance(value, int) else 0

    def _of_layers(self, key: str) -> Sequence[int]:
        """A number per layer; files give a single one if layers are alike."""
        full = f"{self.architecture}.{key}"
        return self.array(full) or ([self._number(key)] * self.layers if full in self.metadata else [])


def read_header(file: Path) -> Header:
    """Read a file's header; for the first of several files, that of all together.

    Raises:
        ConfigurationError: It is not a GGUF file, has another version or byte order, or is truncated or damaged; or one
            of a model's files is missing.
    """
    files = shards(file)
    contents = [read_contents(one) for one in files]
    first = contents[0]
    header = Header(tuple(files), first.version, first.metadata, tuple(t for one in contents for t in one.tensors))
    if not isinstance(first.metadata.get("general.architecture"), str):
        raise ConfigurationError(f"{file} names no architecture (general.architecture); fetch or convert it again")
    if header.split_count not in (0, 1, len(files)):
        raise ConfigurationError(
            f"{file} is one of {header.split_count} files of a model but not named like one; use the original names: "
            f"NAME-00001-of-{header.split_count:05}.gguf and so on"
        )
    if header.layers > MAX_LAYERS:
        raise ConfigurationError(f"{file} has {header.layers:,} layers; llama.cpp runs up to {MAX_LAYERS}")
    return header
