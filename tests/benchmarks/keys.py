"""Records the JSON keys of full runs, which `--quick` must have too: `python -m tests.benchmarks.keys FILE…`.

Each file is the output of a benchmark with `--json` and without `--quick`. The test suite compares benchmarks whose
sample takes seconds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_suffix(".json")
"""By benchmark."""


def keys(data: Any, above: str = "") -> Iterator[str]:
    """Paths of figures: `rows[].share` is in the rows of a table. The number of values in a list is ignored."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from keys(value, f"{above}.{key}" if above else key)
    elif isinstance(data, list) and any(isinstance(value, dict) for value in data):
        for value in data:
            yield from keys(value, f"{above}[]")
    else:
        yield above


def main() -> None:
    """Record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for file in parser.parse_args().files:
        data = json.loads(file.read_text())
        if data["quick"]:
            parser.error(f"{file} is a sample; record a run without --quick")
        recorded[data["benchmark"]] = sorted(set(keys(data)))
    RECORD.write_text(json.dumps(dict(sorted(recorded.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
