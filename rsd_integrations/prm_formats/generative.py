"""Generative reward models: they write a critique, then say right or wrong. Prompts, sampling and verdicts as data."""

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
    """How to ask a model to judge the last of several steps, and where its verdict is."""

    name: str
    messages: Callable[[str, Sequence[str]], Prompt]
    """Maps a problem and its steps to the conversation."""
    opening: str = ""
    """Beginning of the critique; `{i}` is the step's number."""
    until: str | None = None
    """End of the critique; None lets the model end it."""
    verdict: str = ""
    """Appended to the critique, so that the next word is the verdict; without it, the verdict is written out."""
    asks: bool = False
    """Whether the critique's own end (`until`) asks for the word, so that nothing is appended."""
    words: tuple[str, str] = (" Yes", " No")
    """The words for a right and a wrong step."""
    spoken: str | Callable[[str], float | None] = ""
    """Finds the verdict in a complete critique if word probabilities are unavailable: an expression with the verdict as
    group 1, or a function that returns the reward."""
    max_tokens: int = 2048
    """Maximum tokens of a critique, as published."""
    samples: int = 1
    """Critiques per step, with averaged verdicts, as published."""
    temperature: float = 0.0
    """Temperature of a critique, as published."""
    several: float | None = None
    """Temperature of each critique when there are several, if different."""
    top_p: float = 1.0
    top_k: int = 0
    models: tuple[str, ...] = ()
    read: str = "in the words of the critique"
    """Where the verdict is read, for display."""
    threshold: str = "none published, calibrate"
    """Where to start a threshold, with its source."""
    aggregation: str = "minimum or product"
    """How to aggregate the scores of steps into one for a solution."""
    thoughts: str = "as steps like those of the answer, no markers"
    """How such models read a thought."""
    source: str = ""
    """Source of prompt, sampling and verdict."""

    @property
    def is_thought(self) -> bool:
        """Whether the critique is the model's thought, up to its end."""
        return any(markers.close == self.until for markers in MARKERS.values())

    @property
    def by_word(self) -> bool:
        """Whether the verdict is a word after the critique, if its probabilities are available."""
        return bool(self.verdict) or self.asks

    def temperature_of(self, samples: int) -> float:
        """The published temperature for this number of critiques."""
        return self.temperature if samples == 1 or self.several is None else self.several

    def spoken_verdict(self, text: str) -> float | None:
        """The reward at the end of the text: 1 for yes, 0 for no, a tenth per point. None if there is none."""
        if callable(self.spoken):
            return self.spoken(text)
        verdicts = re.findall(self.spoken, text, re.IGNORECASE)
        if not verdicts:
            return None
        word = str(verdicts[-1]).lower()
        if word in ("yes", "no"):
            return float(word == "yes")
        return float(word) / 10 if 0 <= float(word) <= 10 else None


_RPRM = """\
You are an excellent math teacher. Please verify the correctness of the Now Step.

You first need to analyze the Now Step and the Previous Steps and then summarize based on your analysis.
Analysis:
You need to analyze the following aspects.
**Previous Steps Analysis**: You need to analyze the Previous Steps step by step. For each step, you need to first \
explain what the current step is doing, then you try to find any error in the current step.
**Now Step Analysis**: You first need to explain what the Now Step is doing, and then point out which part of the \
Question it is trying to solve or which part of the information it states.
**Data Source Analysis**: First you need to find out what data are used in the Now Step, and then you need to \
determine whether the source of the data is reasonable and correct. When you judge whether the source of a data is \
reasonable and correct, you need to specify the specific source of this data: such as which part of the question, or \
which content of the previous step; and then determine the source and current use is consistent, the Now Step is used \
correctly.
**Consistency Analysis**: You need to check that the Now Step is consistent with the contents of the Previous Steps, \
and then you need to check that all the information inside the Now Step is consistent.
**Calculation Analysis**: If the Now Step involves any calculations, such as addition, subtraction, multiplication, \
division, equations, modulo operations, etc., you will first need to perform a check on the calculation, such as a \
reverse operation, to see if the calculation was done correctly, and then analyze the results of your check to see if \
there was an error in the calculation.
Conclusion:\x20
Please verify the correctness of the Now Step based on your analysis, if there is any error in the Now Step then the \
Now Step is wrong and vice versa the Now Step is correct. At the end of the Conclusion, when you give your final \
answer, write it in the form "Verification: Is the step correct (Yes/No)? X", where X is either Yes or No."""
"""The prompt with which R-PRM was trained."""


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


def _rprm(problem: str, steps: Sequence[str]) -> Prompt:
    numbered = [f"Step {i}: {_unnumbered(step)}" for i, step in enumerate(steps, 1)]
    before = "\n".join(numbered[:-1]) or "Since the Now Step is the first step, there are no Previous Steps."
    return (
        Message("system", "You are a helpful assistant."),
        Message(
            "user",
            f"{_RPRM}\n\nQuestion: {problem}\nPrevious Steps: {before}\nNow Step: {numbered[-1]}\n"
            "Please carefully analyze the correctness of the Now Step.\nReply: ",
        ),
    )


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
    several=0.4,
    read='at the word after "Is the solution correct?", once its thought has ended',
    source="mukhal/ThinkPRM, prm/thinkprm_api.py and search-and-learn/recipes",
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
    top_k=20,
    read="at the word in the box of its judgement",
    threshold="0.5: the likelier of Yes and No",
    source="RyanLiu112/GenPRM, src/prm_evaluation/genprm_inference.py",
)
RPRM = Critic(
    name="r-prm",
    messages=_rprm,
    until="Is the step correct (Yes/No)?",
    asks=True,
    spoken=r"is the step correct \(yes/no\)\?[\s*]*(yes|no)",
    models=("kevinpro/R-PRM-7B-DPO",),
    max_tokens=3072,
    samples=10,
    temperature=0.95,
    top_p=0.95,
    read='at the word after "Is the step correct (Yes/No)?", with which the critique ends',
    threshold="0.5: the authors' on ProcessBench",
    source="NJUNLP/R-PRM, src/prompts/GenPRM and src/reward-guide-search",
)
RUBRIC = Critic(
    # For any model: its score is written out.
    name="rubric",
    messages=_rubric,
    spoken=partial(spoken_score, scale=10),
    max_tokens=512,
    read="in the line `Score: N` that the reply ends with",
    thoughts="as steps like those of the answer, no markers; the judge's own thought may come before its critique",
)


def _of_package(plugin: Plugin) -> Critic:
    return replace(of_type(Critic)(plugin), name=plugin.name)


CRITICS = Registry(
    "critic", "rsd.critics", {critic.name: critic for critic in (THINKPRM, GENPRM, RPRM, RUBRIC)}, _of_package
)
"""Critics by name, including those of installed packages."""
