"""The command line of all benchmarks: `python -m tests.benchmarks.NAME --json FILE [--markdown FILE] [--quick]`.

The sizes of each benchmark are data at the top of its file. `--quick` takes a sample of everything, with no omissions:
the JSON has the same keys, in less than five minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import pages


@dataclass(frozen=True, slots=True)
class Size:
    """The size of one part of a measurement."""

    full: int
    """For the figures in the documentation."""
    quick: int
    """By `--quick`."""
    what: str
    """What is counted, for `--help`."""
    least: int = 1
    """The smallest reasonable number; 0 if the part can be omitted."""


class Command:
    """A benchmark as a command.

    Args:
        name: Name of the module, and of its section on a page.
        about: The module's docstring, for `--help`.
        sizes: Sizes by option; options take effect even with `--quick`.
        page: Writes the section from the figures; None means that there is no `--markdown`.
        sample: How `--quick` differs apart from its sizes, for `--help` and the page.
    """

    def __init__(
        self,
        name: str,
        about: str | None,
        sizes: Mapping[str, Size],
        page: Callable[[Any], str] | None = None,
        sample: str = "",
    ) -> None:
        self.name, self._sizes, self._page, self._sample = name, sizes, page, sample
        self.parser = argparse.ArgumentParser(
            prog=f"python -m tests.benchmarks.{name}",
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures; else they are shown")
        if page is not None:
            self.parser.add_argument("--markdown", type=Path, metavar="FILE", help="page whose section is rewritten")
        self.parser.add_argument(
            "--quick", action="store_true", help=f"a sample in under five minutes: {self._sampled(sizes_of(sizes))}"
        )
        for option, size in sizes.items():
            self.parser.add_argument(
                f"--{option.replace('_', '-')}", type=int, metavar="N", help=f"{size.what}; {size.full} if not given"
            )

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """The options, with a number for each size.

        Args:
            arguments: The command's arguments; by default the process's.

        Raises:
            SystemExit: They are invalid; raised before any model is loaded.
        """
        options = self.parser.parse_args(arguments)
        for option, size in self._sizes.items():
            number = getattr(options, option)
            if number is None:
                setattr(options, option, size.quick if options.quick else size.full)
            elif number < size.least:
                self.parser.error(f"--{option.replace('_', '-')} {number} is below {size.least}")
        for option in ("json", "markdown"):
            file: Path | None = getattr(options, option, None)
            if file is not None and not file.absolute().parent.is_dir():
                self.parser.error(f"--{option} {file}: there is no folder {file.parent}; create it first")
        return options

    def journal(self, options: argparse.Namespace) -> Path | None:
        """The journal from which an interrupted run resumes, next to its JSON file. A sample always starts over."""
        return None if options.quick or options.json is None else options.json.with_suffix(".jsonl")

    def write(self, options: argparse.Namespace, data: Mapping[str, Any]) -> None:
        """Write the figures to the requested files, and show them; a sample is labelled as one on its page."""
        measured = commit()
        whole = {"benchmark": self.name, "quick": options.quick, "commit": measured, **data}
        text = json.dumps(whole, indent=1, ensure_ascii=False)
        if options.json:
            options.json.write_text(text + "\n", encoding="utf-8")
        section = None if self._page is None else self._page(data)
        if section is not None and options.quick:
            section = self._marked(section, options)
        if section is not None and options.markdown:
            pages.put(options.markdown, self.name, section, measured)
        print(section if section is not None and options.json else text)

    def _marked(self, section: str, options: argparse.Namespace) -> str:
        numbers = {option: getattr(options, option) for option in self._sizes}
        note = (
            f"**A sample**, made with `--quick` ({self._sampled(numbers)}): it shows that the command works and "
            "what it measures. Do not cite its figures."
        )
        heading, _, rest = section.strip().partition("\n\n")
        return f"{heading}\n\n{note}\n\n{rest}" if heading.startswith("#") else f"{note}\n\n{section}"

    def _sampled(self, numbers: Mapping[str, int]) -> str:
        parts = [f"{option.replace('_', ' ')} {number:,}" for option, number in numbers.items()]
        return ", ".join([*([self._sample] if self._sample else []), *parts])


def commit() -> str:
    """The commit that is measured, with a + where its code has changed since; `unknown` outside a clone."""
    folder = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout

    try:
        changed = git("status", "--porcelain", "--", "rsd_core", "rsd_integrations")
        return git("rev-parse", "--short=8", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def sizes_of(sizes: Mapping[str, Size]) -> dict[str, int]:
    """The sizes of `--quick` in words."""
    return {option: size.quick for option, size in sizes.items()}
