"""Options and fields that the chosen method does not use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsd_core import ConfigurationError, RSDConfig, Settings
from rsd_core.methods import BUILT_IN, Method, RSDMethod, SpecCoTMethod, SpecReasonMethod
from rsd_integrations.cli.terminal import say

ROLES = {"draft": "drafter", "target": "target", "verifier": "verifier"}
"""Options that name a model, and its role."""


def refuse_unused(config: RSDConfig, data: Mapping[str, Any], source: str, **options: Any) -> None:
    """Refuse options of the command line that the method does not use; warn of such models and fields of a file.

    The models of all roles are expected in a file, which may be for several methods. On the command line they stay
    where only `--method` changes, to compare it with others.

    Args:
        config: What both make.
        data: The file's content.
        source: The file as the user named it.
        options: Values by the names of the options; None if not given, as is 0.

    Raises:
        ConfigurationError: An option has no effect.
    """
    name = _name(config.method)
    unused = idle_options([config.method], config.settings, **options)
    models = [option for option in unused if option[2:] in ROLES]
    if idle := [option for option in unused if option not in models]:
        raise ConfigurationError(
            f"the method {name!r} does not use {', '.join(idle)}: remove {them(idle)}, or choose another --method"
        )
    if models:
        say(f"Warning: the method {name!r} does not use {', '.join(models)}", "yellow")
    settings = data.get("settings")
    own = {name: settings.get(name) for name in ("lookahead", "hedge")} if isinstance(settings, Mapping) else {}
    fields = {"policy": data.get("policy"), "thoughts": data.get("thoughts"), **own}
    given = [field for field, value in fields.items() if value and options.get(field) is None]
    if idle := [field for field in given if not _uses(config.method, field, config.settings)]:
        say(f"Warning: the method {name!r} does not use {', '.join(idle)} in {source}", "yellow")


def idle_options(methods: list[Method], settings: Settings, **options: Any) -> list[str]:
    """Those of some options that none of the methods uses, as they are written."""
    given = [name for name, value in options.items() if value or (name == "temperature" and value is not None)]
    return [f"--{name}" for name in given if not any(_uses(method, name, settings) for method in methods)]


def _uses(method: Method, name: str, settings: Settings) -> bool:
    """Whether a method uses an option or field; one of another package may use any but other roles' models."""
    if name in ROLES:
        return ROLES[name] in method.roles and not getattr(method, name, None)
    if type(method) not in BUILT_IN.values():
        return True
    if name in ("policy", "thoughts"):
        return isinstance(method, RSDMethod) and (name == "thoughts" or method.policy is None)
    if name == "hedge":
        return isinstance(method, RSDMethod | SpecCoTMethod | SpecReasonMethod)
    own = method.settings(settings)
    if name == "lookahead":  # greedy drafters behind a URL write on without a verifier, too
        ahead = isinstance(method, RSDMethod | SpecReasonMethod) or own.temperature == 0
        return ahead and "drafter" in method.roles and own.lookahead == settings.lookahead
    return own.temperature == settings.temperature


def _name(method: Method) -> str:
    policy = getattr(method, "policy", None)
    return method.kind + (f"@{policy.kind}" if policy is not None else "")  # type: ignore[attr-defined,no-any-return]


def them(idle: list[str]) -> str:
    """The pronoun for some options."""
    return "it" if len(idle) == 1 else "them"
