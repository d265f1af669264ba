"""Steps of given solutions, scored one after another as a decoder would."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from rsd_core import ConfigurationError, Path, Prompt, RSDError, Step, Verifier, VerifierError, as_prompt
from rsd_core.concurrency import settle

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Solution:
    """A problem with the steps of a solution."""

    prompt: Prompt
    steps: tuple[str, ...]
    """Texts without the blank lines between them."""
    row: dict[str, Any]
    """The whole entry it was read from."""

    def paths(self) -> Iterator[tuple[Path, Step]]:
        """Each step with the path before it, as a decoder would have them."""
        path = Path(self.prompt)
        for i, text in enumerate(self.steps, 1):
            last = i == len(self.steps)
            step = Step(text if last else f"{text}\n\n", "end" if last else "delimiter")
            yield path, step
            path = path.extend(step)


def read_solutions(file: FilePath) -> list[Solution]:
    """Solutions from a JSONL file, or from a JSON file with a list.

    Each has a `problem` (or `question`, `prompt`; a text or messages) and `steps`, a list, or a `solution` that is cut
    at its blank lines.

    Raises:
        ConfigurationError: No such file, or an entry that is not of this form; its line is named.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error}") from error
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else None
        numbered = enumerate(rows, 1) if rows else enumerate(map(_json, text.splitlines()), 1)
        found = [_solution(row, f"{file}, entry {number}") for number, row in numbered if row is not None]
    except ValueError as error:
        raise error if isinstance(error, ConfigurationError) else ConfigurationError(f"{file}: {error}") from error
    if not found:
        raise ConfigurationError(f"{file} is empty; each line is {_FORM}")
    return found


_FORM = '{"problem": "…", "steps": ["…", "…"]} or {"problem": "…", "solution": "…"}'


def _json(line: str) -> Any:
    return json.loads(line) if line.strip() else None


def _solution(row: Any, where: str) -> Solution:
    try:
        asked = next(row[key] for key in ("problem", "question", "prompt") if key in row)
        steps = row["steps"] if "steps" in row else [part.strip("\n") for part in row["solution"].split("\n\n")]
        steps = [step for step in steps if step.strip()] if "steps" not in row else steps
        prompt = as_prompt(asked)
    except (StopIteration, KeyError, TypeError, AttributeError, RSDError) as error:
        raise ConfigurationError(f"{where} is no problem with a solution ({error!r}): {_FORM}") from error
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) and step.strip() for step in steps):
        raise ConfigurationError(f"{where}: steps are texts that are not blank, at least one")
    return Solution(prompt, tuple(steps), row)


async def score_steps(verifier: Verifier, solution: Solution) -> list[float | None]:
    """The reward of each step, in order; None where the verifier abstains.

    Raises:
        VerifierError: The verifier did not give one reward in [0, 1].
    """
    return [await _score(verifier, path, step) for path, step in solution.paths()]


async def _score(verifier: Verifier, path: Path, step: Step) -> float | None:
    rewards = (await verifier.score(path, [step])).rewards
    if len(rewards) != 1 or not (rewards[0] is None or 0 <= rewards[0] <= 1):  # NaN fails this as well
        raise VerifierError(f"{verifier.name!r} gave {rewards} for one step, and no reward in [0, 1]")
    return rewards[0]


async def score_all(
    verifier: Verifier, solutions: Sequence[Solution], concurrency: int = 16
) -> AsyncIterator[tuple[int, list[float | None] | RSDError]]:
    """Rewards of many solutions side by side, in their order; one that cannot be scored gives its error."""
    slots = asyncio.Semaphore(concurrency)

    async def one(solution: Solution) -> list[float | None] | RSDError:
        async with slots:
            try:
                return await score_steps(verifier, solution)
            except RSDError as error:
                return error
            except Exception as error:
                logger.debug("a verifier failed", exc_info=error)
                return VerifierError(f"{verifier.name!r} failed: {type(error).__name__}: {error}")

    tasks = [asyncio.ensure_future(one(solution)) for solution in solutions]
    try:
        for i, task in enumerate(tasks):
            yield i, await task
    finally:
        await settle(tasks)


def aggregates(rewards: Sequence[float | None]) -> dict[str, float | None]:
    """One score of a whole solution, in the usual ways; steps without a reward are left out."""
    known = [reward for reward in rewards if reward is not None]
    if not known:
        return dict.fromkeys(("min", "product", "mean", "last"))
    return {"min": min(known), "product": math.prod(known), "mean": math.fsum(known) / len(known), "last": rewards[-1]}
