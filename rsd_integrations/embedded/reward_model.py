"""Training of the embedded verifier: a process reward model in the layout of Qwen2.5-Math-PRM.

It learns from rollouts of the small models. In each step the tokens before the first wrong one are labelled right,
the first wrong one wrong, and what follows it in the step is left alone; the separator after the step carries the
label of the whole step. Token labels teach what a mistake is, separators where to report it, so the weight moves
from the first to the second. A language-model loss on right steps keeps the body's knowledge of the task.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from rsd_integrations.embedded.language_model import IGNORE, SAVE_EVERY, Optimizer
from rsd_integrations.embedded.rollouts import Rollout
from rsd_integrations.embedded.vocabulary import STEP_END


@dataclass(frozen=True, slots=True)
class RewardRecipe:
    """Size and schedule of the reward model."""

    new_layers: int = 1
    """Fresh layers above those of the language model that it starts from."""
    steps: int = 6000
    tokens: int = 4800
    muon_lr: float = 0.01
    adam_lr: float = 2e-3
    lm_weight: float = 0.3
    seed: int = 0


@dataclass(slots=True)
class Example:
    """One rollout as the reward model reads it."""

    ids: list[int]
    prompt: int
    tokens: list[int] = field(default_factory=list)
    """Per position: 1 right so far, 0 the first wrong token of a step, `IGNORE`."""
    steps: list[int] = field(default_factory=list)
    """Per position: the verdict at separators, `IGNORE` elsewhere."""


def encode(tokenizer: PreTrainedTokenizerBase, rollout: Rollout) -> Example:
    """Lay out a rollout with its labels; reading ends where the judge stopped."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": rollout.problem.question}], tokenize=False, add_generation_prompt=True
    )
    ids: list[int] = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    example = Example(ids, len(ids), [IGNORE] * len(ids), [IGNORE] * len(ids))
    separator: int = tokenizer.get_vocab()[STEP_END]
    for step, verdict in zip(rollout.steps, rollout.verdicts, strict=False):
        written = tokenizer(step.strip("\r\n"), add_special_tokens=False)["input_ids"]
        right = len(written)
        if not verdict.right:
            wanted = tokenizer(verdict.reference, add_special_tokens=False)["input_ids"]
            right = next((i for i, (a, b) in enumerate(zip(written, wanted, strict=False)) if a != b), len(written) - 1)
        example.ids += [*written, separator]
        wrong: list[int] = [] if verdict.right else [0, *[IGNORE] * (len(written) - right - 1)]
        example.tokens += [*[1] * right, *wrong, IGNORE]
        example.steps += [*[IGNORE] * len(written), int(verdict.right)]
    return example


