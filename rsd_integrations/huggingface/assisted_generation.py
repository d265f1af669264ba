"""Standard speculative decoding by transformers' assisted generation, for comparisons.

It runs beside the engine, without its batches and caches.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rsd_core import ConfigurationError, Drafter, Generation, Interrupted, Path, Step, StepRequest, Usage
from rsd_core.blocking import in_thread
from rsd_core.concurrency import outlast
from rsd_core.model import add_usage
from rsd_core.paths import Ending
from rsd_core.queueing import Slots
from rsd_integrations.huggingface.causal_lm import CausalLM
from rsd_integrations.huggingface.digits import REFUSED
from rsd_integrations.inprocess.checks import check_prompt
from rsd_integrations.inprocess.generator import Generator

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DRAFT_LENGTH = 5
"""Tokens that the assistant drafts at a time."""
_turns = Slots(1)
"""transformers samples from torch's one global generator, so speculation takes turns, of all threads and loops."""


class AssistedGeneration(CausalLM):
    """The ability `SpeculativeTarget` of a language model."""

    async def speculate(self, path: Path, request: StepRequest, drafter: Drafter) -> tuple[Generation, Usage]:
        """The rest of the answer, with the drafter as assistant; also the drafter's own work.

        Raises:
            ConfigurationError: The assistant has another vocabulary.
            PromptError: The prompt alone fills the model's context.
            Interrupted: The caller was cancelled after some work, told for each of the two models in `parts`. It ends
                after the tokens that were being verified.
        """
        if not isinstance(drafter, AssistedGeneration) or drafter.vocabulary.identity != self.vocabulary.identity:
            raise ConfigurationError(f"{drafter!r} cannot assist {self.name}: they need one vocabulary, in one process")
        if "int8" in (self.dtype, drafter.dtype):
            raise ConfigurationError(REFUSED)
        if isinstance(self, Generator) and self.grammar is not None:
            raise ConfigurationError(f"{self.name} cannot be assisted where it writes JSON by a schema")
        prefix, prompt = self.vocabulary.ids(path, goes_on=True)
        check_prompt(prompt, self.context, self.name)
        room = min(self.context, drafter.context) - len(prefix)  # no draft goes beyond the last token asked for
        max_tokens = min(request.max_tokens, room)
        if max_tokens <= 0:
            return Generation((Step("", "length"),), Usage(len(prefix))), Usage(len(prefix))
        stopped = threading.Event()
        async with _turns:  # who is cancelled before its turn has done nothing
            speculation = partial(self._speculate, path, prefix, request, max_tokens, drafter, stopped)
            work = asyncio.ensure_future(in_thread(speculation))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError as cancelled:
                stopped.set()
                await outlast(work)
                if work.exception() is not None:
                    raise cancelled from None
                generation, assistance = work.result()
                raise Interrupted(_of_both(self, generation.usage, drafter, assistance)) from None

    @torch.inference_mode()
    def _speculate(
        self,
        path: Path,
        prefix: list[int],
        request: StepRequest,
        max_tokens: int,
        drafter: AssistedGeneration,
        stop: threading.Event,
    ) -> tuple[Generation, Usage]:
        began = time.perf_counter()
        sampling: dict[str, Any] = {"do_sample": False}
        if request.sampling.temperature:
            sampling = {"do_sample": True, "top_k": 0, "top_p": request.sampling.top_p}
            sampling["temperature"] = request.sampling.temperature
        drafting: Any = drafter.model.generation_config
        drafting.num_assistant_tokens, drafting.num_assistant_tokens_schedule = DRAFT_LENGTH, "constant"
        drafting.assistant_confidence_threshold = 0.0
        generate: Any = self.model.generate

        def is_stopped(ids: Tensor, _scores: object, **_: object) -> Tensor:
            return torch.full((len(ids),), stop.is_set(), device=ids.device)

        def usages(generated: int) -> tuple[Usage, Usage]:
            size, seconds = len(prefix), time.perf_counter() - began
            scored = max(0, own[0] - size - generated)
            return Usage(size, own[0], 0, generated, scored, seconds), Usage(
                size, drafted[0], 0, max(0, drafted[0] - size)
            )

        with torch.random.fork_rng(), _counted(self.model) as own, _counted(drafter.model) as drafted:
            torch.manual_seed(request.seeds[0])
            try:
                ids = generate(
                    torch.tensor([prefix], device=self.model.device),
                    attention_mask=torch.ones((1, len(prefix)), dtype=torch.long, device=self.model.device),
                    assistant_model=drafter.model,
                    max_new_tokens=max_tokens,
                    eos_token_id=sorted(self.eos_ids),
                    pad_token_id=min(self.eos_ids, default=0),
                    stopping_criteria=[is_stopped],
                    **sampling,
                )
            except Exception as error:
                work, assistance = usages(0)
                add_usage(error, _of_both(self, work, drafter, assistance))
                raise
        written = [int(id_) for id_ in ids[0, len(prefix) :]]
        ended = bool(written) and written[-1] in self.eos_ids
        ending: Ending = "end" if ended else "length"
        tokens = written[: len(written) - ended]
        vocabulary = self.vocabulary.of(path)
        step = vocabulary.as_step(tokens, ending, len(written), before=vocabulary.ids.begun(path))
        work, assistance = usages(len(written))
        return Generation((step,), work), assistance


def _of_both(target: AssistedGeneration, work: Usage, drafter: AssistedGeneration, assistance: Usage) -> Usage:
    """The work of target and drafter together, and whose it was."""
    parts: Any = ((target, work), (drafter, assistance))
    return replace(work + assistance, parts=parts)


@contextmanager
def _counted(model: PreTrainedModel) -> Iterator[list[int]]:
    """Counts the tokens that this thread runs through a model; the engine's threads may run it meanwhile."""
    tokens, thread = [0], threading.get_ident()

    def count(_module: object, args: tuple[Any, ...], _out: object) -> None:
        if threading.get_ident() == thread:
            tokens[0] += args[0].numel()

    embeddings: Any = model.get_input_embeddings()
    handle = embeddings.register_forward_hook(count)
    try:
        yield tokens
    finally:
        handle.remove()
