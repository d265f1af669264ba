#!/usr/bin/env bash
# LlamaIndex's streamed structured prediction gives blank objects
# Versions: llama-index-core==0.14.25
# Expected: stream_structured_predict ends with the object that structured_predict gives.
# Seen: it looks for calls in `additional_kwargs` of the message, where models of today do not put them, and takes the
#   message's text for the object: its fields are all None.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq llama-index-core==0.14.25
cd "$work"
venv/bin/python - <<'END' || { echo 'no longer as seen before'; exit 1; }
from llama_index.core import PromptTemplate
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage, MockFunctionCallingLLM
from pydantic import BaseModel


class Album(BaseModel):
    """An album."""

    name: str


def answer(messages, **options):
    return ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_name="Album", tool_kwargs={"name": "Blue"})])


llm = MockFunctionCallingLLM(response_generator=answer)
whole = llm.structured_predict(Album, PromptTemplate("An album."))
*_, streamed = llm.stream_structured_predict(Album, PromptTemplate("An album."))
print(repr(whole), repr(streamed))
assert whole == Album(name="Blue") and streamed.name is None
print('as seen before')
END
