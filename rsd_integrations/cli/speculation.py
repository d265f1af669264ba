"""Prepares token-level speculation: `rsd ngrams` from a corpus, `rsd corrections` from a greedy run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from rsd_core import ConfigurationError, Settings, SpeculativeDecoding, load
from rsd_core.registry import check_spec
from rsd_integrations.cli.evaluate import TASK
from rsd_integrations.cli.options import Concurrency, check_outputs, count_of
from rsd_integrations.cli.terminal import Terminal, plain, resumable, say
from rsd_integrations.data_files import FILES, as_written, read_records
from rsd_integrations.evaluation import find_task
from rsd_integrations.inprocess.language_model import LanguageModel
from rsd_integrations.jsonl import read_bytes
from rsd_integrations.output_files import write_output

Out = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write.")]


def ngrams(
    corpus: Annotated[
        list[Path],
        typer.Argument(
            help="Texts like those the model will write: JSONL, JSON, CSV, TSV or Parquet with a column of texts; any "
            "other file is one text, in UTF-8."
        ),
    ],
    model: Annotated[
        str, typer.Option("--model", metavar="SPEC", help="The model in process whose vocabulary to use.")
    ],
    out: Out,
    column: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
) -> None:
    """Count a corpus into an n-gram table, which proposes tokens without a drafter model.

    Example: `rsd ngrams solutions.jsonl --model hf:Qwen/Qwen2.5-1.5B-Instruct -o table.safetensors`, then
    `rsd run --method speculative:proposer=ngram:table.safetensors`
    """
    from rsd_integrations.speculation.ngram_table import count

    check_outputs(out=out)
    if missing := [str(file) for file in corpus if not file.is_file()]:
        raise ConfigurationError(f"there is no file {', '.join(missing)}; name the files of a corpus")
    check_spec(model)
    vocabulary = _in_process(load(model), model).vocabulary
    with Progress(console=Terminal(stderr=True), transient=True) as bar:
        texts = bar.track(_texts(corpus, column), description="counting")
        table = count((vocabulary.encode(text) for text in texts), vocabulary.identity, vocabulary.size)
    if not len(table.pairs):
        raise ConfigurationError(f"{', '.join(map(str, corpus))}: no text has three tokens; give a larger corpus")
    write_output(out, table.save)
    Terminal().print(plain(f"written to {out}: {len(table.pairs):,} pairs of tokens, {len(table.tokens):,} successors"))


def corrections(
    draft: Annotated[str, typer.Option("--draft", metavar="SPEC", help="The drafter, in process.")],
    target: Annotated[str, typer.Option("--target", metavar="SPEC", help="The target, in process.")],
    out: Out,
    task: Annotated[str, TASK] = "embedded-dev",
    n: Annotated[int | None, typer.Option("--n", "-n", min=1, help="Number of problems; 2000 by default.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All problems of the task.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the problems.")] = 0,
    concurrency: Concurrency = 16,
) -> None:
    """Record how a target replaces a drafter's tokens, for calibrated speculative decoding (CSD).

    The problems need no answers; they are decoded greedily, with exact speculation. Example:
    `rsd corrections --draft hf:DRAFTER --target hf:TARGET --task problems.jsonl -o corrections.json`, then
    `rsd run --method speculative:rule=csd:corrections.json`
    """
    from rsd_integrations.speculation.corrections import Noting

    check_outputs(out=out)
    for spec in (draft, target):
        check_spec(spec)
    items = find_task(task).draw(count_of(n, every, 2000), seed)
    drafter, writer = load(draft, role="drafter"), load(target, role="target")
    vocabulary = _in_process(writer, target).vocabulary
    noting = Noting()
    decoder = SpeculativeDecoding(drafter=drafter, target=writer, rule=noting, settings=Settings(temperature=0))
    done = 0

    def resume() -> str:
        return f"The records of {done} problems are lost, and nothing is written; run again with --n {done or 1}"

    with resumable(resume), decoder, Progress(console=Terminal(stderr=True), transient=True) as bar:
        shown = bar.add_task("decoding", total=len(items))
        for begin in range(0, len(items), concurrency):
            decoder.run_many([item.prompt for item in items[begin : begin + concurrency]], concurrency=concurrency)
            done = min(len(items), begin + concurrency)
            bar.update(shown, completed=done)
    found = noting.corrections(vocabulary.identity)
    write_output(out, found.save)
    if not found.pairs:
        say(f"Warning: the target replaced no token, so csd:{out} accepts what exact speculation does", "yellow")
    Terminal().print(
        plain(
            f"written to {out}: {len(found.pairs):,} pairs of tokens in {found.total:,} corrections; those that recur "
            f"are used by --method speculative:rule=csd:{out}"
        )
    )


def _in_process(model: Any, spec: str) -> LanguageModel:
    if not isinstance(model, LanguageModel):
        raise ConfigurationError(f"{spec!r} gives no token ids; name a model in process: hf:, gguf: or embedded:")
    return model


def _texts(corpus: Sequence[Path], column: str) -> Iterator[str]:
    """The texts of some files, in order."""
    for file in corpus:
        if file.suffix.lower() not in FILES:
            try:
                yield read_bytes(file).decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise ConfigurationError(
                    f"{file} is not a text in UTF-8 ({error.reason}, at byte {error.start}); convert it, as by iconv"
                ) from error
            continue
        for line in read_records(file):
            text = as_written(line.value.get(column)) if isinstance(line.value, dict) else None
            if text is None:
                why = line.error or f"no text in the column {column!r}"
                raise ConfigurationError(f"{file}, entry {line.number}: {why}; --column names the column of the texts")
            yield text
