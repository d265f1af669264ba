"""The cache of a model: sequences of tokens, extended, branched and rolled back.

The library aborts the process if a precondition is violated, so all of them are checked here before calling it.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rsd_core.errors import ConfigurationError
from rsd_integrations.llamacpp.cells import Cells, SeparateCells
from rsd_integrations.llamacpp.header import INVARIANT_BATCH, read_header
from rsd_integrations.llamacpp.layouts import Batch
from rsd_integrations.llamacpp.model import Adapter, Model

MOST_SEQUENCES: Final = 256
"""Maximum sequences of a context: a constant of llama.cpp."""
MOST_THREADS: Final = 512
"""Maximum threads: likewise."""
CELLS: Final = 256
"""The library rounds the number of cells up to a multiple of this."""
TYPES: Final = {"f32": (0, 4.0), "f16": (1, 2.0), "q8_0": (8, 34 / 32)}
"""Types of keys and values in the cache: ggml's number for them, and bytes."""

_NONE = 0  # llama_pooling_type


class Context:
    """The tokens that a model has read, in sequences that share common prefixes.

    All sequences use one cache: a copy marks the same cells, and costs nothing. Attention windows are kept whole, so
    that every sequence can be rolled back to any length. Concurrent threads wait for each other.

    A sequence's results depend, in their last digits, on the order of its cells, which other sequences influence, and
    on how many tokens are computed at once (more so with `flash_attention`); a quantised model amplifies such
    differences. With `separate` they depend on neither.

    Args:
        model: The model.
        cells: Capacity in tokens, counting shared ones once. Rounded up to a multiple of 256 (per sequence, if
            `separate`).
        batch: Maximum tokens per `decode`, at least `sequences` and at most `cells`.
        sequences: Maximum number of sequences, up to 256, or 128 for a model with attention windows; they are numbered
            from 0.
        threads: Threads per decode.
        hidden: Whether to compute hidden states too. A decode with outputs then takes as long as if all of its tokens
            were outputs.
        adapters: LoRA adapters with their scales.
        cache_type: Type of keys and values: "f32", "f16" or "q8_0".
        flash_attention: Whether to use it; by default llama.cpp decides (it mostly does). It rounds "f32" entries to
            half precision, so "f32" is only worth its memory without it.
        separate: Give every sequence its own cells, `cells` divided by `sequences`, and compute at most
            `INVARIANT_BATCH` tokens at once. A copy then takes time and cells; types with kernels that compute every
            row separately (Q4_1, Q8_0) give bitwise the same results whatever else the context does.

    Raises:
        ConfigurationError: The model does not support this, or there is not enough memory.
        ValueError: A number is out of its range.
    """

    def __init__(
        self,
        model: Model,
        *,
        cells: int,
        batch: int = 512,
        sequences: int = 64,
        threads: int = 1,
        hidden: bool = False,
        adapters: Sequence[tuple[Adapter, float]] = (),
        cache_type: str = "f16",
        flash_attention: bool | None = None,
        separate: bool = False,
    ) -> None:
        _check_model(model)
        _check_range("threads", threads, 1, MOST_THREADS)
        if cache_type not in TYPES:
            raise ValueError(f"cache_type {cache_type!r} is not one of {', '.join(TYPES)}")
        for adapter, _ in adapters:
            if not adapter.fits(model):
                raise ValueError(f"the adapter {adapter.file.name} was loaded for a model other than {model.file.name}")
        self.model, self.threads, self.with_hidden = model, threads, hidden
        self._adapters = tuple(adapters)
        self._type, size = TYPES[cache_type]
        self._cell_bytes = read_header(model.file).cache_bytes(size)
        self._flash_attention = -1 if flash_attention is None else int(flash_attention)
        self.separate = separate
        self._call = model.library
        self._decode = self._call.llama_decode
        self._lock = threading.Lock()
        self._window = self._call.llama_model_n_swa(model.address)
        if separate and self._window:
            raise ConfigurationError(
                f"{model.file.name} has attention windows, so its sequences cannot be kept separate: a copy in "
                "llama.cpp keeps only what is within the window"
            )
        self._numbers = 2 if self._window else 1
        """The library's sequences per sequence of ours: two for a model with windows (see `_set_up_batch`)."""
        self.most_sequences = MOST_SEQUENCES // self._numbers
        """Maximum number of sequences."""
        self._open(cells, batch, sequences)

    def _open(self, cells: int, batch: int, sequences: int) -> None:
        """Create the library's context, empty."""
        _check_range("sequences", sequences, 1, self.most_sequences)
        _check_range("cells", cells, 1, 2**31 - CELLS)
        most = -(-cells // sequences) if self.separate else cells
        most += -most % CELLS
        cells = most * sequences if self.separate else most
        _check_range("batch", batch, sequences, 2**31 - 1)
        numbers = sequences * self._numbers
        batch = max(batch, numbers)  # one output per sequence is always reserved
        batch = min(batch, cells)
        if cells * self._cell_bytes > _memory():  # the library would allocate page by page until the process is killed
            raise ConfigurationError(
                f"no context of {cells:,} tokens for {self.model.file.name}: it takes "
                f"{cells * self._cell_bytes / 1e9:,.1f} GB, and this machine has {_memory() / 1e9:,.1f}"
            )
        call, model, threads = self._call, self.model, self.threads
        parameters = call.context_parameters(
            n_ctx=cells,
            n_batch=batch,
            n_ubatch=self._at_once(batch),
            n_seq_max=numbers,
            n_threads=threads,
            n_threads_batch=threads,
            embeddings=self.with_hidden,
            pooling_type=_NONE,
            type_k=self._type,
            type_v=self._type,
            flash_attn_type=self._flash_attention,
            kv_unified=not self.separate,
            swa_full=True,
            no_perf=True,
        )
        with call.messages() as said:
            address = call.llama_init_from_model(model.address, parameters)
        if not address:
            raise ConfigurationError(
                f"no context of {cells} tokens for {model.file.name}: {'; '.join(said) or 'out of memory'}. Try a "
                "smaller one (`context=` or `cache_bytes=`)"
            )
        self.cells, self.batch, self.sequences, self._process = cells, batch, sequences, os.getpid()
        self.most_tokens = most
        # The finalizer references the model, so its weights outlive every context.
        self._free = weakref.finalize(self, _free, call.llama_free, address, os.getpid(), self._lock, model)
        self._address = ctypes.c_void_p(address)
        self._memory = ctypes.c_void_p(call.llama_get_memory(address))
        self._prove()
        if self._adapters:
            addresses = (ctypes.c_void_p * len(self._adapters))(*(adapter.address for adapter, _ in self._adapters))
            scales = (ctypes.c_float * len(self._adapters))(*(scale for _, scale in self._adapters))
            if call.llama_set_adapters_lora(address, addresses, len(self._adapters), scales):
                raise ConfigurationError(f"llama.cpp refuses the adapters for {model.file.name}")
        self._lengths = [0] * sequences
        self._used = self._all_free()
        self._outputs: list[int] = []
        self._embeds = self.with_hidden
        self._logits_at, self._logits = 0, np.empty(0, np.float32)
        self._set_up_batch()

    def _at_once(self, batch: int) -> int:
        return min(batch, INVARIANT_BATCH) if self.separate else batch

    def _all_free(self) -> Cells | SeparateCells:
        return SeparateCells(self.cells) if self.separate else Cells(self.cells, self.sequences)

    def _prove(self) -> None:
        """Check that the context has the requested parameters: the second proof of the layout."""
        call, address = self._call, self._address
        asked = {
            "n_ctx": self.cells,
            "n_ctx_seq": self.most_tokens,  # equals cells only if the cache is unified
            "n_batch": self.batch,
            "n_ubatch": self._at_once(self.batch),
            "n_seq_max": self.sequences * self._numbers,
            "n_threads": self.threads,
            "n_threads_batch": self.threads,
        }
        wrong = [
            f"{name} = {value} instead of {asked[name]}"
            for name in asked
            if (value := getattr(call, f"llama_{name}")(address)) != asked[name]
        ]
        if wrong:
            self.close()
            raise ConfigurationError(
                f"{call.source} created a context with {', '.join(wrong)}: its structures differ from those of "
                f"{call.layout.builds}"
            )

    def _set_up_batch(self) -> None:
        size = self.batch
        self._ids, self._positions = np.zeros(size, np.int32), np.zeros(size, np.int32)
        # A full-size cache keeps windows whole, but not permanently: when searching for a free cell, the library takes
        # cells beyond the window. It never takes cells shared by two sequences, hence the twins.
        numbers = np.zeros((size, 2), np.int32)
        self._of, self._twins = numbers.T
        self._wanted = np.zeros(size, np.int8)
        self._wanted[:] = self.with_hidden
        self._counts = np.full(size, self._numbers, np.int32)
        self._line = np.arange(self.cells, dtype=np.int32)
        self._pointers = numbers.ctypes.data + 8 * np.arange(size, dtype=np.uint64)
        self._batch = Batch(
            0,
            self._ids.ctypes.data,
            None,
            self._positions.ctypes.data,
            self._counts.ctypes.data,
            self._pointers.ctypes.data,
            self._wanted.ctypes.data,
        )

    def decode(self, spans: Sequence[tuple[int, int, Sequence[int]]], outputs: Sequence[int]) -> bool:
        """Read tokens, each run after its sequence's last token.

        Args:
            spans: Sequence, position of the first token, and ids, for each run of tokens.
            outputs: Positions in the batch (0 is the first token of the first span) whose logits are needed, ascending.

        Returns:
            False if the cache has no room for them; then nothing is changed.

        Raises:
            ValueError: A span does not continue its sequence, or a number is out of range. Nothing is changed.
            RuntimeError: The library failed; the sequences are as they were.
        """
        with self._lock:
            count = self._fill(spans)
            self._check_outputs(outputs, count)
            if count > self._used.free:
                return False
            self._batch.n_tokens = count
            self._outputs = []
            if self.with_hidden:
                self._embed(bool(outputs))
                code = self._decode(self._address, self._batch)
            else:
                wanted = self._wanted
                for place in outputs:
                    wanted[place] = 1
                code = self._decode(self._address, self._batch)
                for place in outputs:
                    wanted[place] = 0
            if code:
                return self._failed(code, spans)
            for sequence, first, ids in spans:
                self._used.extend(sequence, first, len(ids))
                self._lengths[sequence] = first + len(ids)
            self._outputs = list(outputs)
            return True

    def decode_one(self, sequence: int, position: int, id_: int) -> NDArray[np.float32] | None:
        """Read one token like `decode`, with a fraction of the overhead.

        Returns:
            Its logits [vocabulary] in the library's memory, valid until the next decode. None if there is no room.

        Raises:
            ValueError: The token does not continue the sequence, or there is no such one. Nothing is changed.
            RuntimeError: The library failed; the sequence is as it was.
        """
        with self._lock:
            self._check_sequence(sequence)
            if position != self._lengths[sequence] or not 0 <= id_ < self.model.vocab_size or self.with_hidden:
                raise ValueError(
                    f"the token {id_} of {self.model.vocab_size} cannot stand at {position} of sequence {sequence}, "
                    f"which has {self._lengths[sequence]} tokens"
                )
            if not self._used.free or position == self.most_tokens:
                return None
            self._ids[0], self._positions[0], self._of[0], self._wanted[0] = id_, position, sequence, 1
            self._twins[0] = sequence + self.sequences
            self._batch.n_tokens = 1
            self._outputs = [0]
            code = self._decode(self._address, self._batch)
            self._wanted[0] = 0
            if code:
                self._failed(code, [(sequence, position, [id_])])
                return None
            self._used.extend(sequence, position, 1)
            self._lengths[sequence] = position + 1
            address = self._call.llama_get_logits(self._address)
            if address != self._logits_at:
                row = (ctypes.c_float * self.model.vocab_size).from_address(address)
                self._logits_at, self._logits = address, np.ctypeslib.as_array(row)
            return self._logits

    def _embed(self, wanted: bool) -> None:
        """Enable hidden states, which the library outputs for every token or none."""
        if wanted != self._embeds:
            self._call.llama_set_embeddings(self._address, wanted)
            self._wanted[:] = wanted
            self._embeds = wanted

    def _fill(self, spans: Sequence[tuple[int, int, Sequence[int]]]) -> int:
        """Write the spans into the batch, checked; returns how many tokens that is."""
        begun: dict[int, int] = {}
        vocabulary, lengths, count = self.model.vocab_size, self._lengths, 0
        for sequence, first, ids in spans:
            self._check_sequence(sequence)
            length = begun.get(sequence, lengths[sequence])
            if first != length:
                raise ValueError(f"sequence {sequence} has {length} tokens, so it cannot continue at {first}")
            size = len(ids)
            end = count + size
            if not size or end > self.batch:
                raise ValueError(f"a batch takes 1 to {self.batch} tokens, each span at least one; these are {end}")
            if min(ids) < 0 or max(ids) >= vocabulary:
                raise ValueError(f"ids go from 0 to {vocabulary - 1}; these go from {min(ids)} to {max(ids)}")
            if first + size > self.most_tokens:
                raise ValueError(
                    f"a sequence has at most {self.most_tokens} tokens; this one would have {first + size}"
                )
            if size == 1:
                self._ids[count], self._positions[count], self._of[count] = ids[0], first, sequence
            else:
                self._ids[count:end] = ids
                self._positions[count:end] = self._line[first : first + size]
                self._of[count:end] = sequence
            begun[sequence], count = first + size, end
        if not count:
            raise ValueError("there is nothing to decode")
        if self._numbers > 1:
            self._twins[:count] = self._of[:count] + self.sequences
        return count

    def _failed(self, code: int, spans: Sequence[tuple[int, int, Sequence[int]]]) -> bool:
        """Restore the sequences after a failed decode."""
        for sequence in {sequence for sequence, _, _ in spans}:
            self._remove(sequence, self._lengths[sequence])
        if code == 1:
            return False
        raise RuntimeError(f"llama.cpp could not decode: code {code}")

    @staticmethod
    def _check_outputs(outputs: Sequence[int], count: int) -> None:
        last = -1
        for place in outputs:
            if not last < place < count:
                raise ValueError(f"outputs are places from 0 to {count - 1}, ascending; these are {list(outputs)}")
            last = place

    def logits(self, count: int) -> NDArray[np.float32]:
        """The logits of the first `count` outputs that the last decode was asked for: a copy, [count, vocabulary]."""
        return self._rows(self._call.llama_get_logits, count, self.model.vocab_size)

    def hidden(self, count: int) -> NDArray[np.float32]:
        """The outputs' hidden states after the last norm: a copy, [count, width]. For contexts with `hidden`."""
        if not self.with_hidden:
            raise ValueError("this context was created without `hidden`")
        return self._rows(self._call.llama_get_embeddings, count, self.model.width)

    def _rows(self, function: Any, count: int, width: int) -> NDArray[np.float32]:
        with self._lock:
            self._check_open()
            outputs = self._outputs
            if not 0 <= count <= len(outputs):
                raise ValueError(f"the last decode had {len(outputs)} outputs; {count} are asked for")
            rows = np.empty((count, width), np.float32)
            if not count:
                return rows
            address = function(self._address)
            if not address:
                raise RuntimeError("llama.cpp has no outputs of the last decode")
            if not self.with_hidden or outputs[count - 1] == count - 1:  # they are contiguous
                ctypes.memmove(rows.ctypes.data, address, rows.nbytes)
            else:
                for row, place in enumerate(outputs[:count]):
                    ctypes.memmove(rows[row].ctypes.data, address + 4 * width * place, 4 * width)
            return rows

    def rollback(self, sequence: int, length: int) -> None:
        """Drop all but the first `length` tokens of a sequence.

        Raises:
            ValueError: It has fewer.
            RuntimeError: The library kept other tokens, so its state is useless.
        """
        with self._lock:
            self._check_sequence(sequence)
            if not 0 <= length <= self._lengths[sequence]:
                raise ValueError(f"sequence {sequence} has {self._lengths[sequence]} tokens, not {length}")
            if length < self._lengths[sequence]:
                self._remove(sequence, length)
                self._used.cut(sequence, length, self._lengths[sequence])
                self._lengths[sequence] = length

    def _remove(self, sequence: int, length: int) -> None:
        done = self._call.llama_memory_seq_rm(self._memory, sequence, length, -1)
        if self._numbers > 1:
            self._call.llama_memory_seq_rm(self._memory, sequence + self.sequences, length, -1)
        self._check_positions(sequence, length, done)

    def _check_positions(self, sequence: int, length: int, done: bool = True) -> None:
        first = self._call.llama_memory_seq_pos_min(self._memory, sequence)
        last = self._call.llama_memory_seq_pos_max(self._memory, sequence)
        if not done or last != length - 1 or first != (0 if length else -1):
            raise RuntimeError(
                f"sequence {sequence} should have {length} tokens now; llama.cpp has the positions {first} to {last}"
            )

    def copy(self, source: int, target: int) -> None:
        """Copy a sequence into an empty one. Cells are shared unless `separate`."""
        with self._lock:
            self._check_sequence(source)
            self._check_sequence(target)
            length = self._lengths[source]
            if source == target or self._lengths[target]:
                raise ValueError(f"sequence {target} is not empty, so {source} cannot be copied into it")
            if length:
                if self.separate:  # the library's own copy is deferred, and would overwrite later contents
                    self._put(target, self._state(self._address, source))
                else:
                    self._share(source, target, length)
                self._used.share(source, target, length)
                self._lengths[target] = length
                self._check_positions(target, length)

    def _share(self, source: int, target: int, length: int) -> None:
        """Let a sequence and its twin share the first cells of another, or only the twin those of its own."""
        if source != target:
            self._call.llama_memory_seq_cp(self._memory, source, target, 0, length)
        if self._numbers > 1:
            self._call.llama_memory_seq_cp(self._memory, source, target + self.sequences, 0, length)

    def clear(self) -> None:
        """Drop all sequences."""
        if os.getpid() != self._process:
            self._lock = threading.Lock()  # the parent's may be held forever
        with self._lock:
            self._check_open()
            if os.getpid() != self._process:  # the parent's state may be inconsistent
                self._open(self.cells, self.batch, self.sequences)
            self._call.llama_memory_clear(self._memory, False)
            self._lengths = [0] * self.sequences
            self._used = self._all_free()
            self._outputs = []

    def length(self, sequence: int) -> int:
        """Tokens of a sequence."""
        self._check_sequence(sequence)
        return self._lengths[sequence]

    @property
    def free_cells(self) -> int:
        """Number of free cells."""
        return self._used.free

    def _state(self, context: Any, sequence: int) -> bytes:
        """A sequence's state in the library's format."""
        size = self._call.llama_state_seq_get_size(context, sequence)
        data = ctypes.create_string_buffer(size)
        if self._call.llama_state_seq_get_data(context, data, size, sequence) != size:
            raise RuntimeError(f"llama.cpp could not save sequence {sequence}")
        return data.raw

    def _put(self, sequence: int, state: bytes) -> None:
        """Restore a state into an empty sequence."""
        if self._call.llama_state_seq_set_data(self._address, state, len(state), sequence) != len(state):
            self._remove(sequence, 0)
            raise RuntimeError("llama.cpp does not accept the saved state")

    def grow(self, *, cells: int, batch: int, sequences: int) -> None:
        """Enlarge the context, keeping its contents: nothing is recomputed, and shared cells stay shared.

        Args:
            cells: At least the current number; otherwise as for a new context, like the others.
            batch: See cells.
            sequences: See cells.

        Raises:
            ConfigurationError: There is not enough memory; nothing is changed.
        """
        if cells < self.cells or sequences < self.sequences:
            raise ValueError(
                f"{cells} cells and {sequences} sequences are fewer than {self.cells} and {self.sequences}"
            )
        if self.separate and cells // sequences < self.most_tokens:
            raise ValueError(f"{cells} cells are fewer than {self.most_tokens} for each of {sequences} sequences")
        before = dict(vars(self))
        try:
            self._open(cells, batch, sequences)
        except ConfigurationError:
            vars(self).update(before)
            raise
        used, lengths = before["_used"], before["_lengths"]
        moved: dict[int, int] = {}
        try:
            with self._lock:
                for sequence, length in enumerate(lengths):
                    if length:
                        self._move(sequence, length, before, used.most_shared(sequence, length, moved))
                        moved[sequence] = length
        finally:
            before["_free"]()

    def _move(self, sequence: int, length: int, before: Mapping[str, Any], shared: tuple[int, int]) -> None:
        """Move a sequence from another context, except for the part shared with one already moved."""
        old, memory, (source, common) = before["_address"], before["_memory"], shared
        for begin, end in self._parts(common, length):
            saved, target = sequence, sequence
            if self._numbers > 1:  # the library saves only what is within a sequence's window: twins carry parts
                saved, target = sequence + before["sequences"], sequence + self.sequences
                self._call.llama_memory_seq_rm(memory, saved, 0, -1)
                self._call.llama_memory_seq_cp(memory, sequence, saved, begin, end)
            elif begin:
                self._call.llama_memory_seq_rm(memory, sequence, 0, begin)
            self._put(target, self._state(old, saved))
            if self._numbers > 1:
                self._call.llama_memory_seq_cp(self._memory, target, sequence, begin, end)
        if common:
            self._share(source, sequence, common)
            self._used.share(source, sequence, common)
        self._share(sequence, sequence, length)
        self._used.extend(sequence, common, length - common)
        self._lengths[sequence] = length
        self._check_positions(sequence, length)

    def _parts(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Ranges of positions within a window of any kind; a single range without windows."""
        size = max(1, self._window // 2) if self._window else end
        cuts = [begin, *range(begin + size - begin % size, end, size), end] if begin < end else []
        return list(pairwise(cuts))

    def use_threads(self, threads: int) -> None:
        """Set the number of decode threads."""
        with self._lock:
            self._check_open()
            if threads != self.threads:
                _check_range("threads", threads, 1, MOST_THREADS)
                self._call.llama_set_n_threads(self._address, threads, threads)
                self.threads = threads

    def close(self) -> None:
        """Free the memory; the context is unusable afterwards."""
        self._free()

    def _check_sequence(self, sequence: int) -> None:
        if not 0 <= sequence < self.sequences:
            raise ValueError(
                f"sequence {sequence} does not exist; sequences are numbered from 0 to {self.sequences - 1}"
            )
        self._check_open()

    def _check_open(self) -> None:
        if not self._free.alive:
            raise RuntimeError("the context is closed")


def _memory() -> float:
    """Bytes of this machine's memory."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) if hasattr(os, "sysconf") else float("inf")


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}={value} is not between {low} and {high}")


def _check_model(model: Model) -> None:
    """Refuse models that cannot be extended and rolled back token by token."""
    call, address = model.library, model.address
    if model.vocabulary_only:
        raise ConfigurationError(f"{model.file.name} was loaded without its weights: it cannot be run")
    kinds = {
        "an encoder": call.llama_model_has_encoder(address) or not call.llama_model_has_decoder(address),
        "a diffusion model": call.llama_model_is_diffusion(address),
        "recurrent, so that it cannot be rolled back to an earlier token": call.llama_model_is_recurrent(address)
        or call.llama_model_is_hybrid(address),
    }
    for kind, is_so in kinds.items():
        if is_so:
            raise ConfigurationError(
                f"{model.file.name} ({model.architecture}) is {kind}; only text models with pure attention are "
                "supported"
            )


def _free(function: Any, address: int, process: int, lock: threading.Lock, _: Model) -> None:
    if os.getpid() == process:  # otherwise the lock may be held forever by a thread of the parent
        with lock:  # lets a running decode finish
            function(address)
