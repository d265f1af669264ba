"""Generates a step by speculative decoding: tokens are proposed a few at a time and verified in one pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rsd_core import Path, StepRequest, Usage
from rsd_integrations.inprocess.calls import Tree
from rsd_integrations.inprocess.generate_call import GenerateCall, GenerateRow, Numbers
from rsd_integrations.inprocess.grammar import Grammar, Place
from rsd_integrations.inprocess.path_cache import PathCache
from rsd_integrations.inprocess.sequences import CachedSequence, Store
from rsd_integrations.inprocess.step_end import StepEnd
from rsd_integrations.speculation.proposals import Proposal

if TYPE_CHECKING:
    from rsd_integrations.speculation.rules import AcceptanceRule


class Source(ABC):
    """The source of one step's proposals."""

    @abstractmethod
    def ask(self, row: SpeculativeRow, emitted: Sequence[int], count: int) -> None:
        """Call `row.propose` with at most `count` tokens after those of the step, now or later.

        If later, then from the thread that runs the target; the row rests until then.
        """

    @abstractmethod
    def close(self, emitted: Sequence[int]) -> None:
        """Note that the step is over, with these tokens."""


class SpeculativeRow(GenerateRow):
    """A step decoded with proposals."""

    call: SpeculativeCall

    def __init__(
        self, call: SpeculativeCall, sequence: CachedSequence, prefix: list[int], seed: int, guess: Sequence[int] = ()
    ) -> None:
        super().__init__(call, sequence, prefix, seed, guess)
        self.proposal = Proposal(())
        """The proposal to verify in the next pass."""
        self.overridden: Sequence[bool] = ()
        """Whether the rule differed from the exact one, at each output: set by the runner."""
        self.fault: Exception | None = None
        """The error of a rule that failed: set by the runner."""
        self._accepting = Numbers(f"{seed} accept")
        self._places: list[Place] = []
        """The grammar's position at each output."""

    @property
    def rule(self) -> AcceptanceRule | None:
        """The rule that judges the proposal; None if tokens are only compared with the target's own."""
        exact = self.proposal.draft is None and self.call.compares
        return None if exact or not self.proposal.tokens else self.call.rule

    def propose(self, proposal: Proposal) -> None:
        """Propose tokens to verify after the present ones of the step."""
        if self not in self.call.rows:  # cancelled meanwhile
            return
        if self.resting:
            self.wake()
        self.proposal = self._usable(proposal, self.call.context - len(self.ids))
        settled, tokens, parents = len(self.ids), self.proposal.tokens, self.proposal.parents
        self.tree, self.whole = Tree(settled, parents) if parents else None, bool(tokens)
        self.ids += tokens
        self.output_positions = list(range(settled - 1, len(self.ids)))

    def uniforms(self, count: int) -> list[float]:
        if self.tree is None:
            return super().uniforms(count)
        at = self.step.sampled
        return [self._numbers(at + depth, at + depth + 1)[0] for depth in (0, *self.tree.depths)]

    def accept_numbers(self) -> list[float]:
        """The random numbers in [0, 1) for accepting each proposed token, keyed to positions."""
        at = self.step.sampled
        if self.tree is None:
            return self._accepting(at, at + len(self.proposal))
        return [self._accepting(at + depth - 1, at + depth)[0] for depth in self.tree.depths]

    def allowed(self, size: int, count: int) -> list[Any]:
        return [place.allowed(size) for place in self._places] if self._places else super().allowed(size, count)

    def extend(self, sampled: Sequence[tuple[int, float]]) -> bool:
        if self.fault is not None:
            raise self.fault
        proposed, before = len(self.proposal), self.step.sampled
        visited: Sequence[int] = range(len(sampled))
        if self.tree is not None:
            visited = self._walk([token for token, _ in sampled])
            sampled = [sampled[i] for i in visited]
        verified = self.ids[self._prefix + before :]
        over = super().extend(sampled)
        if not over and len(self.ids) > self._prefix + len(self.step.tokens):
            return False  # the rest of a long guess is still to be verified
        emitted = self.step.sampled - before
        if proposed:
            right = sum(token == own for token, (own, _) in zip(verified[:emitted], sampled, strict=False))
            self.call.rejected += proposed - right
        if self.overridden:
            self.call.overridden += sum(self.overridden[i] for i in visited[:emitted])
        self.proposal, self.whole, self.overridden, self._places = Proposal(()), False, (), []
        if not over:
            self.call.ask(self)
        return over

    def _walk(self, own: Sequence[int]) -> list[int]:
        """Follow the tokens chosen after each node down the tree; returns the outputs on the way, beginning with 0.

        The nodes on the way move to the front of the sequence, the others are dropped.
        """
        assert self.tree is not None
        (begin, parents), tokens = self.tree, self.proposal.tokens
        way = [-1]
        while True:
            at = way[-1]
            after = (i for i in range(at + 1, len(parents)) if parents[i] == at and tokens[i] == own[at + 1])
            node = next(after, None)
            if node is None:
                break
            way.append(node)
        self.sequence.gather(begin, way[1:])
        self.ids[begin:] = [tokens[i] for i in way[1:]]
        self.tree = None
        return [i + 1 for i in way]

    def _usable(self, proposal: Proposal, room: int) -> Proposal:
        """The proposed tokens that the target could generate at all, each after such tokens only."""
        known = self.call.end.vocabulary.size
        if self.place is None and len(proposal) <= room and all(0 <= token < known for token in proposal.tokens):
            return proposal
        parents = range(-1, len(proposal) - 1) if proposal.parents is None else proposal.parents
        kept = {-1: -1}  # index before and after, for usable tokens
        places = [] if self.place is None else [self.place]
        for i, (token, parent) in enumerate(zip(proposal.tokens, parents, strict=True)):
            if parent not in kept or not 0 <= token < known or len(kept) > room:
                continue
            if places:
                before = places[kept[parent] + 1]
                place = before.after(token)
                if place is None and proposal.draft is None:
                    continue
                # A sampled token is rejected and corrected by the rule: omitting it would change the distribution.
                places.append(place or before)
            kept[i] = len(kept) - 1
            if places and place is None:
                break
        self._places = places
        nodes = list(kept)[1:]
        return Proposal(
            tuple(proposal.tokens[i] for i in nodes),
            None if proposal.parents is None else tuple(kept[parents[i]] for i in nodes),
            None if proposal.draft is None else proposal.draft[: len(nodes)],
        )


