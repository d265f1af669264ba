"""The engine on models of published shapes: `python -m tests.benchmarks.shapes --json FILE [--quick]`.

The weights are random, so the text is meaningless. The length and acceptance of each step are replayed from answers of
the embedded family, and every token is computed. On a CPU the shapes are those of Qwen2.5-0.5B and 1.5B, on a GPU those
of the paper's models; `--quick` gives them fewer layers and words. Everything is timed in one run, with alternating
methods.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from rsd_core import (
    BinaryStep,
    Drafter,
    Generation,
    Limits,
    Path,
    Prompt,
    RewardGuidedDecoder,
    Scores,
    Settings,
    Step,
    StepRequest,
    Target,
    Verifier,
)
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.huggingface import HuggingFaceGenerator, dtypes
from rsd_integrations.huggingface.from_pretrained import load_tokenizer
from rsd_integrations.huggingface.heads import RewardHead
from rsd_integrations.huggingface.shared import SharedVerifier
from rsd_integrations.inprocess import engine
from tests.benchmarks.clocks import seconds, timed
from tests.benchmarks.command import Command, Size
from tests.benchmarks.servers import recorded
from tests.benchmarks.simulated import Record, at, longer

SIZES = {
    "rounds": Size(5, 1, "rounds of everything, about 10 minutes each on two cores"),
    "problems": Size(1, 1, "problems for the comparison at batch 1"),
    # The embedded family answers its small problems in about a hundred tokens, which is little for published shapes.
    "answers": Size(2, 1, "recorded answers in each answer"),
}
SAMPLE_LAYERS, SAMPLE_WORDS = 1, 4096
"""Sizes of the models of `--quick`, which are as wide as the published ones."""
CONCURRENT = 32
DELTA = 0.5
DELIMITER, ANY_TEXT = "\n\n", " "
"""Delimiters: one that the engine never finds in random words, and one in every step, for the core."""
OF_THE_ENGINE = ("overhead_batch1", "overhead_batch32", "concurrent32_over_sequential")
OF_RSD = ("vs_target_generate", "vs_naive_rsd")


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a published model."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int

    def sample(self) -> Shape:
        """The same with fewer layers and words."""
        name = f"{self.name} with {SAMPLE_LAYERS} of its {self.layers} layers and {SAMPLE_WORDS:,} words"
        return replace(self, name=name, layers=SAMPLE_LAYERS, vocabulary=SAMPLE_WORDS)

    @property
    def config(self) -> Qwen2Config:
        """The model's configuration."""
        return Qwen2Config(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        )

    def make(self, device: torch.device, dtype: torch.dtype) -> HuggingFaceGenerator:
        """The model with random weights; every id of its vocabulary is a word."""
        with device:
            model: Any = Qwen2ForCausalLM(self.config)
        return self.generator(model.to(dtype).eval())

    def generator(self, model: Any) -> HuggingFaceGenerator:
        """A generator with such a model: every id of its vocabulary is a word, and none ends an answer."""
        made = HuggingFaceGenerator(model, load_tokenizer(FOLDER / "target"), self.name)
        made.vocabulary.pieces = [f" {id_}".encode() for id_ in range(made.vocabulary.size)]
        made.eos_ids = frozenset()
        return made


SMALL = Shape("Qwen2.5-0.5B", 896, 4864, 24, 14, 2, 151936)
SMALL_TARGET = Shape("Qwen2.5-1.5B", 1536, 8960, 28, 12, 2, 151936)
PAPER = Shape("Qwen2.5-Math-1.5B", 1536, 8960, 28, 12, 2, 151936)
PAPER_TARGET = Shape("Qwen2.5-Math-7B", 3584, 18944, 28, 28, 4, 151936)


class Replayed(Drafter, Target):
    """Writes steps with the lengths of recorded ones."""

    def __init__(self, inner: HuggingFaceGenerator, record: Record) -> None:
        self.name, self.inner, self._record = inner.name, inner, record

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        said = at(self._record, path.prompt, path.depth).target
        asked = replace(request, max_tokens=said.size, delimiter=DELIMITER)
        made = await self.inner.generate(path, asked)
        return replace(made, steps=tuple(replace(step, ending=said.ending) for step in made.steps))


class Judged(Verifier):
    """Reads every step, and returns the recorded reward."""

    def __init__(self, inner: Verifier, record: Record) -> None:
        self.name, self._inner, self._record = inner.name, inner, record

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        found = await self._inner.score(path, steps)
        return replace(found, rewards=(at(self._record, path.prompt, path.depth).reward,) * len(steps))


class Plain:
    """The same with transformers alone: one `generate()` and one full pass of the verifier per step."""

    def __init__(self, draft: Replayed, verifier: HuggingFaceGenerator, target: Replayed, record: Record) -> None:
        self._draft, self._verifier, self._target = draft.inner.model, verifier.model, target.inner.model
        self._vocabulary, self._record = draft.inner.vocabulary, record

    def _write(self, model: Any, ids: torch.Tensor, tokens: int) -> torch.Tensor:
        written: torch.Tensor = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )
        return written

    def _sizes(self, prompt: Prompt) -> list[int]:
        return [position.target.size for position in self._record[prompt]]

    def _ids(self, prompt: Prompt) -> torch.Tensor:
        return torch.tensor([self._vocabulary.prompt(prompt)], device=self._draft.device)

    def target_generate(self, prompt: Prompt) -> None:
        """The target alone."""
        self._write(self._target, self._ids(prompt), sum(self._sizes(prompt)))

    @torch.inference_mode()
    def naive_rsd(self, prompt: Prompt) -> None:
        """A plain loop."""
        ids = self._ids(prompt)
        for position, size in zip(self._record[prompt], self._sizes(prompt), strict=True):
            step = self._write(self._draft, ids, size)
            self._verifier(step, logits_to_keep=1)
            ids = step if position.reward >= DELTA else self._write(self._target, ids, size)


