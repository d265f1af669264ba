"""The application: finding commands, and ending."""

from __future__ import annotations

import errno
import gc
import logging
import re
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, TextIO

try:
    import typer
except ModuleNotFoundError as missing:
    from rsd_core import MissingDependency

    raise SystemExit(str(MissingDependency(missing.name or "typer", "cli", "the rsd command"))) from None

from rsd_integrations.cli.commands import Commands

EXTRAS = {
    "fastapi": "serve",
    "gguf": "gguf",
    "peft": "merge",
    "prometheus_client": "serve",
    "ray": "ray",
    "safetensors": "huggingface",
    "torch": "huggingface",
    "transformers": "huggingface",
    "uvicorn": "serve",
}
"""Packages that commands need beyond their own extra, and the extra that provides each."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
app = typer.Typer(
    name="rsd",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Reward-guided speculative decoding: a cheap model drafts each step, a reward model scores it, and only "
    "rejected steps go to the strong model. Everything defaults to small models that ship with the package.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from rsd_core import __version__

        print(f"rsd-decoding {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


class _Shown(logging.Handler):
    """Prints each message once, whatever its numbers."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._said: set[tuple[str, ...]] = set()

    def emit(self, record: logging.LogRecord) -> None:
        from rsd_integrations.cli.terminal import say

        parts = [part for part in record.args or () if not isinstance(part, int | float)]
        texts = [re.sub(r"\d+", "", str(part)) if isinstance(part, Exception) else str(part) for part in parts]
        message = (str(record.msg), *texts)
        if message not in self._said:
            self._said.add(message)
            say(f"{record.levelname.capitalize()}: {record.getMessage()}", "yellow")


_SHOWN = {"rsd_core": _Shown(logging.ERROR), "rsd_integrations": _Shown(logging.WARNING)}
"""What commands show of the logs: the core's warnings are faults of single steps, which each command sums up."""


def main() -> None:
    """Entry point: errors of this project are reported in one line, without a traceback."""
    warnings.showwarning = _show_warning
    for package, handler in _SHOWN.items():
        logging.getLogger(package).addHandler(handler)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(_told(error))
    finally:
        gc.freeze()  # the system reclaims all memory: a last garbage collection would only take time


def _told(error: Exception) -> int:
    """Report what ended a command, and return its exit code; only bugs of this program get a traceback."""
    from rsd_core import MissingDependency, RSDError  # a command that failed has imported it; `rsd --help` has not
    from rsd_integrations.cli.terminal import say

    if isinstance(error, RSDError):
        say(f"Error: {error}", "bold red")
        return 2
    if isinstance(error, OSError) and error.errno in _FULL:
        place = error.filename or "the output of this command"
        say(f"Error: {place} cannot be written: {error.strerror}; make room, then run again", "bold red")
        return 2
    if isinstance(error, ModuleNotFoundError) and (extra := EXTRAS.get((error.name or "").partition(".")[0])):
        say(f"Error: {MissingDependency(str(error.name), extra, 'this command')}", "bold red")
        return 2
    say("".join(traceback.format_exception(error)))
    return 1


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001 - part of the signature
    line: str | None = None,
) -> None:
    """Print our own warnings in one line, and others with their place."""
    import rsd_core
    from rsd_integrations.cli.terminal import say

    ours = [Path(rsd_core.__file__).parent, Path(__file__).parents[1]]
    own = issubclass(category, rsd_core.RoleWarning) or any(Path(filename).is_relative_to(one) for one in ours)
    say(f"Warning: {message}" if own else warnings.formatwarning(message, category, filename, lineno, line), "yellow")
