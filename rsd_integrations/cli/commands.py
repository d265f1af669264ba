"""The commands by name: each is imported when called, so that none waits for imports of the others."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from rsd_integrations.cli.starting import without_collection


class Entry(NamedTuple):
    """A command that is not imported yet."""

    function: str
    """Module of this package and function in it, as `module:function`."""
    summary: str
    """The first sentence of the function's docstring, for the list of commands."""


COMMANDS = {
    "run": Entry("run:run", "Solve one problem and watch it happen, step by step."),
    "batch": Entry("batch:batch", "Solve many problems; run it again to resume after a kill, a crash or a fault."),
    "serve": Entry("serve:serve", "Answer clients of the OpenAI API: RSD behind a URL, streamed step by step."),
    "eval": Entry(
        "evaluate:eval_", "Compare methods on the same problems: accuracy, FLOPs, seconds, share of the target."
    ),
    "compare": Entry("compare:compare", "Compare two evaluations, answer by answer: differences with intervals."),
    "calibrate": Entry("calibrate:calibrate_", "Find a threshold, or start a budget, from rewards recorded once."),
    "score": Entry("score:score", "Score the steps of given solutions with any verifier."),
    "doctor": Entry(
        "doctor:doctor",
        "Test servers and GGUF files before a run: refused fields, thoughts, ends of steps, libraries, memory.",
    ),
    "plan": Entry("plan:plan", "Check whether models fit into a device's memory together, before any is loaded."),
    "merge": Entry(
        "checkpoints:merge",
        "Merge a language model and a reward model of the same base into one that plays both roles.",
    ),
    "export": Entry(
        "checkpoints:export",
        "Write a model in another layout: a reward model for vLLM, a GGUF file, or a checkpoint from a GGUF file.",
    ),
    "distill-exits": Entry(
        "distill:distill_exits",
        "Train exits for a reward model: it then stops at a middle layer if two heads agree about the threshold.",
    ),
    "ngrams": Entry(
        "speculation:ngrams", "Count a corpus into an n-gram table, which proposes tokens without a drafter model."
    ),
    "corrections": Entry(
        "speculation:corrections",
        "Record how a target replaces a drafter's tokens, for calibrated speculative decoding (CSD).",
    ),
    "models": Entry("models:models", "List the models that a SPEC can name."),
}


class Commands(TyperGroup):
    """The group of all commands. It contains their names and summaries; `get_command` imports the commands."""

    def __init__(self, **attributes: Any) -> None:
        summaries = {name: TyperCommand(name, help=entry.summary) for name, entry in COMMANDS.items()}
        super().__init__(**attributes | {"commands": summaries})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - part of the signature
        """The command of this name, imported; None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name].function.partition(":")
        alone = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        with without_collection():
            alone.command(cmd_name)(getattr(importlib.import_module(f"rsd_integrations.cli.{module}"), function))
            return typer.main.get_command(alone)

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _in_plain_text():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _in_plain_text():
            return super().invoke(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The list of commands, from their summaries alone."""
        summaries = TyperGroup(
            name=self.name,
            commands=dict(self.commands),
            params=self.params,
            help=self.help,
            rich_markup_mode=self.rich_markup_mode,
        )
        summaries.format_help(ctx, formatter)


@contextmanager
def _in_plain_text() -> Iterator[None]:
    """Escape control characters in errors, which repeat words of the command line, such as a prompt's."""
    try:
        yield
    except Exception as error:
        message: Callable[[], str] | None = getattr(error, "format_message", None)
        if message is not None:
            from rsd_core.control_characters import visible

            shown = visible(message())
            error.format_message = lambda: shown  # type: ignore[attr-defined]
        raise
