"""Lossy acceptance rules against four baselines: `python -m tests.benchmarks.lossy --json FILE [--quick]`.

On held-out problems of the embedded task, with the models that answer at once and with those that think: the target
alone, the target sampled directly from the tokens that the rule may keep (one token per pass, so its time is
meaningless), exact speculation, and the rule. All answer the same problems; differences are paired. The corrections for
`csd` come from problems of the development split.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import PrivateAttr, SerializeAsAny
from torch import Tensor

from rsd_core import Decoder, Settings, SpeculativeDecoding, TargetOnly, load
from rsd_integrations.evaluation.statistics import compare, wilson
from rsd_integrations.evaluation.tasks import Item, find_task
from rsd_integrations.speculation.corrections import Calibrated, Noting
from rsd_integrations.speculation.entropy_aware import EntropyAware
from rsd_integrations.speculation.fly import CHOICES, FLy
from rsd_integrations.speculation.parsing import parse_rule
from rsd_integrations.speculation.proposals import Proposal
from rsd_integrations.speculation.proposers import Proposer, ProposerState
from rsd_integrations.speculation.relaxation import doubts, entropy
from rsd_integrations.speculation.relaxed import Relaxed
from rsd_integrations.speculation.rules import AcceptanceRule, Exact, Judged, Verdicts, draw
from rsd_integrations.speculation.typical import Typical
from tests.benchmarks.command import Command, Size

SIZES = {
    "n": Size(1000, 6, "held-out problems, of each family"),
    "calibration": Size(1000, 12, "problems of the development split whose corrections are recorded for csd"),
}
SEED = 5
FAMILIES = {
    "embedded": ("embedded:draft", "embedded:target"),
    "thinkers": ("embedded:thinking-draft", "embedded:thinking-target"),
}
"""Drafter and target."""
RULES = {
    0.0: ("relaxed", "fly:window=3", "csd:{memory}"),
    1.0: ("typical", "relaxed", "easd:draft_entropy=0.5,target_entropy=0.5,n=3,overlap=0.6"),
}
"""By temperature at which they make a difference. Models this small and confident need lower limits on entropy."""
DRAFT_LENGTH = 8
BATCH = 32


class Counting(AcceptanceRule):
    """A rule that counts the passes with a proposal."""

    kind: Literal["counting"] = "counting"
    lossless: ClassVar[bool] = False
    rule: SerializeAsAny[AcceptanceRule]
    _passes: list[int] = PrivateAttr(default_factory=list)

    @property
    def passes(self) -> int:
        """Number of such passes."""
        return sum(self._passes)

    def judge(self, judged: Judged) -> Verdicts:
        self._passes.append(len(judged.chains))
        return self.rule.judge(judged)


class Direct(AcceptanceRule):
    """Draws every token from the part of the target's distribution that a rule may keep, whatever is proposed."""

    kind: Literal["direct"] = "direct"
    lossless: ClassVar[bool] = False
    rule: SerializeAsAny[AcceptanceRule]

    def judge(self, judged: Judged) -> Verdicts:
        kept = truncated(self.rule, judged)
        return Verdicts(torch.zeros_like(judged.tokens, dtype=torch.bool), draw(kept, judged.uniforms[:, 1]))


def truncated(rule: AcceptanceRule, judged: Judged) -> Tensor:
    """The target's distribution without tokens that a relaxation would never keep, but with its likeliest token."""
    p = doubts(judged)
    best = p.amax(1, keepdim=True)
    if isinstance(rule, Typical):
        kept = p > (rule.delta * (-entropy(p)).exp()).clamp(max=rule.epsilon)[:, None]
    elif isinstance(rule, Relaxed):
        kept = (p >= p.topk(max(1, rule.k), dim=1).values[:, -1:]) & (p >= rule.ratio * best)
    elif isinstance(rule, Calibrated):
        kept = p >= rule.ratio * best
    else:
        assert isinstance(rule, FLy)
        top = p.topk(CHOICES, dim=1).values
        unsure = entropy(top / top.sum(1, keepdim=True)) >= rule.entropy
        kept = (p >= top[:, -1:]) & unsure[:, None]
    return torch.where(kept | (p == best), p, 0.0)


class Dummy(Proposer):
    """Proposes one token, so that a rule decides about every single one."""

    kind: Literal["dummy"] = "dummy"

    def begin(self, prefix: Sequence[int], seed: int) -> DummyState:
        return DummyState()


class DummyState(ProposerState):
    """See `Dummy`."""

    def propose(self, count: int) -> Proposal:
        return Proposal((0,))

    def accept(self, ids: Sequence[int]) -> None:
        """Ignore the accepted tokens."""


