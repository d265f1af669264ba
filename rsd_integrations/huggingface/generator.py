"""Causal language models as drafter and target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rsd_core import Drafter, Generation, Message, NextWord, Path, PromptError, Step, StepRequest, Target, Usage
from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.abilities import Abilities
from rsd_integrations.huggingface.bare_model import BareModel
from rsd_integrations.huggingface.calls import Output, Reading, StepEnd, Writing
from rsd_integrations.huggingface.engine import engine_of, threads_for
from rsd_integrations.huggingface.runner import Runner
from rsd_integrations.huggingface.vocabulary import Vocabulary
from rsd_integrations.prm_formats import Layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rsd_integrations.huggingface.bare_tokenizer import BareTokenizer


class HuggingFaceGenerator(Abilities, Drafter, Target):
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
    ) -> None:
        self.name = name
        self.vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
        self.flops_per_token = loading.flops_of(model)
        self.runner = Runner.of(model, threads=threads_for(self.flops_per_token), budget=cache_bytes)
        self.context = self.runner.context
        """Longest sequence in tokens."""
        self.renders_tools = self.vocabulary.renders_tools
        self._ends = _end_ids(model, tokenizer)
        self._step_ends: dict[str | None, StepEnd] = {None: StepEnd(self.vocabulary, self._ends)}

    @property
    def model(self) -> PreTrainedModel:
        """The model of transformers; made when it is first asked for, where its weights were read without."""
        return loading.of_transformers(self.runner.model)

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        """Write the step that follows the path, once per seed.

        Raises:
            PromptError: The prompt alone fills the model's context.
        """
        ids, prompt = self.vocabulary.ids(path)
        if prompt >= self.context:
            raise PromptError(f"the prompt has {prompt} tokens, the context of {self.name} is {self.context}")
        room = min(request.max_tokens, self.context - len(ids))
        if room <= 0:
            return Generation((Step("", "length"),) * len(request.seeds), Usage(len(ids)))
        guess = () if request.guess is None or len(request.seeds) > 1 else self.vocabulary.step(request.guess)
        end = self._step_end(request.delimiter)
        call = Writing(path, self.runner.cache, ids, request, room, end, guess[: room - 1])
        return await engine_of(self.runner.device).perform(self.runner, call)

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

        def read(rows: Sequence[tuple[Output, Layout]]) -> list[float]:
            ((output, _),) = rows
            assert output.logits is not None
            logprobs.extend(output.logits[-1].float().log_softmax(-1)[firsts].tolist())
            return [0.0]

        # A judged step is a path of its own that may not live on; the path before it does, and serves those after it.
        call = Reading(path.parent or path, self.runner.cache, ids[:-1], prompt, [Layout((ids[-1],), read=(0,))], read)
        scores = await engine_of(self.runner.device).perform(self.runner, call)
        return NextWord(tuple(logprobs), scores.usage)

    def _step_end(self, delimiter: str | None) -> StepEnd:
        if delimiter not in self._step_ends:
            assert delimiter is not None
            endings = self.vocabulary.endings(delimiter)
            self._step_ends[delimiter] = StepEnd(self.vocabulary, self._ends, endings, delimiter.encode())
        return self._step_ends[delimiter]


def _end_ids(model: PreTrainedModel | BareModel, tokenizer: PreTrainedTokenizerBase | BareTokenizer) -> frozenset[int]:
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
    model: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    allow_pickles: bool = False,
    cache_bytes: float | None = None,
) -> HuggingFaceGenerator:
    """Load a causal language model as drafter or target.

    Args:
        model: Hub id or folder.
        dtype: `float32`, `bfloat16` or `float16`; by default bf16; on a CPU fp32 below 50 million
            weights, and where bf16 is no faster.
        device: As torch names it; by default a GPU where there is one.
        allow_pickles: Also read weights that are no safetensors. They can run code: only for sources you trust.
        cache_bytes: For keys and values; by default an eighth of the device's memory.

    Raises:
        ConfigurationError: No such checkpoint, or no safetensors in it.
    """
    where, kind = loading.choose_device(device), loading.named_dtype(dtype)
    folder = loading.find(model, allow_pickles)
    files = loading.shards(folder, model, allow_pickles)
    kind = kind or loading.default_dtype(where, files)
    return HuggingFaceGenerator(
        loading.load_causal_lm(folder, kind, where, allow_pickles), loading.load_tokenizer(folder), model, cache_bytes
    )
