"""Models that think, for the tests: a scripted world in steps, whose draft goes wrong in its thought and after it."""

from __future__ import annotations

from typing import Any

from rsd_core import Path, RewardGuidedDecoder, Thinking
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_core.thoughts.markers import MARKERS

DRAFT = (
    "<think>\nThere are 12 seats.\n\n",
    "BAD: 12-2=9.\n\n",
    "So ten, <tool_call> or STOP?\n</think>\n\n",
    "A BAD answer.\n\n",
    "The answer is \\boxed{10}.",
)
TARGET = (DRAFT[0], "12-2=10.\n\n", DRAFT[2], "Two of 12 are taken.\n\n", DRAFT[4])
THOUGHT = "There are 12 seats.\n\n12-2=10.\n\nSo ten, <tool_call> or STOP?"
ANSWER = "Two of 12 are taken.\n\nThe answer is \\boxed{10}."
RAW = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"
KNOWN = Thinking(MARKERS["think"])
OPENS = Thinking(MARKERS["think"], "<think>\n")


def thinker(*, opens: bool = False, **options: Any) -> RewardGuidedDecoder:
    """The world as a decoder; with `opens` the chat template has written the marker already."""
    thinking = OPENS if opens else None

    def play(script: tuple[str, ...]) -> list[str]:
        return [step.removeprefix("<think>\n") for step in script] if opens else list(script)

    return RewardGuidedDecoder(
        drafter=Shown(play(DRAFT), thinking=thinking),
        verifier=ScriptedVerifier(lambda _path, step: 0.1 if "BAD" in step.text else 0.9),
        target=ShownTarget(play(TARGET), thinking=thinking),
        **options,
    )


class Shown(ScriptedDrafter):
    """A drafter whose chat template shows tools."""

    renders_tools = True


class ShownTarget(ScriptedTarget):
    """A target whose chat template shows tools."""

    renders_tools = True


def agents_steps(mistake: bool) -> Any:
    """A script of an agent's model: it thinks and asks a tool, and once that has answered it thinks and answers."""

    def play(path: Path, _: Any) -> str:
        called = any(message.role == "tool" for message in path.prompt)
        wrong = "BAD" if mistake else ""
        steps = (
            (f"<think>\nI know the rain {wrong}.\n\n", "Done.\n</think>\n\n", f"It rains {wrong}in Rome.")
            if called
            else (
                f"<think>\nI must ask {wrong}.\n\n",
                "In Rome.\n</think>\n\n",
                f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "{wrong or "Rome"}"}}}}\n</tool_call>',
            )
        )
        return steps[path.depth]

    return play
