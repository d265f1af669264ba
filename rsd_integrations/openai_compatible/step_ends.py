"""Checks that a server's stop strings reveal the end of a step, before the first step depends on it.

A server that strips stop strings without naming the one it stopped at ends steps and answers alike: every answer would
silently end after its first step. Two short answers reveal this: one without a stop string, and the same with one from
its middle.
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
"""Tokens of each of the two answers."""
Way = Literal["kept", "named", "stripped", "ignored", "unknown", "streamed"]


@dataclass(frozen=True, slots=True)
class StepEnds:
    """How a server marks the ends of steps."""

    way: Way
    """`kept` in the text, or `named` in a field; `stripped` silently; `ignored`, writing on; `unknown` if two answers
    are inconclusive; `streamed` if no stop strings are sent and the text is cut here."""
    reason: str
    """The observation, completing a sentence that begins with the server."""
    stop: str = " "
    """The stop string that was tried."""

    @property
    def told(self) -> bool:
        """Whether the end of a step can be distinguished from the end of the answer."""
        return self.way in ("kept", "named", "streamed")


async def find_step_ends(ask: ShortAnswers) -> StepEnds:
    """Test how a server handles stop strings.

    Raises:
        ConfigurationError: The server refuses to be asked.
        EndpointError: It failed, after all retries.
    """
    if ask.server.profile.stop == "streamed":
        return StepEnds("streamed", "is sent no stop strings: steps are streamed and cut here")
    named_by = ask.server.profile.reason
    for question in QUESTIONS:
        path = Path(as_prompt(question))
        whole = "".join(told((await ask.to(path, TOKENS))[1]))  # the thought markers added here are not among its stops
        stop = _blank_inside(whole)
        if stop is not None:
            break
    else:
        return StepEnds("unknown", f"returned an answer too short to test a stop string: {whole!r}")
    answer, choice = await ask.to(path, TOKENS, stop)
    text = "".join(told(choice))
    if stop in text:
        if answer.ending == "length" or (text == whole and not text.endswith(stop)):
            return StepEnds("ignored", f"ignores stop strings: {stop!r} should have ended {text!r}", stop)
        return StepEnds("kept", f"leaves stop strings in the text: {stop!r} ended {text!r}", stop)
    if named_by is not None and choice.get(named_by) == stop:
        return StepEnds("named", f"names in {named_by!r} what it stopped at: {stop!r}", stop)
    if text.strip() == whole[: whole.index(stop)].strip():
        return StepEnds("stripped", f"stopped at {stop!r} and silently stripped it: it returned {text!r}", stop)
    return StepEnds("unknown", f"is not deterministic: it wrote {whole!r}, and up to {stop!r} {text!r}", stop)


def _blank_inside(text: str) -> str | None:
    """A stop string from the middle of a text: white space, like delimiters, since some servers strip only that."""
    blank = re.search(r"(?<=\S)\s(?=.*\S)", text, re.DOTALL)
    return None if blank is None else blank[0]
