"""What a trace tells about a result, whoever draws it: figures in words, and the savings with their basis."""

from __future__ import annotations

from dataclasses import dataclass, field

from rsd_core import Account, Decoder, Result, RewardGuidedDecoder, StepRecord, WeightingPolicy

MARKS = {"draft": "●", "target": "▲", "rejected": "✕"}
"""Signs of authors and fates, since colour alone does not reach everybody."""


@dataclass(frozen=True, slots=True)
class Saving:
    """A run's FLOPs against those of the target alone, by one convention."""

    convention: str
    spent: float
    alone: float

    @property
    def times(self) -> str:
        """The ratio in words."""
        return times(self.alone / self.spent)


@dataclass(frozen=True, slots=True)
class Reading:
    """A result, and what its decoder adds to the picture."""

    result: Result
    threshold: float | None = None
    """The smallest reward that is more likely accepted than not; None where the policy has none that stands still."""
    names: dict[str, str] = field(default_factory=dict)
    """Names of the models by role, where known."""

    @property
    def accounts(self) -> dict[str, Account]:
        """The ledger's rows, the total last."""
        ledger = self.result.ledger
        return {"drafter": ledger.drafter, "verifier": ledger.verifier, "target": ledger.target, "total": ledger.total}

    @property
    def savings(self) -> list[Saving]:
        """The comparison with the target alone; empty where FLOPs are not known."""
        ledger, total = self.result.ledger, self.result.ledger.total
        pairs = {
            "everything charged": (total.flops, ledger.target_only_flops),
            "paper's convention": (total.flops_paper, ledger.target_only_flops_paper),
        }
        return [Saving(name, spent, alone) for name, (spent, alone) in pairs.items() if spent and alone]

    @property
    def summary(self) -> str:
        """One line: steps, shares, time."""
        result, rate = self.result, self.result.acceptance_rate
        accepted = "" if rate is None else f", {rate:.0%} of drafts accepted"
        steps = f"{len(result.steps)} step{'s' * (len(result.steps) != 1)}"
        return f"{steps}, {result.target_share:.0%} by the target{accepted}, {result.seconds:.2f} s"

    def verdict(self, step: StepRecord) -> str:
        """Why a rejected draft was rejected, as far as its reward tells."""
        if step.reward is None:
            return "not scored"
        if self.threshold is None or step.reward >= self.threshold:
            return f"reward {step.reward:.2f}"
        return f"reward {step.reward:.2f}, below {self.threshold:.2f}"


def read(result: Result, decoder: Decoder | None = None) -> Reading:
    """A reading of a result.

    Args:
        result: Any result, also one that was read back by `Result.from_dict`.
        decoder: What made it: brings the threshold and the names of the models.
    """
    if not isinstance(decoder, RewardGuidedDecoder):
        return Reading(result)
    names = {"drafter": decoder.drafter.name, "verifier": decoder.verifier.name, "target": decoder.target.name}
    return Reading(result, threshold_of(decoder.policy), names)


def threshold_of(policy: WeightingPolicy) -> float | None:
    """Where ω crosses one half; None for a policy that learns, and for one that never crosses it."""
    low, high = 0.0, 1.0
    if policy.learns or policy.weight(low) >= 0.5 or policy.weight(high) < 0.5:
        return None
    while high - low > 1e-9:  # ω never falls
        middle = (low + high) / 2
        low, high = (low, middle) if policy.weight(middle) >= 0.5 else (middle, high)
    return round(high, 6)


def times(ratio: float) -> str:
    """A ratio of costs in words."""
    return f"{ratio:.2f}x fewer" if ratio >= 1 else f"{1 / ratio:.2f}x more"


def amount(value: float | None) -> str:
    """A large number with a unit's prefix, `unknown` for None."""
    if value is None:
        return "unknown"
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"
