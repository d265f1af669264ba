"""Decodes the step that follows a path: one row per seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

from rsd_core import Generation, Path, Step, StepRequest, Usage
from rsd_integrations.inprocess.calls import Call, SampledRow
from rsd_integrations.inprocess.grammar import Grammar
from rsd_integrations.inprocess.path_cache import PathCache
from rsd_integrations.inprocess.sequences import CachedSequence, Store
from rsd_integrations.inprocess.step_end import OpenStep, StepEnd


class Numbers:
    """Random numbers in [0, 1), one for each position of a step, the same however often they are requested."""

    def __init__(self, seed: int | str) -> None:
        self._random, self._drawn = random.Random(seed), list[float]()

    def __call__(self, begin: int, end: int) -> list[float]:
        """Those of consecutive positions."""
        self._drawn += [self._random.random() for _ in range(end - len(self._drawn))]
        return self._drawn[begin:end]


class GenerateRow(SampledRow):
    """One candidate being decoded."""

    call: GenerateCall

    def __init__(
        self, call: GenerateCall, sequence: CachedSequence, prefix: list[int], seed: int, guess: Sequence[int] = ()
    ) -> None:
        # The last token of the prefix predicts the first token of the step, each guessed token the next one.
        super().__init__(call, sequence, [*prefix, *guess], range(len(prefix) - 1, len(prefix) + len(guess)))
        self.step = OpenStep(call.end, call.max_tokens)
        self.sampling = call.request.sampling
        self._prefix = len(prefix)
        self._numbers = Numbers(seed)
        if call.grammar is not None:
            self.place = call.grammar.begin()

    def uniforms(self, count: int) -> list[float]:
        """The random numbers of the next `count` tokens: a step does not depend on the guess."""
        return self._numbers(self.step.sampled, self.step.sampled + count)

    @property
    def tokens(self) -> list[int]:
        """The sampled ids of the step so far, without an id that ends the response."""
        return self.step.tokens

    def append(self, token: int, logprob: float) -> bool:
        """Continue with one sampled token if nothing is guessed or pending; True when the step is over."""
        self._take(token)
        if not self.step.append(token, logprob):
            self.ids.append(token)
            return False
        end = self._prefix + len(self.step.tokens)
        if end > len(self.ids):
            self.ids.append(token)
        else:  # it ends the response, or tokens after the step's end are dropped
            del self.ids[end:]
            self.sequence.truncate(end)
        return True

    def ready(self, store: Store) -> list[GenerateRow]:
        return self.call.fork(self, store)

    def extend(self, sampled: Sequence[tuple[int, float]]) -> bool:
        """Continue with sampled tokens and their log-probabilities; True when the step is over.

        The first is the next token, each of the others follows another guessed token. They count as long as the guess
        was correct.
        """
        for token, logprob in sampled:
            self._take(token)
            position = self._prefix + len(self.step.tokens)
            guessed = self.ids[position : position + 1] == [token]
            over = self.step.append(token, logprob)
            if over or not guessed:
                # Everything computed beyond this token follows a wrong guess. The token itself was computed only if it
                # was guessed. A token that ends the response is not part of the path, nor are those beyond the step's
                # end: they are rolled back too.
                end = self._prefix + len(self.step.tokens)
                right = min(position + guessed, end)
                del self.ids[right:]
                self.sequence.truncate(right)
                if right < end:
                    self.ids.append(token)
                self.output_positions = [len(self.ids) - 1]
                return over
        return False

    def _take(self, token: int) -> None:
        if self.place is not None:
            self.place.take(token)


class GenerateCall(Call[Generation]):
    """Generates the step that follows a path, once per seed. The prefix is computed once for all of them.

    Tokens of a guess that would have been generated anyway are kept: they are verified in one pass, like drafts in
    speculative decoding.
    """

    def __init__(
        self,
        path: Path,
        cache: PathCache,
        prefix: list[int],
        request: StepRequest,
        max_tokens: int,
        end: StepEnd,
        guess: Sequence[int] = (),
        grammar: Grammar | None = None,
    ) -> None:
        """Request a step.

        Args:
            path: The path that it follows.
            cache: The computed sequences of paths.
            prefix: Ids of the path.
            request: Seeds and sampling.
            max_tokens: Maximum tokens of a step, at least 1 and within the model's context.
            end: The condition that ends it.
            guess: Ids with which it may begin, fewer than `max_tokens`; none under a grammar.
            grammar: The allowed text; None for any.
        """
        super().__init__(path, cache)
        self.request, self.max_tokens, self.end = request, max_tokens, end
        self._prefix, self._guess, self.grammar = prefix, guess, grammar
        self._candidates: list[GenerateRow] = []

    def start(self, store: Store) -> None:
        sequence = self.cache.claim(self.path, self._prefix) or store.sequence()
        # The first token is sampled from the output at the end of the prefix: if that was not kept, or a guess is to be
        # read after it, the last token of the prefix is computed again.
        sequence.truncate(len(self._prefix) - (sequence.last_output is None or bool(self._guess)))
        self.reused = len(sequence.ids)
        self._add(sequence, self.request.seeds[0], self._guess)

    def fork(self, row: GenerateRow, store: Store) -> list[GenerateRow]:
        """The rows that may sample their first token now that the prefix is computed: the first one and its copies.

        A row without room for its copy computes the prefix itself, later.
        """
        ready = [row]
        for seed in self.request.seeds[len(self._candidates) :]:
            copy = store.branch(row.sequence)
            twin = self._add(copy or store.sequence(), seed)
            if copy is not None:
                ready.append(twin)
        return ready

    def answer(self) -> Generation:
        as_step, before = self.end.vocabulary.as_step, self.end.before
        written = [row.step for row in self._candidates]
        steps = [as_step(step.tokens, step.ending, step.size, step.logprobs, before) for step in written]
        steps += [Step("", "length")] * (len(self.request.seeds) - len(steps))  # cancelled before they began
        return Generation(tuple(steps), self.usage)

    @property
    def usage(self) -> Usage:
        generated = sum(row.step.sampled for row in self._candidates)
        return Usage(len(self._prefix), self.computed, self.reused, generated, seconds=self.seconds)

    def release(self) -> None:
        self._candidates.clear()

    def _add(self, sequence: CachedSequence, seed: int, guess: Sequence[int] = ()) -> GenerateRow:
        row = GenerateRow(self, sequence, self._prefix, seed, guess)
        self._candidates.append(row)
        self.rows.append(row)
        return row
