"""What callers ask of a model: to write a step, or to read some. A call is one or more rows of the model's batches."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Rows
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from rsd_core import Generation, Path, Scores, Step, StepRequest, Usage
from rsd_core.paths import Ending
from rsd_integrations.huggingface.cache import PathCache
from rsd_integrations.huggingface.kv_store import KVStore, Sequence
from rsd_integrations.huggingface.vocabulary import Vocabulary
from rsd_integrations.prm_formats import Layout

Made = TypeVar("Made", Generation, Scores)


class Row:
    """A sequence at work: the tokens it is to hold, and the positions whose outputs are wanted."""

    call: Call[Any]

    def __init__(self, sequence: Sequence, ids: list[int], reads: Iterable[int]) -> None:
        self.sequence = sequence
        sequence.begin()
        self.ids = ids
        """All tokens wanted so far; those beyond the sequence's are still to be run."""
        self.reads = list(reads)
        """Positions whose outputs are still wanted, in order."""
        self.outputs: list[Output] = []
        """What was read so far."""

    @property
    def waiting(self) -> int:
        """Tokens still to be run."""
        return len(self.ids) - len(self.sequence.ids)


@dataclass(slots=True)
class Output:
    """What a model gives at some positions."""

    hidden: Tensor | None
    """Last hidden states [positions, width], where somebody reads them."""
    logits: Tensor | None
    """[positions, vocabulary], of models with an output head."""

    def part(self, begin: int, end: int) -> Output:
        """Some of the positions."""
        return self._map(lambda tensor: tensor[begin:end])

    def last(self) -> Output:
        """The last position, in memory of its own."""
        return self._map(lambda tensor: tensor[-1:].clone())

    def _map(self, change: Callable[[Tensor], Tensor]) -> Output:
        hidden, logits = self.hidden, self.logits
        return Output(None if hidden is None else change(hidden), None if logits is None else change(logits))

    @staticmethod
    def joined(parts: Rows[Output]) -> Output:
        """Outputs end to end."""
        if len(parts) == 1:
            return parts[0]
        hidden = [part.hidden for part in parts if part.hidden is not None]
        logits = [part.logits for part in parts if part.logits is not None]
        return Output(torch.cat(hidden) if hidden else None, torch.cat(logits) if logits else None)


class Call(ABC, Generic[Made]):
    """One call of a model, from the caller's await to its future."""

    def __init__(self, path: Path, cache: PathCache) -> None:
        self.path, self.cache = path, cache
        self.future: Future[Made] = Future()
        self.future.set_running_or_notify_cancel()  # from now on only the engine ends it
        self.cancelled = False
        """Set by the caller; the call then ends with what it has."""
        self.rows: list[Row] = []
        """Rows that are not done yet."""
        self.computed = self.reused = 0
        self.seconds = 0.0

    @abstractmethod
    def start(self, store: KVStore) -> None:
        """Make the first row or rows."""

    @abstractmethod
    def result(self) -> Made:
        """What was made by now."""

    def charge(self, known: int, new: int, seconds: float) -> None:  # noqa: ARG002 - known matters to those who read
        """Note that tokens of a row were run: `new` ones after `known` ones."""
        self.computed += new
        self.seconds += seconds

    def finish(self, row: Row) -> None:
        """Put a row's sequence into the cache; the call ends with its last row."""
        row.sequence.rest()
        self.cache.put(self.path, row.sequence)
        self.rows.remove(row)
        if not self.rows:
            self.future.set_result(self.result())
            self.forget()

    @abstractmethod
    def forget(self) -> None:
        """Let go of the rows, which know the call: paths should be freed at once."""


@dataclass(frozen=True, slots=True)
class StepEnd:
    """When a model's step is over."""

    vocabulary: Vocabulary
    ends: frozenset[int]
    """Ids that end the whole answer."""
    endings: frozenset[int] = frozenset()
    """Ids that hold the delimiter."""
    mark: bytes | None = None
    """The delimiter's bytes; None where only the whole answer ends."""


