"""Speculative generation: tokens are proposed, and one pass verifies them all."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rsd_core import ConfigurationError, Generation, Interrupted, Path, Speculation, StepRequest, Usage
from rsd_core.concurrency import outlast
from rsd_core.interfaces import DRAFTER
from rsd_core.model import add_usage, usage_of
from rsd_integrations.huggingface.beam_writing import Beams
from rsd_integrations.inprocess.draft_call import DraftCall
from rsd_integrations.inprocess.engine import run
from rsd_integrations.inprocess.generator import Generator
from rsd_integrations.inprocess.proposer_states import ProposerStates
from rsd_integrations.inprocess.runner import Runner
from rsd_integrations.inprocess.sources import DrafterSource, ProposerSource, TextSource
from rsd_integrations.inprocess.speculative_call import Source, SpeculativeCall
from rsd_integrations.inprocess.step_end import StepEnd
from rsd_integrations.inprocess.vocabulary import Vocabulary
from rsd_integrations.speculation.parsing import parsed
from rsd_integrations.speculation.rules import Exact

logger = logging.getLogger(__name__)


class SpeculativeGenerator(Generator):
    """A language model that implements `SpeculativeTarget`."""

    def __init__(
        self, runner: Runner, vocabulary: Vocabulary, eos_ids: frozenset[int], flops_per_token: float, name: str
    ) -> None:
        super().__init__(runner, vocabulary, eos_ids, flops_per_token, name)
        self._proposer_states = ProposerStates()

    def checked_speculation(self, speculation: Speculation) -> Speculation:
        """The same speculation, with proposer and rule as objects; see `SpeculativeTarget`."""
        speculation = parsed(speculation)
        if speculation.proposer == DRAFTER:
            if speculation.drafter is None:
                raise ConfigurationError("proposer='drafter' needs a drafter; give one, or proposer='lookup'")
            self._check_drafter(speculation, self._assistant(speculation))
        for part in (speculation.rule, *([] if speculation.proposer == DRAFTER else [speculation.proposer])):
            if part.vocabulary not in (None, self.vocabulary.identity):
                raise ConfigurationError(
                    f"{part!r} was made with a vocabulary other than that of {self.name}: make its file again for this "
                    "model"
                )
        if speculation.drafter is self:  # a copy, since usage is told apart by model
            return replace(speculation, drafter=copy.copy(speculation.drafter))
        return speculation

    def _check_drafter(self, speculation: Speculation, drafter: Generator) -> None:
        """Refuse a drafter that does not suit beams or the rule."""
        same = drafter.vocabulary.identity == self.vocabulary.identity
        if speculation.beams is not None and not same:
            raise ConfigurationError(
                f"beams of {self.name} need a drafter with its vocabulary: give another drafter, or use "
                "SpeculativeDecoding, which compares text"
            )
        if speculation.rule.needs_draws and not same:
            raise ConfigurationError(
                f"{speculation.rule!r} compares distributions over one vocabulary: give a drafter with the one of "
                f"{self.name}, or another rule"
            )

    async def _write(
        self, path: Path, ids: list[int], request: StepRequest, max_tokens: int, end: StepEnd, guess: Sequence[int]
    ) -> Generation:
        if request.speculation is None or len(request.seeds) > 1:
            return await super()._write(path, ids, request, max_tokens, end, guess)
        speculation = parsed(request.speculation)
        if speculation.beams is not None:
            return await self._write_beams(path, ids, request, max_tokens, end, speculation)
        assert speculation.draft_length is not None
        rule = speculation.rule.within(thought=bool(request.close))
        source, draft = self._source(path, ids, request, speculation)
        call = SpeculativeCall(
            path, self.runner.cache, ids, request, max_tokens, end, guess, self.grammar,
            source=source, rule=rule, compares=isinstance(rule, Exact),
            draft_length=speculation.draft_length, context=self.context,
        )  # fmt: skip
        if draft is None:
            return await run(self.runner, call)
        drafter = self._assistant(speculation)
        draft.request_number = call.request_number  # both calls belong to one request
        try:
            generation = await run(self.runner, call)
        except BaseException as error:
            source.close(())  # otherwise done by the call, if it began
            both = _of_both(self, usage_of(error) or call.usage, drafter, await _work_of(draft))
            if isinstance(error, asyncio.CancelledError):
                if both.computed:
                    raise Interrupted(both) from None
            else:
                add_usage(error, both)
            raise
        return replace(generation, usage=_of_both(self, generation.usage, drafter, await _work_of(draft)))

    async def _write_beams(
        self, path: Path, ids: list[int], request: StepRequest, max_tokens: int, end: StepEnd, speculation: Speculation
    ) -> Generation:
        drafter = self._assistant(speculation)
        if self.grammar is not None:
            raise ConfigurationError(f"{self.name} cannot decode beams with a grammar: use SpeculativeDecoding")
        if len(ids) + max_tokens > drafter.context:
            logger.warning(
                "%s writes a step without beams: the request may reach %d tokens, but its drafter %s reads at most %d",
                self.name, len(ids) + max_tokens, drafter.name, drafter.context,
            )  # fmt: skip
            return await super()._write(path, ids, request, max_tokens, end, ())
        return await Beams(self, drafter, path, ids, request, max_tokens, end, speculation.beams).write()

    def _source(
        self, path: Path, ids: list[int], request: StepRequest, speculation: Speculation
    ) -> tuple[Source, DraftCall | None]:
        """The source of proposals, and the drafter's call if the drafter is a model."""
        (seed,) = request.seeds
        if speculation.proposer != DRAFTER:
            return ProposerSource(self._proposer_states, path, speculation.proposer, ids, seed), None
        drafter = self._assistant(speculation)
        same = drafter.vocabulary.identity == self.vocabulary.identity
        prefix = ids if same else drafter.vocabulary.ids(path, goes_on=True)[0]
        eos_ids = self.eos_ids if same else drafter.eos_ids
        call = DraftCall(path, drafter.runner.cache, prefix, seed, request.sampling, eos_ids)
        if same:
            return DrafterSource(call, drafter.runner, self.runner, prefix), call
        return TextSource(call, drafter, self, path, prefix), call

    def _assistant(self, speculation: Speculation) -> Generator:
        drafter = speculation.drafter
        if not isinstance(drafter, Generator):
            raise ConfigurationError(
                f"{drafter!r} cannot propose tokens to {self.name}: give a drafter in process (hf:, gguf:, embedded:), "
                "or proposer='lookup'"
            )
        return drafter


async def _work_of(draft: DraftCall) -> Usage:
    """A drafter's usage, after its call has ended, which happens once the target's has."""
    done = asyncio.wrap_future(draft.future)
    await outlast(done)
    error = done.exception()
    return done.result().usage if error is None else usage_of(error) or Usage()


def _of_both(target: Generator, work: Usage, drafter: Generator, drafting: Usage) -> Usage:
    """The usage of target and drafter together, with each one's part."""
    parts: Any = ((target, work), (drafter, drafting))
    return replace(work + drafting, parts=parts)
