"""Writes a step by dynamic-width speculative beam decoding: the forest of drafts as rows of the two models' batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rsd_core import Generation, Interrupted, Path, Sampling, Step, StepRequest, Usage
from rsd_core.model import add_usage, usage_of
from rsd_integrations.huggingface.sampling import LEAST
from rsd_integrations.inprocess.calls import Output
from rsd_integrations.inprocess.engine import run
from rsd_integrations.inprocess.generator import Generator
from rsd_integrations.inprocess.path_cache import shared
from rsd_integrations.inprocess.score_call import ScoreCall
from rsd_integrations.inprocess.step_end import OpenStep, StepEnd
from rsd_integrations.prm_formats import Layout
from rsd_integrations.speculation.beam_sampling import Beam, BeamSampling, Text


class NextTokens:
    """A model's next-token distributions after each of several texts that follow a path.

    Texts are rows of one call. Their settled prefix is computed once and cached; anything they share beyond it is
    computed for each.
    """

    def __init__(self, model: Generator, path: Path, prefix: Sequence[int], sampling: Sampling) -> None:
        self.usage = Usage()
        """The work so far."""
        self._model, self._path, self._prefix, self._sampling = model, path, list(prefix), sampling
        self._settled = 0

    def settle(self, text: Text) -> None:
        """Declare that all texts begin with this one from now on."""
        self._prefix += text[self._settled :]
        self._settled = len(text)

    async def __call__(self, texts: Sequence[Text]) -> Tensor:
        """Next-token distributions [texts, vocabulary], after temperature; at 0 all mass is on the likeliest token."""
        texts = [text[self._settled :] for text in texts]
        longer = {text[:end] for text in texts for end in range(len(text))}
        leaves = [text for text in texts if text not in longer]
        owners = {text: next(leaf for leaf in leaves if leaf[: len(text)] == text) for text in texts}
        places = {leaf: sorted(len(text) - 1 for text in texts if owners[text] == leaf) for leaf in leaves}
        found: dict[Text, Tensor] = {}

        def note(rows: Sequence[tuple[Output, Layout]]) -> list[float]:
            for output, layout in rows:
                logits = torch.as_tensor(output.logits).float()
                found.update((layout.feed[: place + 1], z) for place, z in zip(layout.read, logits, strict=True))
            return [0.0] * len(rows)

        layouts = [Layout(leaf, tuple(places[leaf])) for leaf in leaves]
        call = ScoreCall(self._path, self._model.runner.cache, self._prefix, len(self._prefix), layouts, note)
        try:
            self.usage += (await run(self._model.runner, call)).usage
        except BaseException as error:
            self.usage += usage_of(error) or Usage()
            raise
        return _distributions(torch.stack([found[text] for text in texts]), self._sampling.temperature)


def _distributions(logits: Tensor, temperature: float) -> Tensor:
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    return (logits / max(temperature, LEAST)).softmax(-1)


class Beams:
    """A step being decoded as several beams.

    Args:
        target: The model whose beams these are.
        drafter: The model that drafts them, with the target's vocabulary.
        path: The path that the step follows.
        prefix: Ids of the path, in the target's encoding.
        request: Seed and sampling.
        max_tokens: Maximum tokens of the step, within both models' contexts.
        end: The condition that ends it.
        how: Numbers of beams, drafts and levels.
    """

    def __init__(
        self,
        target: Generator,
        drafter: Generator,
        path: Path,
        prefix: Sequence[int],
        request: StepRequest,
        max_tokens: int,
        end: StepEnd,
        how: BeamSampling,
    ) -> None:
        self._request, self._max_tokens, self._end, self._how = request, max_tokens, end, how
        self._target, self._drafter = (NextTokens(model, path, prefix, request.sampling) for model in (target, drafter))
        self._models, self._prefix = (target, drafter), len(prefix)
        self._drafted: set[Text] = set()
        """All texts that the drafter proposed."""
        self._proposed = 0

    async def write(self) -> Generation:
        """The step: among beams that ended or reached the cap, the one with the highest mean log-probability.

        Raises:
            Interrupted: The caller was cancelled after some work, reported per model in `parts`.
        """
        live, ended = [Beam()], list[Beam]()
        try:
            while live and len(ended) < self._how.beams and len(live[0].text) < self._max_tokens:
                live, more = await self._round(live)
                ended += more
                self._settle([beam.text for beam in live])
        except BaseException as error:
            usage = self._usage(())
            if not isinstance(error, asyncio.CancelledError):
                add_usage(error, usage)
            elif usage.computed:
                raise Interrupted(usage) from None
            raise
        best = max(ended or live, key=lambda beam: beam.logprob / len(beam.text))
        return Generation((self._step(best),), self._usage(best.text))

    async def _round(self, live: Sequence[Beam]) -> tuple[list[Beam], list[Beam]]:
        sampling, room = self._request.sampling, self._max_tokens - len(live[0].text)
        asking = self._how.round(
            live, self._ends, self._request.seeds[0], top_p=sampling.top_p, top_k=sampling.top_k, room=room
        )
        answer: Any = None  # a generator is started with None
        while True:
            try:
                question = asking.send(answer)
            except StopIteration as over:
                beams: tuple[list[Beam], list[Beam]] = over.value
                return beams
            if not question.drafter:
                new = {text for text in question.texts if len(text) > len(live[0].text)}
                self._proposed += len(new)
                self._drafted |= new
            answer = await (self._drafter if question.drafter else self._target)(question.texts)

    def _settle(self, texts: Sequence[Text]) -> None:
        first, last = min(texts, default=()), max(texts, default=())
        for model in (self._target, self._drafter):
            model.settle(first[: shared(first, last)])

    def _ends(self, text: Text) -> bool:
        """Whether the step has ended by the last token of a text."""
        return self._open(text).ending != "length"

    def _open(self, text: Text) -> OpenStep:
        step = OpenStep(self._end, self._max_tokens)
        for token in text:
            step.append(token, 0.0)
        return step

    def _step(self, beam: Beam) -> Step:
        """A beam as a step, without log-probabilities, since only their sum is known."""
        step = self._open(beam.text)
        return self._end.vocabulary.as_step(step.tokens, step.ending, step.size, (), self._end.before)

    def _usage(self, chosen: Text) -> Usage:
        """The work of both models; drafts that are not part of the chosen text count as discarded by both."""
        kept = sum(chosen[:end] in self._drafted for end in range(1, len(chosen) + 1))
        rejected = self._proposed - kept
        own = replace(self._target.usage, prefix=self._prefix, scored=0, generated=len(chosen), discarded=rejected)
        drafting = replace(
            self._drafter.usage, prefix=self._prefix, scored=0, generated=self._proposed, discarded=rejected
        )
        target, drafter = self._models
        parts: Any = ((target, own), (drafter, drafting))
        return replace(own + drafting, parts=parts)
