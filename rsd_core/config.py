"""A whole decoder as data: JSON for programs, YAML where the command line reads it."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from rsd_core.algorithm import RewardGuidedDecoder
from rsd_core.data import explain
from rsd_core.errors import ConfigurationError
from rsd_core.policies import BinaryStep, Policy
from rsd_core.registry import load, parse_spec
from rsd_core.settings import Settings


class RSDConfig(BaseModel):
    """Models by spec, a policy, and settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drafter: str = "embedded:draft"
    verifier: str = "embedded:verifier"
    target: str = "embedded:target"
    policy: Policy = Field(default_factory=BinaryStep)
    settings: Settings = Settings()

    @field_validator("drafter", "verifier", "target")
    @classmethod
    def _known(cls, spec: str) -> str:
        parse_spec(spec)
        return spec

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Self:
        """Check data from a file or the command line.

        Raises:
            ConfigurationError: Everything that is wrong, each with its value and what is allowed.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigurationError(f"invalid configuration: {explain(error)}") from error

    def build(self) -> RewardGuidedDecoder:
        """Load the models and make the decoder."""
        return RewardGuidedDecoder(
            drafter=load(self.drafter),
            verifier=load(self.verifier),
            target=load(self.target),
            policy=self.policy,
            settings=self.settings,
        )
