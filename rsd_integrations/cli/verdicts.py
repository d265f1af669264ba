"""From findings to the roles of a configuration: a verdict for each, and the spec to use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rsd_core import RSDConfig
from rsd_core.data import masked
from rsd_core.registry import options_of, parse_spec, parts_of, split_spec
from rsd_integrations.cli.examining import Examined, models_of
from rsd_integrations.findings import Finding

STEPWISE = frozenset({"prefix", "steps", "guesses"})
"""Features that only models writing step by step need."""
FOUND = frozenset({"profile", "tokenizer", "mode", "key_env", "template", "body", "omit"})
"""Options that a probe finds; all others are the user's own."""
WORDS = ("digit", "yes_no")
"""Modes of judges that read probabilities of words."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a role can be played."""

    role: str
    spec: str
    ok: bool
    told: str
    use: str | None = None
    """The spec to use instead of the role's own; None if that is correct."""
    turns: bool = False
    """Whether the model writes whole turns, so that the configuration must ask for turns."""


def roles_of(config: RSDConfig) -> dict[str, str]:
    """The roles that a configuration's method needs, with their specs; those of thoughts as `thoughts.ROLE`."""
    setup = config.setup()
    names = [*config.method.roles, *(f"thoughts.{name}" for name in setup.thoughts if name != "policy")]
    return {name: str(spec) for name, spec in zip(names, config.method.models(setup), strict=False)}


def verdicts(config: RSDConfig, examined: Mapping[str, Examined]) -> list[Verdict]:
    """A verdict for each role."""
    roles = roles_of(config)
    return [_verdict(role, spec, roles, config, examined) for role, spec in roles.items()]


def to_paste(found: Sequence[Verdict]) -> dict[str, Any]:
    """The changes to the configuration, in its own notation."""
    changes: dict[str, Any] = {}
    for one in found:
        if one.use is not None:
            outer, _, role = one.role.rpartition(".")
            (changes.setdefault(outer, {}) if outer else changes)[role] = one.use
    if any(one.turns for one in found):
        changes["settings"] = {"granularity": "turn"}
    return changes


def _verdict(
    role: str, spec: str, roles: Mapping[str, str], config: RSDConfig, examined: Mapping[str, Examined]
) -> Verdict:
    plays = role.rpartition(".")[2]
    by_turns = config.settings.granularity == "turn"
    wrong = [text for model, needs in _uses(spec) for text in _faults(needs, by_turns, examined[model])]
    if "confidence" in {parse_spec(model)[0].kind for model in models_of(spec)}:
        drafter = roles.get("thoughts.drafter", roles["drafter"]) if role.startswith("thoughts.") else roles["drafter"]
        wrong += _silent(drafter, examined)
    if spec in examined and examined[spec].plays and plays not in examined[spec].plays:
        wrong.append(f"it cannot be the {plays}: it makes a {' or a '.join(examined[spec].plays)}")
    use, turns = spec, False
    for model in models_of(spec):
        better, whole_turns = _better(model, examined[model].findings)
        turns |= whole_turns and not by_turns and plays != "verifier"
        use = use.replace(model, better)
    kinds = {"server": "behind a URL", "file": "a GGUF file in this process", "process": "in this process"}
    where = " and ".join(dict.fromkeys(kinds[examined[model].where] for model in models_of(spec)))
    told = f"{where}: {'; '.join(wrong) or 'it works'}"
    return Verdict(role, masked(spec), not wrong, told, None if use == spec else masked(use), turns)


def _uses(spec: str) -> Iterator[tuple[str, str]]:
    """The models of a spec, each with its purpose: `steps`, `words` (of judges) or `texts`."""
    backend, rest = parse_spec(spec)
    if not backend.nested:
        yield spec, "steps"
    for part in parts_of(rest) if backend.nested else ():
        for model, needs in _uses(part):
            judged = "words" if options_of(spec).get("mode", "digit") in WORDS else "texts"
            yield model, judged if backend.kind == "judge" else needs


def _faults(needs: str, by_turns: bool, examined: Examined) -> list[str]:
    """What a role needs from a model but does not get."""
    left_out = STEPWISE if by_turns or needs != "steps" else frozenset()
    wrong = [one for one in examined.findings if one.ok is False and one.name not in left_out]
    if needs == "words" and examined.where == "server":
        wrong += [one for one in examined.findings if one.name == "log-probabilities" and one.ok is None]
    names: dict[str, list[str]] = {}
    for one in wrong:
        names.setdefault(one.told, []).append(one.name)
    return [f"{' and '.join(own)}: {told}" for told, own in names.items()]


def _silent(drafter: str, examined: Mapping[str, Examined]) -> list[str]:
    """Why a drafter does not report its confidence in its steps, which `confidence:` uses."""
    if examined[drafter].where != "server":
        return []
    if not options_of(drafter).get("logprobs"):
        return ["the drafter does not report its confidence: give it logprobs=true"]
    told = [one for one in examined[drafter].findings if one.name == "log-probabilities" and not one.ok]
    return [f"the drafter's log-probabilities: {one.told}" for one in told]


def _better(model: str, findings: Sequence[Finding]) -> tuple[str, bool]:
    """The spec of a model with the options that were found, and whether it writes whole turns."""
    told = next((one.told for one in findings if one.name == "spec" and one.ok), None)
    if told is None:
        return model, False
    found, _, turns = told.partition(", with ")
    (kind, *own), rest = split_spec(model)
    options = [text for text in split_spec(found)[0][1:] if text.partition("=")[0].partition(".")[0] in FOUND]
    mine = [text for text in own if text.partition("=")[0].partition(".")[0] in FOUND]
    if {masked(text) for text in mine} == set(options):
        return model, bool(turns)
    kept = [text for text in own if text not in mine]
    return f"{','.join([kind, *options, *kept])}:{rest}", bool(turns)
