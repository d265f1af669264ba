"""Settings of a decoder, as data."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from rsd_core.data import Data, explain, unknown
from rsd_core.errors import ConfigurationError
from rsd_core.interfaces import Sampling
from rsd_core.limits import Limits
from rsd_core.speculating import check_proposer
from rsd_core.splitting import AnyDelimiter
from rsd_core.thoughts.markers import MARKERS, Markers


def _named(markers: object) -> object:
    if isinstance(markers, str):
        if markers not in MARKERS:
            raise ValueError(unknown("markers", markers, MARKERS))
        return MARKERS[markers]
    return markers


class ThoughtSettings(Data):
    """What differs for the steps of a thought; what is not given is the same as for the answer."""

    delimiter: AnyDelimiter | None = None
    max_step_tokens: Annotated[int, Field(ge=1)] | None = None
    markers: Annotated[Markers, BeforeValidator(_named)] | None = None
    """The models' thought markers, by name or as data; by default those of their chat templates, and known markers at
    the beginning of a response."""


class Settings(Data):
    """How a decoder works, apart from its models and policy."""

    granularity: Literal["step", "turn"] = "step"
    """A *step* ends after the delimiter; a *turn* is the whole response, for models that cannot continue a prefix."""
    delimiter: AnyDelimiter = "\n\n"
    """What ends a step: a text, or a splitter: `line`, `sentence`, `words`, or an object (`rsd_core.splitting`)."""
    max_step_tokens: Annotated[int, Field(ge=1)] = 512
    """Maximum length of a step; a longer one is cut there and treated as a step."""
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    """0 for all tokens."""
    candidates: Annotated[int, Field(ge=1, le=64)] = 1
    """Steps drafted at each position; one of them is put to the policy."""
    softmax_beta: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Which candidate: the one with the highest reward, or one drawn with weights exp(β · reward); GSI uses β = 20."""
    retry_temperature: Annotated[float, Field(gt=0, le=5)] = 0.7
    """For further drafts of a step, under a policy or search that drafts again, if `temperature` is lower."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    on_verifier_error: Literal["target", "accept", "raise"] = "target"
    """If the verifier fails: let the target write the step, keep the draft, or fail the request."""
    on_abstain: Literal["target", "accept"] = "target"
    """If the verifier abstains: let the target write the step, or keep the draft."""
    target_retries: Annotated[int, Field(ge=0, le=10)] = 2
    """How often to retry a failed call of the target."""
    lookahead: Annotated[int, Field(ge=0, le=16)] = 0
    """How many steps the drafter may write ahead of the one being scored, as if that one were accepted; 0 turns it off.
    Answers are the same. From 2 on, steps are scored ahead too; a verifier that scores runs takes all waiting steps in
    one call, and the depth counts from the last of them. It pauses while the acceptance estimate is low, and is off
    under limits on FLOPs or money."""
    hedge: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Estimated probability of rejection, from the answer's steps so far, above which the target begins together with
    the drafter; None for never. Answers are the same. It is off under a limit on the target, FLOPs or money."""
    reuse_rejected: bool = True
    """Whether targets that can (in process, and servers told to) read a rejected draft and keep what they would have
    written. Answers are the same up to rounding, and sooner. It is off under a limit on the target, FLOPs or money."""
    speculate: str | None = None
    """What proposes the tokens of the steps that RSD's target writes, several of which it verifies at a time:
    `drafter`, or a proposer without a model, such as `lookup`; None is off. For targets of hf: and embedded:. The rule
    is exact, so answers are the same under greedy decoding, and have the same distribution otherwise. It works with
    `reuse_rejected`: the draft is verified first. It is off under a limit on the target, FLOPs or money."""
    speculate_drafts: str | None = None
    """The same for the steps that RSD's drafter writes, including those ahead, by a proposer without a model. Several
    candidates are written without it."""
    thoughts: ThoughtSettings = ThoughtSettings()
    limits: Limits = Limits()

    @field_validator("speculate", "speculate_drafts")
    @classmethod
    def _proposer_is_known(cls, proposer: str | None) -> str | None:
        if proposer is not None:
            check_proposer(proposer)
        return proposer

    @model_validator(mode="after")
    def _drafts_are_proposed_without_a_drafter(self) -> Self:
        if self.speculate_drafts == "drafter":
            raise ValueError("speculate_drafts='drafter': a drafter cannot draft for itself; give 'lookup', or None")
        return self

    @model_validator(mode="after")
    def _thoughts_fit(self) -> Self:
        limit = self.limits.max_thought_tokens
        if limit is not None and self.granularity == "turn":
            raise ValueError(
                f"max_thought_tokens={limit} with granularity='turn': a turn is written in one piece; set "
                "granularity='step', or remove it and use the model's own option, such as body.reasoning_effort"
            )
        return self

    @model_validator(mode="after")
    def _candidates_fit(self) -> Self:
        if self.candidates > 1 and self.temperature == 0:
            raise ValueError(
                f"candidates={self.candidates} with temperature=0 would draft the same step {self.candidates} times; "
                "set a temperature above 0 (0.7 is common), or candidates=1"
            )
        if self.candidates > 1 and self.lookahead:
            raise ValueError(
                f"lookahead={self.lookahead} with candidates={self.candidates}: which candidate goes on is not known "
                "before they are scored; set lookahead=0, or candidates=1"
            )
        return self

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen."""
        return Sampling(self.temperature, self.top_p, self.top_k)

    def updated(self, **values: Any) -> Settings:
        """These settings with other values. Limits are given by their own names; None leaves a value unchanged.

        Raises:
            ConfigurationError: A name is unknown, or a value out of its range.
        """
        changes = {name: value for name, value in values.items() if value is not None}
        limits = {name: changes.pop(name) for name in Limits.model_fields if name in changes}
        for name in changes:
            if name not in Settings.model_fields:
                raise ConfigurationError(unknown("setting", name, [*Settings.model_fields, *Limits.model_fields]))
        base = changes.get("limits", self.limits)
        try:
            if limits:
                changes["limits"] = {**dict(Limits.model_validate(base)), **limits}
            return Settings.model_validate({**dict(self), **changes})
        except ValidationError as error:
            raise ConfigurationError(f"invalid settings: {explain(error)}") from error
