"""The three roles of the algorithm. Each requires one coroutine of a backend.

A backend raises `DrafterError`, `VerifierError` or `TargetError`, or anything else: the decoder treats all exceptions
of a role alike, by that role's rule. Work done before the failure is charged if the error carries it:
`VerifierError("no digit in the reply", usage=usage)`, or `add_usage(error, usage)` for any other type.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

from rsd_core.errors import ConfigurationError
from rsd_core.model import Model, Usage
from rsd_core.paths import Message, Path, Prompt, Step
from rsd_core.splitting import Splitter, splitter
from rsd_core.thoughts.markers import Thinking


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen."""

    temperature: float = 0.0
    """0 means greedy decoding."""
    top_p: float = 1.0
    """Probability mass of the nucleus to sample from, in (0, 1]."""
    top_k: int = 0
    """How many of the likeliest tokens to sample from, with all that are as likely as the last of them; 0 for all.
    Top-p is applied after top-k, and both after temperature, in the order of transformers' logits processors."""


DRAFTER = "drafter"
"""The proposer that is a model."""
DRAFT_LENGTH = 5
"""Tokens that are proposed in a row by default, if the acceptance rule needs no more."""


@dataclass(frozen=True, slots=True)
class Speculation:
    """How to save a model passes: some tokens are proposed, and one pass verifies them all."""

    proposer: Any = DRAFTER
    """What proposes: the model `drafter`, or a proposer without a model, as text (`lookup`), as data or an object."""
    rule: Any = "exact"
    """Which proposed tokens are kept: an acceptance rule as text, as data or as an object. With the exact rule the
    step is as without speculation: the same under greedy decoding, otherwise with the same distribution."""
    drafter: Drafter | None = None
    """The model that proposes, if one does."""
    draft_length: int | None = None
    """The most tokens proposed in a row, at least 1; None for `DRAFT_LENGTH`, or the minimum that the rule needs."""
    beams: Any = None
    """How many beams are sampled, drafted and kept, as data or an object, where the step is to be the likeliest of
    several; None where it is written once."""


@dataclass(frozen=True, slots=True)
class StepRequest:
    """What the decoder requests from a drafter or a target."""

    seeds: tuple[int, ...]
    """One seed below 2**63 per candidate. The same seed gives the same step."""
    max_tokens: int = 512
    """Maximum length of one step, in tokens."""
    delimiter: str | Splitter | None = "\n\n"
    """A step ends after this text, further newlines in the same token included, or where the splitter says. None
    requests the whole response."""
    sampling: Sampling = Sampling()
    guess: Step | None = field(default=None, compare=False)
    """A step that may begin like the wanted one: a model that reads faster than it writes keeps what it agrees with."""
    speculation: Speculation | None = field(default=None, compare=False)
    """What proposes the step's tokens, for a `SpeculativeTarget` that is asked for one step."""
    ahead: int = field(default=0, compare=False)
    """How many steps after this one are likely to be requested next, so that the model may keep writing."""
    close: str = ""
    """The marker that ends a thought, if the step is part of one: the step ends there too, white space included."""
    needs_top_k: bool = field(default=True, compare=False)
    """Whether a model without top-k refuses the request; otherwise it samples from all tokens."""

    @property
    def splitter(self) -> Splitter | None:
        """What ends the step, delimiter and marker together; None if the whole response is requested."""
        return splitter(self.delimiter, self.close)


