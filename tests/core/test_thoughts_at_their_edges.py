"""Thoughts where markers, limits, stop strings and splitters meet: no text is lost or duplicated."""

import random
from typing import Any, Literal

import pytest

from rsd_core import (
    Backtracking,
    BestOfN,
    ConfigurationError,
    Event,
    Finished,
    MajorityVote,
    Path,
    Result,
    RewardGuidedDecoder,
    Settings,
    Splitter,
    Step,
    StepBeam,
    StepRequest,
    TargetOnly,
    TextStream,
    Thinking,
    parts_of,
    split,
)
from rsd_core.decoder import Decoder
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_core.thoughts.agreement import agree
from rsd_core.thoughts.markers import MARKERS, Markers

THINK = MARKERS["think"]
OPENED = Thinking(THINK, "<think>\n")
OFF = Thinking(THINK, "<think>\n\n</think>\n\n")


def run(script: list[str], thinking: Thinking | None = None, stop: tuple[str, ...] = (), **settings: Any) -> Result:
    decoder = TargetOnly(target=ScriptedTarget(script, thinking=thinking), settings=Settings(**settings))
    events: list[Event] = list(decoder.stream("question", stop=stop))
    stream = TextStream(stop)
    streamed = [part for event in events for part in stream.feed_parts(event)]
    last = events[-1]
    assert isinstance(last, Finished)
    result = last.result
    assert "".join(text for kind, text in streamed if kind == "answer") == result.text
    assert "".join(text for kind, text in streamed if kind == "thought") == result.thought
    return result


BITS = ("\n", "\n\n", " ", "a", "b c d", "Stop", "\nStop", "St", "<")


@pytest.mark.parametrize("markers", MARKERS.values(), ids=MARKERS)
@pytest.mark.parametrize("mode", ["unknown", "known", "opened"])
def test_whatever_is_written_is_read_as_a_whole_and_with_every_way_of_working_ahead(
    markers: Markers, mode: str
) -> None:
    thinking = {"unknown": None, "known": Thinking(markers), "opened": Thinking(markers, markers.begin())}[mode]
    marks = (markers.open, markers.close, markers.ending, markers.begin(), markers.answer, markers.end)
    bits = (*BITS, *marks, *(half for mark in marks for half in (mark[:3], mark[3:])))
    for seed in range(12):
        rng = random.Random(seed)
        script = ["".join(rng.choices(bits, k=3)) + rng.choice(["\n\n", ""]) for _ in range(6)]
        limits = {"max_thought_tokens": rng.randint(1, 8), "max_tokens": rng.randint(6, 30)}
        result = run(script, thinking, limits=limits)
        parts = split(result.raw_text, result.markers)
        assert (parts.thought, parts.answer) == (result.thought, result.text)
        for ahead in ({"lookahead": 3}, {"hedge": 0.3}):
            decoder = RewardGuidedDecoder(
                drafter=ScriptedDrafter(script, thinking=thinking),
                verifier=ScriptedVerifier([0.9, 0.9, 0.1, 0.9]),
                target=ScriptedTarget(script, thinking=thinking),
                settings=Settings(limits=limits, **ahead),
            )
            again = decoder.run("question")
            assert (again.text, again.thought, again.raw_text) == (result.text, result.thought, result.raw_text)


def test_a_stop_string_that_a_step_before_has_begun_is_cut_as_a_whole() -> None:
    result = run(["\n", "Observation: rain\n"], stop=("\nObservation",), delimiter="\n")
    assert (result.text, result.finish_reason, result.raw_text) == ("", "stop", "")


def test_text_held_back_after_a_stop_string_is_not_part_of_the_answer() -> None:
    granite = Thinking(MARKERS["granite"])
    assert run(["<response>So 48.\nStop </resp\n\n"], granite, ("\nStop",)).text == "So 48."
    assert run(["<response>So 48.\nStop </resp"], granite, ("\nStop",)).text == "So 48."


def test_steps_of_a_response_without_markers_are_answer() -> None:
    result = run(["\n\n", "So 48."])
    assert [(step.kind, step.content) for step in result.steps] == [("answer", "\n\n"), ("answer", "So 48.")]
    assert "pieces" not in result.to_dict()["steps"][0]  # type: ignore[index]


@pytest.mark.parametrize(
    ("first", "raw"),
    [
        ("<|channel|>", "<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>So 48."),
        ("<|channel|>f", "<|channel|>fSo 48."),
        ("\n\n", "\n\n<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>So 48."),
    ],
)
def test_a_limit_that_falls_into_the_opening_marker_closes_an_empty_thought(first: str, raw: str) -> None:
    def steps(path: Path, _: random.Random) -> str:
        return "So 48." if path.depth else first

    target = ScriptedTarget(steps, thinking=Thinking(MARKERS["harmony"]))
    settings = Settings(limits={"max_thought_tokens": 1})
    result = TargetOnly(target=_Capped(target), settings=settings).run("question")
    assert result.raw_text == raw
    assert (result.thought, result.text) == ("", split(raw, MARKERS["harmony"]).answer)


class _Capped(ScriptedTarget):
    """Steps of one token that are cut there."""

    def __init__(self, inner: ScriptedTarget) -> None:
        super().__init__(inner.script, thinking=inner.thinking(()))

    def _step(self, path: Path, request: StepRequest, seed: int) -> Step:
        step = super()._step(path, request, seed)
        assert callable(self.script)
        return step if path.depth else Step(self.script(path, random.Random(seed)), "length", size=1)  # type: ignore[arg-type]


