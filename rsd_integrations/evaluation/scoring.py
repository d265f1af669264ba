"""Scores the steps of given solutions in order, as a decoder would."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from rsd_core import (
    ConfigurationError,
    Path,
    Prompt,
    Reader,
    RSDError,
    Step,
    Thinking,
    Verifier,
    VerifierError,
    as_prompt,
    visible,
)
from rsd_core.splitting import Splitter
from rsd_core.thoughts.markers import MARKERS
from rsd_core.thoughts.reading import unopened
from rsd_integrations.data_files import read_records
from rsd_integrations.evaluation.cutting import cut
from rsd_integrations.evaluation.side_by_side import as_ready
from rsd_integrations.jsonl import read_lines

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Solution:
    """A problem with the steps of a solution."""

    prompt: Prompt
    steps: tuple[str, ...]
    """Texts without the blank lines between them, with markers of thoughts."""
    row: dict[str, Any]
    """The whole entry that it was read from."""

    @classmethod
    def of(cls, problem: str, solution: str, delimiter: str | Splitter = "\n\n") -> Solution:
        """Build an entry from an uncut solution, cut by a text or a splitter; see `cut`.

        Raises:
            ConfigurationError: The solution is blank.
        """
        steps = cut(solution, delimiter)
        if not steps:
            raise ConfigurationError(f"{solution!r} is not a solution: it contains nothing to score")
        return cls(as_prompt(problem), tuple(steps), {"problem": problem, "solution": solution})

    def paths(self) -> Iterator[tuple[Path, Step]]:
        """Each step with the path before it, as a decoder would have them."""
        text = "\n\n".join(self.steps)
        markers, closed = Reader().read(text)[0].markers, unopened(text)
        if closed is not None:  # by a template that is unknown here
            thinking: Thinking | None = Thinking(closed, closed.begin())
        else:
            thinking = None if markers is None else Thinking(markers)
        path = Path(self.prompt, thinking=thinking)
        for i, text in enumerate(self.steps, 1):
            last = i == len(self.steps)
            step = Step(text if last else f"{text}\n\n", "end" if last else "delimiter")
            yield path, step
            path = path.extend(step)


@dataclass(frozen=True, slots=True)
class BadRow:
    """An entry that is not a problem with a solution."""

    where: str
    """Its place in the file."""
    error: str
    row: Any = None
    """Its content, if that is JSON."""


THOUGHTS = ("thought", "reasoning_content", "reasoning")
"""Fields of a thought that is separate from its solution."""
FORM = 'an entry is {"problem": "…", "steps": ["…", "…"]} or {"problem": "…", "solution": "…"}'


def read_entries(file: FilePath, delimiter: str | Splitter = "\n\n") -> list[Solution | BadRow]:
    """Solutions from a JSONL file, a JSON file with a list, or CSV, TSV or Parquet; invalid entries say why.

    Each has a `problem` (or `question`, `prompt`; a text or messages) and either `steps`, a list, or a `solution` to
    cut, by default at blank lines, also in its thought. The thought is within its markers, or separate from the
    `solution` as `thought` (or `reasoning_content`, `reasoning`). With `steps`, only those are read; a warning says so
    if there is also one of the others.

    Args:
        file: The file.
        delimiter: A text or a splitter to cut each `solution` by; see `cut`.

    Raises:
        ConfigurationError: The file does not exist or is empty.
    """
    table = file.suffix.lower() in (".csv", ".tsv", ".parquet")
    lines = read_records(file) if table else read_lines(file)
    rows = _listed(file) if not table and lines and lines[0].text.lstrip().startswith("[") else None
    if rows is None:
        where = "row" if file.suffix.lower() == ".parquet" else "line"
        rows = [(f"{where} {line.number}", line.value, line.error) for line in lines]
    if not rows:
        raise ConfigurationError(f"{file} is empty; {FORM}")
    entries = [_solution(*row, delimiter) for row in rows]
    given = [entry.row for entry in entries if isinstance(entry, Solution) and "steps" in entry.row]
    for name in ("solution", *THOUGHTS):
        if both := sum(bool(row.get(name)) for row in given):
            told = "%s: %d of %d entries have `steps` and a `%s`: only the `steps` are read"
            logger.warning(told, file, both, len(entries), name)
    return entries


def read_solutions(file: FilePath, delimiter: str | Splitter = "\n\n") -> list[Solution]:
    """Solutions as from `read_entries`, all of which must be valid.

    Args:
        file: The file.
        delimiter: As for `read_entries`.

    Raises:
        ConfigurationError: The file does not exist or is empty, or an entry is not a solution; says where.
    """
    entries = read_entries(file, delimiter)
    bad = [entry for entry in entries if isinstance(entry, BadRow)]
    if bad:
        more = f" (and {len(bad) - 1} more)" * (len(bad) > 1)
        raise ConfigurationError(f"{file}, {bad[0].where}: {bad[0].error}{more}; {FORM}")
    return [entry for entry in entries if isinstance(entry, Solution)]


def solution_of(prompt: Prompt, text: str) -> Solution | None:
    """A response as a solution, cut at its blank lines; None if it is empty."""
    steps = cut(text)
    return Solution(prompt, tuple(steps), {}) if steps else None


def _listed(file: FilePath) -> list[tuple[str, Any, str | None]] | None:
    """The entries of a JSON file with a list, by place; None if it contains something else."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return [(f"entry {number}", row, None) for number, row in enumerate(rows, 1)] if isinstance(rows, list) else None


