"""Thoughts: markers, the two parts of a response, agreement, limits, and separate policies."""

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsd_core import (
    AlwaysDraft,
    AlwaysTarget,
    Backtracking,
    BinaryStep,
    ConfigurationError,
    Constant,
    Delimiter,
    DraftOnly,
    Entropy,
    FirstToken,
    Generation,
    Limits,
    MajorityVote,
    Markers,
    Path,
    RequestBudget,
    Result,
    RewardGuidedDecoder,
    Roles,
    RSDConfig,
    Scores,
    Sentence,
    Settings,
    SpecReason,
    Step,
    StepBeam,
    StepFinished,
    StepRequest,
    TargetChoice,
    TargetOnly,
    TextStream,
    Thinking,
    ThoughtSettings,
    Usage,
    Words,
    as_prompt,
    parse_delimiter,
    parse_method,
    parts_of,
    split,
    visible,
)
from rsd_core.methods import Setup
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_core.thoughts.agreement import agree
from rsd_core.thoughts.markers import MARKERS
from rsd_core.thoughts.reading import Piece, Reader

THINK = MARKERS["think"]
OPENED = Thinking(THINK, "<think>\n")
OFF = Thinking(THINK, "<think>\n\n</think>\n\n")


def rsd(drafts: Sequence[Any], target: Sequence[Any] = ("target\n\n",), **options: Any) -> RewardGuidedDecoder:
    settings = Settings(**options.pop("settings", {}))
    rewards = options.pop("rewards", [0.9] * 50)
    thinking = options.pop("thinking", None)
    return RewardGuidedDecoder(
        drafter=ScriptedDrafter(list(drafts), thinking=thinking),
        verifier=ScriptedVerifier(rewards),
        target=ScriptedTarget(list(target), thinking=thinking),
        settings=settings,
        **options,
    )


# The two parts of a text


@pytest.mark.parametrize("markers", MARKERS.values(), ids=MARKERS)
def test_what_a_family_writes_is_taken_apart_again(markers: Markers) -> None:
    for thought in ("Add.", "First.\n\nThen.", "a < b, so </ is no marker"):
        parts = split(f"{markers.wrap(thought)}It is 48.{markers.end}", markers)
        assert (parts.thought, parts.answer, parts.open) == (thought, "It is 48.", False)
        assert split(markers.begin(thought), markers) == split(markers.begin(thought + "\n\n"), markers)
        assert split(markers.begin(thought), markers).open
    assert split(f"{markers.wrap('')}It is 48.", markers).answer == "It is 48."
    assert split(f"{markers.close}It is 48.", markers).thought == ""
    if markers.answer:
        assert split(f"{markers.answer}It is 48.", markers).answer == "It is 48."


@pytest.mark.parametrize(
    "markers", [m for m in MARKERS.values() if m.name not in ("command_r7b", "granite")], ids=lambda m: m.name
)
def test_known_markers_are_found_at_the_beginning_alone(markers: Markers) -> None:
    parts = split(f"{markers.wrap('Add.')}So 48.")
    assert (parts.thought, parts.answer) == ("Add.", "So 48.")
    later = f"So 48. {markers.wrap('Add.')}"
    assert split(later).answer == later


@given(
    st.sampled_from(list(MARKERS.values())),
    st.lists(
        st.sampled_from(["a", " ", "\n\n", "<", "think", "</think", ">", "Add.", "<|end", "|>", "[/"]), max_size=12
    ),
    st.randoms(use_true_random=False),
)
def test_reading_bit_by_bit_finds_the_same_parts(markers: Markers, bits: list[str], rng: random.Random) -> None:
    text = f"{markers.wrap(''.join(bits).replace(markers.close, ''))}{''.join(bits)}"
    reader, at = Reader(markers), 0
    pieces: list[Piece] = []
    while at < len(text):
        size = rng.randint(1, 6)
        reader, more = reader.read(text[at : at + size])
        pieces, at = [*pieces, *more], at + size
    pieces += reader.rest()
    whole = split(text, markers)
    assert "".join(piece for kind, piece in pieces if kind == "thought") == whole.thought
    assert "".join(piece for kind, piece in pieces if kind == "answer") == whole.answer