class WritingRow(Row):
    """One candidate in the making."""

    call: Writing

    def __init__(self, call: Writing, sequence: Sequence, ids: list[int], seed: int, guess: Rows[int] = ()) -> None:
        super().__init__(sequence, [*ids, *guess], range(len(ids) - 1, len(ids) + len(guess)))
        self.call = call
        self._random = random.Random(seed)
        self._uniforms: list[float] = []
        """Random numbers that were drawn and are not used yet."""
        self.size = 0
        self.logprobs: list[float] = []
        self.ending: Ending = "length"
        self._prefix = len(ids)
        self._tail = b""

    def uniforms(self, count: int) -> list[float]:
        """The row's own next random numbers, in [0, 1), of which each token that is taken uses one up."""
        self._uniforms += [self._random.random() for _ in range(count - len(self._uniforms))]
        return self._uniforms[:count]

    @property
    def written(self) -> list[int]:
        """The sampled ids so far, without one that ends the answer."""
        return self.ids[self._prefix : self._prefix + len(self.logprobs)]

    def take(self, choices: Iterable[tuple[int, float]]) -> bool:
        """Go on with tokens and their log-probabilities; True when the step is over.

        The first is the next token, each of the others the one after another guessed token. They count as long as
        the guess was right.
        """
        for token, logprob in choices:
            at = self._prefix + len(self.logprobs)
            guessed = self.ids[at : at + 1] == [token]
            over = self._note(token, logprob)
            if over or not guessed:
                known = at + (guessed and self.ending != "end")
                del self.ids[known:]
                self.sequence.truncate(known)
                if not guessed and self.ending != "end":
                    self.ids.append(token)
                self.reads = [len(self.ids) - 1]
                return over
        return False

    def _note(self, token: int, logprob: float) -> bool:
        """Count a token as written; True when the step is over with it."""
        end = self.call.end
        self.size += 1
        del self._uniforms[:1]
        if token in end.ends:
            self.ending = "end"
            return True
        self.logprobs.append(logprob)
        if end.mark is not None:
            # The mark may also straddle tokens, where a model writes it in pieces.
            piece = end.vocabulary.pieces[token]
            self._tail = (self._tail + piece)[-len(end.mark) - len(piece) + 1 :]
            if token in end.endings or end.mark in self._tail:
                self.ending = "delimiter"
                return True
        return self.size >= self.call.room


class Writing(Call[Generation]):
    """Writes the step that follows a path, once per seed. The prefix is computed once for all of them.

    Of a guess, the tokens that it would have written are kept: they are read at once and not one after another.
    """

    def __init__(
        self,
        path: Path,
        cache: PathCache,
        ids: list[int],
        request: StepRequest,
        room: int,
        end: StepEnd,
        guess: Rows[int] = (),
    ) -> None:
        super().__init__(path, cache)
        self.request, self.room, self.end = request, room, end
        self._ids, self._guess = ids, guess
        self._candidates: list[WritingRow] = []

    def start(self, store: KVStore) -> None:
        sequence = self.cache.take(self.path, self._ids) or Sequence(store)
        sequence.truncate(len(self._ids) - (sequence.last is None or bool(self._guess)))
        self.reused = len(sequence.ids)
        self._add(sequence, self.request.seeds[0], self._guess)

    def fork(self, row: WritingRow, store: KVStore) -> list[WritingRow]:
        """The rows that may choose their first token now that the prefix is computed: the first one and its twins.

        A twin that finds no room computes the prefix by itself, later.
        """
        ready = [row]
        for seed in self.request.seeds[len(self._candidates) :]:
            copy = store.branch(row.sequence)
            twin = self._add(copy or Sequence(store), seed)
            if copy is not None:
                ready.append(twin)
        return ready

    def result(self) -> Generation:
        end, steps = self.end, []
        for row in self._candidates:
            written = tuple(row.written)
            text = end.vocabulary.text(list(written))
            steps.append(Step(text, row.ending, written, end.vocabulary.identity, row.size, tuple(row.logprobs)))
        steps += [Step("", "length")] * (len(self.request.seeds) - len(steps))
        size = sum(step.size for step in steps)
        usage = Usage(len(self._ids), self.computed, self.reused, size, seconds=self.seconds)
        return Generation(tuple(steps), usage)

    def forget(self) -> None:
        self._candidates.clear()

    def _add(self, sequence: Sequence, seed: int, guess: Rows[int] = ()) -> WritingRow:
        row = WritingRow(self, sequence, self._ids, seed, guess)
        self._candidates.append(row)
        self.rows.append(row)
        return row


