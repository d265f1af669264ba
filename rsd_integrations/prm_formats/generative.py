"""Generative reward models: they write a critique, then say right or wrong. Prompts and verdicts as data."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from rsd_core import Message, Prompt
from rsd_core.baselines.spoken_scores import spoken_score
from rsd_core.plugins import Plugin, Registry, of_type
from rsd_core.thoughts.markers import MARKERS


@dataclass(frozen=True, slots=True)
class Critic:
    """How a model is asked to judge the last of some steps, and where its verdict is."""

    name: str
    messages: Callable[[str, Sequence[str]], Prompt]
    """From a problem and its steps to the conversation."""
    opening: str = ""
    """What the critique begins with; `{i}` is the step's number."""
    until: str | None = None
    """What it ends with; None lets the model end it."""
    verdict: str = ""
    """What is put after the critique, so that the next word is the verdict; without it, the verdict is written out."""
    words: tuple[str, str] = (" Yes", " No")
    """The words for a right and a wrong step."""
    spoken: str | Callable[[str], float | None] = ""
    """Finds the verdict in what a model wrote to the end, where no probabilities of words can be had: an expression
    whose group 1 is it, or a function that reads the reward."""
    max_tokens: int = 2048
    temperature: float = 0.0
    top_p: float = 1.0
    models: tuple[str, ...] = ()
    threshold: str = "none published, calibrate"
    source: str = ""

    @property
    def is_thought(self) -> bool:
        """Whether the critique is the model's thought, up to its end."""
        return any(markers.close == self.until for markers in MARKERS.values())

    def spoken_verdict(self, text: str) -> float | None:
        """The reward that the text ends in: 1 for yes, 0 for no, a tenth for each point. None where it says none."""
        if callable(self.spoken):
            return self.spoken(text)
        verdicts = re.findall(self.spoken, text, re.IGNORECASE)
        if not verdicts:
            return None
        word = str(verdicts[-1]).lower()
        if word in ("yes", "no"):
            return float(word == "yes")
        return float(word) / 10 if 0 <= float(word) <= 10 else None


def _thinkprm(problem: str, steps: Sequence[str]) -> Prompt:
    solution = "\n".join(f"Step {i}: {_unnumbered(step)}" for i, step in enumerate(steps, 1))
    return (
        Message(
            "user",
            "You are given a math problem and a proposed step-by-step solution:\n\n"
            f"[Math Problem]\n\n{problem}\n\n[Solution]\n\n{solution}\n\n"
            "Review and critique each step in the proposed solution to determine whether each step is correct. "
            "If the solution is incomplete, only verify the provided steps.",
        ),
    )


def _genprm(problem: str, steps: Sequence[str]) -> Prompt:
    turns = [
        Message(
            "system",
            "You are a math teacher. Your task is to review and critique the paragraphs in solution step by step.",
        )
    ]
    for i, step in enumerate(steps):
        turns.append(Message("user", f"Question: {problem}\n\n{step.strip()}" if i == 0 else step.strip()))
        if i < len(steps) - 1:
            turns.append(Message("assistant", ""))
    return tuple(turns)


def _rubric(problem: str, steps: Sequence[str]) -> Prompt:
    before = "\n\n".join(steps[:-1]) or "(none)"
    return (
        Message(
            "user",
            "Judge one step of a solution.\n\n"
            f"[Problem]\n{problem}\n\n[Steps before]\n{before}\n\n[Step to judge]\n{steps[-1]}\n\n"
            "Is the step correct in its facts and arithmetic, does it follow from the steps before, and does it help "
            "to solve the problem? Reason briefly, then end with a line of the form `Score: N`, with N from 0 (wrong) "
            "to 10 (right beyond doubt).",
        ),
    )


def _unnumbered(step: str) -> str:
    return re.sub(r"Step \d+:", "", step).strip()


THINKPRM = Critic(
    # The card's extra "Let's verify step by step:" made some models write nothing, so it is left out.
    name="thinkprm",
    messages=_thinkprm,
    until="</think>",
    verdict="\nIs the solution correct?",
    spoken=r"is the solution correct\?\s*(yes|no)",
    models=("launch/ThinkPRM-1.5B", "launch/ThinkPRM-7B", "launch/ThinkPRM-14B"),
    max_tokens=4096,
    temperature=0.7,
    source="mukhal/ThinkPRM, prm/thinkprm_api.py",
)
GENPRM = Critic(
    # Its mode without code: the critique, then the judgement.
    name="genprm",
    messages=_genprm,
    opening="<analyze>\nLet's analyze the Paragraph {i} step by step: ",
    until="</analyze>",
    verdict="\n<output>\n**Judgement**: $\\boxed{",
    words=("Yes", "No"),
    spoken=r"\\boxed\{(yes|no)\}",
    models=("GenPRM/GenPRM-1.5B", "GenPRM/GenPRM-7B", "GenPRM/GenPRM-32B"),
    temperature=0.6,
    top_p=0.95,
    threshold="0.5: the likelier of Yes and No",
    source="RyanLiu112/GenPRM, genprm_inference.py",
)
RUBRIC = Critic(
    # For any model at all: its score is written out.
    name="rubric",
    messages=_rubric,
    spoken=partial(spoken_score, scale=10),
    max_tokens=512,
)


def _of_package(plugin: Plugin) -> Critic:
    return replace(of_type(Critic)(plugin), name=plugin.name)


CRITICS = Registry("critic", "rsd.critics", {critic.name: critic for critic in (THINKPRM, GENPRM, RUBRIC)}, _of_package)
"""Critics by name, those of installed packages included."""
