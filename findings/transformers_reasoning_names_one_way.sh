#!/usr/bin/env bash
# transformers makes three names of a thought one, but not for the template that reads `reasoning`
# Versions: transformers==5.23.0, jinja2==3.1.6, llama-cpp-python==0.3.36 (its templates)
# Expected: since transformers 5 copies a thought between `reasoning_content`, `thinking` and `reasoning`, any of the
#   three reaches any template.
# Seen: `reasoning` is copied to the other two, nothing is copied to `reasoning`: Solar-Open-100B, which reads that
#   alone, loses the thought of a tool call under both other names, without a warning. gpt-oss reads `thinking`: there
#   all three arrive.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq transformers==5.23.0 jinja2==3.1.6
"$work/venv/bin/pip" download -qq --no-deps --no-binary :all: -d "$work" llama-cpp-python==0.3.36  # for its templates
tar -xzf "$work"/llama_cpp_python-0.3.36.tar.gz -C "$work" --wildcards --strip-components=5 '*/models/templates/*.jinja'
cd "$work"
venv/bin/python - <<'END' || { echo 'no longer as seen before'; exit 1; }
from transformers.utils.chat_template_utils import render_jinja_template

def rendered(template, messages, **kwargs):
    (text,), _ = render_jinja_template([messages], chat_template=template, bos_token="", eos_token="<end>", **kwargs)
    return text

call = {"id": "a", "type": "function", "function": {"name": "add", "arguments": {"a": 3}}}
for name, kept in ("upstage-Solar-Open-100B", ["reasoning"]), ("openai-gpt-oss-120b", ["reasoning", "reasoning_content", "thinking"]):
    template, shown = open(f"{name}.jinja").read(), []
    for field in "reasoning", "reasoning_content", "thinking":
        turn = {"role": "assistant", "content": "", "tool_calls": [call], field: "Use the tool."}
        text = rendered(template, [{"role": "user", "content": "3 + 4?"}, turn, {"role": "tool", "tool_call_id": "a", "name": "add", "content": "7"}])
        shown += [field] if "Use the tool." in text else []
    print(f"{name}: the thought is in the prompt under {shown}")
    assert shown == kept
print('as seen before')
END
