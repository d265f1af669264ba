"""Methods: the decoders that can be compared, as text and as data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rsd_core import (
    Backtracking,
    BestOfN,
    ConfigurationError,
    Decoder,
    Drafter,
    DraftOnly,
    MajorityVote,
    Policy,
    RewardGuidedDecoder,
    RSDConfig,
    Settings,
    SpecReason,
    SpeculativeDecoding,
    StepBeam,
    Target,
    TargetOnly,
    TiltedDecoder,
    Verifier,
    load,
)
from rsd_core.baselines.sampling import Aggregate
from rsd_core.data import explain, from_text

Count = Annotated[int, Field(ge=1, le=256)]
Temperature = Annotated[float, Field(gt=0, le=5)]


class Models:
    """The models of a configuration, each loaded once and when it is first needed."""

    def __init__(self, config: RSDConfig) -> None:
        self.config = config
        self._loaded: dict[str, Any] = {}

    @cached_property
    def drafter(self) -> Drafter:
        """The cheap model."""
        drafter: Drafter = self._load(self.config.drafter)
        return drafter

    @cached_property
    def target(self) -> Target:
        """The strong model."""
        target: Target = self._load(self.config.target)
        return target

    def verifier(self, spec: str | None = None) -> Verifier:
        """The configuration's reward model, or another one."""
        verifier: Verifier = self._load(spec or self.config.verifier)
        return verifier

    def _load(self, spec: str) -> Any:
        if spec not in self._loaded:
            self._loaded[spec] = load(spec)
        return self._loaded[spec]


class Method(BaseModel):
    """A decoder to be built over a configuration's models and settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def build(self, models: Models) -> Decoder:
        """The decoder; loads the models that it needs."""

    @property
    def learns(self) -> bool:
        """Whether results depend on the problems before."""
        return False


class DraftMethod(Method):
    """The drafter alone."""

    kind: Literal["draft"] = "draft"

    def build(self, models: Models) -> Decoder:
        return DraftOnly(drafter=models.drafter, settings=models.config.settings)


class TargetMethod(Method):
    """The target alone."""

    kind: Literal["target"] = "target"

    def build(self, models: Models) -> Decoder:
        return TargetOnly(target=models.target, settings=models.config.settings)


class RSDMethod(Method):
    """RSD, with the configuration's own policy, verifier and candidates where none are given."""

    kind: Literal["rsd"] = "rsd"
    policy: Policy | None = None
    candidates: Count | None = None
    softmax_beta: float | None = None
    temperature: float | None = None
    verifier: str | None = None

    def build(self, models: Models) -> Decoder:
        own = self.model_dump(include={"candidates", "softmax_beta", "temperature"}, exclude_none=True)
        return RewardGuidedDecoder(
            drafter=models.drafter,
            verifier=models.verifier(self.verifier),
            target=models.target,
            policy=(self.policy or models.config.policy).model_copy(deep=True),
            settings=models.config.settings.updated(**own),
        )

    @property
    def learns(self) -> bool:
        return self.policy is not None and self.policy.learns


class Sampled(Method):
    """Base of the methods that sample; the paper does so at temperature 0.7 and top-p 0.8."""

    n: Count = 16
    temperature: Temperature = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.8

    def _settings(self, models: Models, **own: Any) -> Settings:
        return models.config.settings.updated(temperature=self.temperature, top_p=self.top_p, **own)


class MajorityMethod(Sampled):
    """Majority vote over n answers of the drafter."""

    kind: Literal["majority"] = "majority"

    def build(self, models: Models) -> Decoder:
        return MajorityVote(drafter=models.drafter, n=self.n, settings=self._settings(models))


class BestOfNMethod(Sampled):
    """The best of n answers of the drafter, by outcome (`last`) or by process (`min`, `mean`, `product`)."""

    kind: Literal["best_of_n"] = "best_of_n"
    aggregate: Aggregate = "last"
    verifier: str | None = None

    def build(self, models: Models) -> Decoder:
        return BestOfN(
            drafter=models.drafter,
            verifier=models.verifier(self.verifier),
            n=self.n,
            aggregate=self.aggregate,
            settings=self._settings(models),
        )


