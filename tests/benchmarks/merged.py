"""A drafter that judges itself: `python -m tests.benchmarks.merged --json FILE [--quick]`.

A copy of the family's four-layer language model learns to judge steps at their last token, from its own rollouts, in a
few minutes on one thread. It is merged with the original language model, linearly and by TIES. The merged models both
draft and judge, and are compared with the two separate models. Paper, Table 4. `--quick` trains for seconds, with
little effect.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging

from rsd_core import BinaryStep, RewardGuidedDecoder, Settings, load
from rsd_integrations.embedded.language_model import IGNORE, Optimizer
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.embedded.reward_model import Example, RewardModel, RewardRecipe, _balanced, _batches
from rsd_integrations.embedded.rollouts import Rollout, roll_out
from rsd_integrations.evaluation.tasks import find_task
from rsd_integrations.huggingface import HuggingFaceGenerator, load_generator
from rsd_integrations.huggingface.from_pretrained import load_tokenizer
from rsd_integrations.huggingface.merging import merge
from rsd_integrations.huggingface.shared import HEAD, SharedVerifier, load_shared
from tests.benchmarks.command import Command, Size

SIZES = {
    "n": Size(200, 8, "held-out problems"),
    "steps": Size(900, 10, "steps of training"),
    "rollouts": Size(4096, 64, "rollouts to train on", least=4),
}
LANGUAGE_MODEL = FOLDER / "verifier"
RECIPE = RewardRecipe(new_layers=0, tokens=3600, muon_lr=0.001, adam_lr=3e-4, seed=5)
TEMPERATURES = (0.0, 0.7, 1.0, 1.3)
THRESHOLDS = (0.3, 0.5, 0.7)
MERGES: dict[str, Any] = {
    "linear, weight 0.5": {"method": "linear", "weight": 0.5},
    "linear, weight 1": {"method": "linear", "weight": 1.0},
    "ties, density 0.5": {"method": "ties", "base": str(LANGUAGE_MODEL), "density": 0.5},
}


def encode(tokenizer: PreTrainedTokenizerBase, rollout: Rollout) -> Example:
    """Lay out a rollout as the drafter wrote it; the last token of each step carries its verdict."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": rollout.problem.question}], tokenize=False, add_generation_prompt=True
    )
    ids: list[int] = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    example = Example(ids, len(ids), [IGNORE] * len(ids), [IGNORE] * len(ids))
    for step, verdict in zip(rollout.steps, rollout.verdicts, strict=False):
        last = step == rollout.steps[-1]
        written = tokenizer(step if last else step + "\n\n", add_special_tokens=False)["input_ids"]
        right = len(written)
        if not verdict.right:
            wanted = tokenizer(verdict.reference, add_special_tokens=False)["input_ids"]
            right = next((i for i, (a, b) in enumerate(zip(written, wanted, strict=False)) if a != b), len(written) - 1)
        example.ids += written
        rest: list[int] = [] if verdict.right else [0, *[IGNORE] * (len(written) - right - 1)]
        example.tokens += [*[1] * right, *rest]
        example.steps += [*[IGNORE] * (len(written) - 1), int(verdict.right)]
    if rollout.ended and all(verdict.right for verdict in rollout.verdicts):  # it must keep the ability to end
        example.ids.append(int(tokenizer.eos_token_id or 0))
        example.tokens.append(1)
        example.steps.append(IGNORE)
    return example


def train(folder: Path, steps: int, rollouts: int) -> None:
    """Teach a copy of the language model to judge, and save it with its head."""
    tokenizer, recipe = load_tokenizer(LANGUAGE_MODEL), replace(RECIPE, steps=steps)
    writer = AutoModelForCausalLM.from_pretrained(LANGUAGE_MODEL, dtype=torch.float32)
    batch = min(128, rollouts // len(TEMPERATURES))
    stream = roll_out(writer, tokenizer, "train", 91, temperatures=TEMPERATURES, batch=batch)
    examples = [encode(tokenizer, rollout) for rollout in itertools.islice(stream, rollouts)]
    torch.manual_seed(recipe.seed)
    model = RewardModel(LANGUAGE_MODEL, 0).to(torch.bfloat16)
    optimizer = Optimizer(model, recipe.muon_lr, recipe.adam_lr, recipe.steps)
    started = time.monotonic()
    for step, (ids, tokens, ends, texts) in enumerate(_batches(recipe, examples, int(tokenizer.pad_token_id or 0), 0)):
        scores, words = model(ids)
        likely = torch.nn.functional.cross_entropy(
            words[:, :-1].flatten(0, 1).float(), texts[:, 1:].flatten(), ignore_index=IGNORE
        )
        weight = min(1.0, step / recipe.steps / 0.3)
        judged = (1.5 - weight) * _balanced(scores, tokens) + (0.3 + weight) * _balanced(scores, ends)
        (judged + likely).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step} of {recipe.steps}, {time.monotonic() - started:.0f} s, loss {judged:.3f}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    model.lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_file({name: value.contiguous() for name, value in model.score.state_dict().items()}, folder / HEAD)


