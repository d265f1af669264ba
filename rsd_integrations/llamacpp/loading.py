"""GGUF models from specs: the file found and read, its weights and its cache made, everything shared that can be."""

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
"""Tokens that the library's caches have at least."""
STEP_TOKENS, LOGIT_COPIES = 64, 3
"""Logits are told for a step of so many tokens, all of which are read at once where a step is scored. They are there
where they are computed, where the library gives them out, and in the copy that is kept of them."""

ONE_THREAD_FLOPS = 2e9
"""FLOPs per token, two for each of a billion weights, below which a model runs in one thread where nobody says."""

SEPARATE_SEQUENCES = 8
"""Sequences at most where each has cells of its own, all of them there from the beginning."""
MOST_SCALE: Final = 1000.0
"""Of an adapter; from somewhere above it on nothing but overflow comes out."""

_making = threading.Lock()
logger = logging.getLogger(__name__)
_runners: WeakValueDictionary[tuple[object, ...], LlamaRunner] = WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class Options:
    """How a GGUF model is run; models that are run alike share weights, cache and forward passes."""

    context: int | None = None
    """Longest sequence in tokens; by default what the model was trained for, as far as the cache holds it."""
    threads: int | None = None
    """Of a forward pass; by default one below a billion weights, otherwise the free cores."""
    cache_bytes: float | None = None
    """For keys and values; by default an eighth of the machine's memory. Taken little by little."""
    gpu_layers: int | None = None
    """Layers on a graphics card, if the library was built for one; by default all."""
    lora: str | None = None
    """Adapters as GGUF files: `FILE` or `FILE*SCALE`, several of them with `+` between."""
    batch_invariant: bool = False
    """Give every sequence cells of its own and read in small chunks, so that no result depends on what runs beside it,
    to the last bit. For files of Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0, without windows of attention."""
    hidden: bool = False
    """Hidden states are wanted."""
    exact: bool = False
    """Where all weights are in single precision, keys, values and attention are as well, which takes longer to read;
    otherwise they are rounded to half of it, as flash attention does in any case."""
    beyond_training: bool = False
    """`context` may be longer than what the model was trained for, as some reward models are read."""

    def __post_init__(self) -> None:
        """Refuse values of another type, which specs are checked for and calls are not.

        Raises:
            ConfigurationError: With the option's name, its value and what it takes.
        """
        for name, takes, wanted in _TAKES:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, takes) or (isinstance(value, bool) and takes is not bool)):
                raise ConfigurationError(f"{name} takes {wanted} (got {value!r})")
        if self.gpu_layers is not None and not -1 <= self.gpu_layers < 2**31:  # users write 999 for all
            raise ConfigurationError(
                f"gpu_layers={self.gpu_layers} is not between -1 and {2**31 - 1}; leave it out, or give -1, for all"
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
        """Whether the results of a row are the same to the last bit whatever is computed beside it."""
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
    """Load a model, or take the one that is loaded alike.

    Args:
        text: Where its file is, see `files.find`.
        options: How it is run.
        template: Arguments of the chat template, refused before the weights are read where it uses none such.

    Raises:
        ConfigurationError: No such file, or it cannot be run so.
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
            "%s reads sequences of up to %d tokens here, of the %d that it was trained for: the cache holds no more "
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
            if options.batch_invariant:  # as many as are there from the beginning
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
    identity_of(tokenizer)  # now, while the file is there: a model may outlive it
    return Loaded(header, runner, tokenizer)


def memory_of(name: str, header: Header, options: Options) -> ModelMemory:
    """What a model will take, told by its file.

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
    """Refuse files that are no language models, by what they say of themselves.

    Raises:
        ConfigurationError: With what the file is for.
    """
    file, kind = header.files[0], str(header.metadata.get("general.type", "model"))
    if kind == "adapter":
        raise ConfigurationError(f"{file} is a LoRA adapter; name it beside its model: gguf,lora={file}:MODEL.gguf")
    kind = header.architecture if header.architecture == "clip" else kind  # older files for pictures say no kind
    if kind != "model":
        raise ConfigurationError(f"{file} is no language model, but of the kind {kind!r}; name the model's own file")
    if not header.tensors:
        raise ConfigurationError(f"{file} holds a vocabulary and no weights; fetch the model's own file")


def _way(header: Header, options: Options) -> tuple[int, list[tuple[Path, float]]]:
    """Threads and adapters of a model.

    Raises:
        ConfigurationError: It cannot be run so.
    """
    if options.batch_invariant and not header.row_by_row:
        raise ConfigurationError(
            f"{header.files[0].name} ({', '.join(sorted(header.types))}) cannot be batch_invariant: products with "
            "K-quants and with floating-point weights are rounded in another order where there are more rows. Take "
            "Q8_0 or Q4_1"
        )
    return choose_threads(header, options), _adapters(options.lora)


def _is_exact(header: Header, options: Options) -> bool:
    """Whether keys and values are kept in single precision."""
    return options.exact and header.types.keys() <= {"F32"}


def _room(header: Header, options: Options, exact: bool) -> tuple[int, int]:
    """Most cells of the cache, and the longest sequence."""
    budget = machine_memory() / CACHE_SHARE if options.cache_bytes is None else options.cache_bytes
    if not 0 < budget < 2**63:
        raise ConfigurationError(f"cache_bytes={budget:g} is no size of a cache: give bytes above 0, such as 2e9")
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
            f"a cache of {budget / 1e6:,.1f} MB does not hold one sequence of {least} tokens, which takes "
            f"{least * token / 1e6:,.1f} MB; raise cache_bytes" + (" or lower context" if options.context else "")
        )
    return cells, options.context or min(header.context, cells)


def choose_threads(header: Header, options: Options) -> int:
    """How many threads a forward pass uses.

    Threads of llama.cpp wait for each other by spinning: one that has no core of its own holds up all others. So a
    small model has one thread, and no model has more than there are free cores.

    Raises:
        ConfigurationError: More are asked for than there are cores.
    """
    if options.threads is None:
        return 1 if header.flops_per_token < ONE_THREAD_FLOPS else min(free_cores(), MOST_THREADS)
    if not 1 <= options.threads <= usable_cores():
        raise ConfigurationError(
            f"threads={options.threads} is not between 1 and {usable_cores()}, the cores of this process: threads of "
            "llama.cpp wait for each other by spinning, so more than there are cores for take many times as long"
        )
    return options.threads


def _adapters(text: str | None) -> list[tuple[Path, float]]:
    """Files and scales.

    Raises:
        ConfigurationError: A scale is no number, there is no such file, or it is no adapter.
    """
    adapters: list[tuple[Path, float]] = []
    for part in [] if text is None else text.split("+"):
        name, star, factor = part.partition("*")
        if not name:
            raise ConfigurationError(f"lora={text} names no file; write FILE or FILE*SCALE, several with + between")
        try:
            scale = float(factor) if star else 1.0
        except ValueError:
            scale = nan
        if not abs(scale) <= MOST_SCALE:
            raise ConfigurationError(
                f"lora={part}: after the star comes a number between -{MOST_SCALE:g} and {MOST_SCALE:g}, such as 0.5"
            )
        file = find(name)
        if read_header(file).metadata.get("general.type") != "adapter":
            raise ConfigurationError(f"lora={part}: {file} is no LoRA adapter, converted to GGUF")
        adapters.append((file, scale))
    return adapters