def measure(device: torch.device, rounds: int, problems: int, answers: int, *, sample: bool = False) -> dict[str, Any]:
    """All figures.

    Args:
        device: The device.
        rounds: Rounds, for medians.
        problems: Problems that are also answered by other methods; with none, only the engine is measured.
        answers: Recorded answers in each answer.
        sample: Whether the models have fewer layers and words than published ones.
    """
    torch.set_num_threads(engine.ALL_THREADS)  # as in the engine for models of this size
    small, big = (PAPER, PAPER_TARGET) if device.type == "cuda" else (SMALL, SMALL_TARGET)
    if sample:
        small, big = small.sample(), big.sample()
    dtype = torch.bfloat16 if device.type == "cuda" or dtypes.multiplies_bf16() else torch.float32
    record = longer(recorded(CONCURRENT, "embedded:verifier", DELTA), answers)
    torch.manual_seed(0)
    draft, reader, target = small.make(device, dtype), small.make(device, dtype), big.make(device, dtype)
    head = RewardHead(nn.Linear(small.hidden, 2)).to(device).eval()
    writers = Replayed(draft, record), Replayed(target, record)
    verifier = Judged(SharedVerifier(reader, head, small.name), record)
    rsd, begin = (
        RewardGuidedDecoder(
            drafter=writers[0], verifier=verifier, target=writers[1], policy=BinaryStep(delta=DELTA), settings=settings
        )
        for settings in (
            Settings(delimiter=ANY_TEXT, reuse_rejected=False),  # random weights agree on no token
            Settings(delimiter=ANY_TEXT, reuse_rejected=False, limits=Limits(max_steps=2)),
        )
    )
    plain = Plain(writers[0], reader, writers[1], record)
    forward = timed([model.runner for model in (draft, reader, target)])
    prompts, found = list(record), dict[str, list[float]]()
    asked = [[(message.role, message.content) for message in prompt] for prompt in prompts]
    methods: dict[str, Callable[[int], Any]] = {
        "rsd": lambda i: rsd.run(asked[i]),
        "target_generate": lambda i: plain.target_generate(prompts[i]),
        "naive_rsd": lambda i: plain.naive_rsd(prompts[i]),
    }

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    def each(method: Callable[[int], Any], count: int) -> float:
        return seconds(lambda: [method(i) for i in range(count)])

    for method in methods.values() if problems else ():
        method(0)
    begin.run_many(asked)  # lets caches grow once
    for _ in range(rounds):
        spent = {name: each(method, problems) for name, method in methods.items()} if problems else {}
        for name, value in spent.items():
            note(f"seconds_{name}", value / problems)
            note(f"vs_{name}", value / spent["rsd"])
        forward[0] = 0.0
        one_by_one = each(methods["rsd"], CONCURRENT)
        note("overhead_batch1", one_by_one / forward[0])
        forward[0] = 0.0
        together = seconds(lambda: rsd.run_many(asked))  # models of this size use all cores, one at a time
        note("overhead_batch32", together / forward[0])
        note("concurrent32_over_sequential", one_by_one / together)
        print({name: round(values[-1], 3) for name, values in found.items()}, file=sys.stderr, flush=True)
    return {
        "models": {"drafter": small.name, "verifier": small.name, "target": big.name},
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "problems": problems,
        "answers": answers,
        "rounds": rounds,
        "steps": statistics.mean(map(len, record.values())),
        "tokens": statistics.mean(sum(position.target.size for position in said) for said in record.values()),
        **{name: statistics.median(values) for name, values in found.items() if name != "vs_rsd"},
        "all_rounds": {name: found[name] for name in OF_THE_ENGINE},
    }


def described(data: dict[str, Any]) -> str:
    """The measured models, as a sentence."""
    models = data["models"]
    return (
        f"a drafter and a reward model of the shape of {models['drafter']}, a target of that of {models['target']}, in "
        f"{data['dtype']} on {data['threads']} threads, with random weights; lengths of steps and decisions are "
        f"replayed from answers of the embedded family, {data['answers']} of them in each of {CONCURRENT}: "
        f"{data['tokens']:.0f} tokens in {data['steps']:.1f} steps, rounds: {data['rounds']}."
    )


def markdown(data: dict[str, Any]) -> str:
    """The figures as a section of a page."""
    rows = "\n".join(f"| `{name}` | {data[name]:.2f} |" for name in (*OF_RSD, *OF_THE_ENGINE))
    times = "\n".join(f"| {name} | {data[f'seconds_{name}']:.2f} |" for name in ("rsd", "target_generate", "naive_rsd"))
    return f"""
## The engine on published shapes

Made by `python -m tests.benchmarks.shapes`, {data["date"]}, {data["machine"]}: {described(data)} `vs_…` are times of a
problem alone over RSD's. Medians; {data["problems"]} of the problems for `vs_…`.

| figure | measured |
|---|---|
{rows}

| method, batch 1 | seconds per problem |
|---|---|
{times}
"""


COMMAND = Command("shapes", __doc__, SIZES, markdown, sample="fewer layers and words")


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    started = time.monotonic()
    data = {
        "date": date.today().isoformat(),
        "machine": torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{os.cpu_count()} cores {platform.machine()}",
        **measure(device, options.rounds, options.problems, options.answers, sample=options.quick),
        "took_seconds": time.monotonic() - started,
    }
    COMMAND.write(options, data)


if __name__ == "__main__":
    main()
