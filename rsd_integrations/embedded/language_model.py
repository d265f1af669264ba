"""Training of the embedded drafter and target: small Qwen2 language models on streams of fresh problems."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from rsd_integrations.embedded.task import MAX_QUANTITY, OPERATORS, equation, problems
from rsd_integrations.embedded.vocabulary import CONTEXT

SAVE_EVERY = 250
"""Optimizer steps between checkpoints of an unfinished training."""
IGNORE = -100
"""Label of positions without loss, as in `torch.nn.functional.cross_entropy`."""


class Row(NamedTuple):
    """A conversation, with the label of each position."""

    ids: list[int]
    labels: list[int]
    """The ids at positions with loss, else `IGNORE`."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Size and schedule of one language model."""

    layers: int
    width: int
    steps: int
    """Optimizer steps."""
    tokens: int = 4800
    """Padded tokens in a batch."""
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    seed: int = 0
    context: int = CONTEXT
    ends: tuple[str, ...] = ()
    """Tokens with an additional separate loss: they are rare, and would be drowned out by the others."""

    def config(self, tokenizer: PreTrainedTokenizerBase) -> Qwen2Config:
        """A standard Qwen2 configuration with attention heads of size 32."""
        heads = self.width // 32
        return Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=self.width,
            intermediate_size=-(-self.width * 8 // 3 // 32) * 32,
            num_hidden_layers=self.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=self.context,
            max_window_layers=self.layers,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype=torch.bfloat16,
        )


class Optimizer:
    """Muon on hidden matrices and AdamW on the rest, over fp32 masters of bf16 weights."""

    def __init__(self, model: nn.Module, muon_lr: float, adam_lr: float, steps: int, hold: float = 0.3) -> None:
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.masters = [nn.Parameter(p.detach().float().clone()) for p in self.weights]
        hidden = {id(p) for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "score" not in n}
        pairs = list(zip(self.weights, self.masters, strict=True))
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon([m for p, m in pairs if id(p) in hidden], lr=muon_lr, weight_decay=0.02),
            torch.optim.AdamW([m for p, m in pairs if id(p) not in hidden], lr=adam_lr, betas=(0.9, 0.95)),
        ]

        def factor(step: int) -> float:
            """Forty steps of warm-up, flat for a while, then linear to one hundredth."""
            progress = step / steps
            return min(1.0, (step + 1) / 40, max(0.01, (1 - progress) / (1 - hold)))

        self.schedules = [torch.optim.lr_scheduler.LambdaLR(part, factor) for part in self.parts]

    def step(self) -> None:
        """Apply the gradients of the bf16 weights to their masters and copy the result back."""
        for weight, master in zip(self.weights, self.masters, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        nn.utils.clip_grad_norm_(self.masters, 1.0)
        for part, schedule in zip(self.parts, self.schedules, strict=True):
            part.step()
            schedule.step()
        with torch.no_grad():
            for weight, master in zip(self.weights, self.masters, strict=True):
                weight.copy_(master)

    def state_dict(self) -> dict[str, object]:
        """Everything needed to resume after an interruption."""
        return {
            "masters": [m.detach() for m in self.masters],
            "parts": [p.state_dict() for p in self.parts],
            "schedules": [s.state_dict() for s in self.schedules],
        }

    def load_state_dict(self, state: dict[str, list]) -> None:  # type: ignore[type-arg]
        """Restore the output of `state_dict`."""
        with torch.no_grad():
            for weight, master, saved in zip(self.weights, self.masters, state["masters"], strict=True):
                master.copy_(saved)
                weight.copy_(saved)
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)


Rows = Callable[[PreTrainedTokenizerBase, random.Random, float], Iterator[Row]]
"""An endless stream of rows, given a source of randomness and how far training is, from 0 to 1."""


def solutions(tokenizer: PreTrainedTokenizerBase, rng: random.Random, progress: float) -> Iterator[Row]:
    """Problems with their solutions, with loss only on solutions, from drills and short problems to full ones."""
    bare, bounds = (0.5, (1, 3)) if progress < 0.12 else (0.25, (2, 5)) if progress < 0.35 else (0.05, (2, 7))
    stream = problems("train", rng.getrandbits(60), events=bounds)
    while True:
        if rng.random() < bare:
            question, steps = drill(rng)
        else:
            problem = next(stream)
            question, steps = problem.question, problem.solution()
        yield encode(tokenizer, question, "".join(steps))


