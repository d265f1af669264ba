"""The marks that models put around their thoughts, as data, each with its source."""

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
    lead: str = ""
    """What stands between `open` and the thought."""
    closing: str = ""
    """How the models themselves close a thought: `close` with the white space around it. By default `close` alone."""
    answer: str = ""
    """What begins an answer that no thought comes before; empty where nothing does."""
    source: str = ""
    """Who writes them, and where that is to be seen."""

    def __post_init__(self) -> None:
        if not self.open.strip() or not self.close.strip():
            raise ValueError(
                f"markers need an open and a close that are no white space (got {self.open!r}, {self.close!r})"
            )

    def wrap(self, thought: str) -> str:
        """A thought as the models write it, closed; the empty one is how templates switch thinking off."""
        return f"{self.begin(thought)}{self.ending}"

    def begin(self, thought: str = "") -> str:
        """A thought as the models write it, still open."""
        return f"{self.open}{self.lead}{thought}"

    @property
    def ending(self) -> str:
        """What closes a thought in the models' own way."""
        return self.closing or self.close


@dataclass(frozen=True, slots=True)
class Thinking:
    """How a model thinks before it answers a prompt, as its chat template tells."""

    markers: Markers | None
    """None of a model that is known not to think."""
    opening: str = ""
    r"""What the template writes of the response itself: the beginning of a thought (`<think>\n`), or a whole empty one
    where thinking is switched off. Empty where the model begins by itself."""

    @property
    def is_off(self) -> bool:
        """Whether the model answers without a thought."""
        return self.markers is None or self.markers.close in self.opening


MARKERS: dict[str, Markers] = {
    markers.name: markers
    for markers in (
        Markers(
            name="think",
            open="<think>",
            close="</think>",
            lead="\n",
            closing="\n</think>\n\n",
            source="chat templates of Qwen3, QwQ, DeepSeek-R1, GLM-4.6, Kimi-K2-Thinking, MiniMax-M2, SmolLM3",
        ),
        Markers(name="mistral", open="[THINK]", close="[/THINK]", source="chat templates of Magistral and Ministral-3"),
        Markers(
            name="harmony",
            open="<|channel|>analysis<|message|>",
            close="<|end|><|start|>assistant<|channel|>final<|message|>",
            answer="<|channel|>final<|message|>",
            source="the harmony format of gpt-oss",
        ),
        Markers(name="seed", open="<seed:think>", close="</seed:think>", source="chat template of Seed-OSS"),
    )
}
"""The markers in use, by name."""
