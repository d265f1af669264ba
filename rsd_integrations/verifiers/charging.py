"""Attribution of work: what a composite verifier spends on its member models, even if a call fails or is cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from rsd_core import Generation, Interrupted, Model, NextWord, Scores, Usage
from rsd_core.model import add_usage, usage_of

Reply = TypeVar("Reply", Generation, NextWord, Scores)


async def charged_to(model: Model, call: Coroutine[Any, Any, Reply]) -> Reply:
    """Await a model call, attributing the work in its reply, error or interruption to this model."""
    try:
        reply = await call
    except Interrupted as cut:
        raise Interrupted(_attributed(model, cut.usage)) from None
    except Exception as error:
        if (usage := usage_of(error)) is not None:
            add_usage(error, _attributed(model, usage))
        raise
    return replace(reply, usage=_attributed(model, reply.usage))


@contextmanager
def charging(spent: Sequence[Usage]) -> Iterator[None]:
    """Make any exception that ends scoring early carry the work of all calls so far, not only of the last one.

    Args:
        spent: The work of the calls so far; the caller adds to it.
    """
    try:
        yield
    except asyncio.CancelledError as cut:
        raise Interrupted(sum(spent, usage_of(cut) or Usage())) from None
    except Exception as error:
        add_usage(error, sum(spent, usage_of(error) or Usage()))
        raise


def joined(scores: Sequence[Scores]) -> Scores:
    """The scores of several candidates that were scored one by one."""
    rewards = [reward for own in scores for reward in own.rewards]
    return Scores(tuple(rewards), sum((own.usage for own in scores), Usage()))


def _attributed(model: Model, usage: Usage) -> Usage:
    return usage if usage.parts else replace(usage, parts=((model, usage),))