@dataclass(frozen=True, slots=True)
class Generation:
    """Candidate steps, one per seed in order, and the work of generating them."""

    steps: tuple[Step, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Scores:
    """Rewards in [0, 1], one per candidate in order, and the work of scoring them."""

    rewards: tuple[float | None, ...]
    """None where the verifier abstains: it has nothing to say about this step."""
    usage: Usage


class Generator(Model):
    """Base of the two roles that write."""

    def thinking(self, prompt: Prompt) -> Thinking | None:  # noqa: ARG002
        """How the model thinks before it answers the prompt, according to its chat template; None if unknown."""
        return None

    def check_sampling(self, sampling: Sampling) -> None:
        """Refuse what the model is known to be unable to honour, before it is asked for anything.

        Raises:
            ConfigurationError: It cannot sample like this.
        """

    def with_fields(self, fields: Mapping[str, Any]) -> Self:
        """The same model with extra request fields, named as in OpenAI's chat API; loads nothing.

        Raises:
            ConfigurationError: The model does not accept such a field. By default it accepts none.
        """
        for name in fields:
            raise ConfigurationError(f"{self!r} does not accept {name} in a single request: omit it")
        return self


class Drafter(Generator):
    """The cheap model, P_m in the paper: proposes the next step."""

    @abstractmethod
    async def generate(self, path: Path, request: StepRequest) -> Generation:
        """Write the step that follows the path, once per seed."""


class Target(Generator):
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
    """Drafters and targets that can report how likely they find a given step."""

    async def log_likelihoods(self, path: Path, steps: Sequence[Step]) -> Likelihoods:
        """Log-probability of each step after the path, including the end of the answer if the step ends it."""


@runtime_checkable
class SpeculativeTarget(Protocol):
    """An ability of some targets and drafters: to verify proposed tokens, see `StepRequest.speculation`.

    Where a drafter proposes, the usage reports the work of both models in `parts`.
    """

    def checked_speculation(self, speculation: Speculation) -> Speculation:
        """The same with proposer and rule as objects, which are made once, and with a draft length.

        Raises:
            ConfigurationError: An unknown proposer or rule, or a drafter that cannot draft for the model.
        """


@dataclass(frozen=True, slots=True)
class Entropy:
    """How uncertain a model is about its next token, and the work of computing it."""

    nats: float
    """Shannon entropy of the next token's distribution at temperature 1, in nats; at least 0."""
    usage: Usage


@runtime_checkable
class FirstTokenEntropy(Protocol):
    """Generators that can report how uncertain they are about how a step begins."""

    async def first_token_entropy(self, path: Path) -> Entropy:
        """Entropy of the token that follows the path; the prefill of the path stays cached."""


class Verifier(Model):
    """The reward model, r in the paper: scores a step in the light of the path before it."""

    stronger: Verifier | None = None
    """A verifier that judges on the same scale, better and at a higher cost, where the policy finds that worthwhile."""
    threshold: float | None = None
    """The reward around which its verdicts hold, if its rewards are coarse elsewhere; None if all are exact."""
    may_abstain: bool = False
    """Whether it says itself that it always abstains, or may well do so; a `RoleWarning` tells of all others."""

    @abstractmethod
    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Score candidates for the step that follows the path.

        Args:
            path: Prompt and accepted steps.
            steps: One or more candidates; none of them is blank.
        """


@runtime_checkable
class ScoresRuns(Protocol):
    """Verifiers that can score consecutive steps in one pass, as causal models can.

    Later steps must not change the reward of an earlier one.
    """

    async def score_run(self, path: Path, steps: Sequence[Step]) -> Sequence[Scores]:
        """Like calling `score` for each step alone, on the path of those before it.

        Args:
            path: What the first step follows.
            steps: One or more; none of them is blank.

        Returns:
            The reward of each step with its share of the work: the prefill before the first step belongs to that step.
        """


@dataclass(frozen=True, slots=True)
class NextWord:
    """How likely some words are to come next."""

    logprobs: tuple[float, ...]
    """Natural logarithms of the probabilities, one per word in order; a word stands for its first token."""
    usage: Usage


@runtime_checkable
class PredictsWords(Protocol):
    """Generators that can report how likely given words are as the next text: what one-token judges need."""

    async def next_word(self, path: Path, words: Sequence[str], after: Sequence[Message] = ()) -> NextWord:
        """Log-probabilities of words that differ in their first token.

        Args:
            path: What the model has written so far and continues.
            words: The words, each with its leading space if it has one.
            after: Messages that follow the path as a complete assistant turn; the last one, by the assistant, is
                continued.
        """


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a verifier reads for a step."""

    text: str
    """The whole text, special tokens written out."""
    tokens: tuple[tuple[int, str], ...] = ()
    """The same as token ids with their texts; empty if the verifier has no token ids."""
    read: tuple[int, ...] = ()
    """Positions in `tokens` where the score is read."""
    kept: int = 0
    """How many of the tokens stay cached for the next step; the others are computed only to read the score."""


@runtime_checkable
class Explains(Protocol):
    """A verifier that can show what it reads."""

    def explain(self, path: Path, step: Step) -> Explanation:
        """What is read to score a step that follows the path; nothing is run."""
