"""Factories for this subpackage's specs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from rsd_core import SpecError, Verifier, load
from rsd_core.data import unknown
from rsd_core.registry import check_types, parts_of
from rsd_integrations.prm_formats import CRITICS, usable
from rsd_integrations.verifiers.combine import Cached, Cascade, Ensemble, How
from rsd_integrations.verifiers.confidence import Confidence
from rsd_integrations.verifiers.judges import QUESTIONS, CriticJudge, WordJudge
from rsd_integrations.verifiers.programs import Programs, read_tests
from rsd_integrations.verifiers.rules import RULES, Rule
from rsd_integrations.verifiers.sandbox import Choice


def _check_mode(mode: str | None) -> None:
    modes = (*QUESTIONS, *CRITICS)
    if mode is not None and mode not in modes:
        raise SpecError(unknown("mode", mode, modes))


def judge(
    spec: str,
    mode: Annotated[str | None, _check_mode] = None,
    min_mass: float | None = None,
    samples: int | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
) -> WordJudge | CriticJudge:
    """A judge over any generator.

    Args:
        spec: The generator's spec.
        mode: `digit` or `yes_no` read one word; `rubric`, `thinkprm`, `genprm`, `r-prm` and the critics of installed
            packages have it write a critique. By default a generative reward model's published mode, and `digit` for
            others.
        min_mass: See `WordJudge`.
        samples: See `CriticJudge`.
        max_tokens: See `CriticJudge`.
        temperature: See `CriticJudge`.

    Raises:
        SpecError: An unknown mode, or an option that the mode does not use.
    """
    _check_mode(mode)
    mode = mode or published_critic(spec) or "digit"
    of_critiques = {"samples": samples, "max_tokens": max_tokens, "temperature": temperature}
    for name, value in (of_critiques if mode in QUESTIONS else {"min_mass": min_mass}).items():
        if value is not None:
            raise SpecError(
                f"{name}={value}: mode={mode} "
                + ("reads one word; mode=rubric, a critique, has that option" if mode in QUESTIONS else "takes none")
            )
    model = load(spec)
    if mode in QUESTIONS:
        return WordJudge(model, QUESTIONS[mode], *(() if min_mass is None else (min_mass,)))
    return CriticJudge(model, CRITICS[mode], samples, max_tokens, temperature)


def published_critic(spec: str) -> str | None:
    """The critic as which a spec's model was published, by its name, wherever it is stored."""
    called = spec.rpartition("/")[2]
    critics = usable(CRITICS)
    return next((name for name, c in critics if called in {model.rpartition("/")[2] for model in c.models}), None)


def confidence(how: Any) -> Confidence:
    """The drafter's confidence."""
    return Confidence(how)


def rule(name: str, **options: Any) -> Rule:
    """A rule by name.

    Raises:
        SpecError: The rule or an option is unknown.
    """
    if name not in RULES:
        raise SpecError(f"rule:{name} is unknown; there are {', '.join(f'rule:{known}' for known in RULES)}")
    check_types(RULES[name], options, f"rule:{name}")
    try:
        loaded: Rule = RULES[name](**options)
    except TypeError as error:
        raise SpecError(f"rule:{name}: {error}") from error
    return loaded


def code(file: str, seconds: float = 5.0, memory: int = 512, parallel: int = 4, sandbox: Choice = "auto") -> Programs:
    """Unit tests from a file; arguments as for `Programs`."""
    return Programs(read_tests(file), seconds=seconds, memory=memory, parallel=parallel, sandbox=sandbox)


def cascade(rest: str, low: float = 0.1, high: float = 0.9, ask: Literal["range", "policy"] = "range") -> Cascade:
    """A cascade of specs."""
    return Cascade(_members(rest), low, high, ask)


def ensemble(rest: str, how: How = "mean") -> Ensemble:
    """An ensemble of specs."""
    return Ensemble(_members(rest), how)


def cached(spec: str, size: int = 100_000) -> Cached:
    """A verifier with cached rewards."""
    return Cached(load(parts_of(spec)[0], role="verifier"), size)


def _members(rest: str) -> list[Verifier]:
    return [load(part, role="verifier") for part in parts_of(rest)]