class RewardModel(nn.Module):
    """A Qwen2 body with a two-layer head at every position, and its language-model head for training only."""

    def __init__(self, start: Path, new_layers: int) -> None:
        super().__init__()
        config = Qwen2Config.from_pretrained(start)
        trained = config.num_hidden_layers
        config.num_hidden_layers = config.max_window_layers = trained + new_layers
        config.layer_types = None
        config = Qwen2Config(**{k: v for k, v in config.to_dict().items() if k != "layer_types"})
        config._attn_implementation = "eager"
        self.lm = Qwen2ForCausalLM(config)
        weights = load_file(start / "model.safetensors")
        missing, unexpected = self.lm.load_state_dict(weights, strict=False)
        fresh = {f"model.layers.{i}." for i in range(trained, trained + new_layers)}
        assert not unexpected
        assert all(name.startswith((*fresh, "lm_head.weight")) for name in missing), missing
        for layer in self.lm.model.layers[trained:]:  # start as the identity, so that nothing learned is disturbed
            nn.init.zeros_(layer.self_attn.o_proj.weight)
            nn.init.zeros_(layer.mlp.down_proj.weight)
        width = config.hidden_size
        self.score = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Head logits and language-model logits at every position."""
        hidden = self.lm.model(input_ids=ids, use_cache=False).last_hidden_state
        return self.score(hidden), self.lm.lm_head(hidden)


def train(
    recipe: RewardRecipe, start: Path, examples: list[Example], tokenizer: PreTrainedTokenizerBase, work: Path
) -> Path:
    """Train the reward model, or resume an interrupted training.

    Args:
        recipe: Size and schedule.
        start: Checkpoint of the language model that the body starts from.
        examples: Judged rollouts.
        tokenizer: The family's tokenizer.
        work: Working folder.

    Returns:
        The folder with the finished checkpoint, `work/verifier`.
    """
    out, partial = work / "verifier", work / "verifier.partial.pt"
    if (out / "model.safetensors").exists():
        return out
    torch.manual_seed(recipe.seed)
    model = RewardModel(start, recipe.new_layers).to(torch.bfloat16)
    optimizer = Optimizer(model, recipe.muon_lr, recipe.adam_lr, recipe.steps)
    first = 0
    if partial.exists():
        saved = torch.load(partial)
        first = saved["step"]
        optimizer.load_state_dict(saved["optimizer"])
    forward = torch.compile(model, dynamic=True)
    bar = tqdm(total=recipe.steps, initial=first, desc="verifier", mininterval=5)
    shown = torch.zeros(3)
    for step, batch in enumerate(_batches(recipe, examples, tokenizer.pad_token_id, first), first):
        ids, tokens, ends, texts = batch
        scores, words = forward(ids)
        progress = step / recipe.steps
        parts = [
            _balanced(scores, tokens),
            _balanced(scores, ends),
            nn.functional.cross_entropy(
                words[:, :-1].flatten(0, 1).float(), texts[:, 1:].flatten(), ignore_index=IGNORE
            ),
        ]
        weight = min(1.0, progress / 0.3)
        loss = (1.5 - weight) * parts[0] + (0.3 + weight) * parts[1] + recipe.lm_weight * parts[2]
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        now = torch.stack([part.detach() for part in parts])
        shown = now if step == first else 0.98 * shown + 0.02 * now
        bar.set_postfix(token=f"{shown[0]:.3f}", step=f"{shown[1]:.3f}", lm=f"{shown[2]:.3f}", refresh=False)
        bar.update()
        if (step + 1) % SAVE_EVERY == 0:
            torch.save({"step": step + 1, "optimizer": optimizer.state_dict()}, partial)
    save(model, tokenizer, out)
    partial.unlink(missing_ok=True)
    return out


def save(model: RewardModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the checkpoint in the published layout: `model.*` for the body, `score.0` and `score.2` for the head."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in model.lm.state_dict().items() if name != "lm_head.weight"}
    tensors |= {f"score.{name}": value.contiguous() for name, value in model.score.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.lm.config.to_dict()
    config |= {"architectures": ["Qwen2ForProcessRewardModel"], "prm_format": "qwen2.5-math-prm-bare"}
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=str) + "\n")
    tokenizer.save_pretrained(folder)


def _balanced(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in which right and wrong weigh the same."""
    chosen = labels != IGNORE
    logits, labels = logits[chosen].float(), labels[chosen]
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    right = labels == 1
    parts = [losses[mask].mean() for mask in (right, ~right) if mask.any()]
    return torch.stack(parts).mean()


def _batches(
    recipe: RewardRecipe, examples: list[Example], pad: int, first: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Length-bucketed batches of (ids, token labels, step labels, language-model labels) from step `first` on."""
    step = 0
    for epoch in range(10**9):
        rng = random.Random(f"{recipe.seed}:{epoch}")
        order = sorted(examples, key=lambda example: (len(example.ids) // 8, rng.random()))
        groups, group = [], list[Example]()
        for example in order:
            if group and (len(group) + 1) * max(len(example.ids), len(group[-1].ids)) > recipe.tokens:
                groups.append(group)
                group = []
            group.append(example)
        rng.shuffle(groups)
        for group in groups:
            if step >= recipe.steps:
                return
            if step >= first:
                yield _collate(group, pad)
            step += 1


def _collate(group: list[Example], pad: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    longest = max(len(example.ids) for example in group)
    ids = torch.full((len(group), longest), pad)
    tokens, ends, texts = (torch.full((len(group), longest), IGNORE) for _ in range(3))
    for i, example in enumerate(group):
        n = len(example.ids)
        ids[i, :n] = torch.tensor(example.ids)
        tokens[i, :n] = torch.tensor(example.tokens)
        ends[i, :n] = torch.tensor(example.steps)
        texts[i, :n] = torch.where(tokens[i, :n] == 1, ids[i, :n], IGNORE)
    return ids, tokens, ends, texts
