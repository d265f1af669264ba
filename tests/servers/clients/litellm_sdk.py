"""LiteLLM's SDK with a server, in its own environment: the texts by each of its methods, as JSON.

python litellm_sdk.py URL < questions.json
"""

import asyncio
import json
import sys
from typing import Any

import litellm

SEED = 5


def main(url: str, questions: list[str]) -> None:
    """Ask, and print."""
    options: dict[str, Any] = {"api_base": url, "api_key": "none", "seed": SEED, "num_retries": 0}

    def chat(question: str, provider: str = "openai", **further: Any) -> dict[str, Any]:
        return {"model": f"{provider}/rsd", "messages": [{"role": "user", "content": question}], **options, **further}

    def streamed(question: str) -> str:
        chunks = litellm.completion(**chat(question, stream=True))
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    async def side_by_side() -> list[str]:
        answers = await asyncio.gather(*(litellm.acompletion(**chat(question)) for question in questions))
        return [answer.choices[0].message.content for answer in answers]

    told = {
        "completion": [litellm.completion(**chat(one)).choices[0].message.content for one in questions],
        "stream": [streamed(question) for question in questions],
        "acompletion": asyncio.run(side_by_side()),
        "hosted_vllm": [litellm.completion(**chat(one, "hosted_vllm")).choices[0].message.content for one in questions],
        "text_completion": [
            litellm.text_completion(model="text-completion-openai/rsd", prompt=one, **options).choices[0].text
            for one in questions
        ],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], json.load(sys.stdin))