def test_several_messages_of_analysis_are_one_thought() -> None:
    text = (
        "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>analysis<|message|>Two.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>So 48."
    )
    assert (split(text).thought, split(text).answer) == ("One.Two.", "So 48.")


def test_text_without_markers_is_answer_to_the_letter() -> None:
    for text in ("", "\n\n", " So 48.\n", "<thin", "If </think> so."):
        assert (split(text).thought, split(text).answer) == ("", text)


# A response


def test_a_box_inside_a_thought_is_not_an_answer() -> None:
    drafts = ["<think>\n\n", "If it were \\boxed{12}? no.\n\n", "</think>\n\n", "So 48."]
    result = rsd(drafts).run("question")
    assert (result.answer, result.text, result.thought) == (None, "So 48.", "If it were \\boxed{12}? no.")
    assert result.raw_text == "".join(drafts)
    assert [step.kind for step in result.steps] == ["thought", "thought", "thought", "answer"]
    assert [step.reward for step in result.steps] == [None, 0.9, None, 0.9]  # a marker alone is never scored
    assert result.markers == THINK


def test_the_box_of_the_answer_is_the_answer() -> None:
    result = rsd(["<think>\n\\boxed{12}\n</think>\n\n", "So \\boxed{48}."]).run("question")
    assert result.answer == "48"


def test_a_template_that_opens_the_thought_is_part_of_the_raw_text() -> None:
    result = rsd(["Add.\n\n", "Done.\n</think>\n\n", "So 48."], thinking=OPENED).run("question")
    assert (result.thought, result.text, result.opening) == ("Add.\n\nDone.", "So 48.", "<think>\n")
    assert result.raw_text == "<think>\nAdd.\n\nDone.\n</think>\n\nSo 48."


def test_a_result_survives_json() -> None:
    for result in (
        rsd(["Add.\n\n", "Done.\n</think>\n\n", "So 48."], thinking=OPENED).run("question"),
        rsd(["<think>Add.</think>So 48."]).run("question"),
        rsd(["Only an answer."]).run("question"),
    ):
        data = json.loads(json.dumps(result.to_dict()))
        again = Result.from_dict({**data, "prompt": result.prompt})
        assert again == result
        assert (again.raw_text, [step.kind for step in again.steps]) == (
            result.raw_text,
            [step.kind for step in result.steps],
        )


def test_results_without_thoughts_are_written_as_they_were() -> None:
    data = rsd(["a\n\n", "b"]).run("question").to_dict()
    assert not {"thought", "raw_text", "markers", "opening"} & data.keys()
    assert not {"kind", "pieces"} & data["steps"][0].keys()  # type: ignore[index]


def test_one_step_may_hold_the_end_of_the_thought_and_an_answer() -> None:
    (step,) = rsd(["<think>Add.</think>So 48."]).run("question").steps
    assert (step.kind, step.thought, step.content) == ("answer", "Add.", "So 48.")


@pytest.mark.parametrize("text", ["<think>\nAdd.\n</think>\n\nSo 48.\nStop here", "So 48.\nStop here"])
def test_stop_strings_are_of_the_answer(text: str) -> None:
    decoder = rsd([text.replace("Add.", "Add.\nStop here")])
    result = decoder.run("question", stop=["\nStop"])
    assert (result.text, result.finish_reason) == ("So 48.", "stop")
    assert result.steps[-1].content == "So 48."
    stream, events = TextStream(["\nStop"]), list(decoder.stream("question", stop=["\nStop"]))
    assert "".join(map(stream.feed, events)) == "So 48."


def test_streams_tell_thought_and_answer_apart() -> None:
    drafts = ["Add.\n\n", "Two.\n</think>\n\n", "So 48.\n\n", "\\boxed{48}"]
    stream = TextStream()
    parts: list[Piece] = []
    for event in rsd(drafts, thinking=OPENED).stream("question"):
        parts += stream.feed_parts(event)
    assert "".join(text for kind, text in parts if kind == "thought") == "Add.\n\nTwo."
    assert "".join(text for kind, text in parts if kind == "answer") == "So 48.\n\n\\boxed{48}"
    assert [kind for kind, _ in parts] == sorted([kind for kind, _ in parts], reverse=True)


