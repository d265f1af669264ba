"""LlamaIndex's `OpenAILike` as drafter and target of `RSDLLM`, in its own environment: the result, as JSON.

python llamaindex_roles.py URL
"""

import asyncio
import json
import sys
from typing import Any

import openai
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

from rsd_integrations.llamaindex import RSDLLM, LlamaIndexJudge, result_of, rsd_bill


def modest(messages: list[ChatMessage], reply: ChatMessage) -> float:
    """No call moves 999."""
    calls = [block for block in reply.blocks if isinstance(block, ToolCallBlock)]
    return float(all("999" not in str(call.tool_kwargs) for call in calls))


async def main(url: str) -> None:
    """Ask, and print."""
    moved: list[int] = []

    def transfer(amount: int) -> str:
        """Move money."""
        moved.append(amount)
        return f"moved {amount}"

    def llm(model: str) -> OpenAILike:
        options: dict[str, Any] = {"is_chat_model": True, "is_function_calling_model": True, "max_retries": 0}
        return OpenAILike(model=model, api_base=f"{url}/v1", api_key="none", **options)

    told: dict[str, Any] = {}
    rsd = RSDLLM(draft=llm("cheap"), target=llm("strong"), verifier=modest, max_tokens=99, top_p=0.5, seed=1)
    for streaming in (True, False):
        with rsd_bill() as bill:
            answer = await FunctionAgent(tools=[transfer], llm=rsd, streaming=streaming).run("Move 100.")
        authors = [step.author for step in result_of(answer).steps]
        told[f"agent {streaming}"] = [str(answer), moved.copy(), authors, bill.requests, bill.ledger.total.read]
        moved.clear()
    await FunctionAgent(tools=[transfer], llm=RSDLLM(draft=llm("cut"), target=llm("cut"), verifier=modest)).run("Go.")
    told["cut"] = moved.copy()
    try:
        await RSDLLM(draft=llm("strong"), target=llm("locked"), verifier=lambda *_: 0.0).achat([ChatMessage("q")])
    except openai.AuthenticationError as error:
        told["error"] = error.status_code
    judged = RSDLLM(draft=llm("plain"), target=llm("plain"), verifier=LlamaIndexJudge(llm("judge"), max_tokens=50))
    told["judge"] = [judged.complete("q").raw["usage"], result_of(judged.complete("q")).steps[0].reward]
    print(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
