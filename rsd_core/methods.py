"""Methods: decoders as data, to be built over given models and settings.

`rsd` is the default, the others are baselines: `target`, `majority:8`, `best_of_n:16,aggregate=min`. Other packages add
methods through entry points in the group `rsd.methods`; the entry's name is the kind, and its object is the class.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from copy import copy
from functools import cache
from inspect import signature
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from rsd_core.algorithm import RewardGuidedDecoder
from rsd_core.baselines import (
    Backtracking,
    BestOfN,
    DraftOnly,
    HeuristicGreedySearch,
    MajorityVote,
    SpecReason,
    SpeculativeBeams,
    SpeculativeDecoding,
    StepBeam,
    TargetChoice,
    TargetOnly,
    TiltedDecoder,
)
from rsd_core.baselines.judged import JUDGE
from rsd_core.baselines.sampling import Aggregate
from rsd_core.baselines.speculative import check_specs
from rsd_core.data import Data, explain, from_text, masked, of_kind
from rsd_core.decoder import Decoder
from rsd_core.errors import ConfigurationError
from rsd_core.interfaces import DRAFTER, Drafter, Speculation, Target, Verifier
from rsd_core.ledger import Role
from rsd_core.model import Model
from rsd_core.plugins import Registry, of_class
from rsd_core.policies import AlwaysDraft, AlwaysTarget, BinaryStep, FirstSteps, FirstToken, Policy, WeightingPolicy
from rsd_core.registry import check_spec, has_no_price, load, parse_spec
from rsd_core.roles import Roles
from rsd_core.settings import Settings
from rsd_core.speculating import check_speculation

Count = Annotated[int, Field(ge=1, le=256)]
Temperature = Annotated[float, Field(gt=0, le=5)]


class Setup:
    """What methods are built over: models, a policy and settings.

    Args:
        drafter: The cheap model, by spec or as an object.
        verifier: The reward model.
        target: The strong model.
        policy: For methods that need a policy and have none of their own.
        settings: For all methods; each may override some.
        load: Turns a spec or object into a model. By default specs are loaded when a method first needs them, once for
            all roles and methods that name them.
        thoughts: Models and a policy for thoughts, under the field names of `Roles`.
    """

    def __init__(
        self,
        drafter: str | Drafter,
        verifier: str | Verifier,
        target: str | Target,
        policy: WeightingPolicy | None = None,
        settings: Settings | None = None,
        load: Callable[[Any], Any] | None = None,
        thoughts: Mapping[str, Any] | None = None,
    ) -> None:
        self.thoughts = dict(thoughts or {})
        self.given: dict[Role, str | Model] = {"drafter": drafter, "verifier": verifier, "target": target}
        self.policy = policy or BinaryStep()
        self.settings = settings or Settings()
        self.loads_specs = load is None  # else names may be no specs, and paths of another machine
        self._load = load or _loader()

    @property
    def drafter(self) -> Drafter:
        """The cheap model."""
        drafter: Drafter = self._load(self.given["drafter"])
        return drafter

    @property
    def target(self) -> Target:
        """The strong model."""
        target: Target = self._load(self.given["target"])
        return target

    def verifier(self, spec: str | None = None) -> Verifier:
        """The reward model, or another one by spec."""
        verifier: Verifier = self._load(spec or self.given["verifier"])
        return verifier

    def thought_roles(self) -> Roles:
        """Models and policy for thoughts."""
        models = {name: self._load(part) for name, part in self.thoughts.items() if name != "policy"}
        return Roles(**models, policy=self.thoughts.get("policy"))

    def afresh(self) -> Self:
        """The same models, with a fresh copy of the policy."""
        other = copy(self)
        other.policy = self.policy.model_copy(deep=True)
        other.thoughts = dict(self.thoughts)
        if "policy" in self.thoughts:
            other.thoughts["policy"] = self.thoughts["policy"].model_copy(deep=True)
        return other


def _loader() -> Callable[[Any], Any]:
    once = cache(load)
    return lambda model: once(model) if isinstance(model, str) else model


class Method(Data):
    """A decoder to be built over a setup.

    A custom method has a `kind`, its parameters as fields, and `build`.
    """

    roles: ClassVar[tuple[Role, ...]] = ("drafter", "verifier", "target")
    """The models that it needs."""

    @abstractmethod
    def build(self, setup: Setup) -> Decoder:
        """Build the decoder, loading the models that it needs."""

    def settings(self, base: Settings) -> Settings:
        """A setup's settings with this method's changes; called before any model is loaded.

        Raises:
            ConfigurationError: The settings do not suit the method.
        """
        return base

    def check(self, setup: Setup) -> None:
        """Refuse what cannot work with a setup; asked before any model is loaded.

        Raises:
            ConfigurationError: Says what, and what to do.
        """
        for model in self.models(setup):
            if isinstance(model, str) and setup.loads_specs:
                check_spec(model, paths=True)

    def models(self, setup: Setup) -> list[str | Model]:
        """The setup's models that it needs, as specs or objects."""
        own = {"verifier": getattr(self, "verifier", None)}
        return [own.get(role) or setup.given[role] for role in self.roles]

    @property
    def learns(self) -> bool:
        """Whether results depend on earlier problems; for RSD with the setup's policy, see that policy."""
        return False


