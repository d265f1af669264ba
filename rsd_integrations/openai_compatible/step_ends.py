"""Proof that a server's stop strings tell the end of a step, before the first step depends on it.

A server that strips stop strings and does not name the one it stopped at ends steps and answers alike: every answer
would end after its first step, and nobody would know. Two short answers tell: one without a stop string, and the same
with one out of its middle.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rsd_core import Path, as_prompt
from rsd_integrations.openai_compatible.short_answers import QUESTION, ShortAnswers
from rsd_integrations.openai_compatible.written import told

QUESTIONS = (QUESTION, "Say hello in five words.")
TOKENS = 16
"""Of each of the two answers."""
Way = Literal["kept", "named", "stripped", "ignored", "unknown", "streamed"]


@dataclass(frozen=True, slots=True)
class StepEnds:
    """How the ends of steps come back from a server."""

    way: Way
    """`kept` in the text, or `named` beside it; `stripped`, and nothing said; `ignored`, and written on; `unknown`
    where two answers do not tell; `streamed` where no stop strings are sent and the text is cut here."""
    reason: str
    """What was seen, as the rest of a sentence that begins with the server."""
    stop: str = " "
    """The stop string that was tried."""

    @property
    def told(self) -> bool:
        """Whether the end of a step can be told from the end of the answer."""
        return self.way in ("kept", "named", "streamed")


async def find_step_ends(ask: ShortAnswers) -> StepEnds:
    """How a server's stop strings come back.

    Raises:
        ConfigurationError: The server refuses to be asked.
        EndpointError: It failed, after all retries.
    """
    if ask.server.profile.stop == "streamed":
        return StepEnds("streamed", "is sent no stop strings: steps are streamed and cut here")
    named_by = ask.server.profile.reason
    for question in QUESTIONS:
        path = Path(as_prompt(question))
        whole = "".join(told((await ask.to(path, TOKENS))[1]))  # what is put around thoughts here is none of its stops
        stop = _blank_inside(whole)
        if stop is not None:
            break
    else:
        return StepEnds("unknown", f"gave an answer that is too short to try a stop string: {whole!r}")
    answer, choice = await ask.to(path, TOKENS, stop)
    text = "".join(told(choice))
    if stop in text:
        if answer.ending == "length" or (text == whole and not text.endswith(stop)):
            return StepEnds("ignored", f"ignores stop strings: {stop!r} was to end {text!r}", stop)
        return StepEnds("kept", f"leaves stop strings in the text: {stop!r} ended {text!r}", stop)
    if named_by is not None and choice.get(named_by) == stop:
        return StepEnds("named", f"names in {named_by!r} what it stopped at: {stop!r}", stop)
    if text.strip() == whole[: whole.index(stop)].strip():
        return StepEnds("stripped", f"stopped at {stop!r}, stripped it and does not say so: it gave {text!r}", stop)
    return StepEnds("unknown", f"does not write the same twice: {whole!r}, and up to {stop!r} {text!r}", stop)


def _blank_inside(text: str) -> str | None:
    """A stop string from the middle of a text: white space, as delimiters are, since some strip nothing else."""
    blank = re.search(r"(?<=\S)\s(?=.*\S)", text, re.DOTALL)
    return None if blank is None else blank[0]
