"""Causal language models as drafter and target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from rsd_core import (
    Drafter,
    Entropy,
    Generation,
    Message,
    NextWord,
    Path,
    Prompt,
    PromptError,
    Step,
    StepRequest,
    Target,
    Thinking,
    Usage,
)
from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.assisted_generation import AssistedGeneration
from rsd_integrations.huggingface.bare_model import BareModel
from rsd_integrations.huggingface.calls import Output
from rsd_integrations.huggingface.chat_template import chat_template
from rsd_integrations.huggingface.checks import check_prompt
from rsd_integrations.huggingface.engine import engine_of
from rsd_integrations.huggingface.from_pretrained import load_tokenizer
from rsd_integrations.huggingface.generate_call import GenerateCall
from rsd_integrations.huggingface.log_likelihoods import LogLikelihoods
from rsd_integrations.huggingface.score_call import ScoreCall
from rsd_integrations.huggingface.step_end import StepEnd
from rsd_integrations.prm_formats import Layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rsd_integrations.huggingface.bare_tokenizer import BareTokenizer


class HuggingFaceGenerator(LogLikelihoods, AssistedGeneration, Drafter, Target):
    """A causal language model that writes steps.

    Keys and values of accepted steps stay cached for each path, so that every token is computed once. Calls of any
    threads and event loops share its forward passes. Decoding is greedy, or by temperature and top-p with random
    numbers of each step's own; a checkpoint's own sampling defaults are not used.
    """

    def __init__(
        self,
        model: PreTrainedModel | BareModel,
        tokenizer: PreTrainedTokenizerBase | BareTokenizer,
        name: str,
        cache_bytes: float | None = None,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model, tokenizer, name, cache_bytes, template)
        self.renders_tools = self.vocabulary.renders_tools

    def thinking(self, prompt: Prompt) -> Thinking | None:
        """How the model thinks before it answers the prompt, as its chat template tells."""
        return self.vocabulary.thinking(prompt)

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        """Write the step that follows the path, once per seed.

        Raises:
            PromptError: The prompt alone fills the model's context.
        """
        ids, prompt = self.vocabulary.ids(path)
        check_prompt(prompt, self.context, self.name)
        max_tokens = min(request.max_tokens, self.context - len(ids))
        if max_tokens <= 0:
            return Generation((Step("", "length"),) * len(request.seeds), Usage(len(ids)))
        guess = () if request.guess is None or len(request.seeds) > 1 else self.vocabulary.step(request.guess)
        end = StepEnd(self.vocabulary, self.eos_ids, request.splitter)
        call = GenerateCall(path, self.runner.cache, ids, request, max_tokens, end, guess[: max_tokens - 1])
        return await engine_of(self.runner.device).run(self.runner, call)

    async def first_token_entropy(self, path: Path) -> Entropy:
        """Entropy of the token that follows the path, 0 where the context is full and none can.

        What was read of the path stays cached, with what it gave: a draft goes on from there.

        Raises:
            PromptError: The prompt alone fills the model's context.
        """
        ids, prompt = self.vocabulary.ids(path)
        check_prompt(prompt, self.context, self.name)
        if len(ids) >= self.context:
            return Entropy(0.0, Usage(len(ids)))
        nats: list[float] = []

        def note(candidates: Sequence[tuple[Output, Layout]]) -> list[float]:
            ((output, _),) = candidates
            assert output.logits is not None
            logprobs = output.logits[-1].float().log_softmax(-1)
            nats.append(max(0.0, float(torch.special.entr(logprobs.exp()).sum())))
            return [0.0]

        call = ScoreCall(path, self.runner.cache, ids, prompt, [Layout((), read=(-1,))], note)
        scores = await engine_of(self.runner.device).run(self.runner, call)
        return Entropy(nats[0], replace(scores.usage, scored=0))

    async def next_word(self, path: Path, words: Sequence[str], after: Sequence[Message] = ()) -> NextWord:
        """Log-probabilities of words as the next text; what was read of the path stays cached.

        Raises:
            PromptError: What is to be read is longer than the context.
            ConfigurationError: Two words begin with the same token, or one joins with the text before it.
        """
        ids, prompt = self.vocabulary.ids(path)
        ids = [*ids, *self.vocabulary.after(path.prompt, after)] if after else ids
        if len(ids) > self.context:
            raise PromptError(f"{len(ids)} tokens to read, the context of {self.name} is {self.context}")
        firsts = self.vocabulary.first_tokens(ids[-1], words)
        logprobs: list[float] = []

        def note(candidates: Sequence[tuple[Output, Layout]]) -> list[float]:
            ((output, _),) = candidates
            assert output.logits is not None
            logprobs.extend(output.logits[-1].float().log_softmax(-1)[firsts].tolist())
            return [0.0]

        # A judged step is a path of its own that may not live on; the path before it does, and serves those after it.
        layout = Layout((ids[-1],), read=(0,))
        call = ScoreCall(path.parent or path, self.runner.cache, ids[:-1], prompt, [layout], note)
        scores = await engine_of(self.runner.device).run(self.runner, call)
        return NextWord(tuple(logprobs), scores.usage)


def load_generator(
    model: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    allow_pickles: bool = False,
    cache_bytes: float | None = None,
    template: Mapping[str, Any] | None = None,
) -> HuggingFaceGenerator:
    """Load a causal language model as drafter or target.

    Args:
        model: Hub id or folder.
        dtype: `float32`, `bfloat16` or `float16`; by default bf16; on a CPU fp32 below 50 million
            weights, and where bf16 is no faster.
        device: As torch names it; by default a GPU where there is one.
        allow_pickles: Also read weights that are no safetensors. They can run code: only for sources you trust.
        cache_bytes: For keys and values; by default an eighth of the device's memory.
        template: Arguments of the chat template: `{"enable_thinking": False}`.

    Raises:
        ConfigurationError: No such checkpoint, no safetensors in it, or its chat template uses no such argument.
    """
    where, kind = loading.choose_device(device), loading.named_dtype(dtype)
    folder = loading.find(model, allow_pickles)
    files = loading.shards(folder, model, allow_pickles)
    kind = kind or loading.default_dtype(where, files)
    tokenizer = load_tokenizer(folder)
    chat_template(tokenizer, template)  # refuses what it does not take, before the weights are read
    weights = loading.load_causal_lm(folder, kind, where, allow_pickles)
    return HuggingFaceGenerator(weights, tokenizer, model, cache_bytes, template)
