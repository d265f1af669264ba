#!/usr/bin/env bash
# LlamaIndex executes a tool call that was cut
# Versions: llama-index-core==0.14.25
# Expected: a call whose arguments end in the middle is an error, or none.
# Seen: parse_partial_json, which models of LlamaIndex read calls with, completes it: the tool runs with what there is,
#   and with no arguments at all where they are no JSON.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq llama-index-core==0.14.25
cd "$work"
venv/bin/python - <<'END' || { echo 'no longer as seen before'; exit 1; }
import asyncio

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage, MockFunctionCallingLLM

moved = []


def transfer(amount: int = 0, account: str = "savings") -> str:
    """Move money."""
    moved.append((amount, account))
    return "moved"


async def run(written):
    def answer(messages, **options):
        if messages[-1].role == "tool":
            return ChatMessage("Done.", role="assistant")
        return ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_name="transfer", tool_kwargs=written)])

    llm = MockFunctionCallingLLM(response_generator=answer)
    await FunctionAgent(tools=[transfer], llm=llm).run("Move 1000 to my checking account.")


for written in ('{"amount": 100', "{bad"):
    asyncio.run(run(written))
print(moved)
assert moved == [(100, "savings"), (0, "savings")]
print('as seen before')
END
