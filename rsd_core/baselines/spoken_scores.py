"""Scores that a model writes in words: `Score: 7`, `**Score:** 7.5/10`, `{"score": 7}`, `7 out of 10`."""

from __future__ import annotations

import logging
import re
import warnings

from rsd_core.errors import RoleWarning
from rsd_core.health import FIRST_CALLS

logger = logging.getLogger(__name__)

_LINK = r"""(?:[^\d\n.:=]{0,40}[:=])?(?:\s|[*_`"'“”:：=>|$~≈(\[]|[-–—](?=\s)|\\boxed\{|\b(?:is|of|was)\b){0,16}"""
"""What may come between the word and the number. A dash right before a number makes it negative."""
_NUMBER = r"[-−]?\d+(?:[.,]\d+)?"
_END = r"(?![\w]|[.,]\d|\s*[-–—]\s*\d|\s+to\s+\d)"
"""After a number: it is neither part of a longer word nor the beginning of a range."""
_OUT_OF = r"""(?:[}*_`"'$\s]*(?:/|\bout\s+of\b|\bof\b)[*_`"'$\s]*(\d+)(?!\w|[.,]\d))"""
_RANGE = r"\s*[(\[]([^()\[\]\n]{1,40})[)\]]"
_SCORE = re.compile(
    rf"(?<![A-Za-z])score(?![A-Za-z])[*_`\"']*(?:{_RANGE})?{_LINK}({_NUMBER})(?:{_OUT_OF}|(%)|{_END})", re.IGNORECASE
)
_FRACTION = re.compile(
    rf"(?:^|[.!?:;\n]\s|[-–—]\s)[\s*_`\"'$]*({_NUMBER})\s*(?:/|out\s+of)\s*(5|9|10|100)(?!\w|[.,]\d)[\W_]*\Z",
    re.IGNORECASE,
)
_ALONE = re.compile(rf"\A[\s*_`\"'$(]*({_NUMBER})[\s*_`\"'$).]*\Z")


def spoken_score(text: str, scale: int) -> float | None:
    """The reward that a text concludes with: the last score in it, divided by the maximum.

    A score is a number after the word `score`, whatever marks come between them; else a fraction that ends the text,
    such as `8/10`; else a number that is the whole text. If the text states the maximum itself (`7/10`, `7 out of 10`,
    `Score (0-10): 7`, `70%`), that one is used.

    Args:
        text: A reply without its thoughts.
        scale: The maximum score if the text does not state it.

    Returns:
        A reward in [0, 1]; None if there is no score, or the last one is out of range.
    """
    scores = list(_SCORE.finditer(text))
    if scores:
        named, number, best, percent = scores[-1].groups()
        told = re.search(r"(\d+)\D*\Z", named or "")
        return _reward(number, int(best or (100 if percent else told[1] if told else scale)))
    if fraction := _FRACTION.search(text):
        return _reward(fraction[1], int(fraction[2]))
    alone = _ALONE.match(text)
    return _reward(alone[1], scale) if alone else None


def _reward(number: str, best: int) -> float | None:
    value = float(number.replace(",", ".").replace("−", "-"))
    return value / best if best > 0 and 0 <= value <= best else None


class Abstentions:
    """Tracks a judge's replies without a score: each is logged, and if all of the first ones lack one, warns once."""

    def __init__(self) -> None:
        self._silent: int | None = 0
        """Replies without a score so far; None after the first score or the warning."""

    def note(self, judge: str, reward: float | None, reply: str) -> None:
        """Note a reply.

        Args:
            judge: Its name.
            reward: The score found in the reply; None if there is none.
            reply: The reply, or why it contains no score.
        """
        if reward is not None:
            self._silent = None
            return
        logger.info("%s abstains: no score in %r", judge, reply[-200:])
        self._silent = None if self._silent is None else self._silent + 1
        if self._silent == FIRST_CALLS:
            self._silent = None
            warnings.warn(
                f"{judge} gave no score in any of its first {FIRST_CALLS} replies, the last of which ends with "
                f"{reply[-80:]!r}: the setting on_abstain decides instead",
                RoleWarning,
                stacklevel=2,
            )