def test_a_response_that_ends_in_its_thought_says_so() -> None:
    result = rsd(["Add.\n\n", "And"], thinking=OPENED).run("question")
    assert (result.text, result.answer, result.finish_reason) == ("", None, "stop")
    assert [item.kind for item in result.degradations] == ["no_answer"]
    events = [event for event in rsd(["And"], thinking=OPENED).stream("question") if type(event).__name__ == "Degraded"]
    assert len(events) == 1
    nothing = rsd([""], target=[""], thinking=OPENED).run("question")
    assert (nothing.steps, [item.kind for item in nothing.degradations]) == ((), ["no_answer"])


@pytest.mark.parametrize(
    ("drafts", "limits", "kind"),
    [(["And"], {}, "no_answer"), (["a b c d\n\n"] * 2 + ["So"], {"max_thought_tokens": 4}, "thought_limit")],
)
def test_what_becomes_of_a_thought_is_logged(
    drafts: list[str], limits: dict[str, Any], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    result = rsd(drafts, thinking=OPENED, settings={"limits": Limits(**limits)}).run("question")
    (noted,) = result.degradations
    (line,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert noted.kind == kind
    assert line.getMessage() == f"step {noted.step}: {kind}: {noted.message}"


def test_tokens_that_nobody_sees_are_not_a_full_context() -> None:
    class Hidden(ScriptedDrafter):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            return Generation((Step("", "length", size=request.max_tokens),), Usage(generated=request.max_tokens))

    assert DraftOnly(drafter=Hidden([])).run("question").finish_reason == "max_tokens"


# Limits


def test_a_thought_at_its_limit_is_closed_and_the_answer_written() -> None:
    drafts = ["a b c d\n\n"] * 3 + ["never", "So 48."]
    result = rsd(drafts, thinking=OPENED, settings={"limits": Limits(max_thought_tokens=12)}).run("question")
    assert result.raw_text == "<think>\n" + "a b c d\n\n" * 3 + "</think>\n\nSo 48."
    assert [step.author for step in result.steps] == ["draft"] * 3 + ["limit", "draft"]
    assert [(item.kind, item.step) for item in result.degradations] == [("thought_limit", 3)]
    assert (result.text, result.finish_reason) == ("So 48.", "stop")


def test_no_thought_is_longer_than_its_limit() -> None:
    for limit in range(1, 12):
        decoder = rsd(["a b c d\n\n"] * 30, thinking=OPENED, settings={"limits": Limits(max_thought_tokens=limit)})
        result = decoder.run("question")
        thought = [step for step in result.steps if step.kind == "thought" and step.author != "limit"]
        assert sum(step.size for step in thought) == limit
        assert result.text


@pytest.mark.parametrize("ahead", [0, 3])
def test_the_limit_is_the_same_with_lookahead(ahead: int) -> None:
    settings = {"limits": Limits(max_thought_tokens=8, max_steps=9), "lookahead": ahead}
    plain = rsd([f"{i} b c d\n\n" for i in range(20)], thinking=OPENED, settings=settings).run("question")
    assert plain.raw_text == "<think>\n0 b c d\n\n1 b c d\n\n</think>\n\n" + "".join(
        f"{i} b c d\n\n" for i in range(3, 9)
    )


def test_a_limit_on_thoughts_goes_with_steps_alone() -> None:
    with pytest.raises(ValueError, match="max_thought_tokens=5 with granularity='turn'"):
        Settings(granularity="turn", limits=Limits(max_thought_tokens=5))


def test_roles_of_the_thoughts_go_with_steps_alone() -> None:
    with pytest.raises(ConfigurationError, match="need granularity='step'"):
        rsd(["a"], settings={"granularity": "turn"}, thoughts=Roles(policy=AlwaysDraft()))
    with pytest.raises(ConfigurationError, match="need granularity='step'"):
        rsd(["a"], thoughts=Roles(policy=AlwaysDraft())).with_settings(Settings(granularity="turn"))


def test_thoughts_count_for_the_limits_of_the_response() -> None:
    drafts = ["a b\n\n"] * 9
    result = rsd(drafts, thinking=OPENED, settings={"limits": Limits(max_tokens=6)}).run("question")
    assert (result.finish_reason, len(result.steps)) == ("max_tokens", 3)
    assert [item.kind for item in result.degradations] == ["no_answer"]


# Agreement


def test_models_that_open_thoughts_differently_agree_on_one_text() -> None:
    assert agree([("a", OPENED), ("b", Thinking(THINK))]) == OPENED
    assert agree([("a", Thinking(THINK)), ("b", OPENED)]) == OPENED
    assert agree([("a", None), ("b", OPENED)]) == OPENED
    assert agree([("a", OFF), ("b", Thinking(None))]) is None
    assert agree([("a", None), ("b", None)]) is None


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (OPENED, OFF, "'a' thinks before it answers, 'b' does not: .*enable_thinking=false"),
        (Thinking(THINK), Thinking(None), "'a' thinks before it answers, 'b' does not: .*target_thinks"),
        (Thinking(THINK), Thinking(MARKERS["mistral"]), "differently, 'a' with '<think>' and 'b' with '\\[THINK\\]'"),
        (OPENED, Thinking(THINK, "\n<think>"), "open thoughts differently: '<think>\\\\n', '\\\\n<think>'"),
    ],
)
def test_models_that_would_not_write_one_text_are_refused(one: Thinking, other: Thinking, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        agree([("a", one), ("b", other)])
    drafter, target = ScriptedDrafter(["x"], thinking=one), ScriptedTarget(["y"], thinking=other)
    drafter.name, target.name = "a", "b"
    decoder = RewardGuidedDecoder(drafter=drafter, verifier=ScriptedVerifier([0.9]), target=target)
    with pytest.raises(ConfigurationError, match=reason):
        decoder.run("question")
    assert drafter.calls == target.calls == []  # before anything is paid for
    answered = RewardGuidedDecoder(
        drafter=drafter, target=target, policy=AlwaysTarget(), thoughts=Roles(policy=AlwaysDraft())
    )
    answered.run("question")  # only one of them thinks


def test_every_model_reads_the_text_they_agreed_on() -> None:
    drafter = ScriptedDrafter(["Add.\n\n", "bad\n\n", "x"], thinking=Thinking(THINK))
    target = ScriptedTarget(["", "Two.\n</think>\n\n"], thinking=OPENED)
    verifier = ScriptedVerifier([0.9, 0.1, 0.9])
    RewardGuidedDecoder(drafter=drafter, verifier=verifier, target=target).run("question")
    for path in [*drafter.calls, *target.calls, *verifier.calls]:
        assert path.opening == "<think>\n"
        assert path.text.startswith("<think>\n")


def test_a_thought_that_the_prompt_begins_is_continued() -> None:
    begun = {"role": "assistant", "content": "", "reasoning_content": "Add."}
    result = rsd(["Two.\n</think>\n\n", "So 48."], thinking=OPENED).run([("user", "question"), begun])
    assert (result.thought, result.text, result.opening) == ("Two.", "So 48.", "")
    whole = {"role": "assistant", "content": "So", "reasoning_content": "Add."}
    result = rsd([" 48."], thinking=OPENED).run([("user", "question"), whole])
    assert (result.thought, result.text) == ("", " 48.")


def test_custom_markers() -> None:
    own = Markers("own", "(", ")", source="here")
    settings = {"thoughts": {"markers": {"name": "own", "open": "(", "close": ")"}}}
    result = rsd(["(Add.\n\n", "Two.) ", "So 48."], settings=settings).run("question")
    assert (result.thought, result.text) == ("Add.\n\nTwo.", "So 48.")
    assert Settings(thoughts=ThoughtSettings(markers=own)).thoughts.markers == own
    assert Settings.model_validate({"thoughts": {"markers": "mistral"}}).thoughts.markers == MARKERS["mistral"]
    for wrong in ("mistrall", {"name": "x", "open": " ", "close": ")"}, {"name": "x", "opens": "("}):
        with pytest.raises(ValueError, match=r"mistral|white space|opens"):
            Settings.model_validate({"thoughts": {"markers": wrong}})


# Steps


def test_thoughts_have_steps_of_their_own() -> None:
    requests: list[StepRequest] = []

    class Asked(ScriptedDrafter):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            requests.append(request)
            return await super().generate(path, request)

    settings = Settings(max_step_tokens=50, thoughts=ThoughtSettings(delimiter="sentence", max_step_tokens=20))
    script = ["One. ", "Two.\n</think>\n\n", "So.\n\n", "48"]
    DraftOnly(drafter=Asked(script, thinking=OPENED), settings=settings).run("question")
    assert [(r.delimiter, r.max_tokens, r.close) for r in requests] == [
        (Sentence(), 20, "</think>"),
        (Sentence(), 20, "</think>"),
        ("\n\n", 50, ""),
        ("\n\n", 50, ""),
    ]


@pytest.mark.parametrize(
    ("splitter", "text", "steps"),
    [
        (Delimiter(), "a\n\nb\n\nc", ["a\n\n", "b\n\n", "c"]),
        (Delimiter(text="\n"), "a\nb", ["a\n", "b"]),
        (Sentence(), "It is 3.5. Is it? Yes!\n\nSo.", ["It is 3.5.", " Is it?", " Yes!", "\n\nSo."]),
        (Words(words=("Wait", "But")), "a\n\nb\n\nWait, c\n\nBut d", ["a\n\nb\n\n", "Wait, c\n\n", "But d"]),
        (Words(words=("So ", "So,")), "a\n\nSome b\n\nSo c", ["a\n\nSome b\n\n", "So c"]),
    ],
)
def test_splitters_cut_where_they_say(splitter: Any, text: str, steps: list[str]) -> None:
    cut: list[str] = []
    rest = text
    while (end := splitter.end(rest)) is not None:
        cut, rest = [*cut, rest[:end]], rest[end:]
    assert [*cut, rest] == steps
    for stop in splitter.stops:
        assert splitter.end(f"x{stop}") is not None


@given(
    st.sampled_from([Delimiter(), Delimiter(text="\n"), Sentence(), Words()]),
    st.lists(st.sampled_from(["a", ".", " ", "\n", "\n\n", "Wait", "?", "3.5", "</think>", "</th"]), max_size=14),
    st.booleans(),
)
def test_an_end_stays_where_it_is_when_more_is_written(splitter: Any, bits: list[str], in_thought: bool) -> None:
    asked = StepRequest((0,), delimiter=splitter, close="</think>" if in_thought else "").splitter
    assert asked is not None
    text, end = "", None
    for bit in bits:
        text += bit
        now = asked.end(text)
        if end is not None:
            assert now == end
        end = now
        assert end is None or 0 < end <= len(text)


def test_a_step_ends_where_the_thought_is_closed() -> None:
    splitter = StepRequest((0,), delimiter="\n\n", close="</think>").splitter
    assert splitter is not None
    assert splitter.end("so 48.\n</think>") is None
    assert splitter.end("so 48.\n</think>\n\nThe") == len("so 48.\n</think>\n\n")
    assert splitter.end("so 48.</think>The") == len("so 48.</think>")
    assert splitter.end("a\n\nb</think>") == 3


def test_delimiters_are_data() -> None:
    assert parse_delimiter("line") == "\n"
    assert parse_delimiter("sentence") == Sentence()
    assert parse_delimiter("words:Wait+But") == Words(words=("Wait", "But"))
    assert parse_delimiter({"kind": "delimiter", "text": "x"}) == "x"
    assert parse_delimiter("ки") == "ки"
    for delimiter in ("\n\n", Sentence(), Words(words=("Wait",))):
        settings = Settings(delimiter=delimiter)
        assert Settings.model_validate_json(settings.model_dump_json()) == settings
    for wrong in ("", {"kind": "sentences"}, {"text": "x"}, 5):
        with pytest.raises(ConfigurationError):
            parse_delimiter(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="'sentense' is not a splitter; did you mean 'sentence'"):
        parse_delimiter("sentense")  # as a text between steps, it would end none


# Policies and roles of the thoughts' own


def test_thoughts_may_have_models_and_a_policy_of_their_own() -> None:
    drafter, target = ScriptedDrafter(["t\n\n", "</think>\n\n", "a"]), ScriptedTarget(["x\n\n"])
    thinker, judge = ScriptedDrafter(["t\n\n", "b\n</think>\n\n"], thinking=OPENED), ScriptedVerifier([0.5] * 9)
    verifier = ScriptedVerifier([0.9] * 9)
    decoder = RewardGuidedDecoder(
        drafter=drafter,
        verifier=verifier,
        target=target,
        thoughts=Roles(drafter=thinker, verifier=judge, policy=BinaryStep(delta=0.4)),
    )
    result = decoder.run("question")
    assert (result.thought, result.text) == ("t\n\nb", "a")
    assert [step.reward for step in result.steps] == [0.5, 0.5, 0.9]
    assert (len(thinker.calls), len(judge.calls), len(drafter.calls), len(verifier.calls)) == (2, 2, 1, 1)
    assert set(decoder.models) == {drafter, verifier, target, thinker, judge}


def test_the_limits_of_both_policies_hold() -> None:
    decoder = rsd(["a"], policy=RequestBudget(calls=3), thoughts=Roles(policy=RequestBudget(calls=2)))
    assert decoder.limits.max_target_calls == 2


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_what_was_begun_early_is_used_by_its_own_model_alone(ahead: int) -> None:
    thinker = ScriptedDrafter(["t\n\n", "u\n</think>\n\n", "WRONG"], thinking=OPENED)
    drafter = ScriptedDrafter(["", "", "a\n\n", "b"])
    judge, verifier = ScriptedVerifier([0.9] * 9), ScriptedVerifier([0.8] * 9)
    decoder = RewardGuidedDecoder(
        drafter=drafter,
        verifier=verifier,
        target=ScriptedTarget(["x"]),
        settings=Settings(lookahead=ahead),
        thoughts=Roles(drafter=thinker, verifier=judge),
    )
    result = decoder.run("question")
    assert [(step.text, step.reward) for step in result.steps] == [
        ("t\n\n", 0.9),
        ("u\n</think>\n\n", 0.9),
        ("a\n\n", 0.8),
        ("b", 0.8),
    ]
    assert len(thinker.calls) == 2  # it is not asked for the answer, ahead or not


def methods(name: str, drafts: list[str], target: list[str]) -> Result:
    drafter = ScriptedDrafter(drafts, thinking=OPENED)
    setup = Setup(drafter, ScriptedVerifier([0.0] * 9), ScriptedTarget(target, thinking=OPENED))
    return parse_method(name).build(setup).run("question")


@pytest.mark.parametrize(
    ("method", "authors", "text"),
    [
        ("drafter_thinks", ["draft", "draft", "target"], "target"),
        ("target_thinks", ["target", "target", "draft"], "draft"),
        ("first_steps:1", ["target", "draft", "draft"], "draft"),
    ],
)
def test_recipes_say_who_writes_what(method: str, authors: list[str], text: str) -> None:
    result = methods(method, ["t\n\n", "d\n</think>\n\n", "draft"], ["T\n\n", "D\n</think>\n\n", "target"])
    assert ([step.author for step in result.steps], result.text) == (authors, text)
    assert result.ledger.verifier.calls == 0


def test_the_router_asks_for_the_entropy_of_the_first_token() -> None:
    entropies = iter([0.2, 2.0, 0.5])

    class Doubts(ScriptedDrafter):
        async def first_token_entropy(self, path: Path) -> Entropy:
            return Entropy(next(entropies), Usage(computed=1))

    setup = Setup(Doubts(["a\n\n", "b\n\n", "c"]), "scripted:verifier", ScriptedTarget(["A\n\n", "B\n\n", "C"]))
    result = parse_method("glimprouter:0.5").build(setup).run("question")
    assert [step.text for step in result.steps] == ["a\n\n", "B\n\n", "c"]
    assert result.ledger.drafter.calls == 3 + 2
    with pytest.raises(ConfigurationError, match=r"entropy of a step's first token, which .* does not report"):
        RewardGuidedDecoder(drafter=ScriptedDrafter(["a"]), target=ScriptedTarget(["b"]), policy=FirstToken())


def test_an_entropy_that_fails_goes_to_the_target() -> None:
    class Broken(ScriptedDrafter):
        async def first_token_entropy(self, path: Path) -> Entropy:
            raise ValueError("no logits")

    setup = Setup(Broken(["a"]), "scripted:verifier", ScriptedTarget(["b"]))
    result = parse_method("glimprouter").build(setup).run("question")
    assert ([step.author for step in result.steps], result.text) == (["target"], "b")
    assert [item.kind for item in result.degradations] == ["drafter_error"]


@pytest.mark.parametrize(("reply", "text"), [("2", "b"), ("0", "target"), ("Number: 1.", "a")])
def test_the_target_picks_a_draft_or_none(reply: str, text: str) -> None:
    class Picks(ScriptedTarget):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            asked = "Reply with the number" in path.prompt[-1].content
            step = Step(reply if asked else "target", "end", size=1)
            return Generation((step,), Usage(generated=1))

    settings = Settings(temperature=0.5, candidates=2, seed=3)
    decoder = RewardGuidedDecoder(
        drafter=ScriptedDrafter(_alternately()), verifier=TargetChoice(Picks([])), target=Picks([]), settings=settings
    )
    assert decoder.run("question").text == text


def _alternately() -> Any:
    letters = iter("ab")
    return lambda path, rng: next(letters)


def test_a_thinking_target_judges_without_a_thought() -> None:
    asked: list[Path] = []

    class Judge(ScriptedTarget):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            if "Reply with one whole number" not in path.prompt[-1].content:
                return await super().generate(path, request)
            asked.append(path)
            return Generation((Step("8", "end", size=1),), Usage(generated=1))

    target = Judge(["T"], thinking=Thinking(THINK))
    drafter = ScriptedDrafter(["<think>\nAdd.\n\n", "Two.\n</think>\n\n", "So 48."], thinking=Thinking(THINK))
    result = SpecReason(drafter=drafter, target=target).run("question")
    assert [step.author for step in result.steps] == ["draft"] * 3
    assert {path.opening for path in asked} == {"<think>\n\n</think>\n\n"}
    assert "Add.\n\nTwo.\n\nSo 48." in asked[-1].prompt[-1].content
    assert "think>" not in asked[-1].prompt[-1].content


def test_boxes_inside_thoughts_have_no_vote() -> None:
    drafts = iter(["<think>\\boxed{1}</think>\\boxed{2}"] * 2 + ["<think>\\boxed{1}</think>none"] * 3)
    decoder = MajorityVote(
        drafter=ScriptedDrafter(lambda path, rng: next(drafts)), n=5, settings=Settings(temperature=1.0)
    )
    assert decoder.run("question").answer == "2"


@pytest.mark.parametrize("ahead", [2, 4])
@pytest.mark.parametrize("runs", [False, True])
def test_marks_are_not_scored_ahead_either(ahead: int, runs: bool) -> None:
    scored: list[str] = []

    class Slow(ScriptedVerifier):
        async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
            scored.extend(step.text for step in steps)
            return await super().score(path, steps)

    class InRuns(Slow):
        async def score_run(self, path: Path, steps: Sequence[Step]) -> list[Scores]:
            one_by_one = []
            for step in steps:
                one_by_one.append(await self.score(path, [step]))
                path = path.extend(step)
            return one_by_one

    verifier = (InRuns if runs else Slow)(lambda path, step: 0.9, delay=0.002)
    drafts = ["a\n\n"] * 8 + ["b\n\n", "</think>\n\n", "c\n\n", "d"]
    drafter = ScriptedDrafter(
        [f"{i} {text}" if text[0] == "a" else text for i, text in enumerate(drafts)], thinking=OPENED
    )
    decoder = RewardGuidedDecoder(
        drafter=drafter, verifier=verifier, target=ScriptedTarget(["x"]), settings=Settings(lookahead=ahead)
    )
    result = decoder.run("question")
    assert (result.text, len(result.steps)) == ("c\n\nd", 12)
    assert "</think>\n\n" not in scored
    assert [step.reward for step in result.steps] == [0.9] * 9 + [None] + [0.9] * 2


def test_searches_pass_over_markers() -> None:
    drafts = ["a\n\n", "</think>\n\n", "b"]
    for decoder in (
        Backtracking(drafter=ScriptedDrafter(drafts, thinking=OPENED), verifier=ScriptedVerifier([0.9] * 9)),
        StepBeam(
            drafter=ScriptedDrafter(drafts, thinking=OPENED), verifier=ScriptedVerifier([0.9] * 9), width=1, expand=1
        ),
    ):
        result = decoder.run("question")
        assert [(step.text, step.reward) for step in result.steps] == [(drafts[0], 0.9), (drafts[1], None), ("b", 0.9)]


def test_a_judge_may_be_asked_otherwise() -> None:
    asked: list[str] = []

    class Judge(ScriptedTarget):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            asked.append(path.prompt[-1].content)
            return Generation((Step("9", "end", size=1),), Usage(generated=1))

    setup = Setup(ScriptedDrafter(["<think>Add {solution}.</think>48"]), "scripted:verifier", Judge([]))
    prompt = '{question}|{solution}|{"score": '
    parse_method({"kind": "specreason", "prompt": prompt}).build(setup).run("{x}?")
    assert asked == ['{x}?|Add {solution}.\n\n48|{"score": ']
    parse_method({"kind": "specreason", "prompt": prompt}).build(setup).run([("user", "q"), ("assistant", "So")])
    assert asked[1].startswith("q|So\n\n")
    with pytest.raises(ConfigurationError, match=r"needs \{question\} and \{solution\}"):
        parse_method({"kind": "specreason", "prompt": "{question}?"}).build(setup)


def test_configurations_hold_roles_of_the_thoughts() -> None:
    data = {
        "drafter": "scripted:draft",
        "verifier": "scripted:verifier",
        "target": "scripted:target",
        "thoughts": {"policy": "constant:0.25", "verifier": "rule:arithmetic"},
        "settings": {"thoughts": {"delimiter": "sentence"}},
    }
    config = RSDConfig.parse(data)
    assert RSDConfig.model_validate_json(config.model_dump_json()) == config
    decoder = config.build()
    assert isinstance(decoder, RewardGuidedDecoder)
    assert decoder.thoughts.policy == Constant(p=0.25)
    assert decoder.casts()["thought"].verifier is not decoder.casts()["answer"].verifier
    assert "thoughts" not in RSDConfig().model_dump()
    with pytest.raises(ConfigurationError, match="nonsense"):
        RSDConfig.parse({"thoughts": {"verifier": "nonsense:x"}})


def test_no_verifier_goes_with_policies_without_rewards_alone() -> None:
    drafter, target = ScriptedDrafter(["a"]), ScriptedTarget(["b"])
    assert RewardGuidedDecoder(drafter=drafter, target=target, policy=AlwaysDraft()).run("question").text == "a"
    with pytest.raises(ConfigurationError, match=r"decides by rewards, but verifier= is missing"):
        RewardGuidedDecoder(drafter=drafter, target=target)


# What verifiers see


def test_what_is_to_be_judged_has_no_markers() -> None:
    path = Path(as_prompt("question"), thinking=OPENED)
    first = path.extend(Step("Add.\n\n", "delimiter"))
    assert visible(path, Step("Add.\n\n", "delimiter")).thought == "Add."
    assert visible(first, Step("Two.\n</think>\n\n", "delimiter")).thought.strip() == "Two."
    partial = first.extend(Step("Add <", "length"))
    assert visible(first, Step("Add <", "length")).thought == "Add <"
    assert visible(partial, Step(" 4.\n\n", "delimiter")).thought == " 4."
    second = first.extend(Step("Two.\n</think>\n\n", "delimiter"))
    assert visible(second, Step("So 48.", "end")).answer == "So 48."
    assert parts_of(second.extend(Step("So 48.", "end"))) == split("<think>\nAdd.\n\nTwo.\n</think>\n\nSo 48.")


def test_steps_of_the_target_are_scored_unless_they_are_markers() -> None:
    class Learns(Constant):
        @property
        def scores_target(self) -> bool:
            return True

    verifier = ScriptedVerifier([0.3] * 9)
    decoder = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["x\n\n"]),
        verifier=verifier,
        target=ScriptedTarget(["<think>\n\n", "Add.\n\n", "</think>\n\n", "So 48."]),
        policy=Learns(p=0),
    )
    records = [event.record for event in decoder.stream("question") if isinstance(event, StepFinished)]
    assert [record.target_reward for record in records] == [None, 0.3, None, 0.3]


def test_the_target_alone_thinks_too() -> None:
    result = TargetOnly(target=ScriptedTarget(["Add.\n</think>\n\n", "So 48."], thinking=OPENED)).run("question")
    assert (result.thought, result.text, result.target_share) == ("Add.", "So 48.", 1.0)
