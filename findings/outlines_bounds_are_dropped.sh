#!/usr/bin/env bash
# outlines-core drops the bounds of numbers
# Versions: outlines-core==0.2.14
# Expected: a schema whose score is an integer from 0 to 10 admits no other, or is refused, as other keywords are that are
#   not known.
# Seen: minimum, maximum, exclusiveMinimum and multipleOf are left out without a word: the expression is that of any
#   integer, and a judge may write 73 or -4. Bounds of lengths are kept.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq outlines-core==0.2.14
cd "$work"
venv/bin/python - <<'END' || { echo 'no longer as seen before'; exit 3; }
import json, re

from outlines_core.json_schema import build_regex_from_schema

def admits(schema, *texts):
    pattern = build_regex_from_schema(json.dumps(schema))
    found = [bool(re.fullmatch(pattern, text)) for text in texts]
    print(schema, pattern, dict(zip(texts, found)))
    return found

assert admits({"type": "integer", "minimum": 0, "maximum": 10}, "7", "73", "-4") == [True] * 3
assert admits({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "0.5", "0", "1.5") == [True] * 3
assert admits({"type": "integer", "multipleOf": 5}, "10", "7") == [True] * 2
assert admits({"type": "string", "maxLength": 2}, '"ab"', '"abc"') == [True, False]
assert admits({"type": "array", "items": {"type": "integer"}, "minItems": 2}, "[1, 2]", "[1]") == [True, False]
print('as seen before')
END
