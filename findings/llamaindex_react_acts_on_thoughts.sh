#!/usr/bin/env bash
# LlamaIndex's ReAct agent does what a thought only considered
# Versions: llama-index-core==0.14.25
# Expected: the text after `</think>` decides: the reply answers without a tool, so the step is the answer 7.
# Seen: ReActOutputParser reads the thought as well: an Action that the thought considers and drops is the step (the
#   tool would be called), and an Answer in it swallows the marker and the real one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq llama-index-core==0.14.25
cd "$work"
venv/bin/python - <<'END' || { echo 'no longer as seen before'; exit 1; }
from llama_index.core.agent.react.output_parser import ReActOutputParser

after = "\n</think>\n\nThought: I can answer without a tool.\nAnswer: 7"
step = ReActOutputParser().parse('<think>\nI could call it:\nAction: add\nAction Input: {"a": 3}\nNo need.' + after)
print(repr(step))
assert not step.is_done and (step.action, step.action_input) == ("add", {"a": 3})
step = ReActOutputParser().parse("<think>\nThought: first try. Answer: 8\nNo, that is wrong." + after)
print(repr(step))
assert step.is_done and step.response == "8\nNo, that is wrong." + after
print('as seen before')
END
