"""The markers that models put around their thoughts, as data with sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Markers:
    r"""What a family of models writes around a thought: `<think>\n`, the thought, `\n</think>\n\n`, and the answer."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    name: str
    open: str
    """What begins a thought."""
    close: str
    """What ends it; the answer follows."""
    before: str = ""
    """White space before `open`."""
    lead: str = ""
    """Text between `open` and the thought."""
    closing: str = ""
    """How the models themselves close a thought: `close` with what they write around it. Defaults to `close`."""
    answer: str = ""
    """What begins an answer, with or without a thought before it; empty for nothing."""
    end: str = ""
    """What ends an answer before the end of the turn; empty for nothing."""
    source: str = ""
    """Which models write them, and the evidence."""

    def __post_init__(self) -> None:
        if not self.open.strip() or not self.close.strip():
            raise ValueError(
                f"markers need an open and a close that are not white space (got {self.open!r}, {self.close!r})"
            )

    def wrap(self, thought: str) -> str:
        """A closed thought as the models write it; templates switch thinking off with an empty one."""
        return f"{self.begin(thought)}{self.ending}"

    def begin(self, thought: str = "") -> str:
        """An open thought as the models write it."""
        return f"{self.before}{self.open}{self.lead}{thought}"

    @property
    def ending(self) -> str:
        """What the models write to close a thought."""
        return self.closing or self.close


@dataclass(frozen=True, slots=True)
class Thinking:
    """How a model thinks before it answers a prompt, according to its chat template."""

    markers: Markers | None
    """None for a model known not to think."""
    opening: str = ""
    r"""The part of the response that the template writes: the beginning of a thought (`<think>\n`), or a complete empty
    one if thinking is switched off. Empty if the model writes all of it."""

    @property
    def is_off(self) -> bool:
        """Whether the model answers without a thought."""
        markers = self.markers
        return markers is None or any(mark in self.opening for mark in (markers.close, markers.answer) if mark)


_TEMPLATES = "their chat templates, in llama.cpp (models/templates, 2026)"

MARKERS: dict[str, Markers] = {
    markers.name: markers
    for markers in (
        Markers(
            "think",
            "<think>",
            "</think>",
            lead="\n",
            closing="\n</think>\n\n",
            source="Qwen3, QwQ, DeepSeek-R1, MiniMax-M2, SmolLM3; with other white space GLM-4, DeepSeek-V3.1, "
            f"Kimi-K2, Nemotron, StepFun, Ling, LFM2.5, Laguna: {_TEMPLATES}",
        ),
        Markers(
            "granite",
            "<think>",
            "</think>",
            closing="</think><response>",
            answer="<response>",
            end="</response>",
            source=f"Granite 3.3: {_TEMPLATES}",
        ),
        Markers("mistral", "[THINK]", "[/THINK]", source=f"Magistral, Ministral-3: {_TEMPLATES}"),
        Markers(
            "harmony",
            "<|channel|>analysis<|message|>",
            "<|end|>",
            closing="<|end|><|start|>assistant<|channel|>final<|message|>",
            answer="<|channel|>final<|message|>",
            source=f"gpt-oss: {_TEMPLATES}",
        ),
        Markers("seed", "<seed:think>", "</seed:think>", closing="</seed:think>\n", source=f"Seed-OSS: {_TEMPLATES}"),
        Markers("hunyuan", "<think:opensource>", "</think:opensource>", source=f"Hunyuan-3: {_TEMPLATES}"),
        Markers("minimax_m3", "<mm:think>", "</mm:think>", source=f"MiniMax-M3: {_TEMPLATES}"),
        Markers(
            "solar",
            "<|think|>",
            "<|end|>",
            closing="<|end|><|begin|>assistant<|content|>",
            answer="<|content|>",
            source=f"Solar-Open: {_TEMPLATES}",
        ),
        Markers(
            "muse",
            " to=self<|message|>",
            "<|eom|>",
            closing="<|eom|><|start|>assistant to=user<|message|>",
            answer=" to=user<|message|>",
            source=f"Muse: {_TEMPLATES}",
        ),
        Markers(
            "kimi_k3",
            "<|open|>think<|sep|>",
            "<|close|>think<|sep|>",
            closing="<|close|>think<|sep|><|open|>response<|sep|>",
            answer="<|open|>response<|sep|>",
            end="<|close|>response<|sep|>",
            source=f"Kimi-K3: {_TEMPLATES}",
        ),
        Markers(
            "cohere",
            "<|START_THINKING|>",
            "<|END_THINKING|>",
            closing="<|END_THINKING|><|START_TEXT|>",
            answer="<|START_TEXT|>",
            end="<|END_TEXT|>",
            source=f"Command A reasoning: {_TEMPLATES}",
        ),
        Markers(
            "command_r7b",
            "<|START_THINKING|>",
            "<|END_THINKING|>",
            closing="<|END_THINKING|><|START_RESPONSE|>",
            answer="<|START_RESPONSE|>",
            end="<|END_RESPONSE|>",
            source=f"Command R7B: {_TEMPLATES}",
        ),
        Markers(
            "gemma",
            "<|channel>thought",
            "<channel|>",
            lead="\n",
            closing="\n<channel|>",
            source=f"Gemma 4: {_TEMPLATES}",
        ),
        Markers("apertus", "<|inner_prefix|>", "<|inner_suffix|>", source=f"Apertus: {_TEMPLATES}"),
        Markers(
            "apriel",
            "Here are my reasoning steps:",
            "[BEGIN FINAL RESPONSE]",
            lead="\n",
            closing="\n[BEGIN FINAL RESPONSE]\n",
            end="[END FINAL RESPONSE]",
            source=f"Apriel 1.5 and 1.6: {_TEMPLATES}",
        ),
    )
}
"""The markers in use, by name. White space differs within some families: the chat template decides."""
