"""A whole decoder as data: JSON for programs, YAML where the command line reads it."""

from __future__ import annotations

from typing import Any, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from rsd_core.data import Data, explain
from rsd_core.decoder import Decoder
from rsd_core.errors import ConfigurationError
from rsd_core.methods import AnyMethod, RSDMethod, Setup
from rsd_core.policies import BinaryStep, Policy
from rsd_core.registry import parse_spec
from rsd_core.settings import Settings


class ThoughtRoles(Data):
    """Models and a policy for thoughts; what is not given is the same as for the answer."""

    drafter: str | None = None
    verifier: str | None = None
    target: str | None = None
    policy: Policy | None = None

    @field_validator("drafter", "verifier", "target")
    @classmethod
    def _known(cls, spec: str | None, info: ValidationInfo) -> str | None:
        if spec is not None:
            parse_spec(spec, info.field_name)  # type: ignore[arg-type]
        return spec


class RSDConfig(Data):
    """Models by spec, a policy, settings, and which decoder they make."""

    drafter: str = "embedded:draft"
    verifier: str = "embedded:verifier"
    target: str = "embedded:target"
    policy: Policy = Field(default_factory=BinaryStep)
    settings: Settings = Settings()
    thoughts: ThoughtRoles = ThoughtRoles()
    """Roles that differ for thoughts; used by RSD only."""
    method: AnyMethod = RSDMethod()
    """RSD, or a baseline over the same models and settings, written as for `rsd eval --methods`: `majority:8`."""

    @field_validator("drafter", "verifier", "target")
    @classmethod
    def _known(cls, spec: str, info: ValidationInfo) -> str:
        parse_spec(spec, info.field_name)  # type: ignore[arg-type]
        return spec

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            self.method.settings(self.settings)
        except ConfigurationError as error:
            raise ValueError(f"method: {error}") from error
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the method out for RSD, as before methods existed, so that results files stay comparable."""
        data: dict[str, Any] = handler(self)
        if self.method == RSDMethod():
            data.pop("method", None)
        if self.thoughts == ThoughtRoles():
            data.pop("thoughts", None)
        return data

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Self:
        """Check data from a file or the command line.

        Raises:
            ConfigurationError: Everything that is wrong, each with its location, its value and what is allowed.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigurationError(f"invalid configuration: {explain(error)}") from error

    def setup(self) -> Setup:
        """The setup for building methods; models are loaded when needed."""
        thoughts = {name: part for name, part in self.thoughts if part is not None}
        return Setup(self.drafter, self.verifier, self.target, self.policy, self.settings, thoughts=thoughts)

    def build(self) -> Decoder:
        """Load the models that the method needs, and build the decoder."""
        return self.method.build(self.setup())
