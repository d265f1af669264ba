"""What a decoder returns: the answer, its steps, why it ended and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Literal

from pydantic import TypeAdapter

from rsd_core.ledger import Ledger
from rsd_core.paths import Prompt
from rsd_core.thoughts.markers import Markers
from rsd_core.thoughts.reading import Kind, Piece

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
`repetition` a model that is stuck, `cancelled` the caller, `error` a failure."""

DegradationKind = Literal[
    "drafter_error", "verifier_error", "target_error", "target_limit", "thought_limit", "no_answer"
]
"""`…_error` is a fault of a role, `target_limit` a draft kept because a limit on the target was reached,
`thought_limit` a thought or reasoning ended by a limit or the policy, and `no_answer` a response that ended inside or
with its thought."""


@dataclass(frozen=True, slots=True)
class Degradation:
    """Something that went wrong on the way to an answer, and how the request recovered."""

    step: int
    """Index of the step concerned."""
    kind: DegradationKind
    message: str


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of a response with its history."""

    text: str
    """The text as written, thought markers included."""
    author: Literal["draft", "target", "limit"]
    """Who wrote it; `limit` closed a thought that a token limit or the policy ended."""
    reward: float | None
    """Reward of the drafted step, accepted or not; None if it was not scored or the verifier abstained."""
    accepted: bool
    """Whether the draft was accepted; False for steps by the target."""
    discarded_draft: str | None = None
    """Text of the rejected draft."""
    size: int = 0
    """Tokens generated for the text."""
    native: object = field(default=None, compare=False, repr=False)
    """The model's own message (see `Step.native`)."""
    target_reward: float | None = None
    """Reward of the target's own step, if the policy had it scored."""
    pieces: tuple[Piece, ...] | None = None
    """The thought and answer parts of the text, without markers; None if all of it is answer."""

    @property
    def kind(self) -> Kind:
        """Which part the step belongs to; one with the end of a thought and some answer belongs to the answer."""
        return "answer" if self.pieces is None or self.content else "thought"

    @property
    def thought(self) -> str:
        """The thought part of the text, without markers and surrounding white space."""
        return "" if self.pieces is None else self.text_of("thought").strip()

    @property
    def content(self) -> str:
        """The answer part of the text, without markers."""
        return self.text if self.pieces is None else self.text_of("answer")

    def text_of(self, kind: Kind) -> str:
        """The part of the text that is thought or answer; joined over all steps, they give the result's."""
        return "".join(text for part, text in self.pieces or () if part == kind)

    @property
    def own_reward(self) -> float | None:
        """Reward of the step that is in the answer; None if it was not scored."""
        return self.reward if self.accepted else self.target_reward


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one request; complete even if the request was cut short."""

    prompt: Prompt
    text: str
    """The answer, without the thought."""
    finish_reason: FinishReason
    steps: tuple[StepRecord, ...]
    ledger: Ledger
    seconds: float
    """Wall-clock time of the request, waiting included."""
    degradations: tuple[Degradation, ...] = ()
    """Faults and limits that the request recovered from, and a missing answer; normally empty."""
    thought: str = ""
    """The thought before the answer, without markers."""
    opening: str = ""
    """The part of the response that the chat template wrote: the beginning of a thought, or an empty one."""
    markers: Markers | None = None
    """The markers around the thought; None without a thought."""
    prompt_tokens: int = 0
    """Length of the prompt by the count of the first model that read it; 0 if none did."""

    @property
    def raw_text(self) -> str:
        """The whole response as written, markers and thought included."""
        return self.opening + "".join([step.text for step in self.steps])

    @property
    def answer(self) -> str | None:
        r"""The content of the last `\boxed{…}` of the answer; None when there is none."""
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
        """The inverse of `to_dict`; the prompt is empty unless the data contains one."""
        return _adapter().validate_python({"prompt": (), **data})

    def to_dict(self, *, rejected: bool = True) -> dict[str, object]:
        """Plain JSON data, without the prompt.

        Args:
            rejected: Whether to include the texts of rejected drafts; they are empty otherwise.
        """
        thinks = self.markers is not None or any(step.pieces for step in self.steps)
        return {
            "text": self.text,
            **({"thought": self.thought, "raw_text": self.raw_text} if thinks else {}),
            "answer": self.answer,
            "finish_reason": self.finish_reason,
            "steps": [
                {
                    "text": step.text,
                    **({"kind": step.kind} if thinks else {}),
                    "author": step.author,
                    "reward": step.reward,
                    "accepted": step.accepted,
                    "discarded_draft": step.discarded_draft if rejected else step.discarded_draft and "",
                    "size": step.size,
                    **({} if step.target_reward is None else {"target_reward": step.target_reward}),
                    **({} if step.pieces is None else {"pieces": [list(piece) for piece in step.pieces]}),
                }
                for step in self.steps
            ],
            "ledger": self.ledger.to_dict(),
            "seconds": self.seconds,
            "degradations": [asdict(item) for item in self.degradations],
            "prompt_tokens": self.prompt_tokens,
            **({"opening": self.opening} if self.opening else {}),
            **({"markers": asdict(self.markers)} if self.markers is not None else {}),
        }


@cache
def _adapter() -> TypeAdapter[Result]:
    return TypeAdapter(Result)


def boxed(text: str) -> str | None:
    r"""The content of the last complete `\boxed{…}`, with balanced braces; None when there is none."""
    start = len(text)
    while (start := text.rfind("\\boxed{", 0, start)) >= 0:
        depth = 0
        for end in range(start + len("\\boxed"), len(text)):
            depth += (text[end] == "{") - (text[end] == "}")
            if depth == 0:
                return text[start + len("\\boxed{") : end].strip()
    return None
