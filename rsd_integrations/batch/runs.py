"""Decodes many prompts into a file in which finished ones stay finished."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from rsd_core import Account, ConfigurationError, Ledger, Prompt, PromptLike, Result, RSDConfig, RunError, as_prompt
from rsd_core.blocking import in_thread, wait_for
from rsd_core.concurrency import run_all
from rsd_core.queueing import side_by_side
from rsd_integrations.batch.journal import KINDS, Journal, damaged, read_rows
from rsd_integrations.data_files import QUESTIONS, as_written, guessed
from rsd_integrations.data_sources import DatasetSource
from rsd_integrations.jsonl import Line
from rsd_integrations.role_faults import RoleFaults

logger = logging.getLogger(__name__)

FORM = 'a line is "TEXT" or {"prompt": TEXT or MESSAGES, "id": NAME}'


@dataclass(frozen=True, slots=True)
class Problem:
    """A prompt of a batch, with what distinguishes it from the others."""

    id: str
    prompt: Prompt
    repeat: int = 0
    """The number of earlier occurrences of the same prompt; each gets different random numbers."""
    error: str | None = None
    """Why it cannot be asked: the row is not a prompt."""

    @property
    def key(self) -> str:
        """Unique to this problem: its name, its prompt and its repeat number."""
        return _digest(self.id, self.prompt, self.repeat) if self.error is None else _digest(self.id, self.error)


@dataclass(slots=True)
class Progress:
    """The progress of a batch."""

    total: int
    found: int = 0
    """In the file before this run began, and not tried again."""
    done: int = 0
    """Finished by this run."""
    failed: int = 0
    """Failed in this run, including rows that are not prompts; noted with their error, and retried by the next run."""
    refused: int = 0
    """Of those that failed, how many are not prompts."""
    degraded: int = 0
    """Of those done, how many recovered from a fault or a limit."""
    kept: int = 0
    """Of those found, how many failed; they are tried again by default."""
    faults: RoleFaults = field(default_factory=RoleFaults)
    """The faults of the drafter and the verifier in this run."""
    spent: Account = field(default_factory=Account)
    """The cost of all models in this run."""

    def add(self, result: Result, *, failed: bool) -> None:
        """Count a problem that this run has processed."""
        self.failed += failed
        self.done += not failed
        self.degraded += not failed and bool(result.degradations)
        self.faults.add(result)
        self.spent.add(result.ledger.total)


def as_problems(prompts: Sequence[PromptLike], ids: Sequence[str | None] = ()) -> list[Problem]:
    """Identify the prompts of a batch.

    Args:
        prompts: The prompts.
        ids: Their names; by default, and if None, a prompt's name is derived from its text.

    Raises:
        PromptError: A prompt is empty.
        ConfigurationError: Two prompts have the same name.
    """
    return _told_apart(_numbered([as_prompt(prompt) for prompt in prompts], ids))


def _numbered(prompts: Sequence[Prompt], ids: Sequence[str | None]) -> list[Problem]:
    """The problems, each with how many times the same prompt came before."""
    numbers: defaultdict[Prompt, Iterator[int]] = defaultdict(itertools.count)
    problems = []
    for prompt, name in itertools.zip_longest(prompts, ids):
        repeat = next(numbers[prompt])
        own = _digest(prompt) + (f"#{repeat}" if repeat else "")
        problems.append(Problem(own if name is None else name, prompt, repeat))
    return problems


def read_problems(source: Path | str, *, prompt: str | None = None, strict: bool = False) -> list[Problem]:
    """The prompts of a JSONL, JSON, CSV, TSV or Parquet file, of a folder of them, or of a dataset on the hub.

    Args:
        source: A file or folder, or `dataset:ORG/NAME,config=…,split=…`. Its rows are objects with a prompt, as text
            or messages, and optionally an `id`; or just texts.
        prompt: The column of prompts; by default `prompt`, else one with a similar name, which is then reported.
        strict: Whether to refuse a file with a row that is not a prompt; otherwise such a row has an `error`.

    Raises:
        ConfigurationError: The source cannot be read, no column looks like prompts, several prompts have the same id,
            or a row is not a prompt and `strict` is set.
    """
    lines = DatasetSource.parse(str(source)).lines()
    column = _column(source, lines, prompt)
    items = [_prompt_of(line, column) for line in lines]
    refused = [problem for problem in items if isinstance(problem, Problem)]
    if strict and refused:
        more = f" (and {len(refused) - 1} lines more)" * (len(refused) > 1)
        raise ConfigurationError(f"{source}: {refused[0].error}{more}; {FORM}")
    valid = [item for item in items if not isinstance(item, Problem)]
    problems = iter(_numbered([prompt for prompt, _ in valid], [name for _, name in valid]))
    return _told_apart([item if isinstance(item, Problem) else next(problems) for item in items], f"{source}: ")


def _column(source: Path | str, lines: Sequence[Line], named: str | None) -> str:
    """The column of prompts, which at least one row has; a guess is reported."""
    columns = list(dict.fromkeys(name for line in lines if isinstance(line.value, dict) for name in line.value))
    if named is not None:
        if columns and named not in columns:
            raise ConfigurationError(f"{source} has no column {named!r}; it has {', '.join(map(repr, columns))}")
        return named
    if not columns or "prompt" in columns:
        return "prompt"
    found = guessed(columns, ("prompt", *QUESTIONS))
    if found is None:
        raise ConfigurationError(
            f"{source}: none of its columns looks like prompts ({', '.join(map(repr, columns))}); name the one that "
            "is: --prompt COLUMN (in Python, prompt=)"
        )
    logger.warning("%s: prompts are read from the column %r; --prompt names another one", source, found)
    return found


def _told_apart(problems: list[Problem], where: str = "") -> list[Problem]:
    counts = Counter(problem.id for problem in problems)
    for name, count in counts.items():
        if count > 1:
            raise ConfigurationError(f"{where}several prompts have the id {name!r}; give each its own, or none")
    return problems


def _prompt_of(line: Line, column: str) -> tuple[Prompt, str | None] | Problem:
    """The prompt of a line and its name, or a problem that says why it is not a prompt."""
    value, wrong = line.value, line.error
    name = as_written(value.get("id")) if isinstance(value, dict) else None
    try:
        if wrong is None:
            prompt = as_prompt(value[column] if isinstance(value, dict) else _text(value))
            return prompt, name
    except KeyError:
        wrong = f"it has no `{column}`"
    except (ConfigurationError, TypeError, ValueError, AttributeError) as error:
        wrong = str(error)
    where = f"line {line.number}"
    return Problem(where if name is None else name, (), error=f"{where} is not a prompt: {wrong}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"it is {type(value).__name__}")
    return value


class Answering(Protocol):
    """Answers the problems of a batch: a decoder, or something that asks decoders elsewhere."""

    async def arun(self, prompt: PromptLike, *, repeat: int) -> Result:
        """See `Decoder.arun`."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...


