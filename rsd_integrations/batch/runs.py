"""Many prompts, and a file in which every finished one stays finished."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsd_core import ConfigurationError, Decoder, Ledger, Prompt, PromptLike, Result, RSDConfig, RunError, as_prompt
from rsd_core.blocking import in_thread, wait_for
from rsd_integrations.batch.journal import Journal, read_rows


@dataclass(frozen=True, slots=True)
class Problem:
    """A prompt of a batch with what tells it from the others."""

    id: str
    prompt: Prompt
    repeat: int = 0
    """How many times the same prompt came before; each time it gets other random numbers."""

    @property
    def key(self) -> str:
        """The same for the same problem only: its name, its prompt and its repeat number."""
        return _digest(self.id, self.prompt, self.repeat)


@dataclass(slots=True)
class Progress:
    """How far a batch is."""

    total: int
    found: int = 0
    """Finished before this run began."""
    done: int = 0
    """Finished by this run."""
    failed: int = 0
    """Failed in this run; noted with their error, and tried again by the next."""
    degraded: int = 0
    """Of those done, how many got over a fault or a limit on the way."""


def as_problems(prompts: Sequence[PromptLike], ids: Sequence[str | None] = ()) -> list[Problem]:
    """Tell the prompts of a batch apart.

    Args:
        prompts: The prompts.
        ids: Names of them; by default, and where None, a prompt's name is made of its text.

    Raises:
        PromptError: A prompt is empty.
        ConfigurationError: A name stands for two prompts.
    """
    made = [as_prompt(prompt) for prompt in prompts]
    numbers: defaultdict[Prompt, Iterator[int]] = defaultdict(itertools.count)
    problems = []
    for prompt, name in itertools.zip_longest(made, ids):
        repeat = next(numbers[prompt])
        own = _digest(prompt) + (f"#{repeat}" if repeat else "")
        problems.append(Problem(own if name is None else name, prompt, repeat))
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise ConfigurationError(f"the id {problem.id!r} stands for several prompts; give each its own, or none")
        seen.add(problem.id)
    return problems


def read_problems(file: Path) -> list[Problem]:
    """The prompts of a JSONL file: a string, or an object with `prompt` (text or messages) and maybe an `id`.

    Raises:
        ConfigurationError: The file cannot be read, or a line is something else.
    """
    prompts, ids = [], []
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"the prompts {file} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            prompt, name = (row, None) if isinstance(row, str) else (row["prompt"], row.get("id"))
            prompts.append(as_prompt(prompt))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f'{file}, line {number}: {error}. A line is "TEXT" or {{"prompt": TEXT or MESSAGES, "id": NAME}}.'
            ) from error
        ids.append(None if name is None else str(name))
    return as_problems(prompts, ids)


async def arun_journaled(
    decoder: Callable[[], Decoder],
    problems: Sequence[Problem],
    out: Path,
    about: dict[str, Any],
    *,
    concurrency: int = 64,
    retry_failed: bool = True,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Decode problems side by side and append each result to a file as it comes.

    A run that finds the file goes on where it was, after whatever end: nothing that is finished is decoded again. A
    problem that fails is noted with its error and what was written by then; the others go on.

    Args:
        decoder: Makes the decoder; not called where nothing is left to do. It is closed at the end.
        problems: See `read_problems` and `as_problems`.
        out: The file, see `read_results`.
        about: What tells these settings from others, as JSON data; a file of other settings is refused.
        concurrency: Requests in flight.
        retry_failed: Whether problems that failed in an earlier run are tried again.
        progress: Called at the beginning and after each problem.

    Raises:
        ConfigurationError: The file is about other settings, or is none of this function's.
    """
    journal = Journal(out, {"batch": 1, **about})
    found = {row["key"] for row in journal.rows if not (retry_failed and row.get("error"))}
    todo = iter([problem for problem in problems if problem.key not in found])
    told = Progress(len(problems), found=sum(problem.key in found for problem in problems))
    progress(told)
    if told.found == told.total:
        return told
    async with await in_thread(decoder) as made:
        with closing(journal):
            journal.keep()

            async def work() -> None:
                for problem in todo:
                    row = await _answer(made, problem)
                    journal.add(row)
                    told.failed += "error" in row
                    told.done += "error" not in row
                    told.degraded += "error" not in row and bool(row["result"]["degradations"])
                    progress(told)

            async with asyncio.TaskGroup() as workers:
                for _ in range(concurrency):
                    workers.create_task(work())
    return told


def run_journaled(
    config: RSDConfig,
    problems: Sequence[Problem],
    out: Path,
    *,
    concurrency: int = 64,
    retry_failed: bool = True,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Blocking twin of `arun_journaled`, for a decoder that is data."""
    about = {"config": config.model_dump(mode="json")}
    return wait_for(
        arun_journaled(
            config.build, problems, out, about, concurrency=concurrency, retry_failed=retry_failed, progress=progress
        )
    )


def read_results(out: Path) -> dict[str, Result]:
    """The results in a file by the problem's id, the latest of each; those that failed end with `error`.

    Raises:
        ConfigurationError: A line is no JSON object.
    """
    return {row["id"]: Result.from_dict(row["result"]) for row in read_rows(out)[1:]}


async def _answer(decoder: Decoder, problem: Problem) -> dict[str, Any]:
    row: dict[str, Any] = {"id": problem.id, "key": problem.key}
    try:
        result = await decoder.arun(problem.prompt, repeat=problem.repeat)
    except (RunError, ConfigurationError) as error:
        partial = error.partial if isinstance(error, RunError) else None
        row["error"] = str(error)
        result = partial or Result(problem.prompt, "", "error", (), Ledger(), 0.0)
    return row | {"result": result.to_dict()}


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=10).hexdigest()