class Plain(Method):
    """Base of the methods that pass their fields to a decoder; fields that it does not accept go to `settings`."""

    decoder: ClassVar[Callable[..., Decoder]]

    def build(self, setup: Setup) -> Decoder:
        self.check(setup)
        taken = signature(self.decoder).parameters
        own = {name: value for name, value in self if name in taken}
        for role in self.roles:
            own[role] = setup.verifier(own.get(role)) if role == "verifier" else getattr(setup, role)
        return self.decoder(**own, settings=self.settings(setup.settings))


def _verifier(spec: str | None) -> str | None:
    if spec is not None:
        parse_spec(spec, "verifier")
    return spec


OwnVerifier = Annotated[str | None, AfterValidator(_verifier)]
"""The spec of a verifier in place of the setup's own."""


class DraftMethod(Plain):
    """The drafter alone."""

    kind: Literal["draft"] = "draft"
    decoder: ClassVar[Callable[..., Decoder]] = DraftOnly
    roles: ClassVar[tuple[Role, ...]] = ("drafter",)


class TargetMethod(Plain):
    """The target alone."""

    kind: Literal["target"] = "target"
    decoder: ClassVar[Callable[..., Decoder]] = TargetOnly
    roles: ClassVar[tuple[Role, ...]] = ("target",)


class RSDMethod(Method):
    """RSD, by default with the setup's policy, verifier and candidates."""

    kind: Literal["rsd"] = "rsd"
    policy: Policy | None = None
    candidates: Count | None = None
    softmax_beta: float | None = None
    temperature: float | None = None
    verifier: OwnVerifier = None

    def settings(self, base: Settings) -> Settings:
        return base.updated(candidates=self.candidates, softmax_beta=self.softmax_beta, temperature=self.temperature)

    def check(self, setup: Setup) -> None:
        for thoughts in ({}, setup.thoughts):
            drafter, target = (thoughts.get(role, setup.given[role]) for role in ("drafter", "target"))
            check_specs(setup.settings.speculate, target, drafter)
            check_specs(setup.settings.speculate_drafts, drafter, None)
        policies = (self.policy or setup.policy, setup.thoughts.get("policy"))
        if any(policy is not None and policy.needs_known == "price" for policy in policies):
            specs = dict.fromkeys(model for model in self.models(setup) if isinstance(model, str))
            if missing := [masked(spec) for spec in specs if has_no_price(spec)]:
                raise ConfigurationError(
                    f"a policy with cost_in=money needs the price of every model, and {', '.join(missing)} has "
                    "none: use cost_in=flops or cost_in=seconds; a model behind a URL takes "
                    "prompt_price=… and generated_price=… in its spec"
                )
        super().check(setup)

    def build(self, setup: Setup) -> RewardGuidedDecoder:
        self.check(setup)
        return RewardGuidedDecoder(
            drafter=setup.drafter,
            verifier=setup.verifier(self.verifier),
            target=setup.target,
            policy=self.policy or setup.policy,
            settings=self.settings(setup.settings),
            thoughts=setup.thought_roles(),
        )

    def models(self, setup: Setup) -> list[str | Model]:
        own = [part for name, part in setup.thoughts.items() if name != "policy"]
        return [*super().models(setup), *own]

    @property
    def learns(self) -> bool:
        return self.policy is not None and self.policy.learns