async def arun_journaled(
    decoder: Callable[[], Answering],
    problems: Sequence[Problem],
    out: Path,
    about: dict[str, Any],
    *,
    concurrency: int = 64,
    retry_failed: bool = True,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Decode problems concurrently and append each result to a file as it arrives.

    A run that finds the file continues where the last one stopped, however it ended: nothing finished is decoded again.
    A problem that fails is noted with its error and what was written by then; the others go on. If a later run solves
    it, its new row comes after the old one and replaces it.

    Args:
        decoder: Builds the decoder, which is closed at the end; not called if nothing is left to do.
        problems: See `read_problems` and `as_problems`.
        out: The file; see `read_results`.
        about: What distinguishes these settings from others, as JSON data; a file of other settings is refused.
        concurrency: Requests in flight.
        retry_failed: Whether to retry problems that failed in an earlier run, and those for which the drafter or the
            verifier failed at every one of its calls.
        progress: Called at the beginning and after each problem.

    Raises:
        ConfigurationError: The file belongs to other settings, was not written by this function, or is being written by
            another process.
        RSDError: The file can no longer be written; its rows are complete.
    """
    with Journal(out, {"batch": 1, **about}) as journal:
        latest = {str(row.get("key")): row for row in journal.rows}
        finished = {key for key, row in latest.items() if not (retry_failed and _failed(out, row))}
        todo = [problem for problem in problems if problem.key not in finished]
        kept = sum(bool(latest[one.key].get("error")) for one in problems if one.key in finished)
        counts = Progress(len(problems), found=len(problems) - len(todo), kept=kept)
        progress(counts)
        refused = [problem for problem in todo if problem.error is not None]
        queue = iter([problem for problem in todo if problem.error is None])

        def note_refused() -> None:
            for problem in refused:
                if problem.key not in latest:  # an earlier run may have noted it
                    journal.add(_row(problem, error=problem.error))
                counts.failed, counts.refused = counts.failed + 1, counts.refused + 1
                progress(counts)

        if len(todo) == len(refused):
            note_refused()
            return counts

        async def work(loaded: Answering) -> None:
            for problem in queue:
                row, result = await _answer(loaded, problem)
                journal.add(row)
                counts.add(result, failed="error" in row)
                progress(counts)

        async with await in_thread(decoder) as loaded:
            note_refused()  # not earlier: settings that cannot build a decoder leave no file
            at_once = min(concurrency, len(todo))
            with side_by_side(at_once):
                await run_all(work(loaded) for _ in range(at_once))
    return counts


def run_journaled(
    config: RSDConfig,
    problems: Sequence[Problem],
    out: Path,
    *,
    concurrency: int = 64,
    retry_failed: bool = True,
    progress: Callable[[Progress], None] = lambda _: None,
    decoder: Callable[[], Answering] | None = None,
) -> Progress:
    """Blocking twin of `arun_journaled`, for a decoder given as data; any `decoder` passed must answer as it would."""
    about = {"config": config.model_dump(mode="json")}
    return wait_for(
        arun_journaled(
            decoder or config.build,
            problems,
            out,
            about,
            concurrency=concurrency,
            retry_failed=retry_failed,
            progress=progress,
        )
    )


def read_results(out: Path) -> dict[str, Result]:
    """The latest result of each problem in a file, by id; failed ones end with `error`.

    Raises:
        ConfigurationError: The file does not contain results, or a line in it is damaged.
    """
    head, *rows = read_rows(out) or [{"batch": 1}]
    if "batch" not in head:
        raise ConfigurationError(f"{out} contains {KINDS['journal']}, not {KINDS['batch']}")
    return {str(row.get("id")): read_result(out, row) for row in rows if "result" in row}


async def _answer(decoder: Answering, problem: Problem) -> tuple[dict[str, Any], Result]:
    try:
        result = await decoder.arun(problem.prompt, repeat=problem.repeat)
    except (RunError, ConfigurationError) as error:
        partial = error.partial if isinstance(error, RunError) else None
        return _row(problem, partial, str(error)), partial or _nothing(problem)
    return _row(problem, result), result


def _row(problem: Problem, result: Result | None = None, error: str | None = None) -> dict[str, Any]:
    """The row of a problem: its result, or its error with what was written by then."""
    failure = {} if error is None else {"error": error}
    return {"id": problem.id, "key": problem.key, **failure, "result": (result or _nothing(problem)).to_dict()}


def read_result(out: Path, row: dict[str, Any]) -> Result:
    """The result in a file's row.

    Raises:
        ConfigurationError: The row is damaged.
    """
    try:
        return Result.from_dict(row["result"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(out, row) from error


def _failed(out: Path, row: dict[str, Any]) -> bool:
    """Whether a problem was left unsolved: it failed, or a role failed at every one of its calls."""
    if row.get("error") or "result" not in row:
        return True
    faults = RoleFaults()
    if not isinstance(row["result"], dict) or row["result"].get("degradations") != []:
        faults.add(read_result(out, row))
    return bool(faults.never_worked)


def _nothing(problem: Problem) -> Result:
    return Result(problem.prompt, "", "error", (), Ledger(), 0.0)


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=10).hexdigest()