class SpeculativeCall(GenerateCall):
    """Generates the step that follows a path, for one seed, with the proposals of a source."""

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
        *,
        source: Source,
        rule: AcceptanceRule,
        compares: bool,
        draft_length: int,
        context: int,
    ) -> None:
        """Request a step.

        Args:
            path: See `GenerateCall`, also for the arguments up to `grammar`.
            cache: See path.
            prefix: See path.
            request: See path.
            max_tokens: See path.
            end: See path.
            guess: See path; it is verified first.
            grammar: See path.
            source: The source of proposals.
            rule: The acceptance rule.
            compares: Whether the rule keeps an unsampled token exactly if it is the target's own, like the exact rule.
            draft_length: Maximum tokens proposed in a row.
            context: Maximum sequence length in tokens, including all nodes of a tree.
        """
        super().__init__(path, cache, prefix, request, max_tokens, end, guess, grammar)
        self.rule, self.compares, self.rejected, self.overridden = rule, compares, 0, 0
        self._source, self._draft_length, self.context = source, draft_length, context

    def start(self, store: Store) -> None:
        sequence = self.cache.claim(self.path, self._prefix) or store.sequence()
        sequence.truncate(len(self._prefix) - 1)  # the output at the last token verifies the first proposed one
        self.reused = len(sequence.ids)
        row = SpeculativeRow(self, sequence, self._prefix, self.request.seeds[0], self._guess)
        self._candidates.append(row)
        self.rows.append(row)
        if not self._guess:
            try:
                self.ask(row)
            except Exception as fault:  # the proposer's fault, not the model's
                self.fail(fault)

    def stop(self, error: BaseException) -> None:
        """End the call because its drafter failed, unless it has ended before."""
        if self.rows:
            self.fail(error)

    def ask(self, row: SpeculativeRow) -> None:
        """Request a proposal for the next pass; an empty one if only one token may follow."""
        count = min(self._draft_length, self.max_tokens - row.step.sampled - 1)
        if count > 0:
            self._source.ask(row, row.tokens, count)
        else:
            row.propose(Proposal(()))

    @property
    def usage(self) -> Usage:
        usage = super().usage
        return Usage(
            usage.prefix, usage.computed, usage.reused, usage.generated, seconds=usage.seconds,
            discarded=self.rejected, overridden=self.overridden,
        )  # fmt: skip

    def release(self) -> None:
        self._source.close([token for row in self._candidates for token in row.tokens])
        super().release()

    def _close(self, row: Any) -> None:
        if row.tree is not None:  # its nodes are not a sequence
            row.sequence.truncate(row.tree.begin)
        super()._close(row)