def _solution(where: str, row: Any, error: str | None, delimiter: str | Splitter) -> Solution | BadRow:
    if error is not None:
        return BadRow(where, error)
    try:
        problem = next(row[key] for key in ("problem", "question", "prompt") if key in row)
        steps = row["steps"] if "steps" in row else cut(_with_thought(row), delimiter)
        prompt = as_prompt(problem)
    except StopIteration:
        return BadRow(where, f"it has no `problem`{_instead(row)}", row)
    except KeyError:
        return BadRow(where, f"it has neither `steps` nor a `solution`{_instead(row)}", row)
    except (TypeError, ValueError, AttributeError, RSDError) as wrong:
        return BadRow(where, f"it is not a problem with a solution ({wrong})", row)
    if "steps" not in row and not steps:
        return BadRow(where, "its `solution` is blank", row)
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) and step.strip() for step in steps):
        return BadRow(where, "`steps` must be a list of at least one text, none of them blank", row)
    return Solution(prompt, tuple(steps), row)


def _instead(row: Any) -> str:
    """The names that an entry has, one of which may be misspelt."""
    return ", but " + ", ".join(f"`{name}`" for name in row) if isinstance(row, dict) and row else ""


def _with_thought(row: dict[str, Any]) -> str:
    thought = next((row[key] for key in THOUGHTS if row.get(key)), "")
    if not isinstance(solution := row["solution"], str):
        raise TypeError(f"its `solution` is {json.dumps(solution)}, not a text")
    return MARKERS["think"].wrap(thought) + solution if thought else solution


def is_judged(path: Path, step: Step) -> bool:
    """Whether a step is more than a marker of a thought."""
    parts = visible(path, step)
    return bool((parts.thought + parts.answer).strip())


async def score_steps(verifier: Verifier, solution: Solution) -> list[float | None]:
    """The reward of each step, in order; None if the verifier abstains, and for a mere marker of a thought.

    Raises:
        VerifierError: The verifier did not give one reward in [0, 1].
    """
    return [await _score(verifier, path, step) if is_judged(path, step) else None for path, step in solution.paths()]


async def _score(verifier: Verifier, path: Path, step: Step) -> float | None:
    rewards = (await verifier.score(path, [step])).rewards
    if len(rewards) != 1 or not (rewards[0] is None or 0 <= rewards[0] <= 1):  # NaN fails this too
        raise VerifierError(f"{verifier.name!r} gave {rewards} for one step, not a reward in [0, 1]")
    return rewards[0]


async def score_all(
    verifier: Verifier, solutions: Sequence[Solution], concurrency: int = 16
) -> AsyncGenerator[tuple[int, list[float | None] | RSDError], None]:
    """Rewards of many solutions, scored concurrently, in their order; one that cannot be scored gives its error."""

    async def one(i: int) -> list[float | None] | RSDError:
        try:
            return await score_steps(verifier, solutions[i])
        except RSDError as error:
            return error
        except Exception as error:
            logger.debug("a verifier failed", exc_info=error)
            return VerifierError(f"{verifier.name!r} failed: {type(error).__name__}: {error}")

    early: dict[int, list[float | None] | RSDError] = {}
    following = 0
    async with aclosing(as_ready(one, range(len(solutions)), concurrency)) as scored:
        async for i, rewards in scored:
            early[i] = rewards
            while following in early:
                yield following, early.pop(following)
                following += 1


def aggregates(rewards: Sequence[float | None]) -> dict[str, float | None]:
    """A score of the whole solution, by each of the usual formulas, over the steps with a reward.

    `last` is that of the last step, None if it has none.
    """
    known = [reward for reward in rewards if reward is not None]
    if not known:
        return dict.fromkeys(("min", "product", "mean", "last"))
    return {"min": min(known), "product": math.prod(known), "mean": math.fsum(known) / len(known), "last": rewards[-1]}
