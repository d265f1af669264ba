"""Causal language models as drafter and target."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rsd_core import Drafter, Generation, Message, NextWord, Path, PromptError, Step, StepRequest, Target, Usage
from rsd_core.paths import Ending
from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.cache import Computed, PathCache
from rsd_integrations.huggingface.vocabulary import Vocabulary
from rsd_integrations.huggingface.worker import in_worker, threads_for


class HuggingFaceGenerator(Drafter, Target):
    """A causal language model that writes steps.

    Keys and values of accepted steps stay cached for each path, so that every token is computed once. Decoding is
    greedy, or by temperature and top-p with a generator per step; a checkpoint's own sampling defaults are not used.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self.name = name
        self.model = model
        self.vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
        self.context: int = model.config.max_position_embeddings
        """Longest sequence in tokens."""
        self.flops_per_token = loading.flops_per_token(model.base_model, loading.output_head(model))
        self.renders_tools = self.vocabulary.renders_tools
        self._ends = _end_ids(model, tokenizer)
        self._cache = PathCache()
        self._endings = lru_cache(self.vocabulary.endings)

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        """Write the step that follows the path, once per seed.

        Raises:
            PromptError: The prompt alone fills the model's context.
        """
        return await in_worker(threads_for(self.flops_per_token), lambda stop: self._generate(path, request, stop))

    async def next_word(self, path: Path, words: Sequence[str], after: Sequence[Message] = ()) -> NextWord:
        """Log-probabilities of words as the next text; what was read of the path stays cached.

        Raises:
            PromptError: What is to be read is longer than the context.
            ConfigurationError: Two words begin with the same token, or one joins with the text before it.
        """
        return await in_worker(threads_for(self.flops_per_token), lambda _: self._next_word(path, words, after))

    @torch.inference_mode()
    def _next_word(self, path: Path, words: Sequence[str], after: Sequence[Message]) -> NextWord:
        started = time.perf_counter()
        ids = self.vocabulary.ids(path)[0]
        ids += self.vocabulary.after(path.prompt, after) if after else []
        if len(ids) > self.context:
            raise PromptError(f"{len(ids)} tokens to read, the context of {self.name} is {self.context}")
        firsts = self.vocabulary.first_tokens(ids[-1], words)
        known = self._cache.take(path, ids, at_most=len(ids) - 1)
        reused = len(known.ids)
        logprobs = self._forward(known, ids[reused:]).float().log_softmax(-1)
        # A judged step is a path of its own that may not live on; the path before it does, and serves those after it.
        self._cache.put(path.parent or path, known)
        usage = Usage(len(ids), len(ids) - reused, reused, seconds=time.perf_counter() - started)
        return NextWord(tuple(float(logprobs[first]) for first in firsts), usage)

    @torch.inference_mode()
    def _generate(self, path: Path, request: StepRequest, stop: threading.Event) -> Generation:
        started = time.perf_counter()
        ids, prompt = self.vocabulary.ids(path)
        if prompt >= self.context:
            raise PromptError(f"the prompt has {prompt} tokens, the context of {self.name} is {self.context}")
        steps, computed, reused, generated = [], 0, 0, 0
        for seed in request.seeds:
            room = min(request.max_tokens, self.context - len(ids))
            if room <= 0:
                steps.append(Step("", "length"))
                continue
            known = self._cache.take(path, ids, at_most=len(ids) - 1)
            reused += len(known.ids)
            before = len(known.ids)
            step = self._write(known, ids, request, seed, room, stop)
            computed += len(known.ids) - before
            generated += step.size
            steps.append(step)
            self._cache.put(path, known)
        usage = Usage(len(ids), computed, reused, generated, seconds=time.perf_counter() - started)
        return Generation(tuple(steps), usage)

    def _write(
        self, known: Computed, ids: list[int], request: StepRequest, seed: int, room: int, stop: threading.Event
    ) -> Step:
        """Write one step of at most `room` tokens; `known` grows by every token that is run through the model."""
        delimiter = request.delimiter
        endings = self._endings(delimiter) if delimiter is not None else frozenset()
        mark = delimiter.encode() if delimiter is not None else None
        pieces = self.vocabulary.pieces
        generator = torch.Generator(self.model.device).manual_seed(seed)
        written: list[int] = []
        logprobs: list[float] = []
        tail = b""
        ending: Ending = "length"
        feed, size = ids[len(known.ids) :], 0
        while size < room and not stop.is_set():
            logits = self._forward(known, feed)
            token = choose(logits, request.sampling.temperature, request.sampling.top_p, generator)
            size += 1
            if token in self._ends:
                ending = "end"
                break
            written.append(token)
            logprobs.append(float(logits.float().log_softmax(-1)[token]))
            feed = [token]
            if mark is not None:
                # The mark may also straddle tokens, where a model writes it in pieces.
                tail = (tail + pieces[token])[-len(mark) - len(pieces[token]) + 1 :]
                if token in endings or mark in tail:
                    ending = "delimiter"
                    break
        text, known_as = self.vocabulary.text(written), self.vocabulary.identity
        return Step(text, ending, tuple(written), known_as, size, tuple(logprobs))

    def _forward(self, known: Computed, feed: list[int]) -> Tensor:
        """Logits after the last of some tokens, which follow the known ones."""
        out = self.model(
            input_ids=torch.tensor([feed], device=self.model.device),
            past_key_values=known.state,
            use_cache=True,
            logits_to_keep=1,
        )
        known.ids.extend(feed)
        logits: Tensor = out.logits[0, -1]
        return logits


def choose(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Sample a token from the logits of one position; temperature 0 takes the largest."""
    if temperature == 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    if top_p < 1:
        ranked, order = probabilities.sort(descending=True, stable=True)
        ranked[ranked.cumsum(0) - ranked >= top_p] = 0  # keeps the first token that crosses the line
        return int(order[torch.multinomial(ranked, 1, generator=generator)])
    return int(torch.multinomial(probabilities, 1, generator=generator))


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every id that ends an answer: of the generation defaults, the configuration and the tokenizer."""
    found: set[int] = set()
    for value in (
        None if model.generation_config is None else model.generation_config.eos_token_id,
        model.config.eos_token_id,
        tokenizer.eos_token_id,
    ):
        found.update([value] if isinstance(value, int) else value or [])
    return frozenset(found)


def load_generator(
    model: str, *, dtype: str | None = None, device: str | None = None, allow_pickles: bool = False
) -> HuggingFaceGenerator:
    """Load a causal language model as drafter or target.

    Args:
        model: Hub id or folder.
        dtype: `float32`, `bfloat16` or `float16`; by default fp32 on a CPU and bf16 elsewhere.
        device: As torch names it; by default a GPU where there is one.
        allow_pickles: Also read weights that are no safetensors. They can run code: only for sources you trust.

    Raises:
        ConfigurationError: No such checkpoint, or no safetensors in it.
    """
    where = loading.choose_device(device)
    kind = loading.choose_dtype(dtype, where)
    folder = loading.find(model, allow_pickles)
    loading.shards(folder, model, allow_pickles)
    return HuggingFaceGenerator(
        loading.load_causal_lm(folder, kind, where, allow_pickles), loading.load_tokenizer(folder), model
    )
