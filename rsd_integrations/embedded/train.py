"""Train the embedded family from a seed: `python -m rsd_integrations.embedded.train`.

Two single-threaded processes: one trains the target; the other the drafter and the language model from which the
verifier starts, then has both write solutions, and trains the verifier on those. Finally the first teaches the target
to think, and the second the drafter. Every stage resumes where it was interrupted. A GPU is not used: the models are
too small to need one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging

from rsd_integrations.embedded import language_model, reward_model, thinking, vocabulary
from rsd_integrations.embedded.language_model import Recipe
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.embedded.reward_model import Example, RewardRecipe
from rsd_integrations.embedded.rollouts import roll_out
from rsd_integrations.embedded.thinking import Conversations

TARGET = Recipe(layers=8, width=224, steps=2000, seed=1)
DRAFT = Recipe(layers=2, width=64, steps=2400, seed=2)
BODY = Recipe(layers=4, width=96, steps=2000, seed=3)
THOUGHTS = replace(TARGET, steps=600, muon_lr=0.01, adam_lr=1.5e-3, seed=5, context=vocabulary.THINKING_CONTEXT)
ENDS = replace(THOUGHTS, steps=200, ends=thinking.ENDS)
BOTH = replace(ENDS, steps=300, muon_lr=0.006, adam_lr=1e-3, seed=15)
THINKING_TARGET = replace(ENDS, steps=150, muon_lr=0.004, adam_lr=6e-4, seed=16)
THINKING_DRAFT = replace(ENDS, layers=2, width=64, steps=900, seed=6)
VERIFIER = RewardRecipe(new_layers=1, steps=3500, seed=4)
CHUNK = 1024
"""Rollouts per file."""
CHUNKS = {"draft": 14, "body": 4}
TEMPERATURES = {"draft": (0.0, 0.6, 0.9, 1.2), "body": (0.9, 1.2)}
# Keeps glibc from returning and refetching the large buffers of every step, which costs a tenth of the time.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_TOP_PAD_": "200000000"}


def main() -> None:
    """Parse the command line and train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/family"), help="working folder, also for resuming")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the finished checkpoints go")
    parser.add_argument("--thinkers", action="store_true", help="only the thinking models, from the others in --out")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ.update(MALLOC)
    spawn = multiprocessing.get_context("spawn")
    work: list[tuple[Callable[..., None], tuple[Path, ...]]]
    if options.thinkers:
        work = [(job, (options.out, options.work)) for job in (train_thinking_target, train_thinking_draft)]
    else:
        work = [(job, (options.work,)) for job in (train_target, train_others)]
    jobs = [spawn.Process(target=job, args=arguments) for job, arguments in work]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    if any(job.exitcode for job in jobs):
        raise SystemExit("training failed; run the same command again to resume")
    export(options.work, options.out, thinkers_only=options.thinkers)


def train_target(work: Path) -> None:
    """The strong model, and the one that thinks."""
    language_model.train("target", TARGET, _prepared(), work)
    train_thinking_target(work, work)


def train_others(work: Path) -> None:
    """Drafter, the verifier's body, rollouts of both, verifier, and the drafter that thinks."""
    tokenizer = _prepared()
    language_model.train("draft", DRAFT, tokenizer, work)
    language_model.train("body", BODY, tokenizer, work)
    examples = [example for name in CHUNKS for example in rollouts(name, tokenizer, work)]
    reward_model.train(VERIFIER, work / "body", examples, tokenizer, work)
    train_thinking_draft(work, work)


def train_thinking_target(start: Path, work: Path) -> None:
    """The target that thinks, from the one in the folder `start`.

    It learns to think and then, on short problems, where thoughts end, which costs it some arithmetic. So training
    continues from averages with earlier models, which are better at that.
    """
    tokenizer = vocabulary.thinking(_prepared())
    learned = partial(language_model.train, tokenizer=tokenizer, work=work)
    thoughts = learned("thoughts", THOUGHTS, start=start / "target", rows=Conversations(plain=0.2))
    ends = learned("ends", ENDS, start=thoughts, rows=Conversations(short=0.5))
    between = language_model.average({thoughts: 0.35, ends: 0.65}, work / "between")
    both = learned("both", BOTH, start=between, rows=Conversations())
    between = language_model.average({start / "target": 0.2, thoughts: 0.2, both: 0.6}, work / "between")
    learned("thinking-target", THINKING_TARGET, start=between, rows=Conversations())


def train_thinking_draft(start: Path, work: Path) -> None:
    """The drafter that thinks, from the one in the folder `start`."""
    tokenizer = vocabulary.thinking(_prepared())
    rows = Conversations(short=0.5)
    language_model.train("thinking-draft", THINKING_DRAFT, tokenizer, work, start=start / "draft", rows=rows)


def rollouts(name: str, tokenizer: PreTrainedTokenizerBase, work: Path) -> Iterator[Example]:
    """Judged solutions of one model on training problems, from files where they exist."""
    folder = work / "rollouts"
    folder.mkdir(exist_ok=True)
    model = None
    for chunk in tqdm(range(CHUNKS[name]), desc=f"rollouts of {name}"):
        file = folder / f"{name}-{chunk}.json"
        if not file.exists():
            model = model or AutoModelForCausalLM.from_pretrained(work / name, dtype=torch.float32)
            stream = roll_out(model, tokenizer, "train", 1000 + chunk, temperatures=TEMPERATURES[name])
            rows = [asdict(reward_model.encode(tokenizer, next(stream))) for _ in range(CHUNK)]
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(rows))
            partial.rename(file)
        yield from (Example(**data) for data in json.loads(file.read_text()))


def export(work: Path, out: Path, *, thinkers_only: bool = False) -> None:
    """Copy the finished checkpoints to where the package loads them from."""
    stages = {name: name for name in ("thinking-draft", "thinking-target")}
    if not thinkers_only:
        stages |= {"draft": "draft", "target": "target", "prm": "verifier", "verifier": "body"}
    for name, source in stages.items():
        shutil.rmtree(out / name, ignore_errors=True)
        shutil.copytree(work / source, out / name)


def _prepared() -> PreTrainedTokenizerBase:
    """Settings of a training process; the tokenizer."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return vocabulary.build()


if __name__ == "__main__":
    main()
