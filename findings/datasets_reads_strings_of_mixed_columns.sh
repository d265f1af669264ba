#!/usr/bin/env bash
# datasets reads the strings of a JSON column that mixes types as JSON
# Versions: datasets==5.2.0
# Expected: a string of a JSONL file is the same string in the dataset, whatever stands in other rows.
# Seen: where another row has a number, "007" comes out as 7, "1.0" as 1.0 and "true" as True, without a warning; in a
#   column of strings alone they stay strings.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq datasets==5.2.0
cd "$work"
HF_HOME=$work/home venv/bin/python - <<'END' || { echo 'no longer as seen before'; exit 1; }
import json
from pathlib import Path

import datasets

datasets.disable_progress_bars()


def read(name, *answers):
    Path(name).write_text("".join(json.dumps({"answer": answer}) + "\n" for answer in answers))
    return list(datasets.load_dataset("json", data_files=name, split="train")["answer"])


alone, mixed = read("alone.jsonl", "007", "1.0", "true"), read("mixed.jsonl", "007", "1.0", "true", 7)
print(alone, mixed)
assert alone == ["007", "1.0", "true"]
assert mixed == [7, 1.0, True, 7] and mixed[2] is True
print('as seen before')
END
