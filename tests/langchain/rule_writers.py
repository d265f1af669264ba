"""Models of the core that write steps by rules, call tools and write JSON by a schema: `ChatRSD` in steps, no network.

They reason in a step or two. Where their prompt shows tools and the question names one, they call it in Hermes' form;
asked for JSON by a schema, they fill it in from the question, as the models in turns do (`inner_models.py`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

from rsd_core import Drafter, Generation, Message, Path, Scores, Step, StepRequest, Target, Usage, Verifier
from rsd_integrations.chat_fields import TakesFields, schema_of
from rsd_integrations.tool_calls import as_text, tools_of
from tests.langchain.inner_models import arguments_for, choose

BAD = "BAD"


class RuleWriter(TakesFields, Drafter, Target):
    """Writes by rules, well or with mistakes.

    Args:
        mistakes: Whether it goes wrong on about every third text.
    """

    name = "rules"
    renders_tools = True
    flops_per_token = 1.0

    def __init__(self, *, mistakes: bool = False) -> None:
        self.mistakes = mistakes
        self.schema: Mapping[str, Any] | None = None
        self.read: list[Path] = []

    @property
    def writes_json(self) -> bool:
        return True

    def _with(self, fields: dict[str, Any]) -> Self:
        other = copy.copy(self)
        other.schema = schema_of(fields["response_format"])
        return other

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        """The step, once per seed."""
        self.read.append(path)
        text = self._json(path) if self.schema is not None else self._step(path)
        ends = request.delimiter is None or not text.endswith(str(request.delimiter))
        size = len(text.split()) + ends
        step = Step(text, "end" if ends else "delimiter", size=size)
        read = sum(len(message.content.split()) for message in path.prompt) + len(path.text.split())
        return Generation((step,) * len(request.seeds), Usage(read, read + size, generated=size))

    def _step(self, path: Path) -> str:
        last = path.prompt[-1]
        if path.step is None:
            return f"They wrote {len(last.content)} characters{self._mistake(last.content)}.\n\n"
        functions = [tool["function"] for tool in tools_of(path.prompt)]
        question = _question(path.prompt)
        called = choose(functions, None, question, answered=last.role == "tool")
        if called is not None:
            return as_text("", [(called["name"], arguments_for(called["parameters"], question))])
        return f"The tool says: {last.content}." if last.role == "tool" else f"You wrote {question!r}. What else?"

    def _json(self, path: Path) -> str:
        question = _question(path.prompt[:-1])
        assert self.schema is not None
        options = self.schema.get("anyOf", [self.schema])
        calls = {
            one["properties"]["name"]["const"]: one for one in options if "const" in one["properties"].get("name", {})
        }
        answered = path.prompt[-3:-2] and path.prompt[-3].role == "tool"  # before the reasoning
        if not calls:
            value: Any = arguments_for(self.schema, question)
        elif answered and len(calls) < len(options):
            value = {"answer": arguments_for(options[-1]["properties"]["answer"], question)}
        else:
            named = choose([{"name": name} for name in calls], "any", question, answered=False)
            name = list(calls)[-1] if answered or named is None else named["name"]
            value = {"name": name, "arguments": arguments_for(calls[name]["properties"]["arguments"], question)}
        return json.dumps(value, ensure_ascii=False) + self._mistake(question)

    def _mistake(self, text: str) -> str:
        return f" {BAD}" if self.mistakes and len(text) % 3 == 0 else ""


class SeesMistakes(Verifier):
    """Accepts what holds none."""

    name = "sees mistakes"
    flops_per_token = 1.0

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """0.1 for a mistake, else 0.9."""
        del path
        return Scores(tuple(0.1 if BAD in step.text else 0.9 for step in steps), Usage())


def _question(prompt: Sequence[Message]) -> str:
    return next((message.content for message in reversed(prompt) if message.role == "user"), "")
