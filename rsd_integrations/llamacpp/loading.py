"""GGUF models from specs: finds and reads the file, creates weights and cache, and shares whatever possible."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

from rsd_core import ConfigurationError
from rsd_integrations.inprocess.chat_template import chat_template
from rsd_integrations.inprocess.cores import free_cores, usable_cores
from rsd_integrations.inprocess.memory import CACHE_SHARE, ModelMemory, machine_memory
from rsd_integrations.llamacpp.context import MOST_THREADS, Context
from rsd_integrations.llamacpp.files import find
from rsd_integrations.llamacpp.header import Header, read_header
from rsd_integrations.llamacpp.model import Adapter, Model
from rsd_integrations.llamacpp.runner import LlamaRunner
from rsd_integrations.llamacpp.store import FIRST_CELLS, FIRST_SEQUENCES, batch_size
from rsd_integrations.llamacpp.tokenizer import GGUFTokenizer
from rsd_integrations.llamacpp.vocabulary import GGUFVocabulary, identity_of

LEAST_CONTEXT = 256
"""Minimum size of the library's caches, in tokens."""
STEP_TOKENS, LOGIT_COPIES = 64, 3
"""Memory for logits assumes a step of this many tokens, all read at once when scored. They exist where computed, in the
library's output, and in the copy kept of it."""

ONE_THREAD_FLOPS = 2e9
"""FLOPs per token, two for each of a billion weights, below which a model runs in one thread by default."""

SEPARATE_SEQUENCES = 8
"""Maximum sequences if each has its own cells, all allocated from the beginning."""
MOST_SCALE: Final = 1000.0
"""Maximum scale of an adapter; somewhere above it everything overflows."""

_making = threading.Lock()
logger = logging.getLogger(__name__)
_runners: WeakValueDictionary[tuple[object, ...], LlamaRunner] = WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class Options:
    """How a GGUF model is run; models with equal options share weights, cache and forward passes."""

    context: int | None = None
    """Maximum sequence length in tokens; by default the model's training length, if the cache can hold it."""
    threads: int | None = None
    """Threads per forward pass; by default one below a billion weights, otherwise the free cores."""
    cache_bytes: float | None = None
    """For keys and values; by default an eighth of the machine's memory. Allocated gradually."""
    gpu_layers: int | None = None
    """Layers on a graphics card, if the library was built for one; by default all."""
    lora: str | None = None
    """Adapters as GGUF files: `FILE` or `FILE*SCALE`, several joined by `+`."""
    batch_invariant: bool = False
    """Give every sequence its own cells and read in small chunks, so that results are bitwise independent of concurrent
    requests. For files in Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0, without attention windows."""
    hidden: bool = False
    """Whether hidden states are needed."""
    exact: bool = False
    """If all weights are in single precision, so are keys, values and attention, which makes reading slower; otherwise
    they are rounded to half precision, as flash attention always does."""
    beyond_training: bool = False
    """Whether `context` may exceed the training length, as for some reward models."""

    def __post_init__(self) -> None:
        """Refuse values of another type, since only specs are checked elsewhere.

        Raises:
            ConfigurationError: Names the option, its value and what is allowed.
        """
        for name, takes, wanted in _TAKES:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, takes) or (isinstance(value, bool) and takes is not bool)):
                raise ConfigurationError(f"{name} takes {wanted} (got {value!r})")
        if self.gpu_layers is not None and not -1 <= self.gpu_layers < 2**31:  # users write 999 for all
            raise ConfigurationError(
                f"gpu_layers={self.gpu_layers} is not between -1 and {2**31 - 1}; omit it, or give -1, for all"
            )


