"""Acceptance rules and proposers as text or data: `exact`, `typical:epsilon=0.09,delta=0.3`, `lookup`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from rsd_core.data import Data, explain, from_text, of_kind
from rsd_core.errors import ConfigurationError
from rsd_integrations.speculation.beam_sampling import BeamSampling
from rsd_integrations.speculation.corrections import Calibrated
from rsd_integrations.speculation.entropy_aware import EntropyAware
from rsd_integrations.speculation.fly import FLy
from rsd_integrations.speculation.lookup import Lookup
from rsd_integrations.speculation.ngrams import Ngrams
from rsd_integrations.speculation.proposers import Proposer
from rsd_integrations.speculation.relaxed import Relaxed
from rsd_integrations.speculation.rules import AcceptanceRule, Exact
from rsd_integrations.speculation.typical import Typical

RULES: dict[str, type[AcceptanceRule]] = {
    rule.model_fields["kind"].default: rule for rule in (Exact, Typical, Relaxed, FLy, EntropyAware, Calibrated)
}
PROPOSERS: dict[str, type[Proposer]] = {
    proposer.model_fields["kind"].default: proposer for proposer in (Lookup, Ngrams)
}
"""Those without a model; a drafter is the engine's own."""

BEAMS = {"beams": BeamSampling}

Part = TypeVar("Part", bound=Data)


def parse_rule(rule: str | Mapping[str, Any] | AcceptanceRule) -> AcceptanceRule:
    """An acceptance rule from text, from data, or from a rule.

    Raises:
        ConfigurationError: Unknown kind or parameter, or a value out of its range.
    """
    return rule if isinstance(rule, AcceptanceRule) else _parse(rule, RULES, "acceptance rule")


def parse_proposer(proposer: str | Mapping[str, Any] | Proposer) -> Proposer:
    """A proposer from text, from data, or from a proposer; errors as for rules."""
    return proposer if isinstance(proposer, Proposer) else _parse(proposer, PROPOSERS, "proposer")


def parse_beams(beams: Mapping[str, Any] | BeamSampling) -> BeamSampling:
    """Numbers of beams from data; errors as for rules."""
    return beams if isinstance(beams, BeamSampling) else _parse({"kind": "beams", **beams}, BEAMS, "beam sampling")


def _parse(part: str | Mapping[str, Any], kinds: Mapping[str, type[Part]], what: str) -> Part:
    try:
        return of_kind(from_text(part, kinds, what) if isinstance(part, str) else part, kinds, what)
    except ValidationError as error:
        raise ConfigurationError(f"{part!r} is no valid {what}: {explain(error)}") from error