class ReadingRow(Row):
    """One candidate being read; or, without a layout, the prefix that several candidates share."""

    call: Reading

    def __init__(
        self, call: Reading, sequence: Sequence, ids: list[int], reads: Iterable[int], layout: Layout | None
    ) -> None:
        super().__init__(sequence, ids, reads)
        self.call = call
        self.layout = layout
        self.reward = 0.0
        known = len(sequence.ids)
        if self.reads and self.reads[0] < known:
            if sequence.last is not None and self.reads[0] == known - 1:
                self.outputs.append(sequence.last)
                del self.reads[0]
            else:
                sequence.truncate(self.reads[0])


Judge = Callable[[Rows[tuple[Output, Layout]]], Rows[float]]
"""From what was read of some candidates to their rewards."""


class Reading(Call[Scores]):
    """Scores candidates for the step that follows a path. What they share is computed once."""

    def __init__(
        self, path: Path, cache: PathCache, before: list[int], prompt: int, layouts: Rows[Layout], judge: Judge
    ) -> None:
        super().__init__(path, cache)
        self.judge = judge
        self._before, self._prompt, self._layouts = before, prompt, layouts
        self._candidates: list[ReadingRow] = []
        self._scored = 0

    def start(self, store: KVStore) -> None:
        only = self._layouts[0].feed if len(self._layouts) == 1 else ()
        sequence = self.cache.take(self.path, [*self._before, *only]) or Sequence(store)
        if only:
            self._add(sequence, self._layouts[0])
            self.reused = len(sequence.ids)
            return
        looks_back = any(-1 in layout.read for layout in self._layouts)
        row = ReadingRow(self, sequence, self._before, [len(self._before) - 1] if looks_back else [], None)
        self.rows.append(row)
        self.reused = len(sequence.ids)
        if not row.waiting:
            self.fork(row, store)

    def fork(self, row: ReadingRow, store: KVStore) -> None:
        """One row per candidate, now that the prefix is computed; one that finds no room computes it by itself."""
        self.rows.remove(row)
        if row.outputs:
            row.sequence.last = row.outputs[-1].last()
        copies = [store.branch(row.sequence) for _ in self._layouts[1:]]
        for sequence, layout in zip((row.sequence, *copies), self._layouts, strict=True):
            self._add(sequence or Sequence(store), layout)

    def charge(self, known: int, new: int, seconds: float) -> None:
        super().charge(known, new, seconds)
        self._scored += max(0, known + new - max(known, self._prompt))

    def finish(self, row: Row) -> None:
        assert isinstance(row, ReadingRow)
        assert row.layout is not None
        if row.outputs and row.layout.read[-1] == len(row.layout.feed) - 1:
            row.sequence.last = row.outputs[-1].last()
        row.sequence.truncate(len(self._before) + len(row.layout.kept))
        super().finish(row)

    def result(self) -> Scores:
        rewards = tuple(row.reward for row in self._candidates)
        prefix = len(self._before) + max(len(layout.kept) for layout in self._layouts)
        return Scores(rewards, Usage(prefix, self.computed, self.reused, 0, self._scored, self.seconds))

    def forget(self) -> None:
        self._candidates.clear()

    def _add(self, sequence: Sequence, layout: Layout) -> None:
        begin = len(self._before)
        reads = [begin + at for at in layout.read]
        row = ReadingRow(self, sequence, [*self._before, *layout.feed], reads, layout)
        self._candidates.append(row)
        self.rows.append(row)
