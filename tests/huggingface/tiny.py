"""Small random checkpoints in the layouts that real ones have."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from rsd_core import Path as StepPath
from rsd_integrations.embedded.vocabulary import build


@lru_cache
def tokenizer() -> PreTrainedTokenizerBase:
    return build(0)


def config(**changes: object) -> Qwen2Config:
    options: dict[str, object] = {
        "vocab_size": len(tokenizer()),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer().eos_token_id,
        "initializer_range": 0.3,
    }
    return Qwen2Config(**options | changes)  # type: ignore[arg-type]


def make_causal_lm(folder: Path, seed: int = 0, **changes: object) -> Path:
    torch.manual_seed(seed)
    Qwen2ForCausalLM(config(**changes)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def make_prm(
    folder: Path, *, seed: int = 0, head: bool = True, sizes: Mapping[str, object] = {}, **changes: object
) -> Path:
    """A reward model in the layout of Qwen2.5-Math-PRM, remote-code entries of its config included."""
    make_causal_lm(folder, seed, tie_word_embeddings=False, **sizes)
    torch.manual_seed(seed + 1)
    width = 64
    tensors = {name: tensor.contiguous() for name, tensor in _tensors(folder).items()}
    if head:
        tensors |= {
            "score.0.weight": torch.randn(width, width) / 8,
            "score.0.bias": torch.randn(width),
            "score.2.weight": torch.randn(2, width),
            "score.2.bias": torch.randn(2),
        }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    raw = json.loads((folder / "config.json").read_text())
    raw |= {
        "architectures": ["Qwen2ForProcessRewardModel"],
        "auto_map": {"AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel"},
        "model_type": "qwen2_rm",
    }
    raw |= changes
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def copied(path: StepPath) -> StepPath:
    """An equal path of another identity, unknown to every cache."""
    made = StepPath(path.prompt)
    for step in path.steps:
        made = made.extend(step)
    return made