@dataclass(frozen=True, slots=True)
class Answers:
    """A method's results on the problems."""

    rows: list[tuple[bool, float | None, float | None]]
    """For each problem: whether it was solved, and its FLOPs, everything charged and by the paper's convention."""
    generated: int
    overridden: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of solved problems."""
        return sum(right for right, *_ in self.rows) / len(self.rows)


def answers(decoder: Decoder, items: Sequence[Item]) -> Answers:
    """Answer the problems, `BATCH` of them at any time."""
    began = time.perf_counter()
    results = decoder.run_many([item.prompt for item in items], concurrency=BATCH)
    seconds = time.perf_counter() - began
    rows = [
        (bool(item.verdict(result.text).right), result.ledger.total.flops, result.ledger.total.flops_paper)
        for item, result in zip(items, results, strict=True)
    ]
    target = [result.ledger.target for result in results]
    return Answers(rows, sum(a.generated for a in target), sum(a.overridden for a in target), seconds)


def memory(family: str, problems: int, file: Path) -> int:
    """Record corrections, as `rsd corrections` does; return their number."""
    drafter, target = (load(spec) for spec in FAMILIES[family])
    noting = Noting()
    items = find_task({"kind": "embedded", "split": "dev"}).draw(problems, SEED)
    answers(SpeculativeDecoding(drafter=drafter, target=target, rule=noting), items)
    found = noting.corrections(target.vocabulary.identity)
    found.save(file)
    return found.total


def measured(family: str, items: Sequence[Item], corrections: Path) -> list[dict[str, Any]]:
    """All rules and their baselines, on one family."""
    drafter, target = (load(spec) for spec in FAMILIES[family])
    rows: list[dict[str, Any]] = []
    for temperature, rules in RULES.items():
        settings = Settings(temperature=temperature, seed=SEED)

        def row(method: str, rule: str, made: Answers, passes: int | None, against: Answers) -> None:
            right = sum(right for right, *_ in made.rows)
            versus = compare(made.rows, against.rows)
            told = f"{family}, temperature {temperature:g}, {method} {rule}"  # noqa: B023 - called within its iteration
            print(f"{told}: {made.seconds:.0f} s", flush=True)
            rows.append(
                {
                    "family": family,
                    "temperature": temperature,  # noqa: B023
                    "method": method,
                    "rule": rule,
                    "accuracy": made.accuracy,
                    "ci95": wilson(right, len(made.rows)),
                    "vs_target": {key: asdict(versus)[key] for key in ("difference", "ci95", "p_value")},
                    "tokens_per_pass": None if passes is None else made.generated / passes,
                    "overridden": made.overridden / made.generated,
                    "seconds_per_problem": None if method == "direct" else made.seconds / len(items),
                }
            )

        def speculating(rule: AcceptanceRule) -> tuple[Answers, int]:
            counting = Counting(rule=rule)
            decoder = SpeculativeDecoding(
                drafter=drafter,
                target=target,
                rule=counting,
                draft_length=DRAFT_LENGTH,
                settings=settings,  # noqa: B023
            )
            made = answers(decoder, items)
            return made, counting.passes

        alone = answers(TargetOnly(target=target, settings=settings), items)
        row("target", "", alone, alone.generated, alone)
        row("exact", "exact", *speculating(Exact()), alone)
        for text in rules:
            rule = parse_rule(text.format(memory=corrections))
            name = text.format(memory="corrections")
            if not isinstance(rule, EntropyAware):
                direct = SpeculativeDecoding(
                    target=target, proposer=Dummy(), rule=Direct(rule=rule), draft_length=1, settings=settings
                )
                row("direct", name, answers(direct, items), None, alone)
            row("rule", name, *speculating(rule), alone)
    return rows


def page(data: dict[str, Any]) -> str:
    """The figures as a page."""
    lines = [
        "## Lossy acceptance rules",
        "",
        f"Made by `python -m tests.benchmarks.lossy`, {data['date']}, {data['machine']}. {data['n']} held-out problems "
        f"of each family, seed {SEED}, drafts of up to {DRAFT_LENGTH} tokens, {BATCH} problems at once; corrections of "
        f"{data['calibration']} other problems. *Direct* samples the target from what the rule below may keep. "
        "*Overridden* are tokens on which the rule's decision differs from exact speculation.",
        "",
        "| family | temperature | method | accuracy | minus the target's, paired | 95 % | p | tokens per pass "
        "| overridden | seconds per problem |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        versus, passes, seconds = row["vs_target"], row["tokens_per_pass"], row["seconds_per_problem"]
        difference = f"{versus['difference']:+.3f}"
        low, high = versus["ci95"]
        name = row["rule"] if row["method"] == "rule" else row["method"]
        lines.append(
            f"| {row['family']} | {row['temperature']:g} | {name} | {row['accuracy']:.3f} | {difference} "
            f"| {low:+.3f} to {high:+.3f} | {versus['p_value']:.2g} | {'–' if passes is None else f'{passes:.2f}'} "
            f"| {row['overridden']:.2%} | {'–' if seconds is None else f'{seconds:.3f}'} |"
        )
    return "\n".join(lines) + "\n"


COMMAND = Command("lossy", __doc__, SIZES, page)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    torch.set_num_threads(1)  # models this small lose time when they share cores
    items = find_task("embedded").draw(options.n, SEED)
    rows: list[dict[str, Any]] = []
    noted = {}
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "corrections.json"
            noted[family] = memory(family, options.calibration, file)
            rows += measured(family, items, file)
    data = {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores {platform.machine()}, no GPU, Python {platform.python_version()}",
        "n": options.n,
        "calibration": options.calibration,
        "corrections": noted,
        "rows": rows,
    }
    COMMAND.write(options, data)


if __name__ == "__main__":
    main()