def train(
    name: str,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    work: Path,
    *,
    start: Path | None = None,
    rows: Rows | None = None,
) -> Path:
    """Train one model, or resume an interrupted training.

    Args:
        name: Name of the checkpoint.
        recipe: Size and schedule.
        tokenizer: The model's tokenizer.
        work: Working folder.
        start: Checkpoint to start from, of the recipe's size; new tokens get fresh embeddings. None for none.
        rows: Training data; None for solutions.

    Returns:
        The folder with the finished checkpoint, `work/name`.
    """
    out, partial = work / name, work / f"{name}.partial.pt"
    if (out / "model.safetensors").exists():
        return out
    torch.manual_seed(recipe.seed)
    model = Qwen2ForCausalLM(recipe.config(tokenizer))
    if start is not None:
        _take_over(model, start)
    model.set_attn_implementation("eager")  # faster than SDPA for training rows this short on a CPU
    nn.Module.to(model, torch.bfloat16)
    optimizer = Optimizer(model, recipe.muon_lr, recipe.adam_lr, recipe.steps)
    first = 0
    if partial.exists():
        saved = torch.load(partial)
        first = saved["step"]
        optimizer.load_state_dict(saved["optimizer"])
    forward = torch.compile(model, dynamic=True)
    ends = torch.tensor([tokenizer.get_vocab()[token] for token in recipe.ends], dtype=torch.long)
    shown: dict[str, float] = {}
    bar = tqdm(total=recipe.steps, initial=first, desc=name, mininterval=5)
    for step, (ids, labels) in enumerate(batches(recipe, tokenizer, first, rows or solutions), first):
        logits = forward(input_ids=ids, use_cache=False).logits[:, :-1]
        losses = {"loss": cross_entropy(logits, labels[:, 1:])}
        if recipe.ends:
            losses["ends"] = cross_entropy(logits, labels[:, 1:].where(torch.isin(labels[:, 1:], ends), IGNORE))
        sum(losses.values()).backward()  # type: ignore[union-attr]
        optimizer.step()
        for name_, value in losses.items():
            shown[name_] = 0.98 * shown.get(name_, value.item()) + 0.02 * value.item()
        bar.set_postfix({name_: f"{value:.4f}" for name_, value in shown.items()}, refresh=False)
        bar.update()
        if (step + 1) % SAVE_EVERY == 0:
            torch.save({"step": step + 1, "optimizer": optimizer.state_dict()}, partial)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    partial.unlink(missing_ok=True)
    return out


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over the positions with a label."""
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE)


def _take_over(model: Qwen2ForCausalLM, start: Path) -> None:
    """Load the weights of a checkpoint whose vocabulary may lack the model's last tokens."""
    weights, embeddings = load_file(start / "model.safetensors"), "model.embed_tokens.weight"
    known = weights.pop(embeddings)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {embeddings, "lm_head.weight"}, missing
    assert not unexpected, unexpected
    with torch.no_grad():
        model.model.embed_tokens.weight[: len(known)].copy_(known)


def average(shares: Mapping[Path, float], out: Path) -> Path:
    """Write a weighted average of one model's checkpoints; the last one has all tokens."""
    weights = [load_file(folder / "model.safetensors") for folder in shares]
    mixed = {name: torch.zeros_like(tensor, dtype=torch.float32) for name, tensor in weights[-1].items()}
    sums = {name: torch.zeros(len(tensor), *[1] * (tensor.ndim - 1)) for name, tensor in mixed.items()}
    for tensors, share in zip(weights, shares.values(), strict=True):
        for name, tensor in tensors.items():
            mixed[name][: len(tensor)] += share * tensor.float()
            sums[name][: len(tensor)] += share
    shutil.copytree(list(shares)[-1], out, dirs_exist_ok=True)
    save_file(
        {name: (tensor / sums[name]).bfloat16() for name, tensor in mixed.items()},
        out / "model.safetensors",
        metadata={"format": "pt"},
    )
    return out


def batches(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, start: int, rows: Rows = solutions
) -> Iterator[tuple[Tensor, Tensor]]:
    """Length-bucketed batches of (ids, labels) from step `start` on, the same for the same seed."""
    block = 50  # batches drawn and sorted by length together; restarts happen at block edges
    for first in range(start - start % block, recipe.steps, block):
        rng = random.Random(f"{recipe.seed}:{first}")
        drawn: list[Row] = []
        total = 0
        for row in rows(tokenizer, rng, first / recipe.steps):
            drawn.append(row)
            total += len(row.ids)
            if total >= block * recipe.tokens:
                break
        drawn.sort(key=lambda row: len(row.ids))
        per = len(drawn) / block
        collated = [collate(drawn[round(i * per) : round((i + 1) * per)], tokenizer.pad_token_id) for i in range(block)]
        rng.shuffle(collated)
        yield from collated[max(0, start - first) : recipe.steps - first]


def drill(rng: random.Random) -> tuple[str, list[str]]:
    """A list of bare equations as a question, and their chains as the answer."""
    equations: list[str] = []
    steps: list[str] = []
    while len(steps) < 6:
        op = rng.choice("++--**/")
        value, n = rng.randint(2, MAX_QUANTITY), rng.randint(2, 60)
        if op in "*/":
            n = rng.randint(2, 6 if op == "*" else 5)
            value = rng.randint(2, 99) if op == "*" else n * rng.randint(2, 100 // n)
        if 1 < OPERATORS[op](value, n) <= 500:
            equations.append(f"{value}{op}{n}")
            steps.append(f"{equation(value, op, n)}.\n\n")
    return ", ".join(equations), steps


def encode(tokenizer: PreTrainedTokenizerBase, question: str, solution: str) -> Row:
    """A templated problem with its solution."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    head: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    written: list[int] = tokenizer(solution + "<|im_end|>", add_special_tokens=False)["input_ids"]
    return Row(head + written, [IGNORE] * len(head) + written)


def collate(rows: list[Row], pad: int) -> tuple[Tensor, Tensor]:
    """Right-padded ids and labels of rows."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), IGNORE)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        labels[i, : len(row.ids)] = torch.tensor(row.labels)
    return ids, labels
