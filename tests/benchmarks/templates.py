"""Templates of published thinking models: `python -m tests.benchmarks.templates --json FILE [--quick]`.

Compares the library's inputs, also those of outcome reward models, with the templates' own rendering; and shows what
chat servers can do. Downloads the templates in llama.cpp with the source distribution of llama-cpp-python, without
building it; `--quick` uses the small ones of the test suite. Ends with an error if any input differs from a template's
rendering.
"""

from __future__ import annotations

import html
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from tests.benchmarks.command import Command
from tests.benchmarks.published_templates import FAMILIES
from tests.prm_formats import thinkers
from tests.templates import written
from tests.templates.chats import chat_answer
from tests.templates.checks import faults
from tests.templates.comparing import Comparison, comparisons
from tests.templates.families import Family, turns

VERSION = "0.3.36"
HASH = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
CACHE = Path("build/chat-templates")
"""Next to other build files, and deleted with them."""
_SAYS = {
    "content": "yes, as content",
    "reasoning": "yes, as reasoning",
    "trimmed": "no: trims the blank line",
    "changed": "no: changes what was written",
    "refused": "no: refused",
}


def fetched(cache: Path) -> dict[str, str]:
    """The templates by name, downloaded once."""
    folder = cache / VERSION
    if not folder.exists():
        archive = _downloaded(cache)
        folder.mkdir()
        with tarfile.open(archive) as files:
            for member in files:
                name = Path(member.name)
                if member.isfile() and name.parts[-3:-1] == ("models", "templates") and name.suffix == ".jinja":
                    taken = files.extractfile(member)
                    assert taken is not None
                    (folder / name.name).write_bytes(taken.read())
    return {file.stem: file.read_text() for file in sorted(folder.glob("*.jinja"))}


def _downloaded(cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    wanted = cache / "requirements.txt"
    wanted.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{HASH}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*pip, "--no-binary", ":all:", "--require-hashes", "-r", wanted, "-d", cache])
    if done.returncode:
        raise SystemExit(
            f"pip could not download llama-cpp-python {VERSION}, whose templates are compared. That needs a package "
            "index; `--quick` downloads nothing"
        )
    return cache / f"llama_cpp_python-{VERSION}.tar.gz"


def report(family: Family, source: str) -> dict[str, Any]:
    """The findings about one template."""
    compared = comparisons(family, source)
    return {
        "template": family.name,
        "begin": family.begin,
        "closing": family.closing,
        "earlier thoughts": family.earlier,
        "modes": {name: _mode(comparison) for name, comparison in zip(family.modes(), compared, strict=True)},
        "faults": [fault for comparison in compared for fault in (*faults(comparison), *thinkers.faults(comparison))],
    }


def _mode(comparison: Comparison) -> dict[str, Any]:
    mode, own = comparison.mode, comparison.own
    places = [place for place, steps in comparison.written() if steps]
    chats = {
        place: chat_answer(comparison.tokenizer, comparison.family, mode, place, comparison.wanted(place, steps))
        for place, steps in comparison.written()
        if place in ("in the thought", "in the answer")
    }
    return {
        "opening": mode.opening,
        "arguments": [f"{name}={json.dumps(value).strip(chr(34))}" for name, value in mode.arguments.items()],
        "system": mode.system,
        "default": not mode.system
        and own.prompt == comparison.template.render(turns(mode), generate=True, arguments={}),
        "rendered": [place for place in places if place in own.places],
        "as written": [place for place in places if place not in own.places],
        "why": own.missing,
        "chats": chats,
    }


def table(data: dict[str, Any]) -> str:
    """A row for each template."""
    reports = data["thinking"]
    head = (
        "template",
        "thought opened by",
        "switch",
        "earlier thoughts",
        "in process, by ids",
        "chats: in a thought",
        "chats: in the answer after it",
        "chats: in an answer without",
    )
    rows = [head, ("---",) * len(head), *(tuple(_cells(one)) for one in reports)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(one: dict[str, Any]) -> Iterator[str]:
    thinks, answers = one["modes"]["thinks"], one["modes"].get("answers")
    yield f"`{one['template']}`"
    yield f"the template, {_code(thinks['opening'])}" if thinks["opening"] else "the model"
    switches = [f"on {_switch(thinks)}"] if thinks["arguments"] or thinks["system"] else []
    if answers:
        opened = f" opens {_code(answers['opening'])}" if answers["opening"] else ""
        switches.append(f"off {_switch(answers)}{opened}")
    yield "<br>".join(switches) or "–"
    yield one["earlier thoughts"]
    yield _proof(one)
    yield _SAYS[thinks["chats"]["in the thought"]]
    yield _SAYS[thinks["chats"]["in the answer"]]
    yield "–" if answers is None else _SAYS[answers["chats"]["in the answer"]]


def _switch(mode: dict[str, Any]) -> str:
    told = [f"`template.{argument}`" for argument in mode["arguments"]]
    told += ["`/no_think` in the system message"] if mode["system"] else []
    return f"{' '.join(told)}{' (default)' if mode['default'] else ''}"


def _proof(one: dict[str, Any]) -> str:
    if one["faults"]:
        return "**wrong**"
    asked = {"thinks": "on", "answers": "off"}
    return "; ".join(
        ["equal", *(f"{asked[name]}: it {mode['why']}" for name, mode in one["modes"].items() if mode["why"])]
    )


def _code(text: str) -> str:
    shown = json.dumps(text if len(text) < 60 else f"{text[:28]}…{text[-24:]}", ensure_ascii=False)[1:-1]
    if "|" not in shown:
        return f"`{shown}`"
    return f"<code>{html.escape(shown).replace('|', '&#124;')}</code>"  # a bar would end the cell


COMMAND = Command("templates", __doc__, {}, table, sample="the small templates of the test suite, with no download")
COMMAND.parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the download")


def main() -> None:
    """Compare and write."""
    options = COMMAND.parse()
    families = written.WRITTEN if options.quick else FAMILIES
    sources = (
        {family.name: written.source(family.name) for family in families} if options.quick else fetched(options.cache)
    )
    reports = [report(family, sources[family.name]) for family in families]
    known = {"date": date.today().isoformat(), "templates": len(sources), "thinking": reports}
    COMMAND.write(options, known)
    wrong = [f"{one['template']}: {fault}" for one in reports for fault in one["faults"]]
    if wrong:
        raise SystemExit("\n".join(["wrong:", *wrong]))


if __name__ == "__main__":
    main()