class BeamMethod(Sampled):
    """Step-level beam search: n steps are drafted at each position, the best `width` of them live on."""

    kind: Literal["beam"] = "beam"
    width: Count = 4

    def build(self, models: Models) -> Decoder:
        return StepBeam(
            drafter=models.drafter,
            verifier=models.verifier(),
            width=self.width,
            expand=max(1, self.n // self.width),
            settings=self._settings(models),
        )


class BacktrackingMethod(Method):
    """PRM-guided greedy search with backtracking (HGS-PRM)."""

    kind: Literal["backtracking"] = "backtracking"
    delta: Annotated[float, Field(ge=0, le=1)] = 0.7
    tries: Count = 3
    backtracks: Annotated[int, Field(ge=0)] = 5

    def build(self, models: Models) -> Decoder:
        return Backtracking(
            drafter=models.drafter,
            verifier=models.verifier(),
            delta=self.delta,
            tries=self.tries,
            backtracks=self.backtracks,
            settings=models.config.settings,
        )


class SpecReasonMethod(Method):
    """SpecReason: the target judges the drafts by a prompt."""

    kind: Literal["specreason"] = "specreason"
    threshold: Annotated[int, Field(ge=0, le=9)] = 7
    first_steps: Annotated[int, Field(ge=0)] = 0

    def build(self, models: Models) -> Decoder:
        return SpecReason(
            drafter=models.drafter,
            target=models.target,
            threshold=self.threshold,
            first_steps=self.first_steps,
            settings=models.config.settings,
        )


class GSIMethod(Sampled):
    """Guided speculative inference: n drafted candidates, rewards tilted by the ratio of likelihoods."""

    kind: Literal["gsi"] = "gsi"
    n: Count = 4
    threshold: float = 0.5
    beta: Annotated[float, Field(gt=0)] = 20.0

    def build(self, models: Models) -> Decoder:
        return TiltedDecoder(
            drafter=models.drafter,
            verifier=models.verifier(),
            target=models.target,
            threshold=self.threshold,
            beta=self.beta,
            settings=self._settings(models, candidates=self.n, lookahead=0),
        )


class SpeculativeMethod(Method):
    """Standard speculative decoding inside the target."""

    kind: Literal["speculative"] = "speculative"

    def build(self, models: Models) -> Decoder:
        return SpeculativeDecoding(drafter=models.drafter, target=models.target, settings=models.config.settings)


KINDS: dict[str, type[Method]] = {
    method.model_fields["kind"].default: method
    for method in (
        *(RSDMethod, TargetMethod, DraftMethod, MajorityMethod, BestOfNMethod, BeamMethod, BacktrackingMethod),
        *(SpecReasonMethod, GSIMethod, SpeculativeMethod),
    )
}
_adapter: TypeAdapter[Any] = TypeAdapter(
    Annotated[
        RSDMethod
        | TargetMethod
        | DraftMethod
        | MajorityMethod
        | BestOfNMethod
        | BeamMethod
        | BacktrackingMethod
        | SpecReasonMethod
        | GSIMethod
        | SpeculativeMethod,
        Field(discriminator="kind"),
    ]
)


def parse_method(method: str | Mapping[str, Any]) -> Method:
    """A method from text or data.

    `rsd` has the configuration's policy, `rsd@POLICY` one of its own; others take parameters after a colon:
    `majority:8`, `best_of_n:16,aggregate=min`, `rsd:candidates=4,temperature=0.7@binary_step:0.5`.

    Raises:
        ConfigurationError: Unknown method, policy or parameter.
    """
    if isinstance(method, str):
        text, at, policy = method.partition("@")
        data = from_text(text, KINDS, "method")
        if at:
            data["policy"] = policy
    else:
        data = dict(method)
    try:
        return _adapter.validate_python(data)  # type: ignore[no-any-return]
    except ValidationError as error:
        raise ConfigurationError(f"{method!r} is no valid method: {explain(error)}") from error