def test_what_a_thought_ended_with_at_its_limit_is_kept() -> None:
    result = run(["a b <", "So 48."], OPENED, limits={"max_thought_tokens": 3})
    assert (result.thought, result.text) == ("a b <", "So 48.")
    assert result.thought == split(result.raw_text).thought


def test_markers_in_the_settings_leave_thinking_off() -> None:
    assert agree([("a", OFF), ("b", OFF)], THINK) is None
    assert agree([("a", None)], THINK) == Thinking(THINK)
    assert agree([("a", Thinking(None))], THINK) == Thinking(THINK)


def _long(path: Path, rng: random.Random) -> str:
    return f"a b {rng.random()}\n\n" if path.depth < 2 else "So 48."


SAMPLED = Settings(temperature=1.0, limits={"max_thought_tokens": 6})
_models: dict[str, Any] = {
    "drafter": ScriptedDrafter(_long, thinking=OPENED),
    "verifier": ScriptedVerifier([0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1]),
    "settings": SAMPLED,
}


@pytest.mark.parametrize(
    "decoder",
    [
        MajorityVote(drafter=_models["drafter"], n=4, settings=SAMPLED),
        BestOfN(**_models, n=4, aggregate="min"),
        StepBeam(**_models, width=2, expand=2),
        Backtracking(**_models),
    ],
    ids=lambda decoder: type(decoder).__name__,
)
def test_degradations_are_of_the_response_that_was_chosen(decoder: Decoder) -> None:
    result = decoder.run("question")
    assert [step.author for step in result.steps] == ["draft", "draft", "limit", "draft"]
    assert [(item.kind, item.step) for item in result.degradations] == [("thought_limit", 2)]


class Listed(Splitter):
    """A splitter whose parameters cannot be hashed."""

    kind: Literal["listed"] = "listed"
    words: list[str]

    def end(self, text: str) -> int | None:
        ends = [at + len(word) for word in self.words if (at := text.find(word)) >= 0]
        return min(ends, default=None)


class Broken(Splitter):
    """Returns an invalid end."""

    kind: Literal["broken"] = "broken"
    gives: Any

    def end(self, text: str) -> int | None:
        return int(self.gives)  # raises for text

    @property
    def stops(self) -> tuple[str, ...]:
        return ("x",)


def test_a_splitter_may_have_any_parameters() -> None:
    for close in ("", "</think>"):
        splitter = StepRequest((0,), delimiter=Listed(words=["."]), close=close).splitter
        assert splitter is not None
        assert splitter.end("Add. Two.") == 4


@pytest.mark.parametrize("gives", [0, -2, 9, "x"])
@pytest.mark.parametrize("close", ["", "</think>"])
def test_a_broken_splitter_is_named(gives: Any, close: str) -> None:
    splitter = StepRequest((0,), delimiter=Broken(gives=gives), close=close).splitter
    assert splitter is not None
    with pytest.raises(ConfigurationError, match=r"end\(\) of the splitter Broken\(.*(from 1 to 4|ValueError)"):
        splitter.end("Add.")
    assert splitter.end("") is None
    assert splitter.stops == ("x",)


@pytest.mark.parametrize(
    ("thought", "content", "script", "parts"),
    [
        ("Add <", "", ["b\n\n", "</think>\n\n", "So"], ("b", "So")),
        ("Add.\n\n", "", ["Two.\n</think>\n\n", "So"], ("Two.", "So")),
        ("Add. ", "", [""], ("", "")),
        ("", "<thi", ["nk>Add.</think>", "So"], ("Add.", "So")),
        ("", "<thi", ["s is it."], ("", "s is it.")),
        ("", " ", ["So"], ("", "So")),
        ("", "\n\n", ["<think>Add.</think>", "So"], ("Add.", "So")),
    ],
)
def test_text_begun_by_a_prompt_is_not_part_of_the_response(
    thought: str, content: str, script: list[str], parts: tuple[str, str]
) -> None:
    thinking = Thinking(THINK)
    begun = {"role": "assistant", "content": content, "reasoning_content": thought}
    decoder = TargetOnly(target=ScriptedTarget(script, thinking=thinking))
    events = list(decoder.stream([("user", "question"), begun]))
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.result.thought, last.result.text) == parts
    assert "".join(map(TextStream().feed, events)) == parts[1]
    path = Path(last.result.prompt, thinking=thinking)
    for step in last.result.steps:
        path = path.extend(Step(step.text, "delimiter"))
    assert (parts_of(path).thought, parts_of(path).answer) == parts


@pytest.mark.parametrize("script", [["Add.\n</think>\n\n", ""], ["Add.\n</think>"]])
def test_a_response_that_ends_with_its_thought_says_so(script: list[str]) -> None:
    class Ends(ScriptedTarget):
        def _step(self, path: Path, request: StepRequest, seed: int) -> Step:
            step = super()._step(path, request, seed)
            return Step(step.text, "end", size=step.size) if len(script) == 1 else step

    result = TargetOnly(target=Ends(script, thinking=OPENED)).run("question")
    assert (result.thought, result.text, result.answer) == ("Add.", "", None)
    assert [item.kind for item in result.degradations] == ["no_answer"]
    assert not run(["Add.\n</think>\n\n", "So"], OPENED).degradations
