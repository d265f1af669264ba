"""Judges over chats: what they see of a response with a thought."""

from collections.abc import Callable

from rsd_core import Message, Path, Step, Thinking, as_prompt
from rsd_core.blocking import wait_for
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.openai_compatible import OpenAIGenerator
from rsd_integrations.verifiers import DIGIT
from tests.openai_compatible.server import Habits


def test_a_judge_over_chats_sees_the_thought_as_text(
    servers: dict[str, Habits], connect: Callable[..., OpenAIGenerator], questions: list[str]
) -> None:
    """Chat templates drop thoughts of earlier turns."""
    path = Path(as_prompt(questions[0]), thinking=Thinking(MARKERS["think"]))
    path = path.extend(Step("<think>\nMia has 45.\n\n", "delimiter"))
    path = path.extend(Step("45+12=57.\n</think>\n\n", "delimiter"))
    asked = (Message("user", DIGIT.ask), Message("assistant", DIGIT.opening))
    wait_for(connect(servers["vllm"], None).next_word(path, DIGIT.words, asked))
    sent = servers["vllm"].requests[-1]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user", "assistant"]
    assert sent[1]["content"] == "Mia has 45.\n\n45+12=57.\n\n"
    assert sent[3]["content"] == DIGIT.opening
