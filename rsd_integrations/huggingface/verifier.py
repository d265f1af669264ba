"""Process reward models: a native language-model body with a reward head that we load ourselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path as FilePath

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2Model

from rsd_core import ConfigurationError, Path, Scores, Step, Usage, Verifier, VerifierError
from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.cache import PathCache
from rsd_integrations.huggingface.vocabulary import PathIds, Vocabulary
from rsd_integrations.huggingface.worker import in_worker, threads_for
from rsd_integrations.prm_formats import PRMFormat, find_format


class HuggingFaceVerifier(Verifier):
    """A process reward model that reads every token of a path once.

    The body runs in its own dtype, the head in fp32. A score depends only on what comes before it: reading order,
    rejected candidates and later steps never change it.
    """

    def __init__(
        self, body: Qwen2Model, head: nn.Module, tokenizer: PreTrainedTokenizerBase, format: PRMFormat, name: str
    ) -> None:
        self.name = name
        self.body, self.head, self.format = body, head, format
        self.vocabulary = Vocabulary(tokenizer, body.config.vocab_size)
        self.context: int = body.config.max_position_embeddings
        """Longest sequence in tokens."""
        self.flops_per_token = loading.flops_per_token(body, head)
        separator = self.vocabulary.encode(format.separator)
        if len(separator) != 1:
            raise ConfigurationError(
                f"{name}: its tokenizer has no token {format.separator!r}, which the format {format.name} reads scores "
                "at. Use the tokenizer that was published with the reward model."
            )
        self._separator = separator[0]
        self._cache = PathCache()
        self._ids = PathIds(self._encode_node)

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Probability that each candidate is right, given the path.

        Raises:
            VerifierError: Path and step are longer than the model's context.
        """
        return await in_worker(threads_for(self.flops_per_token), lambda stop: self._score(path, steps, stop))

    def _encode_node(self, node: Path) -> Sequence[int]:
        """The prompt up to the open assistant turn, or a step with its separator."""
        if node.step is None:
            return self.vocabulary.prompt(self.format.messages(node.prompt))
        text = self.format.step_text(node.step.text)
        return [*self.vocabulary.encode(text), self._separator] if text else []

    @torch.inference_mode()
    def _score(self, path: Path, steps: Sequence[Step], stop: threading.Event) -> Scores:
        started = time.perf_counter()
        rewards: list[float] = []
        computed = reused = scored = prefix = 0
        for step in steps:
            if stop.is_set():
                break
            ids, prompt = self._ids(path.extend(step))
            if len(ids) > self.context:
                raise VerifierError(f"{len(ids)} tokens to score, the context of {self.name} is {self.context}")
            known = self._cache.take(path, ids, at_most=len(ids) - 1)
            kept = len(known.ids)
            hidden = self.body(
                input_ids=torch.tensor([ids[kept:]], device=self.body.device),
                past_key_values=known.state,
                use_cache=True,
            ).last_hidden_state
            known.ids = ids
            self._cache.put(path, known)
            logits: Tensor = self.head(hidden[0, -1].float())
            rewards.append(float(torch.softmax(logits, -1)[self.format.positive]))
            computed += len(ids) - kept
            reused += kept
            scored += len(ids) - max(kept, prompt)
            prefix = len(ids)
        return Scores(tuple(rewards), Usage(prefix, computed, reused, 0, scored, seconds=time.perf_counter() - started))


class _Body(Qwen2Model):  # type: ignore[no-untyped-call]
    """The native body; heads are none of its business."""

    _keys_to_ignore_on_load_unexpected = [r"^score\.", r"^v_head\.", r"^lm_head\."]  # noqa: RUF012 - as the base has it


def load_verifier(model: str, *, dtype: str | None = None, device: str | None = None) -> HuggingFaceVerifier:
    """Load a process reward model by the tensors in its weights, without remote code.

    Args:
        model: Hub id or folder.
        dtype: Of the body; by default fp32 on a CPU and bf16 elsewhere. The head is always fp32.
        device: As torch names it; by default a GPU where there is one.

    Raises:
        ConfigurationError: No such checkpoint, no safetensors in it, or no reward head that is known.
    """
    where = loading.choose_device(device)
    kind = loading.choose_dtype(dtype, where)
    folder = loading.find(model)
    names = loading.tensor_names(loading.shards(folder, model))
    raw = loading.read_config(folder)
    layout = find_format(raw, names, model)
    head = _load_head(names, layout, model).to(where)
    config = Qwen2Config(**{key: value for key, value in raw.items() if key not in ("auto_map", "model_type")})
    with loading.quiet():
        body = _Body.from_pretrained(folder, config=config, dtype=kind, use_safetensors=True)
    nn.Module.to(body, where)
    nn.Module.eval(body)
    for name, buffer in body.named_buffers():
        if not torch.isfinite(buffer).all():
            raise ConfigurationError(f"{model}: the buffer {name} is not finite after loading")
    return HuggingFaceVerifier(body, head, loading.load_tokenizer(folder), layout, model)


def _load_head(names: dict[str, FilePath], format: PRMFormat, model: str) -> nn.Module:
    layers: list[nn.Module] = []
    for layer in format.head:
        if f"{layer}.weight" not in names or f"{layer}.bias" not in names:
            raise ConfigurationError(
                f"{model}: the reward head {layer!r} of the format {format.name} is missing from its weights; "
                "without it every score would be random. Is the download complete?"
            )
        weight, bias = (loading.read_tensor(names, f"{layer}.{part}") for part in ("weight", "bias"))
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": weight, "bias": bias})
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()
