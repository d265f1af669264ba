#!/usr/bin/env bash
# LangChain: whether a message has a thought depends on the provider's name beside it
# Versions: langchain-core==1.8.3
# Expected: `content_blocks` is the provider-independent view: a thought in `reasoning_content`, or LangChain's own
#   reasoning block, is a reasoning block in it for every `model_provider`.
# Seen: `reasoning_content` is seen for deepseek and groq but not for openai and anthropic; the standard reasoning
#   block is non_standard for anthropic, and a groq message whose content is a list has no blocks at all, thought and
#   answer gone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq langchain-core==1.8.3
cd "$work"
venv/bin/python - <<'END' || { echo 'no longer as seen before'; exit 1; }
from langchain_core.messages import AIMessage

blocks = [{"type": "reasoning", "reasoning": "Add."}, {"type": "text", "text": "Seven."}]
kinds = {}
for provider in None, "deepseek", "groq", "openai", "anthropic":
    metadata = {"model_provider": provider} if provider else {}
    field = AIMessage("Seven.", additional_kwargs={"reasoning_content": "Add."}, response_metadata=metadata)
    listed = AIMessage(blocks, response_metadata=metadata)
    kinds[provider] = [[block["type"] for block in message.content_blocks] for message in (field, listed)]
    print(f"{provider}: as a field {kinds[provider][0]}, as blocks {kinds[provider][1]}")
both = ["reasoning", "text"]
assert kinds == {
    None: [both, both], "deepseek": [both, both], "groq": [both, []],
    "openai": [["text"], both], "anthropic": [["text"], ["non_standard", "text"]],
}
print('as seen before')
END
