"""The fields that `RSDLLM`, `ChatRSD` and `RSDRunnable` share, and the decoder they describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from inspect import Parameter, Signature
from typing import Annotated, Any, Literal, Self

from langchain_core.runnables import Runnable
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ModelWrapValidatorHandler, model_validator
from pydantic.fields import FieldInfo

from rsd_core import ConfigurationError, Decoder, Generator, Method, Policy, Settings, Setup, Verifier, parse_policy
from rsd_core.blocking import in_thread
from rsd_core.ledger import Role
from rsd_core.methods import RSDMethod, as_decoder
from rsd_core.policies import BinaryStep
from rsd_core.registry import ROLES, load, parse_spec
from rsd_core.stopping import as_stop
from rsd_integrations.given_fields import checked, shown, under_one_name
from rsd_integrations.langchain.judges import FunctionVerifier, LangChainJudge
from rsd_integrations.langchain.named_models import chat_model, is_chat_models_name
from rsd_integrations.langchain.partner_classes import SENDS, check_fields
from rsd_integrations.langchain.roles import LangChainDrafter, LangChainGenerator, LangChainTarget
from rsd_integrations.langchain.runs import configured
from rsd_integrations.langchain.wrapped_model import LangChainRole
from rsd_integrations.loaded_models import LoadedModels, identity

CONFIG = ConfigDict(extra="forbid", populate_by_name=True, arbitrary_types_allowed=True, hide_input_in_errors=True)
"""Makes typos errors. Each class repeats it, since LangChain's bases would ignore them."""
CALL_OPTIONS = ("policy", "temperature", "top_p", "top_k", "max_tokens", "seed", "timeout", "max_retries")
"""Fields that may also be given per call."""
_MODELS: dict[str, Role] = {"draft": "drafter", "target": "target", "verifier": "verifier"}


def as_drafter(value: Any) -> Any:
    """The user's drafter: a spec unchanged, anything else as a model of the core."""
    return _as_role(value, "drafter", LangChainDrafter)


def as_target(value: Any) -> Any:
    """The same for the target."""
    return _as_role(value, "target", LangChainTarget)


def as_verifier(value: Any) -> Any:
    """The same for the verifier; may also be a function."""
    if callable(value) and not isinstance(value, Runnable | Verifier):
        return FunctionVerifier(value)
    return _as_role(value, "verifier", LangChainJudge)


def as_thoughts(value: Any) -> Any:
    """Models and a policy for thoughts, checked like those of the answer."""
    if isinstance(value, Mapping):
        value = under_one_name(value)
    if not isinstance(value, Mapping) or (unknown := sorted(set(value) - set(_PARTS))):
        what = f"no {', '.join(map(str, unknown))}" if isinstance(value, Mapping) else f"got {shown(value)}"
        raise ConfigurationError(f"thoughts takes a dictionary of {', '.join(_PARTS)} ({what})")
    return {name: _PARTS[name](part) for name, part in value.items()}


_PARTS: dict[str, Callable[[Any], Any]] = {
    "draft": as_drafter,
    "target": as_target,
    "verifier": as_verifier,
    "policy": parse_policy,
}


def _as_role(value: Any, role: Role, wrap: Callable[[Any], Any]) -> Any:
    if isinstance(value, str):
        if is_chat_models_name(value):
            return _named(value, role)
        backend, _ = parse_spec(value)
        if backend.kind != "langchain":
            parse_spec(value, role)
            return value
        named = load(value)  # a client, created at once; no weights
        return wrap(named.model) if role == "verifier" else wrap(named.model).using(**vars(named))
    kind = ROLES[role]
    if isinstance(value, kind):
        return value
    if isinstance(value, Runnable):
        return wrap(value)
    also = ", or a function of (messages, reply)" if role == "verifier" else ""
    raise ConfigurationError(
        f"{shown(value)} is not a spec as listed by `rsd models`, a name for init_chat_model such as "
        f"'openai:gpt-5-nano', a {kind.__name__}, a LangChain model{also}"
    )


_WRAPS: dict[Role, Callable[[Any], LangChainRole]] = {
    "drafter": LangChainDrafter,
    "target": LangChainTarget,
    "verifier": LangChainJudge,
}


def _named(name: str, role: Role) -> LangChainRole:
    """A chat model by name, pickled as the name, so that keys are not."""
    model = _WRAPS[role](chat_model(name))
    model.made_by = partial(_named, name, role)
    return model


