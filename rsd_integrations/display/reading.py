"""The content of a trace, independent of its rendering: figures in words, and savings with their basis."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rsd_core import (
    Account,
    Decoder,
    Kind,
    Message,
    Reader,
    Result,
    RewardGuidedDecoder,
    StepRecord,
    Thinking,
    WeightingPolicy,
)
from rsd_core.thoughts.reading import reader_of

MARKS = {"draft": "●", "target": "▲", "rejected": "✕", "limit": "■"}
"""Symbols for authors and outcomes, since not everyone can see colours."""
CLOSED = "(closed early)"
"""Shown for a step that closed a thought at its token limit."""
MARKER = "(a marker of the thought)"
"""Shown for a step with nothing else in it."""


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
class Row:
    """A displayed step, or a part of one: if a thought ends within a step, each part is a row."""

    number: int
    """The step's number, from 1."""
    kind: Kind
    text: str
    """Without markers."""
    step: StepRecord | None
    """The step, with its rewards; None for the thought part of a step that continues with the answer."""
    rejected: str | None = None
    """Text of the rejected draft, without markers."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A result, with what its decoder adds."""

    result: Result
    thresholds: dict[Kind, float | None] = field(default_factory=dict)
    """The smallest reward that is more likely accepted than not, for each part; None if the policy has no fixed one."""
    names: dict[str, str] = field(default_factory=dict)
    """Names of the models by role, where known."""

    @property
    def accounts(self) -> dict[str, Account]:
        """The ledger's rows, the total last."""
        ledger = self.result.ledger
        return {"drafter": ledger.drafter, "verifier": ledger.verifier, "target": ledger.target, "total": ledger.total}

    @property
    def savings(self) -> list[Saving]:
        """The comparison with the target alone; empty if FLOPs are unknown."""
        ledger, total = self.result.ledger, self.result.ledger.total
        pairs = {
            "everything charged": (total.flops, ledger.target_only_flops),
            "paper's convention": (total.flops_paper, ledger.target_only_flops_paper),
        }
        return [Saving(name, spent, alone) for name, (spent, alone) in pairs.items() if spent and alone]

    @property
    def rows(self) -> list[Row]:
        """The displayed steps, those of the thought first."""
        result, rows = self.result, list[Row]()
        if result.markers is None:
            numbered = enumerate(result.steps, 1)  # a thought without markers is reasoning before structured output
            return [Row(i, one.kind, one.thought or one.text, one, one.discarded_draft) for i, one in numbered]
        reader = reader_of(result.prompt, Thinking(result.markers, result.opening))
        for number, step in enumerate(result.steps, 1):
            rejected = None if step.discarded_draft is None else read_step(reader, step.discarded_draft)[1]
            reader = reader.read(step.text)[0]
            text, thought = step.content, step.thought
            if step.kind == "answer" and thought:
                rows.append(Row(number, "thought", thought, None))
            if step.kind == "thought":
                text = thought or (CLOSED if step.author == "limit" else MARKER)
            rows.append(Row(number, step.kind, text, step, rejected))
        return rows

    @property
    def thought_summary(self) -> str:
        """The one-line summary of a folded thought."""
        rows = [row for row in self.rows if row.kind == "thought"]
        unfinished = any(item.kind == "no_answer" for item in self.result.degradations)
        return f"{'unfinished ' * unfinished}{folded_thought(row.step for row in rows)}"

    @property
    def summary(self) -> str:
        """One line: steps, shares, time."""
        result, rate = self.result, self.result.acceptance_rate
        accepted = "" if rate is None else f", {rate:.0%} of drafts accepted"
        steps = counted(len(result.steps), "step")
        return f"{steps}, {result.target_share:.0%} by the target{accepted}, {result.seconds:.2f} s"

    def verdict(self, step: StepRecord) -> str:
        """Why a draft was rejected, as far as its reward shows."""
        if step.reward is None:
            return "not scored"
        threshold = self.thresholds.get(step.kind)
        if threshold is None or step.reward >= threshold:
            return f"reward {step.reward:.2f}"
        return f"reward {step.reward:.2f}, below {threshold:.2f}"


