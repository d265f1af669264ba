"""Train the embedded family from a seed: `python -m rsd_integrations.embedded.train`.

Two processes of one thread each: one trains the target; the other the drafter, the language model that the verifier
starts from, then lets both write solutions, and trains the verifier on those. Drafter and target then learn to think.
Every stage resumes where it was interrupted. A GPU is not used: the models are too small to need one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from rsd_integrations.embedded import judging, language_model, reward_model, thinking, vocabulary
from rsd_integrations.embedded.language_model import Recipe
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.embedded.reward_model import Example, RewardRecipe
from rsd_integrations.embedded.rollouts import Rollout, roll_out

TARGET = Recipe(layers=8, width=224, steps=2000, seed=1)
DRAFT = Recipe(layers=2, width=64, steps=2400, seed=2)
BODY = Recipe(layers=4, width=96, steps=2000, seed=3)
VERIFIER = RewardRecipe(new_layers=1, steps=3500, seed=4)
THINKING_DRAFT = Recipe(2, 64, steps=600, muon_lr=0.01, adam_lr=1.5e-3, seed=6, context=vocabulary.THINKING_CONTEXT)
THINKING_TARGET = Recipe(
    8, 224, steps=2200, muon_lr=0.01, adam_lr=1.5e-3, seed=5, context=vocabulary.THINKING_CONTEXT, judges=True
)
CHUNK = 1024
"""Rollouts per file."""
CHUNKS = {"draft": 14, "body": 4}
"""Files of rollouts that the reward model learns from."""
JUDGED = 3
"""Files of rollouts by the drafter that the thinking target learns to judge."""
TEMPERATURES = {"draft": (0.0, 0.6, 0.9, 1.2), "body": (0.9, 1.2)}
FAMILY = {"draft": "draft", "target": "target", "prm": "verifier", "verifier": "body"}
THINKERS = {name: name for name in ("thinking-draft", "thinking-target")}
"""Checkpoints by the stages that make them."""
# Keeps glibc from returning and refetching the large buffers of every step, which costs a tenth of the time.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_TOP_PAD_": "200000000"}


def main() -> None:
    """Parse the command line and train what is not trained yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/family"), help="working folder, also for resuming")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the finished checkpoints go")
    parser.add_argument("--thinkers", action="store_true", help="only the thinking models, from the others in --out")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ.update(MALLOC)
    if options.thinkers:
        _side_by_side((train_thinkers, options.work, options.out))
        export(options.work, options.out, THINKERS)
    else:
        _side_by_side((train_target, options.work), (train_others, options.work))
        _side_by_side((train_thinkers, options.work, options.work))
        export(options.work, options.out, FAMILY | THINKERS)


def _side_by_side(*calls: tuple[Any, ...]) -> None:
    """Run functions with their arguments, each in its own process."""
    spawn = multiprocessing.get_context("spawn")
    jobs = [spawn.Process(target=function, args=arguments) for function, *arguments in calls]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    if any(job.exitcode for job in jobs):
        raise SystemExit("training failed; run the same command again to resume")


def train_target(work: Path) -> None:
    """The strong model."""
    language_model.train("target", TARGET, _prepared(), work)


def train_others(work: Path) -> None:
    """Drafter, the verifier's body, rollouts of both, verifier."""
    tokenizer = _prepared()
    language_model.train("draft", DRAFT, tokenizer, work)
    language_model.train("body", BODY, tokenizer, work)
    keep = partial(reward_model.encode, tokenizer)
    rows = [row for name, chunks in CHUNKS.items() for row in rollouts(work / name, chunks, keep, work / "rollouts")]
    reward_model.train(VERIFIER, work / "body", [Example(**row) for row in rows], tokenizer, work)


def train_thinkers(work: Path, start: Path) -> None:
    """The models that think; `start` is the folder with the drafter and the target."""
    tokenizer = vocabulary.thinking(_prepared())
    language_model.train("thinking-draft", THINKING_DRAFT, tokenizer, work, rows=thinking.conversations)
    solutions = rollouts(start / "draft", JUDGED, judging.judged, work / "judged")
    rows = judging.Judgements(judging.Judged(**solution) for solution in solutions)
    language_model.train("thinking-target", THINKING_TARGET, tokenizer, work, start=start / "target", rows=rows)


def rollouts(model: Path, chunks: int, keep: Callable[[Rollout], Any], folder: Path) -> Iterator[dict[str, Any]]:
    """What `keep` keeps of one model's solutions of training problems, as JSON, from files where they exist."""
    folder.mkdir(exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = None
    for chunk in tqdm(range(chunks), desc=f"rollouts of {model.name}"):
        file = folder / f"{model.name}-{chunk}.json"
        if not file.exists():
            loaded = loaded or AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
            stream = roll_out(loaded, tokenizer, "train", 1000 + chunk, temperatures=TEMPERATURES[model.name])
            rows = [asdict(keep(next(stream))) for _ in range(CHUNK)]
            unfinished = file.with_suffix(".partial")
            unfinished.write_text(json.dumps(rows))
            unfinished.rename(file)
        yield from json.loads(file.read_text())


def export(work: Path, out: Path, names: Mapping[str, str]) -> None:
    """Copy finished checkpoints to where the package loads them from."""
    for name, source in names.items():
        shutil.rmtree(out / name, ignore_errors=True)
        shutil.copytree(work / source, out / name)


def _prepared() -> PreTrainedTokenizerBase:
    """Settings of a training process; the tokenizer."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return vocabulary.build()


if __name__ == "__main__":
    main()
