#!/usr/bin/env bash
# xgrammar: a string with a length in its schema can hold no quotation mark, backslash or line break
# Versions: outlines-core==0.2.14, llguidance==1.9.1, xgrammar==0.2.9, torch==2.13.0
# Expected: `maxLength` bounds the length of a string; what it may hold stays the same.
# Seen: with `minLength` or `maxLength` no escape is admitted, so an explanation cannot write \boxed{5}, quote a word or
#   begin a new line; and a tab may stand in it as it is, which json refuses. Without a length all of it is as it
#   should be; llguidance and outlines-core keep escapes with a length, too.
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

texts = [json.dumps(text) for text in (r"\boxed{5}", 'the "sum"', "one\ntwo")]
for limits, kept in ({}, True), ({"maxLength": 40}, False), ({"minLength": 1}, False):
    for text in texts:
        assert admits({"type": "string"} | limits, text) == [True, kept, True]
    assert admits({"type": "string"} | limits, '"plain"') == [True, True, True]
tab = '"a\tb"'
assert admits({"type": "string"}, tab) == [False, False, False]
assert admits({"type": "string", "maxLength": 40}, tab) == [False, True, False]
try:
    json.loads(tab)
except json.JSONDecodeError as error:
    print(error)
else:
    raise AssertionError("json takes a tab now")
print('as seen before')
END