def read(result: Result, decoder: Decoder | None = None) -> Reading:
    """A reading of a result.

    Args:
        result: Any result, including one from `Result.from_dict`.
        decoder: The decoder behind it: provides the threshold and the model names.
    """
    if not isinstance(decoder, RewardGuidedDecoder):
        return Reading(result)
    casts, names = decoder.casts(), dict[str, str]()
    for role in ("drafter", "verifier", "target"):
        both = (getattr(casts[kind], role).name for kind in ("thought", "answer"))
        names[role] = ", ".join(dict.fromkeys(both))
    return Reading(result, thresholds_of(decoder), names)


def thresholds_of(decoder: Decoder) -> dict[Kind, float | None]:
    """The thresholds of a decoder's policies, by part; none if it has no policy."""
    if not isinstance(decoder, RewardGuidedDecoder):
        return {}
    return {kind: threshold_of(cast.policy) for kind, cast in decoder.casts().items()}


def read_step(reader: Reader, text: str) -> tuple[Kind, str]:
    """The part of a step that continues from a reader's position, and its text without markers."""
    after, pieces = reader.read(text)
    pieces += after.rest()
    thought, answer = ("".join(piece for part, piece in pieces if part == kind) for kind in ("thought", "answer"))
    if answer.strip():
        return "answer", f"{thought.strip()}\n\n{answer}" if thought.strip() else answer
    thinks = reader.in_thought or after.in_thought
    return ("thought", thought.strip() or MARKER) if thinks else ("answer", answer)


def folded_thought(steps: Iterable[StepRecord | None]) -> str:
    """A one-line summary of a thought: how many steps and tokens, and how many steps by the target.

    Args:
        steps: Steps of the thought; None for part of a step, whose tokens cannot be separated from the answer's.
    """
    written = [step for step in steps if step is None or step.author != "limit"]
    whole = [step for step in written if step is not None]
    tokens, by_target = sum(step.size for step in whole), sum(step.author == "target" for step in whole)
    words = [counted(len(written), "step")]
    words += [f"{tokens:,} tokens"] if tokens else []
    words += [f"{by_target} by the target"] if by_target else []
    return f"thought: {', '.join(words)}"


def thought_of(message: Message) -> str:
    """The thought in a prompt's assistant message; empty if there is none."""
    return str(message.extra.get("reasoning_content") or "")


def threshold_of(policy: WeightingPolicy) -> float | None:
    """Where ω crosses 1/2; None for a policy that learns, and for one that never crosses it."""
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
    size, prefix = unit_of(value)
    return f"{digits(value / size)} {prefix}".rstrip()


def unit_of(value: float) -> tuple[float, str]:
    """The unit in which a number, rounded, has one to three digits before its point, and that unit's prefix."""
    units = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
    return next(((size, prefix) for size, prefix in units if value >= _ROUNDED * size), (1.0, ""))


_ROUNDED = 0.9995
"""From this share of a unit on, three digits round up to it: 999.6 ms are 1 s."""


def digits(value: float, count: int = 3) -> str:
    """A number to so many digits; a larger one has all before its point, in place of an exponent."""
    return f"{value:.{count}g}" if abs(value) < 10**count - 0.5 else f"{value:.0f}"


def counted(count: int, noun: str) -> str:
    """How many there are: `1 problem`, `50 problems`."""
    return f"{count} {noun}{'s' * (count != 1)}"


def duration(seconds: float) -> str:
    """A time with its unit, from microseconds to hours."""
    for size, unit in ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms")):
        if seconds >= _ROUNDED * size:
            return f"{digits(seconds / size)} {unit}"
    return f"{digits(seconds * 1e6)} µs"


def spending(account: Account) -> str:
    """What was spent, in words: tokens, FLOPs and money, as far as they are known."""
    parts = [f"{amount(account.computed)} tokens"]
    parts += [f"{amount(account.flops)} FLOPs"] if account.flops is not None else []
    parts += [f"cost {digits(account.cost, 4)}"] if account.cost else []
    return ", ".join(parts)
