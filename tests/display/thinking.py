"""Scripted models that think before they answer: three steps of thought, one by the target, and two of the answer."""

from __future__ import annotations

from typing import Any

from rsd_core import BinaryStep, RewardGuidedDecoder, Settings, Thinking
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_core.thoughts.markers import MARKERS

QUESTION = "How many seats are free?"
OPENED = Thinking(MARKERS["think"], "<think>\n")
THOUGHT = ["There are 3 rows: 3*4=12.\n\n", "Two are taken: 12-2=10.\n\n", "So it is 10.\n</think>\n\n"]
ANSWER = ["Seats that are free: 12-2=10.\n\n", "The answer is \\boxed{10}."]
SLIPS = ["There are 3 rows: 3*4=12.\n\n", "Two are taken: 12-2=9.\n\n", "So it is 9.\n</think>\n\n"]


def decoder(
    draft: list[str] | None = None,
    target: list[str] | None = None,
    thinking: Thinking = OPENED,
    delta: float = 0.7,
    **settings: Any,
) -> RewardGuidedDecoder:
    """A drafter that slips in the thought, a verifier that sees it, and a target; settings by their names."""
    return RewardGuidedDecoder(
        drafter=ScriptedDrafter(draft or SLIPS + ANSWER, thinking=thinking),
        verifier=ScriptedVerifier(lambda _path, step: 0.1 if "9" in step.text else 0.95),
        target=ScriptedTarget(target or THOUGHT + ANSWER, thinking=thinking),
        policy=BinaryStep(delta=delta),
        settings=Settings().updated(**settings),
    )
