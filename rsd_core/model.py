"""What all models share, and what one call of a model cost."""

from __future__ import annotations

import asyncio
from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self, SupportsIndex


@dataclass(frozen=True, slots=True)
class Usage:
    """Work done by one call of a model, in tokens of that model's vocabulary."""

    prefix: int = 0
    """Length of the prompt and the steps in the call."""
    computed: int = 0
    """Tokens run through the model: the part of the prefix that was not cached, and what was generated."""
    reused: int = 0
    """Prefix tokens found in a cache."""
    generated: int = 0
    """Tokens sampled, end-of-answer tokens included."""
    scored: int = 0
    """Answer tokens, prompt excluded, that a verifier computed in this call."""
    seconds: float = 0.0
    """Time the model worked, without queueing."""
    estimated: int = 0
    """Tokens among those above that are estimated from the text because a server did not report them."""
    discarded: int = 0
    """Proposed tokens that were rejected: the target read them in vain, the drafter wrote them in vain."""
    overridden: int = 0
    """Tokens on which a lossy acceptance rule decided differently from the exact one."""
    parts: tuple[tuple[Model, Usage], ...] = ()
    """The work of each part of a composite model; the ledger charges each at its own rate."""

    def __add__(self, other: Usage) -> Usage:
        """Work of two calls together."""
        return Usage(*(getattr(self, name) + getattr(other, name) for name in Usage.__slots__))

    def __reduce__(self) -> tuple[type[Usage], tuple[Any, ...]]:
        return Usage, tuple([getattr(self, name) for name in Usage.__slots__[:-1]])  # models are not pickled


class Interrupted(asyncio.CancelledError):
    """What a cancelled call may raise to report the work it had done."""

    def __init__(self, usage: Usage) -> None:
        self.usage = usage
        super().__init__("interrupted")


def usage_of(error: BaseException) -> Usage | None:
    """The work of a failed or cancelled call, if its error carries it."""
    for name in ("usage", "rsd_usage"):
        usage = getattr(error, name, None)
        if isinstance(usage, Usage):  # other libraries' errors may have another kind of `usage`
            return usage
    return None


def add_usage(error: BaseException, usage: Usage) -> None:
    """Make an error of any type carry the work of the failed call, replacing what it carried."""
    setattr(error, "usage" if isinstance(getattr(error, "usage", None), Usage) else "rsd_usage", usage)


@dataclass(frozen=True, slots=True)
class Price:
    """Money per million tokens, in any one currency."""

    prompt: float
    generated: float
    cached: float | None = None
    """For cached prompt tokens; None charges them like others."""


class Model(ABC):  # noqa: B024 - the abstract methods are in the roles
    """Base of all roles."""

    name: str = "model"
    """For display."""
    flops_per_token: float | None = None
    """FLOPs to run one token through the model, two per active weight; None when unknown."""
    price: Price | None = None
    """The model's price, if it has one."""
    dtype: str | None = None
    """The dtype of its weights, such as `bfloat16` or `int8`; None if unknown, as behind a URL."""
    renders_tools: bool | Literal["turn"] = False
    """Whether the model sees the definitions in a prompt's `tools` message; `turn`: only when it writes whole turns."""
    made_by: Callable[[], Model] | None = None
    """`load` with its arguments, pickled in place of the model. None for models made in other ways, and for copies."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        told = {name: vars(self)[name] for name in ("price", "flops_per_token") if name in vars(self)}
        return super().__reduce_ex__(protocol) if self.made_by is None else (self.made_by, (), told)

    def __copy__(self) -> Self:
        other = object.__new__(type(self))
        vars(other).update(vars(self), made_by=None)
        return other

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    async def aclose(self) -> None:  # noqa: B027 - most models hold nothing that needs closing
        """Release what the model holds."""
