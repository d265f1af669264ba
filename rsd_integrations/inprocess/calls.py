"""What callers ask of a model. A call is one or more rows of its batches: see `GenerateCall` and `ScoreCall`."""

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
    """The last tokens of a row, where each of them follows one of its own: proposed tokens, before they are chosen."""

    begin: int
    """Index of the first of them among the row's ids."""
    parents: tuple[int, ...]
    """Which of them each follows; -1 where it follows the token before all of them."""

    @property
    def depths(self) -> list[int]:
        """How many tokens of the tree each has behind it, itself included."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent < 0 else depths[parent] + 1)
        return depths


class Row:
    """A sequence of a batch: the tokens it is to hold, and the positions whose outputs are wanted."""

    call: Call[Any]

    def __init__(
        self, call: Call[Any], sequence: CachedSequence, ids: list[int], output_positions: Iterable[int]
    ) -> None:
        self.call, self.sequence = call, sequence
        sequence.activate(call.request_number)
        self.ids = ids
        """All tokens wanted so far; those beyond the sequence's are still to be computed."""
        self.output_positions = list(output_positions)
        """Positions whose outputs are still wanted, in order."""
        self.resting = False
        """Whether it waits for another model, and takes no part in forward passes meanwhile."""
        self.tree: Tree | None = None
        """What its last tokens are, where they are no chain."""
        self.whole = False
        """Whether its outputs are wanted of one pass."""

    @property
    def pending(self) -> int:
        """Tokens still to be computed."""
        return len(self.ids) - len(self.sequence.ids)

    def rest(self) -> None:
        """Wait for another model. Rows of the same request may take the room meanwhile.

        They do where a model is its own drafter, and else drafter and target would wait for each other's room.
        """
        self.resting = True
        self.sequence.arrival = self.call.request_number, inf

    def wake(self) -> None:
        """Take part in forward passes again."""
        self.resting = False
        self.sequence.activate(self.call.request_number)


class SampledRow(Row, ABC):
    """A row whose tokens are sampled."""

    sampling: Sampling
    place: Place | None = None
    """How far it is in its grammar; None where it may write anything."""

    @abstractmethod
    def uniforms(self, count: int) -> list[float]:
        """The random numbers in [0, 1) of the next so many outputs, which are keyed to their positions."""

    @abstractmethod
    def extend(self, sampled: Sequence[tuple[int, float]]) -> bool:
        """Go on with sampled tokens and their log-probabilities, one for each output; True when the row is done."""

    def allowed(self, size: int, count: int) -> list[Any]:
        """Which of so many ids may come next at each of the next outputs, under a grammar."""
        assert self.place is not None
        return [self.place.allowed(size)] * count

    def ready(self, store: Store) -> Sequence[SampledRow]:  # noqa: ARG002 - for those who have twins
        """The rows that sample from the next output: itself, and those that are made of it now."""
        return (self,)


class Output(ABC):
    """What a model gives at some positions, in arrays of its own library."""

    __slots__ = ("hidden", "logits")

    def __init__(self, hidden: Any, logits: Any) -> None:
        self.hidden = hidden
        """Last hidden states [positions, width]; None of models that have no use for them."""
        self.logits = logits
        """[positions, vocabulary]; None of models without an output head."""

    def __len__(self) -> int:
        """How many positions."""
        return len(self.hidden if self.logits is None else self.logits)

    def part(self, begin: int, end: int) -> Self:
        """Some of the positions."""
        return self._map(lambda array: array[begin:end])

    @abstractmethod
    def last(self) -> Self:
        """The last position, in memory of its own."""

    @abstractmethod
    def joined(self, others: Sequence[Self]) -> Self:
        """These positions and those of others, end to end."""

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

    A call owns the sequences of its rows while they are at work, and hands each to the path's cache when the row is
    done, cancelled or failed: what was computed is never wrong, only possibly too short.
    """

    def __init__(self, path: Path, cache: PathCache) -> None:
        self.path, self.cache = path, cache
        self.request_number = current_caller().number
        """Calls of older requests go first."""
        self.future: Future[Answer] = Future()
        self.future.set_running_or_notify_cancel()  # from now on only the engine ends it
        self.cancelled = False
        """Set by the caller, of any thread; the call ends with what it has before the model's next forward pass."""
        self.rows: list[Row] = []
        """Rows that are not done yet."""
        self.computed = self.reused = 0
        self.seconds = 0.0

    @abstractmethod
    def start(self, store: Store) -> None:
        """Make the first row or rows."""

    @abstractmethod
    def answer(self) -> Answer:
        """What the call has by now, with its usage."""

    @property
    @abstractmethod
    def usage(self) -> Usage:
        """The work that it has done by now: told apart from what has come of it, which may be what fails."""

    @abstractmethod
    def release(self) -> None:
        """Let go of the rows, which know the call: paths have to be freed at once, not by the garbage collector."""

    def charge(self, cached: int, new: int, seconds: float) -> None:  # noqa: ARG002 - for those who score
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
        """End the call where it stands, at whatever stage its rows are."""
        for row in tuple(self.rows):
            self.finish(row)

    def fail(self, error: BaseException) -> None:
        """End the call with an error that tells the work it had done."""
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
    """The error as one call's own: others fail by it too, and each has its own work to tell."""
    if not isinstance(error, Exception):
        return error
    try:
        own = copy.copy(error)
    except Exception:  # an error that cannot be copied, whose constructor wants other arguments
        own = RuntimeError(f"{type(error).__name__}: {error}")
    own.__cause__ = error
    add_usage(own, usage)
    return own
