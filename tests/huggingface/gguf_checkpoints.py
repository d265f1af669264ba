"""Small random checkpoints of the architectures that GGUF files share, and llama.cpp's numbers for a file."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
from torch.nn.functional import gelu
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from rsd_integrations.embedded.task import problems
from rsd_integrations.llamacpp.context import Context
from rsd_integrations.llamacpp.model import Model
from tests.huggingface.tiny import tokenizer

SHAPE: dict[str, Any] = {
    "vocab_size": len(tokenizer()),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, **more}}


LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
GEMMA = {
    "num_hidden_layers": 7,  # six with a window among them
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 16,
    "initializer_range": 0.1,  # a number between two of that table counts for less
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
    },
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, linear": ("qwen2", rope("linear", factor=4.0)),
    "qwen2, yarn": ("qwen2", rope("yarn", factor=4.0, original_max_position_embeddings=64)),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "llama": ("llama", {}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 32}),
    "llama, scaled": ("llama", rope("llama3", factor=8.0, **LLAMA3) | {"head_dim": 32}),
    "mistral": ("mistral", {"sliding_window": None}),
    "gemma3": ("gemma3_text", GEMMA),
}


def make(case: str, folder: Path, **changes: Any) -> Path:
    """A random checkpoint with the family's tokenizer; norms and biases are random as well."""
    kind, own = CASES[case]
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SHAPE | own | changes)
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    for name, weights in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            centre = 1.0 if "norm" in name and kind != "gemma3_text" else 0.0
            torch.nn.init.normal_(weights, centre, 0.3)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def sentencepiece(folder: Path, *, begins: bool) -> Path:
    """A checkpoint with a vocabulary as SentencePiece makes it: spaces are ▁, bytes are tokens, and a text begins."""
    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    spaces = normalizers.Replace(" ", "▁")
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if begins else spaces
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False)
    learner.train_from_iterator([problem.question for problem in itertools.islice(problems("train", 1), 200)], trainer)
    learned = json.loads(learner.to_str())["model"]
    words = [*special, *bytes_, *sorted(learned["vocab"], key=learned["vocab"].get), "<think>"]
    backend = Tokenizer(
        models.BPE(
            vocab={word: at for at, word in enumerate(words)},
            merges=[tuple(pair) for pair in learned["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    backend.normalizer = normalizer
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(special)
    backend.add_tokens([AddedToken("<think>", normalized=False, special=False)])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    make("llama", folder, vocab_size=len(words) + 5, bos_token_id=1, pad_token_id=None)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / file).unlink()
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


def ids(count: int, size: int = 500) -> list[int]:
    return torch.randint(0, size, (count,), generator=torch.Generator().manual_seed(0)).tolist()


def exact(model: Model, **options: Any) -> Context:
    """A context in single precision: flash attention rounds keys and values to half of that."""
    parameters = model.library.context_parameters
    model.library.context_parameters = functools.partial(parameters, flash_attn_type=0)  # type: ignore[method-assign]
    try:
        return Context(model, cells=1024, cache_type="f32", **options)
    finally:
        model.library.context_parameters = parameters  # type: ignore[method-assign]


def logits(file: Path, tokens: list[int]) -> NDArray[np.float32]:
    """Of every token, by llama.cpp in single precision."""
    context = exact(Model.load(file, gpu_layers=0))
    assert context.decode([(0, 0, tokens)], list(range(len(tokens))))
    return context.logits(len(tokens))


class LookedUp(torch.nn.Module):
    """GELU out of llama.cpp's table."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return gelu(x.half().float(), approximate="tanh").half().float()


def own_logits(folder: Path, tokens: list[int]) -> NDArray[np.float32]:
    """Of every token, by transformers in single precision; GELU in half precision, as llama.cpp looks it up."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for layer in model.model.layers if model.config.model_type == "gemma3_text" else []:
        layer.mlp.act_fn = LookedUp()
    with torch.inference_mode():
        numbers: NDArray[np.float32] = model(torch.tensor([tokens])).logits[0].numpy()
    return numbers
