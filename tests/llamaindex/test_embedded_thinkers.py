"""The embedded models that think, in LlamaIndex."""

from __future__ import annotations

import pytest
from llama_index.core.base.llms.types import TextBlock, ThinkingBlock

from rsd_integrations.llamaindex import RSDLLM, result_of
from tests.llamaindex.worlds import FACES, ask, text

QUESTION = "Mia has 20 pens. Then she buys 12 more. How many pens does Mia have now?"
LLM = RSDLLM(draft="embedded:thinking-draft", target="embedded:thinking-target")


@pytest.mark.parametrize("face", FACES)
async def test_every_face_gives_their_answer_and_their_thought(face: str) -> None:
    responses = await ask(LLM, face, QUESTION)
    result = result_of(responses[-1])
    assert "20+12" in result.thought
    assert result.answer == "32"
    assert text(responses[-1]) == result.text
    if "chat" in face:
        assert responses[-1].message.blocks == [ThinkingBlock(content=result.thought), TextBlock(text=result.text)]
    else:
        assert responses[-1].additional_kwargs["thinking"] == result.thought
    if "stream" in face:
        assert "".join(one.additional_kwargs.get("thinking_delta", "") for one in responses) == result.thought
