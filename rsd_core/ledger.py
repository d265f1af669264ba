"""What a request cost: tokens, calls, seconds, FLOPs and money, per role."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rsd_core.model import Model, Usage

Role = Literal["drafter", "verifier", "target"]


@dataclass(slots=True)
class Account:
    """The work of one role."""

    calls: int = 0
    """Calls begun, failed and cancelled ones included."""
    failed: int = 0
    """Calls that failed or were cut short."""
    computed: int = 0
    """Tokens run through the model, prefill and later discarded work included."""
    reused: int = 0
    """Prefix tokens found in a cache."""
    generated: int = 0
    """Tokens sampled."""
    scored: int = 0
    """Answer tokens that a verifier computed."""
    discarded: int = 0
    """Tokens of rejected drafts as the drafter counts them, and of calls that failed or were not needed; for the
    verifier, of rejected steps that it had scored. Rejected proposed tokens count for both who wrote and read them."""
    overridden: int = 0
    """Tokens on which a lossy acceptance rule decided differently from the exact one."""
    abstained: int = 0
    """Steps for which a verifier abstained."""
    seconds: float = 0.0
    estimated: int = 0
    """Tokens among those above that are estimated from the text because a server did not report them."""
    flops: float | None = 0.0
    """FLOPs of every computed token; None when the model's size is unknown."""
    flops_paper: float | None = 0.0
    """FLOPs by the paper's convention: two per weight for each generated or newly scored token, without prefill."""
    cost: float | None = 0.0
    """Money; None when the model has no price."""
    dtype: str | None = None
    """The dtypes of its models' weights, such as `bfloat16` or `int8`, separated by commas; None if unknown."""

    @property
    def read(self) -> int:
        """Tokens read: prompts and prefixes, cached or not."""
        return self.computed - self.generated + self.reused

    def charge(self, model: Model, usage: Usage, *, failed: bool = False) -> None:
        """Add one call; for a composite model, the work of each part at its own rate."""
        self.calls += 1
        self.failed += failed
        if not usage.parts:
            self._add_work(model, usage)
            return
        for worker, part in usage.parts:
            self._add_work(worker, part)
        # Work that no part reports is the model's own, as in the sum of a call with parts and one without.
        total = sum([part for _, part in usage.parts], Usage())
        own = {name: max(0, getattr(usage, name) - getattr(total, name)) for name in _COUNTS}
        if any(own.values()):
            self._add_work(model, Usage(**own))

    def _add_work(self, model: Model, usage: Usage) -> None:
        computed, written = usage.computed, usage.generated + usage.scored
        self.computed += computed
        self.reused += usage.reused
        self.generated += usage.generated
        self.scored += usage.scored
        self.seconds += usage.seconds
        self.estimated += usage.estimated
        if model.dtype is not None:
            self._note_dtype(model.dtype)
        self.discarded += usage.discarded
        self.overridden += usage.overridden
        rate, price = model.flops_per_token, model.price
        if rate is None:
            self.flops = self.flops_paper = None
        elif self.flops is not None and self.flops_paper is not None:
            self.flops += rate * computed
            self.flops_paper += rate * written
        if price is None:
            self.cost = None
        else:
            cached = price.prompt if price.cached is None else price.cached
            fresh = max(0, usage.prefix - usage.reused)
            money = fresh * price.prompt + usage.reused * cached + usage.generated * price.generated
            self.cost = _plus(self.cost, money / 1e6)

    def add(self, other: Account) -> None:
        """Add another account to this one."""
        for name in self.__dataclass_fields__:
            if name != "dtype":
                setattr(self, name, _plus(getattr(self, name), getattr(other, name)))
        if other.dtype is not None:
            self._note_dtype(other.dtype)

    def _note_dtype(self, dtype: str) -> None:
        if dtype != self.dtype:
            known = {} if self.dtype is None else dict.fromkeys(self.dtype.split(", "))
            self.dtype = ", ".join(known | dict.fromkeys(dtype.split(", ")))

    def to_dict(self) -> dict[str, float | str | None]:
        """Plain JSON data."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


_COUNTS = ("prefix", "computed", "reused", "generated", "scored", "estimated", "discarded", "overridden")


def _plus(a: float | None, b: float | None) -> float | None:
    """A sum; None if either term is."""
    return None if a is None or b is None else a + b


@dataclass(slots=True)
class Ledger:
    """The accounts of the three roles. An unused role costs nothing, whatever its model."""

    drafter: Account = field(default_factory=Account)
    verifier: Account = field(default_factory=Account)
    target: Account = field(default_factory=Account)
    target_only_flops: float | None = None
    """Estimated FLOPs of the same answer written by the target alone."""
    target_only_flops_paper: float | None = None
    """The same by the paper's convention."""
    target_only_basis: str | None = None
    """How the two figures were obtained."""

    def account(self, role: Role) -> Account:
        """The account of a role."""
        account: Account = getattr(self, role)
        return account

    def charge(
        self,
        role: Role,
        model: Model,
        usage: Usage,
        assistant: Model | None = None,
        *,
        failed: bool = False,
        kept: bool = True,
    ) -> Usage:
        """Charge a call. What an assistant proposed, which the usage reports in its parts, is the drafter's work.

        If nothing of it is kept, or it failed and is not a verifier's, all that it generated counts as discarded.

        Returns:
            The model's own work.
        """
        lost, own = not kept or (failed and role != "verifier"), usage
        if assistant is not None and (proposing := [part for worker, part in usage.parts if worker is assistant]):
            own = sum([part for worker, part in usage.parts if worker is not assistant], Usage())
            drafting = sum(proposing, Usage())
            self.drafter.charge(assistant, drafting, failed=failed)
            self.drafter.discarded += lost * (drafting.generated - drafting.discarded)
        account: Account = getattr(self, role)
        account.charge(model, own, failed=failed)
        if lost:
            account.discarded += own.generated
        return own

    @property
    def total(self) -> Account:
        """The sum of all roles; FLOPs or cost are None if those of a role in use are."""
        total = Account()
        for account in (self.drafter, self.verifier, self.target):
            total.add(account)
        return total

    def sum_of(self, name: Literal["flops", "cost"]) -> float | None:
        """FLOPs or money of all roles together; None if those of a role in use are."""
        spent: float | None = 0.0
        for account in (self.drafter, self.verifier, self.target):
            spent = _plus(spent, getattr(account, name))
        return spent

    def to_dict(self) -> dict[str, object]:
        """Plain JSON data."""
        roles = {role: self.account(role).to_dict() for role in ("drafter", "verifier", "target")}
        return {
            **roles,
            "total": self.total.to_dict(),
            "target_only_flops": self.target_only_flops,
            "target_only_flops_paper": self.target_only_flops_paper,
            "target_only_basis": self.target_only_basis,
        }
