"""What a decoder gives back: the answer, its steps, why it ended and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Literal

from pydantic import TypeAdapter

from rsd_core.ledger import Ledger
from rsd_core.paths import Prompt

FinishReason = Literal[
    "stop",
    "max_steps",
    "max_tokens",
    "max_seconds",
    "max_target_calls",
    "max_target_tokens",
    "max_target_flops",
    "max_target_cost",
    "max_flops",
    "max_cost",
    "context",
    "empty_step",
    "repetition",
    "cancelled",
    "error",
]
"""Why an answer ended: `stop` is the model's own end, `max_…` a limit, `context` a full context, `empty_step` and
`repetition` a model that no longer gets anywhere, `cancelled` the caller, `error` a failed role."""

DegradationKind = Literal["drafter_error", "verifier_error", "target_error", "target_limit"]


@dataclass(frozen=True, slots=True)
class Degradation:
    """Something that went wrong on the way to an answer, and how it was got over."""

    step: int
    """Index of the step concerned."""
    kind: DegradationKind
    message: str


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of an answer with its history."""

    text: str
    author: Literal["draft", "target"]
    reward: float | None
    """Reward of the drafted step, accepted or not; None where nothing was scored or the verifier abstained."""
    accepted: bool
    """Whether the draft was accepted; False for steps by the target."""
    discarded_draft: str | None = None
    """Text of the rejected draft."""
    size: int = 0
    """Tokens generated for the text."""
    native: object = field(default=None, compare=False, repr=False)
    """The model's own message, see `Step.native`."""
    target_reward: float | None = None
    """Reward of the step itself where the target wrote it and the policy had it scored."""

    @property
    def own_reward(self) -> float | None:
        """Reward of the step as it stands in the answer; None where it was not scored."""
        return self.reward if self.accepted else self.target_reward


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one request, complete also when it was cut short."""

    prompt: Prompt
    text: str
    finish_reason: FinishReason
    steps: tuple[StepRecord, ...]
    ledger: Ledger
    seconds: float
    """Wall-clock time of the request, waiting included."""
    degradations: tuple[Degradation, ...] = ()
    """Faults and limits that were got over; empty for a run as it should be."""

    @property
    def answer(self) -> str | None:
        r"""The content of the last `\boxed{…}` of the text; None when there is none."""
        return boxed(self.text)

    @property
    def target_share(self) -> float:
        """Share of the steps that the target wrote; 0 for an empty answer."""
        return sum(step.author == "target" for step in self.steps) / max(1, len(self.steps))

    @property
    def acceptance_rate(self) -> float | None:
        """Share of the drafted steps that were accepted; None when nothing was drafted."""
        drafted = [step for step in self.steps if step.accepted or step.discarded_draft is not None]
        return sum(step.accepted for step in drafted) / len(drafted) if drafted else None

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Result:
        """The result behind `to_dict`; its prompt is empty unless the data holds one."""
        return _adapter().validate_python({"prompt": (), **data})

    def to_dict(self, *, rejected: bool = True) -> dict[str, object]:
        """Plain JSON data, without the prompt.

        Args:
            rejected: Whether to tell the texts of rejected drafts; they are empty otherwise.
        """
        return {
            "text": self.text,
            "answer": self.answer,
            "finish_reason": self.finish_reason,
            "steps": [
                {
                    "text": step.text,
                    "author": step.author,
                    "reward": step.reward,
                    "accepted": step.accepted,
                    "discarded_draft": step.discarded_draft if rejected else step.discarded_draft and "",
                    "size": step.size,
                    **({} if step.target_reward is None else {"target_reward": step.target_reward}),
                }
                for step in self.steps
            ],
            "ledger": self.ledger.to_dict(),
            "seconds": self.seconds,
            "degradations": [asdict(item) for item in self.degradations],
        }


@cache
def _adapter() -> TypeAdapter[Result]:
    return TypeAdapter(Result)


def boxed(text: str) -> str | None:
    r"""The content of the last complete `\boxed{…}`, braces inside it balanced; None when there is none."""
    start = len(text)
    while (start := text.rfind("\\boxed{", 0, start)) >= 0:
        depth = 0
        for end in range(start + len("\\boxed"), len(text)):
            depth += (text[end] == "{") - (text[end] == "}")
            if depth == 0:
                return text[start + len("\\boxed{") : end].strip()
    return None
