"""Parses acceptance rules and proposers from text or data: `exact`, `typical:epsilon=0.09,delta=0.3`, `lookup`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import ValidationError

from rsd_core.data import Data, explain, from_text, of_kind, unknown
from rsd_core.errors import ConfigurationError
from rsd_core.interfaces import DRAFT_LENGTH, DRAFTER, Speculation
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
"""Proposers without a model; drafters are handled by the engine."""

BEAMS = {"beams": BeamSampling}

Part = TypeVar("Part", bound=Data)


def parse_rule(rule: str | Mapping[str, Any] | AcceptanceRule) -> AcceptanceRule:
    """An acceptance rule from text, from data, or from a rule.

    Raises:
        ConfigurationError: The kind or a parameter is unknown, or a value is out of range.
    """
    return rule if isinstance(rule, AcceptanceRule) else _parse(rule, RULES, "acceptance rule")


def parse_proposer(proposer: str | Mapping[str, Any] | Proposer) -> Proposer:
    """A proposer from text, from data, or from a proposer; errors as for rules."""
    return proposer if isinstance(proposer, Proposer) else _parse(proposer, PROPOSERS, "proposer")


def parse_beams(beams: Mapping[str, Any] | BeamSampling) -> BeamSampling:
    """Numbers of beams from data; errors as for rules."""
    return beams if isinstance(beams, BeamSampling) else _parse({"kind": "beams", **beams}, BEAMS, "beam sampling")


def parsed(speculation: Speculation) -> Speculation:
    """A speculation with proposer (unless it is a drafter), rule and beams as objects.

    Raises:
        ConfigurationError: One of them is unknown, or the drafts are too short for the rule.
    """
    proposer, rule, length = speculation.proposer, parse_rule(speculation.rule), speculation.draft_length
    if isinstance(proposer, str) and proposer.partition(":")[0].strip() not in PROPOSERS.keys() | {DRAFTER}:
        raise ConfigurationError(unknown("proposer", proposer, [DRAFTER, *PROPOSERS]))
    if proposer != DRAFTER:
        proposer = parse_proposer(proposer)
        if rule.needs_draws:
            raise ConfigurationError(
                f"{rule!r} compares distributions, but {proposer!r} has none: use the proposer 'drafter', or another "
                "rule"
            )
        if rule.learns and getattr(proposer, "tree", False):
            raise ConfigurationError(
                f"{rule!r} learns from chains, and {proposer!r} proposes trees: use tree=false or learn=false"
            )
    if length is None:
        length = max(DRAFT_LENGTH, rule.least_draft)
    if length < 1:
        raise ConfigurationError(f"draft_length={length} proposes nothing: give at least 1")
    if length < rule.least_draft:
        raise ConfigurationError(
            f"draft_length={length} is too short for {rule!r}, which needs {rule.least_draft} tokens in a row: give "
            f"at least draft_length={rule.least_draft}, or a smaller window"
        )
    beams = None if speculation.beams is None else parse_beams(speculation.beams)
    return replace(speculation, proposer=proposer, rule=rule, draft_length=length, beams=beams)


def _parse(part: str | Mapping[str, Any], kinds: Mapping[str, type[Part]], what: str) -> Part:
    try:
        return of_kind(from_text(part, kinds, what) if isinstance(part, str) else part, kinds, what)
    except ValidationError as error:
        raise ConfigurationError(f"{part!r} is not a valid {what}: {explain(error)}") from error
