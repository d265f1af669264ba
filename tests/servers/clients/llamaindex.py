"""LlamaIndex's `OpenAILike` with a server, in its own environment: the texts by each of its methods, as JSON.

python llamaindex.py URL < questions.json
"""

import asyncio
import json
import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

SEED = 5


def main(url: str, questions: list[str]) -> None:
    """Ask, and print."""
    options = {"model": "rsd", "api_base": url, "api_key": "none", "temperature": 0.0, "context_window": 512}
    options |= {"additional_kwargs": {"seed": SEED}, "max_retries": 0}
    chat = OpenAILike(is_chat_model=True, **options)
    completion = OpenAILike(is_chat_model=False, **options)
    asked = [[ChatMessage(role="user", content=question)] for question in questions]

    async def side_by_side() -> tuple[list[str], list[str]]:
        async def streamed(messages: list[ChatMessage]) -> str:
            return "".join([part.delta async for part in await chat.astream_chat(messages)])

        whole = await asyncio.gather(*map(chat.achat, asked))
        return [one.message.content for one in whole], await asyncio.gather(*map(streamed, asked))

    together, streams = asyncio.run(side_by_side())
    told = {
        "chat": [chat.chat(messages).message.content for messages in asked],
        "stream_chat": ["".join(part.delta for part in chat.stream_chat(messages)) for messages in asked],
        "achat": together,
        "astream_chat": streams,
        "complete": [completion.complete(question).text for question in questions],
        "stream_complete": ["".join(part.delta for part in completion.stream_complete(one)) for one in questions],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], json.load(sys.stdin))
