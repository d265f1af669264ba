"""Early exit of reward models: its savings, and its effects.

On the embedded family, RSD answers the same problems with the full reward model and with its exits, and each step that
the exits judge is also judged in full. The depth of each reading is then replayed on the shape of Qwen2.5-0.5B with
random weights, where scoring the same answers is timed both ways, alternately.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2Model

from rsd_core import BinaryStep, Path, RewardGuidedDecoder, Scores, Step, Verifier, load
from rsd_core.blocking import wait_for
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.evaluation.statistics import compare, wilson
from rsd_integrations.evaluation.tasks import Item, find_task
from rsd_integrations.huggingface import HuggingFaceVerifier
from rsd_integrations.huggingface.deferring import DeferringRunner
from rsd_integrations.huggingface.distilling import INNER
from rsd_integrations.huggingface.early_exit import ExitRule, Exits
from rsd_integrations.huggingface.from_pretrained import load_tokenizer
from rsd_integrations.huggingface.heads import RewardHead
from rsd_integrations.inprocess import engine
from tests.benchmarks import shapes

EXITS = "embedded,exits=true:prm"
PROBLEMS, REPLAYED = (400, 24), (12, 2)
"""Numbers of problems answered, and of those whose scoring is replayed; full and with `--quick`."""
DELTA = 0.5


class Both(Verifier):
    """Judges by exits, and records the full model's verdict and the depth of each reading."""

    name = "both"

    def __init__(self, exits: HuggingFaceVerifier, full: HuggingFaceVerifier) -> None:
        self.exits, self.full = exits, full
        self.flops_per_token = exits.flops_per_token
        self.verdicts: Counter[tuple[bool, bool]] = Counter()
        """By the verdicts of the full model and of the exits."""

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        found = await self.exits.score(path, steps)
        full = await self.full.score(path, steps)
        for early, late in zip(found.rewards, full.rewards, strict=True):
            assert early is not None
            assert late is not None
            self.verdicts[late >= DELTA, early >= DELTA] += 1
        return found


@dataclass(frozen=True, slots=True)
class Reading:
    """A judged step, and the number of layers used."""

    path: Path
    step: Step
    layers: int


class Noting(Verifier):
    """Judges by exits, one step at a time, and records the depth of each reading."""

    name = "noting"

    def __init__(self, exits: HuggingFaceVerifier) -> None:
        assert isinstance(exits.runner, DeferringRunner)
        self.exits, self.runner = exits, exits.runner
        self.readings: list[Reading] = []

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        before = Counter(self.runner.read_at)
        found = await self.exits.score(path, steps)
        (layers,) = (self.runner.read_at - before).elements()
        self.readings.append(Reading(path, steps[0], layers))
        return found


class Replayed(Exits):
    """Exits that end the next reading at a given depth; their heads run anyway."""

    def __init__(self, layers: tuple[int, ...], width: int) -> None:
        heads = [nn.Sequential(nn.Linear(width, INNER), nn.ReLU(), nn.Linear(INNER, 1)) for _ in layers]
        super().__init__(ExitRule(layers, DELTA, inf), heads)
        self.until = 0
        self._index = 0

    def log_odds(self, index: int, states: Tensor) -> Tensor:
        self._index = index
        return super().log_odds(index, states)

    def agree(self, before: Tensor, now: Tensor) -> Tensor:
        return torch.full_like(before + now, self.rule.layers[self._index] >= self.until, dtype=torch.bool)


def decoder(verifier: Verifier) -> RewardGuidedDecoder:
    """RSD over the embedded family."""
    return RewardGuidedDecoder(
        drafter=load("embedded:draft", role="drafter"),
        verifier=verifier,
        target=load("embedded:target", role="target"),
        policy=BinaryStep(delta=DELTA),
    )


def answered(verifier: Verifier, items: Sequence[Item]) -> tuple[list[tuple[bool, float | None, float | None]], Any]:
    """Whether each problem was solved, its FLOPs, and the total FLOPs of verification."""
    results = decoder(verifier).run_many([item.prompt for item in items])
    rows = [
        (bool(item.verdict(result.text).right), result.ledger.total.flops, result.ledger.total.flops_paper)
        for item, result in zip(items, results, strict=True)
    ]
    return rows, sum(result.ledger.verifier.flops or 0.0 for result in results)


