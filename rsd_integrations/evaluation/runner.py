"""Runs methods over a task, problem by problem and side by side, so that timings see the same machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rsd_core import (
    ConfigurationError,
    Decoder,
    Drafter,
    DraftOnly,
    Result,
    RewardGuidedDecoder,
    RSDConfig,
    RunError,
    Target,
    TargetOnly,
    Verifier,
    load,
    parse_policy,
)
from rsd_core.policies import WeightingPolicy
from rsd_integrations.evaluation.report import MethodReport, Report
from rsd_integrations.evaluation.tasks import find_task


def parse_method(name: str, default: WeightingPolicy) -> WeightingPolicy | None:
    """The policy of an RSD method; None for a baseline.

    `rsd` has the default policy, `rsd@POLICY` one of its own; `draft` and `target` are the models alone.

    Raises:
        ConfigurationError: Unknown method or policy.
    """
    kind, _, policy = name.partition("@")
    if kind == "rsd":
        return parse_policy(policy) if policy else default
    if name in ("draft", "target"):
        return None
    raise ConfigurationError(f"unknown method {name!r}; known are rsd, rsd@POLICY (rsd@binary_step:0.5), target, draft")


def evaluate(
    config: RSDConfig,
    task: str,
    methods: Sequence[str],
    n: int,
    seed: int,
    progress: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Answer the same problems by several methods, one request at a time.

    Args:
        config: Models, default policy and settings.
        task: Name of a task.
        methods: As `parse_method` takes them.
        n: Number of problems.
        seed: Draws the problems and seeds the decoders.
        progress: Called after each problem.

    Raises:
        ConfigurationError: Unknown task or method, before any model is loaded.
    """
    if not methods:
        raise ConfigurationError("no methods to evaluate; name some of rsd, target, draft")
    policies = {name: parse_method(name, config.policy) for name in methods}
    items = find_task(task).draw(n, seed)
    decoders = _decoders(config, policies)
    report = Report(task, n, seed, {name: MethodReport() for name in methods})
    for item in items:
        outcomes = {}
        for name, decoder in decoders.items():
            result = _answer(decoder, item.prompt, seed)
            outcomes[name] = (result, item.grade(result.text))
        report.add(item.prompt, item.reference, outcomes)
        progress(report)
    return report


def _decoders(config: RSDConfig, policies: dict[str, WeightingPolicy | None]) -> dict[str, Decoder]:
    """The decoders of all methods; each model is loaded once, and only if a method needs it."""
    rsd = any(policy is not None for policy in policies.values())
    drafter: Drafter | None = load(config.drafter) if rsd or "draft" in policies else None
    target: Target | None = load(config.target) if rsd or "target" in policies else None
    verifier: Verifier | None = load(config.verifier) if rsd else None
    made: dict[str, Decoder] = {}
    for name, policy in policies.items():
        if policy is not None and drafter and verifier and target:
            made[name] = RewardGuidedDecoder(
                drafter=drafter, verifier=verifier, target=target, policy=policy, settings=config.settings
            )
        elif name == "draft" and drafter:
            made[name] = DraftOnly(drafter=drafter, settings=config.settings)
        elif target:
            made[name] = TargetOnly(target=target, settings=config.settings)
    return made


def _answer(decoder: Decoder, prompt: str, seed: int) -> Result:
    """A result, also of a request that failed after some steps; one that fails at once is a broken set-up."""
    try:
        return decoder.run(prompt, seed=seed)
    except RunError as error:
        if error.partial is None or not error.partial.steps:
            raise
        return error.partial
