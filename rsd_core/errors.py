"""Everything that can go wrong, in one tree.

RSDError
├── ConfigurationError       your input: a value, a spec or a combination that cannot work (also a ValueError)
│   ├── SpecError            a spec string that names nothing known
│   ├── MissingDependency    an optional package is needed; the message is the pip line (also an ImportError)
│   └── PromptError          an empty prompt, or one longer than a model's context
└── RunError                 a request failed; `partial` holds what was generated
    ├── DrafterError         raised by drafters; handed to the target, so users rarely see it
    ├── VerifierError        a verifier failed or gave something that is not a reward in [0, 1]
    ├── TargetError          the target failed after its retries
    ├── UnrecoverableError   no rule for faults applies: the request fails at once
    └── BatchError           some requests of a batch failed; `results` holds all of them

RoleWarning is a Python warning, once per role of a decoder: a role has failed at every one of its first calls.
"""

from __future__ import annotations

import copyreg
from collections.abc import Sequence
from typing import Any

from rsd_core.model import Usage
from rsd_core.results import Result

DISTRIBUTION = "rsd-decoding"
"""Name of the distribution on the package index, used in the pip commands of messages."""


class RSDError(Exception):
    """Base of all errors raised by this project."""

    def __reduce__(self) -> tuple[Any, ...]:  # whatever their constructors take
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class ConfigurationError(RSDError, ValueError):
    """A value, or a combination of values, that cannot work."""


class SpecError(ConfigurationError):
    """A spec string with an unknown or unsuitable name."""


class MissingDependency(ConfigurationError, ImportError):  # noqa: N818
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, needed_by: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(
            f"{needed_by} needs the package {package!r}, which is not installed. "
            f'Install it with: pip install "{DISTRIBUTION}[{extra}]"'
        )


class PromptError(ConfigurationError):
    """A prompt that no model could answer."""


class RunError(RSDError):
    """A request failed while it was running.

    Args:
        message: What failed.
        usage: Work done by the failed model call, if any: it is still charged.
    """

    partial: Result | None = None
    """What had been generated when the request failed, with its ledger; None when raised outside a decoder."""

    def __init__(self, message: str = "", *, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.usage = usage


class DrafterError(RunError):
    """The drafter could not write a step."""


class VerifierError(RunError):
    """The verifier could not score a step, or its score was not a number in [0, 1]."""


class TargetError(RunError):
    """The target could not write a step."""


class UnrecoverableError(RunError):
    """A fault that no rule applies to: the request fails at once, and nobody writes the step in place of the role.

    Raised where continuing would give a different result from the one requested, for example by a recorded run that
    does not hold the call.
    """


def may_pass(error: Exception) -> bool:
    """Whether the same call may succeed later: not with wrong arguments, nor if the error is marked as final."""
    return not isinstance(error, TypeError) and getattr(error, "is_retryable", None) is not False


class RoleWarning(UserWarning):
    """A drafter, verifier or target has failed, or a verifier gave no reward, at every call so far: answers suffer."""


class BatchError(RunError):
    """Some requests of a batch failed; the others are not lost."""

    def __init__(self, results: Sequence[Result], errors: dict[int, Exception]) -> None:
        self.results = list(results)
        """One result per prompt, in order; a failed one has `finish_reason == "error"` and its text so far."""
        self.errors = errors
        """The error of each failed request, by position in the batch."""
        first = min(errors)
        super().__init__(
            f"{len(errors)} of {len(self.results)} requests failed, the first at position {first}: {errors[first]}. "
            "`results` of this error holds everything that was generated."
        )