def on_the_family(problems: int) -> dict[str, Any]:
    """Savings and effects of exits on the embedded family."""
    items = find_task("embedded").draw(problems, 1)
    exits, full = load(EXITS, role="verifier"), load("embedded:prm", role="verifier")
    assert isinstance(exits, HuggingFaceVerifier)
    assert isinstance(full, HuggingFaceVerifier)
    assert isinstance(exits.runner, DeferringRunner)
    assert exits.exits is not None
    both = Both(exits, full)
    early, early_flops = answered(both, items)
    late, late_flops = answered(full, items)
    compared, verdicts = compare(early, late), both.verdicts
    steps, same = verdicts.total(), verdicts[True, True] + verdicts[False, False]
    rejected = verdicts[False, True] + verdicts[False, False]
    return {
        "exit_layers": exits.runner.layers_share,
        "exit_agreement": same / steps,
        "exit_agreement_ci95": wilson(same, steps),
        "exit_rejections_kept": verdicts[False, False] / rejected,
        "exit_steps": steps,
        "exit_heads": list(exits.exits.rule.layers),
        "exit_margin": exits.exits.rule.margin,
        "exit_read_at": {str(layers): count / steps for layers, count in sorted(exits.runner.read_at.items())},
        "exit_verifier_flops_ratio": early_flops / late_flops,
        "exit_accuracy": statistics.mean(right for right, *_ in early),
        "full_accuracy": statistics.mean(right for right, *_ in late),
        "exit_accuracy_difference": compared.difference,
        "exit_accuracy_difference_ci95": compared.ci95,
        "exit_p_value": compared.p_value,
        "exit_problems": problems,
    }


def on_a_shape(problems: int, sample: bool) -> dict[str, Any]:
    """Seconds of scoring on the shape of Qwen2.5-0.5B, with the depths of the family's readings."""
    exits = load(EXITS, role="verifier")
    assert isinstance(exits, HuggingFaceVerifier)
    noting = Noting(exits)
    answers = []
    for item in find_task("embedded").draw(problems, 2):
        noting.readings = []
        decoder(noting).run(item.prompt)
        answers.append(noting.readings)
    shape = replace(shapes.SMALL, layers=5, vocabulary=shapes.SAMPLE_WORDS) if sample else shapes.SMALL
    depth = exits.body.config.num_hidden_layers
    torch.set_num_threads(engine.ALL_THREADS)
    torch.manual_seed(0)
    body: Any = Qwen2Model(shape.config)
    body = body.to(torch.bfloat16).eval()
    head = RewardHead(nn.Linear(shape.hidden, 2)).eval()
    assert exits.exits is not None
    replayed = Replayed(tuple(round(shape.layers * at / depth) for at in exits.exits.rule.layers), shape.hidden)
    tokenizer = load_tokenizer(FOLDER / "prm")
    full, early = (
        HuggingFaceVerifier(body, head, tokenizer, exits.reader, shape.name, exits=one) for one in (None, replayed)
    )
    assert isinstance(early.runner, DeferringRunner)

    def scored(verifier: HuggingFaceVerifier, answer: Sequence[Reading]) -> float:
        """Seconds to read an answer for the first time."""
        paths = {reading.path: Path(reading.path.prompt, thinking=reading.path.thinking) for reading in answer[:1]}
        begun = time.perf_counter()
        for reading in answer:
            replayed.until = round(shape.layers * reading.layers / depth)
            wait_for(verifier.score(_fresh(reading.path, paths), [reading.step]))
        return time.perf_counter() - begun

    for verifier in (full, early):
        scored(verifier, answers[0])  # lets caches grow once
    early.runner.tokens = early.runner.layers = 0
    pairs = []
    for number, answer in enumerate(answers):
        turns = [(full, early), (early, full)][number % 2]
        spent = {id(verifier): scored(verifier, answer) for verifier in turns}
        pairs.append((spent[id(early)], spent[id(full)]))
    return {
        "exit_seconds_ratio": sum(one for one, _ in pairs) / sum(other for _, other in pairs),
        "exit_seconds_ratio_of_answers": [one / other for one, other in pairs],
        "exit_seconds": sum(one for one, _ in pairs) / len(pairs),
        "full_seconds": sum(other for _, other in pairs) / len(pairs),
        "exit_layers_replayed": early.runner.layers_share,
        "exit_shape": shape.name,
        "exit_shape_layers": shape.layers,
        "exit_answers": len(answers),
        "exit_steps_per_answer": statistics.mean(map(len, answers)),
    }


def _fresh(path: Path, known: dict[Path, Path]) -> Path:
    """A path with a new identity, unknown to every cache, and the same one on every request."""
    if path not in known:
        assert path.parent is not None
        known[path] = _fresh(path.parent, known).extend(path.steps[-1])
    return known[path]


def measure(quick: bool) -> dict[str, Any]:
    """All figures of early exit."""
    problems, replayed = (sizes[quick] for sizes in (PROBLEMS, REPLAYED))
    return on_the_family(problems) | on_a_shape(replayed, quick)
