"""Calls of a model. A call is one or more rows of its batches: see `GenerateCall` and `ScoreCall`."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from math import inf
from typing import Any, Generic, NamedTuple, Self, TypeVar

from rsd_core import Generation, Path, Sampling, Scores, Usage
from rsd_core.model import add_usage
from rsd_core.queueing import current_caller
from rsd_integrations.inprocess.grammar import Place
from rsd_integrations.inprocess.path_cache import PathCache
from rsd_integrations.inprocess.sequences import CachedSequence, Store

Answer = TypeVar("Answer", Generation, Scores)


class Tree(NamedTuple):
    """The last tokens of a row if they form a tree: proposed tokens, before they are chosen."""

    begin: int
    """Index of the first one among the row's ids."""
    parents: tuple[int, ...]
    """Index of each token's parent in the tree; -1 for the token before the tree."""

    @property
    def depths(self) -> list[int]:
        """Number of tokens from the top of the tree to each one, including itself."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent < 0 else depths[parent] + 1)
        return depths


class Row:
    """A sequence of a batch: the tokens to compute, and the positions whose outputs are needed."""

    call: Call[Any]

    def __init__(
        self, call: Call[Any], sequence: CachedSequence, ids: list[int], output_positions: Iterable[int]
    ) -> None:
        self.call, self.sequence = call, sequence
        sequence.activate(call.request_number)
        self.ids = ids
        """All tokens so far; those beyond the sequence's are still to be computed."""
        self.output_positions = list(output_positions)
        """Positions whose outputs are still needed, in order."""
        self.resting = False
        """Whether it waits for another model, and is excluded from forward passes meanwhile."""
        self.tree: Tree | None = None
        """The tree formed by its last tokens, if they are not a chain."""
        self.whole = False
        """Whether all its outputs must come from one pass."""

    @property
    def pending(self) -> int:
        """Tokens still to be computed."""
        return len(self.ids) - len(self.sequence.ids)

    def rest(self) -> None:
        """Wait for another model. Rows of the same request may take its room in the meantime.

        This matters if a model is its own drafter: drafter and target would otherwise wait for each other's room.
        """
        self.resting = True
        self.sequence.arrival = self.call.request_number, inf

    def wake(self) -> None:
        """Rejoin forward passes."""
        self.resting = False
        self.sequence.activate(self.call.request_number)


class SampledRow(Row, ABC):
    """A row whose tokens are sampled."""

    sampling: Sampling
    place: Place | None = None
    """Its position in its grammar; None if it may write anything."""

    @abstractmethod
    def uniforms(self, count: int) -> list[float]:
        """The random numbers in [0, 1) of the next `count` outputs, keyed to their positions."""

    @abstractmethod
    def extend(self, sampled: Sequence[tuple[int, float]]) -> bool:
        """Continue with sampled tokens and their log-probabilities, one per output; True when the row is done."""

    def allowed(self, size: int, count: int) -> list[Any]:
        """Which of `size` ids may come next at each of the next `count` outputs, under a grammar."""
        assert self.place is not None
        return [self.place.allowed(size)] * count

    def ready(self, store: Store) -> Sequence[SampledRow]:  # noqa: ARG002 - for rows with several candidates
        """The rows that sample from the next output: itself, and those now branched from it."""
        return (self,)


class Output(ABC):
    """The outputs of a model at some positions, in arrays of its library."""

    __slots__ = ("hidden", "logits")

    def __init__(self, hidden: Any, logits: Any) -> None:
        self.hidden = hidden
        """Last hidden states [positions, width]; None for models that do not need them."""
        self.logits = logits
        """[positions, vocabulary]; None for models without an output head."""

    def __len__(self) -> int:
        """Number of positions."""
        return len(self.hidden if self.logits is None else self.logits)

    def part(self, begin: int, end: int) -> Self:
        """Some of the positions."""
        return self._map(lambda array: array[begin:end])

    @abstractmethod
    def last(self) -> Self:
        """A copy of the last position."""

    @abstractmethod
    def joined(self, others: Sequence[Self]) -> Self:
        """These positions and those of others, concatenated."""

    @abstractmethod
    def log_likelihoods(self, ids: Sequence[int]) -> list[float]:
        """The natural log-probability of an id at each position."""

    @abstractmethod
    def entropies(self) -> list[float]:
        """The entropy of the next token at each position, in nats."""

    @abstractmethod
    def log_probabilities(self, ids: Sequence[int]) -> list[float]:
        """The natural log-probabilities of some ids at the last position."""

    def _map(self, change: Callable[[Any], Any]) -> Self:
        hidden, logits = self.hidden, self.logits
        return type(self)(None if hidden is None else change(hidden), None if logits is None else change(logits))


class Call(ABC, Generic[Answer]):
    """One call of a model, from the caller's await to its future.

    A call owns the sequences of its active rows, and hands each to the path's cache when the row is done, cancelled or
    failed: computed tokens are never wrong, only possibly too few.
    """

    def __init__(self, path: Path, cache: PathCache) -> None:
        self.path, self.cache = path, cache
        self.request_number = current_caller().number
        """Calls of older requests go first."""
        self.future: Future[Answer] = Future()
        self.future.set_running_or_notify_cancel()  # from now on only the engine ends it
        self.cancelled = False
        """Set by the caller, from any thread; the call then ends with its present result before the model's next
        forward pass."""
        self.rows: list[Row] = []
        """Rows that are not done yet."""
        self.computed = self.reused = 0
        self.seconds = 0.0

    @abstractmethod
    def start(self, store: Store) -> None:
        """Create the first rows."""

    @abstractmethod
    def answer(self) -> Answer:
        """The call's present result, with its usage."""

    @property
    @abstractmethod
    def usage(self) -> Usage:
        """The work done so far; separate from the result, whose computation may fail."""

    @abstractmethod
    def release(self) -> None:
        """Drop the rows, which refer to the call, so that paths are freed at once, not by the garbage collector."""

    def charge(self, cached: int, new: int, seconds: float) -> None:  # noqa: ARG002 - for scoring calls
        """Note that a forward pass computed `new` tokens of a row after `cached` ones."""
        self.computed += new
        self.seconds += seconds

    def finish(self, row: Row) -> None:
        """Put a row's sequence into the cache; the call ends with its last row."""
        self._close(row)
        if not self.rows:
            self.future.set_result(self.answer())
            self.release()

    def interrupt(self) -> None:
        """End the call now, at whatever stage its rows are."""
        for row in tuple(self.rows):
            self.finish(row)

    def fail(self, error: BaseException) -> None:
        """End the call with an error that carries the work done."""
        usage = self.usage
        for row in tuple(self.rows):
            self._close(row)
        self.release()
        if not self.future.done():
            self.future.set_exception(_with_usage(error, usage))

    def _close(self, row: Row) -> None:
        row.sequence.deactivate()
        self.cache.put(self.path, row.sequence)
        self.rows.remove(row)


def _with_usage(error: BaseException, usage: Usage) -> BaseException:
    """A copy of the error for one call: several calls may fail with it, each with its own work."""
    if not isinstance(error, Exception):
        return error
    try:
        own = copy.copy(error)
    except Exception:  # cannot be copied, since its constructor needs other arguments
        own = RuntimeError(f"{type(error).__name__}: {error}")
    own.__cause__ = error
    add_usage(own, usage)
    return own
