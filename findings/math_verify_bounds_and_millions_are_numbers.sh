#!/usr/bin/env bash
# math-verify takes a bound, and a number of millions, for the bare number
# Versions: math-verify[antlr4_13_2]==0.9.0
# Expected: \boxed{> 5}, \boxed{\ge 5} and \boxed{5\text{ million}} are not equal to 5.
# Seen: all three are verified as equal to 5, while "5 or 6", "5-10" and "x > 5" are not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq 'math-verify[antlr4_13_2]==0.9.0'
cd "$work"
venv/bin/python - <<'END' || { echo 'no longer as seen before'; exit 1; }
from math_verify import parse, verify

answers = ("> 5", r"\ge 5", r"5\text{ million}", "5 or 6", "5-10", "x > 5")
equal = [verify(parse(r"\boxed{5}"), parse(rf"\boxed{{{answer}}}")) for answer in answers]
print(dict(zip(answers, equal)))
assert equal == [True, True, True, False, False, False]
print('as seen before')
END
