#!/usr/bin/env bash
# JSON Schema's `pattern`: llguidance searches it, xgrammar and outlines-core match the whole
# Versions: outlines-core==0.2.14, llguidance==1.9.1, xgrammar==0.2.9, torch==2.13.0
# Expected: a string fits `pattern` where the expression is found somewhere in it, so JSON Schema: the three engines that
#   vLLM offers agree.
# Seen: `[0-9]` admits "step 7" in llguidance only, and the other two write one digit and nothing else. `^Step` admits
#   "Step" alone in xgrammar and no string at all in outlines-core, which puts the quotation mark before `^`. With
#   both `^` and `$` they agree.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq outlines-core==0.2.14 llguidance==1.9.1 xgrammar==0.2.9 torch==2.13.0
cd "$work"
venv/bin/python - <<'END' || { echo 'no longer as seen before'; exit 3; }
import json, re

import llguidance, xgrammar
from outlines_core.json_schema import build_regex_from_schema
from xgrammar.testing import _is_grammar_accept_string

tokenizer = llguidance.LLTokenizer("byte")

def with_llguidance(schema, text):
    grammar, ids = llguidance.LLMatcher.grammar_from_json_schema(schema), tokenizer.tokenize_str(text)
    matcher = llguidance.LLMatcher(tokenizer, grammar)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

engines = {
    "llguidance": with_llguidance,
    "xgrammar": lambda schema, text: _is_grammar_accept_string(xgrammar.Grammar.from_json_schema(schema), text),
    "outlines-core": lambda schema, text: bool(re.fullmatch(build_regex_from_schema(schema), text)),
}

def admits(schema, text):
    found = {name: admits(json.dumps(schema), text) for name, admits in engines.items()}
    print(schema, text, found)
    return list(found.values())

assert admits({"type": "string", "pattern": "[0-9]"}, '"step 7"') == [True, False, False]
assert admits({"type": "string", "pattern": "[0-9]"}, '"7"') == [True, True, True]
assert admits({"type": "string", "pattern": "^Step"}, '"Step 7"') == [True, False, False]
assert admits({"type": "string", "pattern": "^Step"}, '"Step"') == [True, True, False]
assert admits({"type": "string", "pattern": "^Step [0-9]$"}, '"Step 7"') == [True, True, True]
assert admits({"type": "string", "pattern": "^Step [0-9]$"}, '"A Step 7"') == [False, False, False]
print('as seen before')
END
