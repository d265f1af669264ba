"""The three roles of the algorithm. Each asks one coroutine of a backend.

A backend raises `DrafterError`, `VerifierError` or `TargetError`, or anything else: the decoder treats every
exception of a role alike, by that role's rule. Work that was done before the failure is charged where the error tells
it: `VerifierError("no digit in the reply", usage=usage)`, or `add_usage(error, usage)` for any other type.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from rsd_core.paths import Message, Path, Step


@dataclass(frozen=True, slots=True)
class Usage:
    """Work done by one call of a model, in tokens of that model's vocabulary."""

    prefix: int = 0
    """Length of the prompt and the steps the call was about."""
    computed: int = 0
    """Tokens run through the model: the part of the prefix that was not cached, and what was generated."""
    reused: int = 0
    """Tokens of the prefix found in a cache."""
    generated: int = 0
    """Tokens sampled, end-of-answer tokens included."""
    scored: int = 0
    """Tokens of the answer, prompt excluded, that a verifier computed in this call."""
    seconds: float = 0.0
    """Time the model worked, without waiting for its turn."""
    parts: tuple[tuple[Model, Usage], ...] = ()
    """Whose work it was, where a model is made of others; the ledger charges each at its own rate."""

    def __add__(self, other: Usage) -> Usage:
        """Work of two calls together."""
        return Usage(*(getattr(self, name) + getattr(other, name) for name in Usage.__slots__))


class Interrupted(asyncio.CancelledError):
    """What a cancelled call may raise to tell the work it had done by then."""

    def __init__(self, usage: Usage) -> None:
        self.usage = usage
        super().__init__("interrupted")


def usage_of(error: BaseException) -> Usage | None:
    """The work that a failed or cancelled call had done, where its error tells."""
    for name in ("usage", "rsd_usage"):
        usage = getattr(error, name, None)
        if isinstance(usage, Usage):  # other libraries have errors with a `usage` of their own kind
            return usage
    return None


def add_usage(error: BaseException, usage: Usage) -> None:
    """Let an error of any type carry the work of the call that failed, in place of what it carried."""
    setattr(error, "usage" if isinstance(getattr(error, "usage", None), Usage) else "rsd_usage", usage)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen."""

    temperature: float = 0.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    """Nucleus of the distribution that is sampled from, in (0, 1]."""


@dataclass(frozen=True, slots=True)
class StepRequest:
    """What the decoder asks of a drafter or a target."""

    seeds: tuple[int, ...]
    """One seed below 2**63 per wanted step: as many candidates as seeds. The same seed gives the same step."""
    max_tokens: int = 512
    """Cap of one step, in tokens."""
    delimiter: str | None = "\n\n"
    """A step ends after this text, further newlines in the same token included. None asks for the whole answer."""
    sampling: Sampling = Sampling()
    guess: Step | None = field(default=None, compare=False)
    """A step that may begin as the wanted one: who reads faster than it writes keeps what it would write as well."""
    ahead: int = field(default=0, compare=False)
    """How many steps after this one are likely to be asked for next: who writes on need not wait for that."""


@dataclass(frozen=True, slots=True)
class Generation:
    """Candidate steps, one per seed in order, and the work of writing them."""

    steps: tuple[Step, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Scores:
    """Rewards in [0, 1], one per candidate in order, and the work of finding them."""

    rewards: tuple[float | None, ...]
    """None where the verifier abstains: it has nothing to say about this step."""
    usage: Usage


@dataclass(frozen=True, slots=True)
class Price:
    """Money per million tokens, in any one currency."""

    prompt: float
    generated: float
    cached: float | None = None
    """For prompt tokens found in a cache; None charges them like others."""


class Model(ABC):  # noqa: B024 - what is abstract is in the roles
    """What all roles share."""

    name: str = "model"
    """Shown to people."""
    flops_per_token: float | None = None
    """FLOPs to run one token through the model, two per weight that takes part; None when unknown."""
    price: Price | None = None
    """What the model costs, where it costs."""
    renders_tools: bool = False
    """Whether the model sees the definitions in a prompt's `tools` message."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    async def aclose(self) -> None:  # noqa: B027 - most models hold nothing that needs closing
        """Release what the model holds."""


class Drafter(Model):
    """The cheap model, P_m in the paper: proposes the next step."""

    @abstractmethod
    async def generate(self, path: Path, request: StepRequest) -> Generation:
        """Write the step that follows the path, once per seed."""


class Target(Model):
    """The strong model, P_M in the paper: writes the steps whose drafts were rejected."""

    @abstractmethod
    async def generate(self, path: Path, request: StepRequest) -> Generation:
        """Write the step that follows the path, once per seed."""


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Natural logarithms of the probabilities of whole steps, one per candidate in order, and the work."""

    values: tuple[float, ...]
    usage: Usage


@runtime_checkable
class HasLikelihood(Protocol):
    """An ability of some drafters and targets: to say how likely they find a step that somebody wrote."""

    async def log_likelihoods(self, path: Path, steps: Sequence[Step]) -> Likelihoods:
        """Log-probability of each step after the path, the end of the answer included where the step ends it."""


@runtime_checkable
class SpeculativeTarget(Protocol):
    """An ability of some targets: to let a drafter guess their tokens (standard speculative decoding)."""

    async def speculate(self, path: Path, request: StepRequest, drafter: Drafter) -> tuple[Generation, Usage]:
        """As `generate` for one seed, with the drafter as assistant; also the drafter's own work."""


class Verifier(Model):
    """The reward model, r in the paper: scores a step in the light of the path before it."""

    @abstractmethod
    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Score candidates for the step that follows the path.

        Args:
            path: Prompt and accepted steps.
            steps: One or more candidates; none of them is blank.
        """


@runtime_checkable
class ScoresRuns(Protocol):
    """An ability of some verifiers: to score steps that follow each other in one pass, as causal models can.

    What comes after a step must not change its reward.
    """

    async def score_run(self, path: Path, steps: Sequence[Step]) -> Sequence[Scores]:
        """As `score` of one step after the other, each alone and on the path of those before it.

        Args:
            path: What the first step follows.
            steps: One or more; none of them is blank.

        Returns:
            The reward of each step with its share of the work: what is read before the first step belongs to that one.
        """


@dataclass(frozen=True, slots=True)
class NextWord:
    """How likely some words are to come next."""

    logprobs: tuple[float, ...]
    """Natural logarithms of the probabilities, one per word in order; a word stands for its first token."""
    usage: Usage


@runtime_checkable
class PredictsWords(Protocol):
    """A generator that tells how likely given words are as its next text: what judges of one token need."""

    async def next_word(self, path: Path, words: Sequence[str], after: Sequence[Message] = ()) -> NextWord:
        """Log-probabilities of words that differ in their first token.

        Args:
            path: What the model has written so far, and goes on with.
            words: The words, with the space that comes before them where one does.
            after: Messages that follow the path as a whole turn of the assistant's; the last one, by the assistant,
                is gone on with.
        """


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a verifier reads for a step."""

    text: str
    """All of it, special tokens written out."""
    tokens: tuple[tuple[int, str], ...] = ()
    """The same as ids with their names; empty where the verifier knows none."""
    read: tuple[int, ...] = ()
    """Positions in `tokens` that the score is read at."""
    kept: int = 0
    """How many of the tokens stay for the next step; the others are only fed to read the score."""


@runtime_checkable
class Explains(Protocol):
    """A verifier that can show what it reads."""

    def explain(self, path: Path, step: Step) -> Explanation:
        """What is read to score a step that follows the path; nothing is run."""
