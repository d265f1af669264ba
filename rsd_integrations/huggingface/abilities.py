"""What models in process can do beyond writing steps, for the baselines that ask for it.

Log-likelihoods share the caches and batches of step generation. Speculative decoding is transformers' own, and runs
apart from them: it serves comparisons.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from rsd_core import ConfigurationError, Drafter, Generation, Likelihoods, Path, PromptError, Step, StepRequest, Usage
from rsd_core.paths import Ending
from rsd_integrations.huggingface.calls import Output, Reading
from rsd_integrations.huggingface.engine import engine_of
from rsd_integrations.prm_formats import Layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rsd_integrations.huggingface.runner import Runner
    from rsd_integrations.huggingface.vocabulary import Vocabulary

GUESSES = 5
"""Tokens that an assistant guesses at a time."""
_seeding = threading.Lock()


class Abilities:
    """Log-likelihoods of given steps, and standard speculative decoding by transformers' assisted generation."""

    name: str
    vocabulary: Vocabulary
    runner: Runner
    context: int
    _ends: frozenset[int]

    @property
    @abstractmethod
    def model(self) -> PreTrainedModel:
        """The model of transformers."""

    async def log_likelihoods(self, path: Path, steps: Sequence[Step]) -> Likelihoods:
        """Log-probability of each step after the path, the end of the answer included where the step ends it.

        Raises:
            PromptError: Path and step are longer than the model's context.
        """
        before, prompt = self.vocabulary.ids(path)
        written = [tuple(self.vocabulary.step(step)) for step in steps]
        if (longest := len(before) + max(map(len, written))) > self.context:
            raise PromptError(f"{longest} tokens to read, the context of {self.name} is {self.context}")
        layouts = [Layout(ids, read=tuple(range(-1, len(ids)))) for ids in written]
        ended = {id(layout) for layout, step in zip(layouts, steps, strict=True) if step.ending == "end" and self._ends}

        def judge(read: Sequence[tuple[Output, Layout]]) -> list[float]:
            return [self._log_likelihood(output, layout, id(layout) in ended) for output, layout in read]

        call = Reading(path, self.runner.cache, before, prompt, layouts, judge)
        made = await engine_of(self.runner.device).perform(self.runner, call)
        return Likelihoods(tuple(value or 0.0 for value in made.rewards), made.usage)

    def _log_likelihood(self, output: Output, layout: Layout, ended: bool) -> float:
        assert output.logits is not None
        logprobs = output.logits.float().log_softmax(-1)
        tokens = torch.tensor(layout.feed, dtype=torch.long, device=logprobs.device)
        value = float(logprobs[:-1].gather(1, tokens[:, None]).sum())
        return value + float(logprobs[-1, sorted(self._ends)].logsumexp(0)) if ended else value

    async def speculate(self, path: Path, request: StepRequest, drafter: Drafter) -> tuple[Generation, Usage]:
        """The rest of the answer, with the drafter as assistant.

        Raises:
            ConfigurationError: The assistant has another vocabulary.
        """
        if not isinstance(drafter, Abilities) or drafter.vocabulary.identity != self.vocabulary.identity:
            raise ConfigurationError(f"{drafter!r} cannot assist {self.name}: they need one vocabulary, in one process")
        return await asyncio.to_thread(self._speculate, path, request, drafter)

    @torch.inference_mode()
    def _speculate(self, path: Path, request: StepRequest, drafter: Abilities) -> tuple[Generation, Usage]:
        started = time.perf_counter()
        ids, prompt = self.vocabulary.ids(path)
        if prompt >= self.context:
            raise PromptError(f"the prompt has {prompt} tokens, the context of {self.name} is {self.context}")
        room = min(request.max_tokens, self.context - len(ids), drafter.context - len(ids) - GUESSES)
        sampling: dict[str, Any] = {"do_sample": False}
        if request.sampling.temperature:
            sampling = {"do_sample": True, "top_k": 0, "top_p": request.sampling.top_p}
            sampling["temperature"] = request.sampling.temperature
        guessing: Any = drafter.model.generation_config
        guessing.num_assistant_tokens, guessing.num_assistant_tokens_schedule = GUESSES, "constant"
        guessing.assistant_confidence_threshold = 0.0
        generate: Any = self.model.generate
        # transformers samples from torch's one global generator, so speculation takes turns.
        with _seeding, torch.random.fork_rng(), _watched(self.model) as own, _watched(drafter.model) as guessed:
            torch.manual_seed(request.seeds[0])
            out = generate(
                torch.tensor([ids], device=self.model.device),
                attention_mask=torch.ones((1, len(ids)), dtype=torch.long, device=self.model.device),
                assistant_model=drafter.model,
                max_new_tokens=max(1, room),
                eos_token_id=sorted(self._ends),
                pad_token_id=min(self._ends, default=0),
                **sampling,
            )
        seconds = time.perf_counter() - started
        written = [int(token) for token in out[0, len(ids) :]]
        ended = bool(written) and written[-1] in self._ends
        ending: Ending = "end" if ended else "length"
        kept = written[: len(written) - ended]
        step = Step(self.vocabulary.text(kept), ending, tuple(kept), self.vocabulary.identity, len(written))
        size, read = len(written), len(ids)
        work = Usage(read, own[0], 0, size, max(0, own[0] - read - size), seconds)
        return Generation((step,), work), Usage(read, guessed[0], 0, max(0, guessed[0] - read))


@contextmanager
def _watched(model: PreTrainedModel) -> Iterator[list[int]]:
    """Counts the tokens that this thread runs through a model."""
    seen, thread = [0], threading.get_ident()

    def count(_module: object, args: tuple[Any, ...], _out: object) -> None:
        if threading.get_ident() == thread:
            seen[0] += args[0].numel()

    embeddings: Any = model.get_input_embeddings()
    handle = embeddings.register_forward_hook(count)
    try:
        yield seen
    finally:
        handle.remove()