class Sampled(Plain):
    """Base of the methods that sample.

    By default they sample as the setup's settings say; if those are greedy, as the paper does: at temperature 0.7 and
    top-p 0.8.
    """

    n: Count = 16
    temperature: Temperature | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None

    def settings(self, base: Settings) -> Settings:
        if base.temperature == 0:
            base = base.updated(temperature=0.7, top_p=0.8)
        return base.updated(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)


class MajorityMethod(Sampled):
    """Majority vote over n answers of the drafter."""

    kind: Literal["majority"] = "majority"
    decoder: ClassVar[Callable[..., Decoder]] = MajorityVote
    roles: ClassVar[tuple[Role, ...]] = ("drafter",)


class BestOfNMethod(Sampled):
    """The best of n answers of the drafter, by outcome (`last`) or by process (`min`, `mean`, `product`)."""

    kind: Literal["best_of_n"] = "best_of_n"
    decoder: ClassVar[Callable[..., Decoder]] = BestOfN
    roles: ClassVar[tuple[Role, ...]] = ("drafter", "verifier")
    aggregate: Aggregate = "last"
    verifier: OwnVerifier = None


class BeamMethod(Sampled):
    """Step-level beam search: each of `width` beams drafts n / `width` steps, and the best `width` of all survive."""

    kind: Literal["beam"] = "beam"
    roles: ClassVar[tuple[Role, ...]] = ("drafter", "verifier")
    width: Count = 4

    def build(self, setup: Setup) -> Decoder:
        self.check(setup)
        return StepBeam(
            drafter=setup.drafter,
            verifier=setup.verifier(),
            width=self.width,
            expand=max(1, self.n // self.width),
            settings=self.settings(setup.settings),
        )


class BacktrackingMethod(Plain):
    """PRM-guided greedy search with backtracking, by one threshold."""

    kind: Literal["backtracking"] = "backtracking"
    decoder: ClassVar[Callable[..., Decoder]] = Backtracking
    roles: ClassVar[tuple[Role, ...]] = ("drafter", "verifier")
    delta: Annotated[float, Field(ge=0, le=1)] = 0.7
    tries: Count = 3
    backtracks: Annotated[int, Field(ge=0)] = 5


class HGSMethod(Plain):
    """HGS-PRM: search with backtracking over positive, neutral and negative steps."""

    kind: Literal["hgs"] = "hgs"
    decoder: ClassVar[Callable[..., Decoder]] = HeuristicGreedySearch
    roles: ClassVar[tuple[Role, ...]] = ("drafter", "verifier")
    positive: Annotated[float, Field(ge=0, le=1)] = 0.7
    negative: Annotated[float, Field(ge=0, le=1)] = 0.3
    children: Count = 3
    iterations: Annotated[int, Field(ge=1)] = 50
    temperature: Temperature | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.negative > self.positive:
            raise ValueError(
                f"negative={self.negative} is above positive={self.positive}: give 0 ≤ negative ≤ positive ≤ 1"
            )
        return self

    def settings(self, base: Settings) -> Settings:
        return base.updated(temperature=self.temperature)


class SpecReasonMethod(Plain):
    """SpecReason: the target judges the drafts by a prompt."""

    kind: Literal["specreason"] = "specreason"
    decoder: ClassVar[Callable[..., Decoder]] = SpecReason
    roles: ClassVar[tuple[Role, ...]] = ("drafter", "target")
    threshold: Annotated[int, Field(ge=0, le=9)] = 7
    first_steps: Annotated[int, Field(ge=0)] = 0
    prompt: str = JUDGE


class Unverified(Method):
    """Base of the methods without a verifier."""

    roles: ClassVar[tuple[Role, ...]] = ("drafter", "target")

    @abstractmethod
    def policies(self) -> tuple[WeightingPolicy, WeightingPolicy]:
        """Who writes the thought, and who writes the answer."""

    def build(self, setup: Setup) -> Decoder:
        self.check(setup)
        thought, answer = self.policies()
        return RewardGuidedDecoder(
            drafter=setup.drafter,
            target=setup.target,
            policy=answer,
            settings=setup.settings,
            thoughts=Roles(policy=thought),
        )


class FirstStepsMethod(Unverified):
    """The target writes the first n steps, the drafter all others."""

    kind: Literal["first_steps"] = "first_steps"
    n: Annotated[int, Field(ge=0)] = 2

    def policies(self) -> tuple[WeightingPolicy, WeightingPolicy]:
        policy = FirstSteps(n=self.n, then=AlwaysDraft())
        return policy, policy


class DrafterThinksMethod(Unverified):
    """The drafter thinks, and the target answers."""

    kind: Literal["drafter_thinks"] = "drafter_thinks"

    def policies(self) -> tuple[WeightingPolicy, WeightingPolicy]:
        return AlwaysDraft(), AlwaysTarget()


class TargetThinksMethod(Unverified):
    """The target thinks, and the drafter answers."""

    kind: Literal["target_thinks"] = "target_thinks"

    def policies(self) -> tuple[WeightingPolicy, WeightingPolicy]:
        return AlwaysTarget(), AlwaysDraft()


class GlimpRouterMethod(Unverified):
    """GlimpRouter: the target writes the steps whose first token the drafter is uncertain about (arXiv 2601.05110)."""

    kind: Literal["glimprouter"] = "glimprouter"
    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    def policies(self) -> tuple[WeightingPolicy, WeightingPolicy]:
        policy = FirstToken(threshold=self.threshold)
        return policy, policy


class SpecCoTMethod(Sampled):
    """SpecCoT: the target picks one of n drafted steps, or writes the step itself."""

    kind: Literal["speccot"] = "speccot"
    roles: ClassVar[tuple[Role, ...]] = ("drafter", "target")
    n: Count = 4

    def settings(self, base: Settings) -> Settings:
        return super().settings(base.updated(lookahead=0)).updated(candidates=self.n)

    def build(self, setup: Setup) -> Decoder:
        self.check(setup)
        return RewardGuidedDecoder(
            drafter=setup.drafter,
            verifier=TargetChoice(setup.target),
            target=setup.target,
            policy=BinaryStep(delta=0.5),
            settings=self.settings(setup.settings),
        )


class GSIMethod(Sampled):
    """Guided speculative inference: n drafted candidates, rewards tilted by the likelihood ratio."""

    kind: Literal["gsi"] = "gsi"
    decoder: ClassVar[Callable[..., Decoder]] = TiltedDecoder
    n: Count = 4
    threshold: float = 0.5
    beta: Annotated[float, Field(gt=0)] = 20.0

    def settings(self, base: Settings) -> Settings:
        return super().settings(base.updated(lookahead=0)).updated(candidates=self.n)


class SpeculativeMethod(Plain):
    """Token-level speculation inside the target: a proposer and an acceptance rule, as text or as data."""

    kind: Literal["speculative"] = "speculative"
    decoder: ClassVar[Callable[..., Decoder]] = SpeculativeDecoding
    proposer: str | Mapping[str, Any] = DRAFTER
    rule: str | Mapping[str, Any] = "exact"
    draft_length: Annotated[int, Field(ge=1, le=1024)] | None = None

    _learns: bool = PrivateAttr(default=False)

    @model_validator(mode="after")
    def _can_speculate(self) -> Self:
        checked = check_speculation(Speculation(self.proposer, self.rule, draft_length=self.draft_length))
        self._learns = getattr(checked.rule, "learns", False)
        return self

    @property
    def learns(self) -> bool:
        return self._learns

    def check(self, setup: Setup) -> None:
        check_specs(self.proposer, setup.given["target"], setup.given["drafter"])
        super().check(setup)

    @property
    def roles(self) -> tuple[Role, ...]:  # type: ignore[override]
        return ("drafter", "target") if self.proposer == DRAFTER else ("target",)


class SpeculativeBeamsMethod(Sampled):
    """Beam sampling of the target at token level, with n beams that the drafter drafts (DSBD)."""

    kind: Literal["speculative_beams"] = "speculative_beams"
    roles: ClassVar[tuple[Role, ...]] = ("drafter", "target")
    n: Annotated[int, Field(ge=1, le=64)] = 4
    drafts: Count = 8
    levels: Annotated[int, Field(ge=1, le=64)] = 4
    confidence: Annotated[float, Field(gt=0, le=1)] = 0.7

    def check(self, setup: Setup) -> None:
        check_specs(DRAFTER, setup.given["target"], setup.given["drafter"])
        super().check(setup)

    def build(self, setup: Setup) -> Decoder:
        self.check(setup)
        return SpeculativeBeams(
            drafter=setup.drafter,
            target=setup.target,
            beams=self.n,
            drafts=self.drafts,
            levels=self.levels,
            confidence=self.confidence,
            settings=self.settings(setup.settings),
        )


BUILT_IN: dict[str, type[Method]] = {
    method.model_fields["kind"].default: method
    for method in (
        *(RSDMethod, TargetMethod, DraftMethod, MajorityMethod, BestOfNMethod, BeamMethod, BacktrackingMethod),
        HGSMethod,
        *(SpecReasonMethod, FirstStepsMethod, DrafterThinksMethod, TargetThinksMethod),
        *(GlimpRouterMethod, SpecCoTMethod, GSIMethod, SpeculativeMethod, SpeculativeBeamsMethod),
    )
}
METHODS = Registry("method", "rsd.methods", BUILT_IN, of_class(Method))  # type: ignore[type-abstract]
"""All known methods by kind, including those of installed packages."""


def parse_method(method: str | Mapping[str, Any] | Method) -> Method:
    """A method from text, from data, or from a method.

    `rsd` uses the setup's policy, `rsd@POLICY` the given one; others take parameters after a colon: `majority:8`,
    `best_of_n:16,aggregate=min`, `rsd:candidates=4,temperature=0.7@binary_step:0.5`.

    Raises:
        ConfigurationError: Unknown method, policy or parameter.
    """
    try:
        return _parse(method)
    except ValidationError as error:
        raise ConfigurationError(f"{method!r} is not a valid method: {explain(error)}") from error


def as_decoder(decoder: Any) -> Decoder | Method | None:
    """The decoder for an adapter: either given as an object, or a method as text or data.

    Raises:
        ConfigurationError: It is neither, or not a valid method.
    """
    if decoder is None or isinstance(decoder, Decoder):
        return decoder
    if isinstance(decoder, str | Mapping | Method):
        return parse_method(decoder)
    raise ConfigurationError(
        f"{decoder!r} is not a decoder: give a Decoder, or a method as for `rsd eval --methods`, such as 'majority:8'"
    )


def _parse(method: Any) -> Method:
    """The same, with errors that pydantic can locate in a larger object."""
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        text, at, policy = method.partition("@")
        method = from_text(text, METHODS, "method") | ({"policy": policy} if at else {})
    return of_kind(method, METHODS, "method")


AnyMethod = Annotated[SerializeAsAny[Method], BeforeValidator(_parse)]
"""A field that holds any method, as an object, as data, or as text."""