_TAKES: Final[Sequence[tuple[str, Any, str]]] = (
    ("context", int, "a whole number"),
    ("threads", int, "a whole number"),
    ("gpu_layers", int, "a whole number"),
    ("cache_bytes", (int, float), "a number"),
    ("lora", str, "FILE or FILE*SCALE, several with + between"),
    ("batch_invariant", bool, "true or false"),
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A GGUF model, ready to run."""

    header: Header
    runner: LlamaRunner
    tokenizer: GGUFTokenizer

    @property
    def batch_invariant(self) -> bool:
        """Whether a row's results are bitwise independent of the rest of the batch."""
        return self.runner.batch_invariant

    def parts(
        self, name: str, template: Mapping[str, Any] | None = None
    ) -> tuple[LlamaRunner, GGUFVocabulary, frozenset[int], float, str]:
        """The arguments of `LanguageModel`.

        Args:
            name: Shown to people.
            template: Arguments of the chat template.

        Raises:
            ConfigurationError: The chat template uses no such argument.
        """
        vocabulary = GGUFVocabulary(self.tokenizer, self.runner.model.vocab_size, template)
        return self.runner, vocabulary, self.tokenizer.end_ids, self.header.flops_per_token, name


def load(text: str, options: Options, template: Mapping[str, Any] | None = None) -> Loaded:
    """Load a model, or reuse one loaded with the same options.

    Args:
        text: The file's location (see `files.find`).
        options: How to run it.
        template: Chat template arguments; unused ones are refused before the weights are read.

    Raises:
        ConfigurationError: There is no such file, or it cannot be run this way.
        MissingDependency: llama.cpp is not installed.
    """
    file = find(text)
    header = read_header(file)
    check_kind(header)
    exact = _is_exact(header, options)
    most, longest = _room(header, options, exact)
    threads, adapters = _way(header, options)
    if options.context is None and longest < header.context:
        logger.warning(
            "%s is limited to sequences of %d tokens here, of the %d it was trained for, by the size of the cache "
            "(cache_bytes)",
            file.name,
            longest,
            header.context,
        )
    if template:
        chat_template(GGUFTokenizer(Model.load(file, vocabulary_only=True)), template)
    model = Model.load(file, gpu_layers=options.gpu_layers)
    key = (id(model), most, longest, threads, options.batch_invariant, options.hidden, exact, tuple(adapters))
    with _making:
        runner = _runners.get(key)
        if runner is None:
            loaded: list[tuple[Adapter, float]] = [(model.adapter(path), scale) for path, scale in adapters]
            cells, sequences = min(FIRST_CELLS, most), FIRST_SEQUENCES
            if options.batch_invariant:  # allocated from the beginning
                sequences = min(SEPARATE_SEQUENCES, most // longest)
                cells = most = sequences * longest
            context = Context(
                model,
                cells=cells,
                batch=batch_size(cells, sequences),
                sequences=sequences,
                threads=threads,
                hidden=options.hidden,
                adapters=loaded,
                separate=options.batch_invariant,
                cache_type="f32" if exact else "f16",
                flash_attention=False if exact else None,
            )
            runner = _runners[key] = LlamaRunner(context, max(most, context.cells), longest)
    tokenizer = GGUFTokenizer(model)
    identity_of(tokenizer)  # now, since the model may outlive the file
    return Loaded(header, runner, tokenizer)


def memory_of(name: str, header: Header, options: Options) -> ModelMemory:
    """The memory a model will need, according to its file.

    Args:
        name: Shown to people.
        header: What the file says.
        options: How the model is run.

    Raises:
        ConfigurationError: It cannot be run so.
    """
    check_kind(header)
    exact = _is_exact(header, options)
    most, longest = _room(header, options, exact)
    _way(header, options)
    reserved = min(SEPARATE_SEQUENCES, most // longest) if options.batch_invariant else 1
    logits = 4.0 * header.vocabulary_size * STEP_TOKENS * LOGIT_COPIES
    weights = header.bytes + sum(read_header(file).bytes for file, _ in _adapters(options.lora))
    return ModelMemory(
        name, float(weights), header.cache_bytes(4.0 if exact else 2.0), longest, logits, reserved=reserved
    )


def check_kind(header: Header) -> None:
    """Refuse files that are not language models, according to their metadata.

    Raises:
        ConfigurationError: Says what the file is for.
    """
    file, kind = header.files[0], str(header.metadata.get("general.type", "model"))
    if kind == "adapter":
        raise ConfigurationError(f"{file} is a LoRA adapter; give it with its model: gguf,lora={file}:MODEL.gguf")
    kind = header.architecture if header.architecture == "clip" else kind  # older vision files state no kind
    if kind != "model":
        raise ConfigurationError(f"{file} is not a language model but of the kind {kind!r}; give the model's own file")
    if not header.tensors:
        raise ConfigurationError(f"{file} contains only a vocabulary; fetch the model's own file")


def _way(header: Header, options: Options) -> tuple[int, list[tuple[Path, float]]]:
    """Threads and adapters of a model.

    Raises:
        ConfigurationError: It cannot be run so.
    """
    if options.batch_invariant and not header.row_by_row:
        raise ConfigurationError(
            f"{header.files[0].name} ({', '.join(sorted(header.types))}) cannot be batch_invariant: products with "
            "K-quants and floating-point weights are rounded in another order with more rows. Use Q8_0 or Q4_1"
        )
    return choose_threads(header, options), _adapters(options.lora)


def _is_exact(header: Header, options: Options) -> bool:
    """Whether keys and values are kept in single precision."""
    return options.exact and header.types.keys() <= {"F32"}


def _room(header: Header, options: Options, exact: bool) -> tuple[int, int]:
    """Maximum cells of the cache, and maximum sequence length."""
    budget = machine_memory() / CACHE_SHARE if options.cache_bytes is None else options.cache_bytes
    if not 0 < budget < 2**63:
        raise ConfigurationError(f"cache_bytes={budget:g} is not a cache size: give bytes above 0, such as 2e9")
    token = header.cache_bytes(4.0 if exact else 2.0) or 1.0
    cells = int(budget // token)
    cells -= cells % LEAST_CONTEXT
    longest = 2**31 - LEAST_CONTEXT if options.beyond_training else header.context
    if options.context is not None and not 1 <= options.context <= longest:
        raise ConfigurationError(
            f"context={options.context} is not between 1 and {longest:,}"
            + ("" if options.beyond_training else ", what the model was trained for")
        )
    least = options.context or LEAST_CONTEXT
    if cells < least:
        raise ConfigurationError(
            f"a cache of {budget / 1e6:,.1f} MB cannot hold one sequence of {least} tokens, which takes "
            f"{least * token / 1e6:,.1f} MB; raise cache_bytes" + (" or lower context" if options.context else "")
        )
    return cells, options.context or min(header.context, cells)


def choose_threads(header: Header, options: Options) -> int:
    """The number of threads of a forward pass.

    llama.cpp's threads wait for each other by spinning: one without its own core holds up all others. So a small model
    gets one thread, and no model more than the free cores.

    Raises:
        ConfigurationError: More are requested than there are cores.
    """
    if options.threads is None:
        return 1 if header.flops_per_token < ONE_THREAD_FLOPS else min(free_cores(), MOST_THREADS)
    if not 1 <= options.threads <= usable_cores():
        raise ConfigurationError(
            f"threads={options.threads} is not between 1 and {usable_cores()}, the cores of this process: "
            "llama.cpp's threads wait for each other by spinning, so more threads than cores take many times as "
            "long"
        )
    return options.threads


def _adapters(text: str | None) -> list[tuple[Path, float]]:
    """Files and scales.

    Raises:
        ConfigurationError: A scale is not a number, there is no such file, or it is not an adapter.
    """
    adapters: list[tuple[Path, float]] = []
    for part in [] if text is None else text.split("+"):
        name, star, factor = part.partition("*")
        if not name:
            raise ConfigurationError(f"lora={text} names no file; write FILE or FILE*SCALE, several joined by +")
        try:
            scale = float(factor) if star else 1.0
        except ValueError:
            scale = nan
        if not abs(scale) <= MOST_SCALE:
            raise ConfigurationError(
                f"lora={part}: the star must be followed by a number between -{MOST_SCALE:g} and {MOST_SCALE:g}, "
                "such as 0.5"
            )
        file = find(name)
        if read_header(file).metadata.get("general.type") != "adapter":
            raise ConfigurationError(f"lora={part}: {file} is not a LoRA adapter converted to GGUF")
        adapters.append((file, scale))
    return adapters