def measure(drafter: HuggingFaceGenerator, verifier: SharedVerifier, delta: float, n: int) -> dict[str, float]:
    """Answer problems concurrently."""
    decoder = RewardGuidedDecoder(
        drafter=drafter,
        verifier=verifier,
        target=load("embedded:target"),
        policy=BinaryStep(delta=delta),
        settings=Settings(reuse_rejected=False),
    )
    items = find_task("embedded").draw(n, 1)
    results = decoder.run_many([item.prompt for item in items])
    return {
        "accuracy": sum(item.verdict(result.text).right is True for item, result in zip(items, results, strict=True))
        / n,
        "target_share": sum(result.target_share for result in results) / n,
        "flops_per_problem": sum(result.ledger.total.flops or 0 for result in results) / n,
        "flops_per_problem_paper": sum(result.ledger.total.flops_paper or 0 for result in results) / n,
        "drafter_tokens": sum(result.ledger.drafter.computed for result in results) / n,
        "verifier_tokens": sum(result.ledger.verifier.computed for result in results) / n,
    }


def markdown(data: dict[str, Any]) -> str:
    """The figures as a section of a page."""
    lines = [
        "## A drafter that judges itself",
        "",
        f"Made by `python -m tests.benchmarks.merged`, {data['date']}: {data['n']} held-out problems, greedy, target "
        "embedded:target. The four-layer language model of the family drafts; a copy of it, trained for a few minutes "
        "on its own rollouts, judges steps at their last token. *Apart*: two models. Otherwise one model is both "
        "drafter and verifier (`rsd merge`). With weight 1 it is the judging copy in both roles, because that was "
        "also trained to keep writing. TIES has the language model as its base, so it keeps the larger half of "
        "what the copy learned.",
        "",
        "| | accuracy | target steps | tokens run by drafter + verifier | FLOPs, everything charged |",
        "|---|---|---|---|---|",
    ]
    for name, m in data["rows"].items():
        lines.append(
            f"| {name} | {m['accuracy']:.3f} | {m['target_share']:.1%} | {m['drafter_tokens']:.0f} + "
            f"{m['verifier_tokens']:.0f} | {m['flops_per_problem'] / 1e6:,.0f} M |"
        )
    return "\n".join(lines) + "\n"


COMMAND = Command("merged", __doc__, SIZES, markdown)
COMMAND.parser.add_argument("--work", type=Path, default=Path("build/merged"), help="folder of the models")


def main() -> None:
    """Train missing models, merge, measure, write."""
    options = COMMAND.parse()
    torch.set_num_threads(1)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    work = options.work / f"{options.steps}-steps-{options.rollouts}-rollouts"
    reward, writer = work / "reward", str(LANGUAGE_MODEL)
    if not (reward / HEAD).exists():
        train(reward, options.steps, options.rollouts)
    apart = load_generator(writer), load_shared(str(reward))
    rows: dict[str, Any] = {f"apart, δ = {delta}": measure(*apart, delta, options.n) for delta in THRESHOLDS}
    for name, settings in MERGES.items():
        folder = work / name.replace(" ", "-")
        if not (folder / HEAD).exists():
            merge(writer, str(reward), folder, **settings)
        merged = load_generator(str(folder)), load_shared(str(folder))
        rows |= {f"{name}, δ = {delta}": measure(*merged, delta, options.n) for delta in THRESHOLDS}
    data = {"date": date.today().isoformat(), "n": options.n, "rows": rows}
    COMMAND.write(options, data)


if __name__ == "__main__":
    main()
