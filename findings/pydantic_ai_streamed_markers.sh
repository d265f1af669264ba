#!/usr/bin/env bash
# Pydantic AI: the stream finds `<think>` only where a chunk is the marker and nothing else
# Versions: pydantic-ai-slim==2.68.0, openai==3.57.0, httpx==0.28.1
# Expected: what a reply is split into does not depend on how the server cuts it into chunks; servers that send
#   several tokens a chunk are common.
# Seen: the thought is told from the answer if each marker is a chunk of its own; else markers and thought are in the
#   streamed output, while `run` splits the same reply.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq pydantic-ai-slim==2.68.0 openai==3.57.0 httpx==0.28.1
cd "$work"
venv/bin/python - <<'END' || { echo 'no longer as seen before'; exit 1; }
import asyncio, json, httpx
from openai import AsyncOpenAI
from pydantic_ai import Agent, UnexpectedModelBehavior
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

def agent(pieces):
    """An agent whose model writes these pieces: in one answer, or a chunk for each."""
    def handle(request):
        base = {"id": "1", "created": 1, "model": "m"}
        if not json.loads(request.content).get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": "".join(pieces)}, "finish_reason": "stop"}
            return httpx.Response(200, json=base | {"object": "chat.completion", "choices": [choice]})
        deltas = [({"content": piece}, None) for piece in pieces] + [({}, "stop")]
        chunks = [{"choices": [{"index": 0, "delta": d, "finish_reason": f}]} | base | {"object": "chat.completion.chunk"} for d, f in deltas]
        text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})
    client = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    openai = AsyncOpenAI(api_key="none", base_url="http://test/v1", http_client=client)
    return Agent(OpenAIChatModel("m", provider=OpenAIProvider(openai_client=openai)))

async def plain(pieces):
    return (await agent(pieces).run("3 + 4?")).output

async def streamed(pieces):
    async with agent(pieces).run_stream("3 + 4?") as run:
        return await run.get_output()

whole = "<think>Add them.</think>Seven."
for pieces in ["<think>", "Add them.", "</think>", "Seven."], [whole], ["<th", "ink>Add them.</th", "ink>Seven."]:
    outputs = asyncio.run(plain(pieces)), asyncio.run(streamed(pieces))
    print(f"chunks {pieces}: run {outputs[0]!r}, run_stream {outputs[1]!r}")
    assert outputs == ("Seven.", "Seven." if len(pieces) == 4 else whole)
print('as seen before')
END