class RSDFields(BaseModel):
    """Which models, which policy, and how they work together."""

    model_config = CONFIG

    model_name: str = Field(default="rsd", alias="model")
    """The name in metadata and traces; not one of its models."""
    draft: Annotated[Any, BeforeValidator(as_drafter)] = "embedded:draft"
    """The cheap model: a name for `init_chat_model` such as `"openai:gpt-5-nano"`, any LangChain model, a spec as
    listed by `rsd models`, or a `Drafter`. `drafter=` is an alias."""
    target: Annotated[Any, BeforeValidator(as_target)] = "embedded:target"
    """The strong model: a name, any LangChain model, a spec, or a `Target`."""
    verifier: Annotated[Any, BeforeValidator(as_verifier)] = "embedded:verifier"
    """The judge: a function of (messages, reply) to a reward in [0, 1], a LangChain model or its name, a spec, or a
    `Verifier`."""
    policy: Policy = Field(default_factory=BinaryStep)
    """Weighting policy: an object, data, or text such as `"binary_step:0.7"`."""
    decoder: Annotated[Decoder | Method | None, BeforeValidator(as_decoder)] = Field(default=None, repr=False)
    """The method to build from these models, policy and settings, as for `rsd eval --methods`: `"majority:8"`; RSD by
    default. Or a decoder object instead of models, policy and settings."""
    thoughts: Annotated[dict[str, Any], BeforeValidator(as_thoughts)] = Field(default_factory=dict)
    """Overrides for thoughts of `draft`, `target`, `verifier` and `policy`. Overrides for the steps of thoughts are in
    `settings`."""
    granularity: Literal["step", "turn"] | None = None
    """`step` for models that continue a prefix, `turn` for whole messages; by default `turn` if the drafter or the
    target is a LangChain model without a prefix mode, else as in the settings."""
    temperature: float | None = None
    """0 means greedy decoding. By default as in the settings, and as LangChain models are configured."""
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    """Maximum length of the whole answer, in tokens."""
    seed: int | None = None
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    """The answer ends before the first of these strings."""
    timeout: float | None = None
    """Seconds an answer may take; what is written by then is the answer."""
    max_retries: int | None = None
    """How often to retry a failed call of the target."""
    settings: Settings = Settings()
    """Everything else: step delimiter and length, candidates, limits, faults."""
    trace_inner: bool = False
    """Show the calls of LangChain models in the roles, including rejected drafts, in traces and event streams of the
    surrounding run."""
    loaded: LoadedModels = Field(default_factory=LoadedModels, exclude=True, repr=False)
    """Models loaded so far, shared by copies."""

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Show the fields in the signature, since LangChain's own constructor takes `*args, **kwargs`."""
        super().__pydantic_init_subclass__(**options)
        own = list(RSDFields.model_fields)
        shown = [name for name in cls.model_fields if name != "loaded"]  # internal
        names = sorted(shown, key=lambda name: own.index(name) if name in own else len(own))
        cls.__signature__ = Signature([_parameter(name, cls.model_fields[name]) for name in names])

    @model_validator(mode="wrap")
    @classmethod
    def _as_given(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        return checked(data, cls, handler)

    @model_validator(mode="after")
    def _check_roles(self) -> Self:
        """Refuse what cannot work before anything is loaded."""
        as_stop(self.stop)
        self._check_sends()
        decoder, settings = self._decoder(), self.resolved()
        if isinstance(decoder, Method):
            decoder.settings(settings)
            for role in self.inner_models() if settings.granularity == "step" else ():
                role.step_mode()
            self._check_thoughts(decoder, settings)
            return self
        redundant = [
            name for name in (*_MODELS, "policy", "thoughts", "settings") if getattr(self, name) != _default(name)
        ]
        if redundant:
            raise ValueError(f"a decoder has its own models, policy and settings; remove {', '.join(redundant)}")
        decoder.with_settings(settings)
        return self

    def _check_sends(self) -> None:
        """Refuse a field that a LangChain model does not accept per call; only warn about a missing seed."""
        names = self._set_here()
        for role in self.writers():
            if names and isinstance(role, LangChainGenerator):
                check_fields(role.model, [name for name in names if name != "seed"])
                role.tell_of_seed(names)

    def _check_thoughts(self, method: Method, settings: Settings) -> None:
        if self.thoughts and not isinstance(method, RSDMethod):
            raise ValueError("only RSD accepts models for thoughts; remove thoughts with other methods")
        if self.thoughts and settings.granularity == "turn":
            raise ValueError(
                "thoughts with granularity='turn': a turn is thought and answer in one piece; remove thoughts, or "
                "use models that continue a text, with granularity='step'"
            )

    def resolved(self) -> Settings:
        """The settings, including the fields with LangChain's names."""
        decoder = self._decoder()
        base = decoder.settings if isinstance(decoder, Decoder) else self.settings
        return base.updated(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            max_tokens=self.max_tokens,
            max_seconds=self.timeout,
            target_retries=self.max_retries,
            granularity=self.granularity or ("turn" if self._in_turns() else None),
        )

    def with_options(self, options: dict[str, Any]) -> Self:
        """A copy with a single call's fields, validated as in the constructor."""
        return type(self).model_validate({**dict(self), **options}) if options else self

    def make_decoder(self, **inner: Any) -> Decoder:
        """The decoder; models named by spec are loaded on first use.

        Args:
            inner: `fields` of the request (see `Generator.with_fields`); `options`, `tools`, `callbacks` and so on for
                LangChain models in the roles (see `LangChainGenerator.using`).
        """
        decoder, settings = self._decoder(), self.resolved()
        if isinstance(decoder, Decoder):
            return decoder.with_settings(settings)
        inner = {"configurable": configured(), **inner}
        return self.loaded.watched(decoder.build(self._setup(settings, inner)))

    async def amake_decoder(self, **inner: Any) -> Decoder:
        """The same without blocking the event loop while weights are loaded."""
        decoder, inner = self._decoder(), {"configurable": configured(), **inner}
        if isinstance(decoder, Decoder) or self.loaded.has(*decoder.models(self._setup(self.settings, {}))):
            return self.make_decoder(**inner)
        return await in_thread(lambda: self.make_decoder(**inner))

    def identity(self) -> dict[str, Any]:
        """Identifying parameters as plain data without secrets; LangChain's caches are keyed on it."""
        known: dict[str, Any] = {"settings": self.resolved().model_dump(mode="json"), "stop": self.stop}
        known["trace_inner"] = self.trace_inner  # answers then contain the texts of rejected drafts
        decoder = self._decoder()
        if isinstance(decoder, Decoder):
            return known | {"decoder": identity(decoder)}
        known |= {name: _identity(getattr(self, name)) for name in _MODELS}
        known["policy"] = parse_policy(self.policy).model_dump(mode="json")
        thoughts = as_thoughts(self.thoughts)
        if "policy" in thoughts:
            known["policy of thoughts"] = thoughts.pop("policy").model_dump(mode="json")
        known |= {f"{name} of thoughts": _identity(part) for name, part in thoughts.items()}
        return known | {"decoder": decoder.model_dump(mode="json")}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy that shares the models, since weights should not be duplicated and clients cannot be copied."""
        models = (self.draft, self.target, self.verifier, self.decoder, *self.thoughts.values())
        shared = {id(held): held for held in models}
        return super().__deepcopy__({**(memo or {}), **shared})

    def writers(self) -> list[Any]:
        """The models that draft and replace, as far as the decoder uses them; none for a given decoder."""
        decoder = self._decoder()
        if isinstance(decoder, Decoder):
            return []
        named = [getattr(self, name) for name in ("draft", "target") if _MODELS[name] in decoder.roles]
        return named + [self.thoughts[name] for name in ("draft", "target") if name in self.thoughts]

    def inner_models(self) -> list[LangChainGenerator]:
        """The LangChain models that draft and that replace."""
        return [role for role in self.writers() if isinstance(role, LangChainGenerator)]

    def all_inner(self) -> bool:
        """Whether all writing models are LangChain models."""
        return bool(self.writers()) and len(self.inner_models()) == len(self.writers())

    def _set_here(self) -> tuple[str, ...]:
        """Fields set here that are sent to LangChain models in the roles."""
        return tuple([name for name in SENDS if getattr(self, name) is not None])

    def traces(self) -> bool:
        """Whether traces see the calls of LangChain models in the roles."""
        roles = (self.draft, self.target, self.verifier, *self.thoughts.values())
        return self.trace_inner or any(isinstance(role, LangChainRole) and role.trace_inner for role in roles)

    def _decoder(self) -> Decoder | Method:
        """The decoder or the method; may be text in a copy made with model_copy."""
        return as_decoder(self.decoder) or RSDMethod()

    def _in_turns(self) -> bool:
        """Whether a role is played by a LangChain model that only writes whole messages."""
        return any(isinstance(role, LangChainGenerator) and role.mode is None for role in self.writers())

    def _setup(self, settings: Settings, inner: dict[str, Any]) -> Setup:
        return Setup(
            self.draft,
            self.verifier,
            self.target,
            parse_policy(self.policy),  # may be text in a copy made with model_copy
            settings,
            load=lambda model: self._model(model, inner),
            thoughts={_MODELS.get(name, name): part for name, part in as_thoughts(self.thoughts).items()},
        )

    def _model(self, model: Any, inner: dict[str, Any]) -> Any:
        model = self.loaded.get(model)
        if isinstance(model, LangChainRole) and inner.get("configurable"):
            model = model.using(configurable=inner["configurable"])
        if isinstance(model, LangChainRole) and (self.trace_inner or model.trace_inner):
            model = model.using(trace_inner=True, callbacks=inner.get("callbacks"))
        inner = dict(inner)
        fields = inner.pop("fields", None)
        if fields and isinstance(model, Generator):
            model = model.with_fields(fields)
        if isinstance(model, LangChainGenerator):
            own = {"options": model.options | inner.get("options", {}), "tools": inner.get("tools") or model.tools}
            return model.using(sends_also=self._set_here(), **{**inner, **own})
        return model


def _parameter(name: str, field: FieldInfo) -> Parameter:
    """A field as a parameter, under the name callers use."""
    default = field.get_default(call_default_factory=True, validated_data={})
    return Parameter(field.alias or name, Parameter.KEYWORD_ONLY, default=default, annotation=field.annotation)


def _default(name: str) -> Any:
    return RSDFields.model_fields[name].get_default(call_default_factory=True)


def _identity(model: Any) -> str:
    if isinstance(model, LangChainRole):
        return model.using(configurable=configured(once=False)).fingerprint
    return model if isinstance(model, str) else getattr(model, "fingerprint", None) or identity(model)
