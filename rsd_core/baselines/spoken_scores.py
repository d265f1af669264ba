"""Scores that a model writes in words: `Score: 7`, `**Score:** 7.5/10`, `{"score": 7}`, `7 out of 10`."""

from __future__ import annotations

import logging
import re
import warnings

from rsd_core.errors import RoleWarning
from rsd_core.health import FIRST_CALLS

logger = logging.getLogger(__name__)

_LINK = r"""(?:[^\d\n.:=]{0,40}[:=])?(?:\s|[*_`"'“”:：=>|$~≈(\[]|[-–—](?=\s)|\\boxed\{|\b(?:is|of|was)\b){0,16}"""
"""What may stand between the word and the number. A dash right before a number makes it negative."""
_NUMBER = r"[-−]?\d+(?:[.,]\d+)?"
_END = r"(?![\w]|[.,]\d|\s*[-–—]\s*\d|\s+to\s+\d)"
"""After a number: it is none of a longer word, nor the beginning of a range."""
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
    """The reward that a text ends in: the last score that it names, divided by the best one.

    A score is a number after the word `score`, whatever marks stand between them; else a fraction that ends the text,
    such as `8/10`; else a number that is all of the text. Where the text tells the best score itself (`7/10`, `7 out
    of 10`, `Score (0-10): 7`, `70%`), it is that.

    Args:
        text: A reply without its thoughts.
        scale: The best score, where the text does not tell it.

    Returns:
        A reward in [0, 1]; None where there is no score, or the last one is out of range.
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
    """A judge's replies without a score: each is logged, and where its first ones all are, that is warned of once."""

    def __init__(self) -> None:
        self._silent: int | None = 0
        """Replies without a score so far; None once there was one, or the warning."""

    def note(self, judge: str, reward: float | None, reply: str) -> None:
        """Note a reply.

        Args:
            judge: Its name.
            reward: What was read of the reply; None for nothing.
            reply: The reply, or why there is no score in it.
        """
        if reward is not None:
            self._silent = None
            return
        logger.info("%s abstains: no score in %r", judge, reply[-200:])
        if self._silent is None:
            return
        self._silent += 1
        if self._silent == FIRST_CALLS:
            self._silent = None
            warnings.warn(
                f"{judge} gave no score in any of its first {FIRST_CALLS} replies, the last of which ends in "
                f"{reply[-80:]!r}: the setting on_abstain decides instead of it",
                RoleWarning,
                stacklevel=2,
            )
