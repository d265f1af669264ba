"""Thoughts at their edges: beginnings of markers, several thoughts, limits and models that say nothing."""

import asyncio
from collections.abc import Sequence
from typing import Any
from unittest import mock

import pytest

from rsd_core import (
    AlwaysDraft,
    AlwaysTarget,
    Calls,
    ConfigurationError,
    Constant,
    DraftOnly,
    Entropy,
    FirstToken,
    Generation,
    Limits,
    Markers,
    Path,
    RewardGuidedDecoder,
    Roles,
    Scores,
    Sentence,
    Settings,
    Speculation,
    SpeculativeDecoding,
    Splitter,
    Step,
    StepRequest,
    StepScored,
    TargetChoice,
    TextStream,
    Thinking,
    ThoughtSettings,
    Usage,
    VerifierError,
    Words,
    as_prompt,
    parse_method,
    split,
    visible,
)
from rsd_core.methods import GlimpRouterMethod, Setup
from rsd_core.model import usage_of
from rsd_core.paths import Ending
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_core.thoughts.agreement import agree
from rsd_core.thoughts.markers import MARKERS
from rsd_core.thoughts.reading import Piece, Reader

THINK = MARKERS["think"]
OPENED = Thinking(THINK, "<think>\n")


class Learns(Constant):
    """Wants the target's steps scored."""

    @property
    def scores_target(self) -> bool:
        return True


HARMONY = "<|channel|>analysis<|message|>"


def drafter(drafts: Sequence[str], thinking: Thinking | None = None, **settings: Any) -> DraftOnly:
    return DraftOnly(drafter=ScriptedDrafter(list(drafts), thinking=thinking), settings=Settings(**settings))


# Agreement and markers


def test_markers_in_the_settings_override_those_of_the_models() -> None:
    own = Markers("own", "(", ")")
    assert agree([("a", Thinking(THINK)), ("b", Thinking(MARKERS["mistral"]))], own) == Thinking(own)


def test_the_longest_opening_is_agreed_on() -> None:
    assert agree([("a", Thinking(THINK, "<think>")), ("b", OPENED)]) == OPENED


def test_a_model_of_two_roles_is_named_once() -> None:
    off = Thinking(None)
    with pytest.raises(ConfigurationError, match=r"^'a' thinks before it answers, 'b' does not"):
        agree([("a", OPENED), ("b", off), ("a", OPENED), ("b", off)])


def test_an_opening_that_begins_the_answer_switches_thinking_off() -> None:
    cohere = MARKERS["cohere"]
    assert Thinking(cohere, cohere.answer).is_off
    assert not Thinking(cohere, cohere.open).is_off


@pytest.mark.parametrize(
    ("wrong", "reason"), [({"close": " "}, "not white space"), ({"close": ")", "opens": "("}, "opens")]
)
def test_invalid_markers_are_refused(wrong: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Settings.model_validate({"thoughts": {"markers": {"name": "own", "open": "(", **wrong}}})


# Beginnings of markers, and markers alone


@pytest.mark.parametrize(("text", "thought", "answer"), [("<thin", "", "<thin"), ("<think>Add </", "Add </", "")])
def test_what_only_looks_like_a_marker_at_the_end_is_text_once(text: str, thought: str, answer: str) -> None:
    result = drafter([text]).run("question")
    (step,) = result.steps
    assert (step.thought, step.content) == (result.thought, result.text) == (thought, answer)


def test_neither_space_nor_half_a_marker_is_a_marker() -> None:
    assert [Reader().is_mark(text) for text in ("\n\n", "<thi", "<think>", "<think>\n\n")] == [False, False, True, True]
    for before in ("<think>", "<think>Add.", "<think>Add.</think>"):
        assert not Reader().read(before)[0].is_mark("\n\n")


@pytest.mark.parametrize("bits", [["</think>It is 48."], ["</th", "ink>\n\n", "It is 48."]])
def test_a_template_that_switches_thinking_off_may_write_the_end_of_a_thought_alone(bits: list[str]) -> None:
    reader, answer = Reader(THINK), ""
    for bit in bits:
        reader, pieces = reader.read(bit)
        answer += "".join(text for _, text in pieces)
    assert answer == split("".join(bits), THINK).answer == "It is 48."


@pytest.mark.parametrize("markers", [one for one in MARKERS.values() if one.end], ids=lambda one: one.name)
def test_a_marker_that_ends_the_answer_is_not_text_however_it_arrives(markers: Markers) -> None:
    reader, answer = Reader(markers), ""
    for char in f"{markers.wrap('Add.')}a < b{markers.end}ignored":
        reader, pieces = reader.read(char)
        answer += "".join(text for kind, text in pieces if kind == "answer")
    assert answer == "a < b"


@pytest.mark.parametrize(
    ("before", "text"), [("\n\n", "So 48."), (" <th", "ese> are 48."), ("<think>Add.</think> <", " 48.")]
)
def test_text_held_back_from_a_step_is_not_part_of_the_next(before: str, text: str) -> None:
    path = Path(as_prompt("question")).extend(Step(before, "delimiter"))
    assert visible(path, Step(text, "end")).answer == text


def test_each_step_after_the_thought_holds_its_own_text() -> None:
    result = drafter(["<think>Add.</think>So 48.\n\n", "Checked.\n\n", "Done."]).run("question")
    assert [step.content for step in result.steps] == ["So 48.\n\n", "Checked.\n\n", "Done."]


# Where thoughts are expected


def test_a_thought_that_the_prompt_begins_has_the_models_markers() -> None:
    begun = {"role": "assistant", "content": "", "reasoning_content": "Add."}
    result = drafter(["Two.[/THINK]\n\n", "So 48."], Thinking(MARKERS["mistral"])).run([("user", "question"), begun])
    assert (result.thought, result.text) == ("Two.", "So 48.")


@pytest.mark.parametrize("first", ["<think>\nOne.", "<th"])
def test_a_thought_that_the_model_opens_has_its_steps_from_the_first_one_on(first: str) -> None:
    requests: list[StepRequest] = []

    class Asked(ScriptedDrafter):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            requests.append(request)
            text = [first, "ink>" * (first == "<th") + "Two.\n</think>\n\n", "48"][path.depth]
            ending: Ending = "end" if path.depth == 2 else "delimiter"
            return Generation((Step(text, ending, size=2),), (await super().generate(path, request)).usage)

    settings = Settings(thoughts=ThoughtSettings(delimiter="sentence"))
    result = DraftOnly(drafter=Asked([""], thinking=Thinking(THINK)), settings=settings).run("question")
    assert [(request.delimiter, request.close) for request in requests] == [
        (Sentence(), "</think>"),
        (Sentence(), "</think>"),
        ("\n\n", ""),
    ]
    assert result.text == "48"


@pytest.mark.parametrize(
    ("splitter", "step", "rest"),
    [
        (StepRequest((0,), delimiter="\n\n", close="</think>").splitter, "Add.</think>\n\n", ""),
        (StepRequest((0,), delimiter="\n\n", close="</think>").splitter, "Add.</think> \n\n", "\n\nSo 48."),
        (StepRequest((0,), delimiter=Sentence(), close="</think>").splitter, "Add</think>\n", "So. Or"),
        (Words(words=("Wait", "But")), "\n\nWait, it is 3.\n\n", "But no.\n\nWait"),
        (Sentence(), "First\n\n", "Then. So"),
        (Sentence(), '"It is 3."', " So."),
        (Sentence(), "  (It is 3!)", " So."),
    ],
)
def test_a_step_ends_with_what_belongs_to_it(splitter: Splitter, step: str, rest: str) -> None:
    assert splitter.end(step + rest) == len(step)


def test_servers_are_asked_to_stop_at_what_ends_the_steps_of_a_thought() -> None:
    splitters = [StepRequest((0,), delimiter=end, close="</think>").splitter for end in ("\n\n", Sentence(), None)]
    assert [splitter and splitter.stops for splitter in splitters] == [("\n\n",), (), ()]


# Limits


def test_a_step_that_opens_a_thought_counts_for_its_limit() -> None:
    result = drafter(["<think>\na b c\n\n", "never", "So 48."], limits=Limits(max_thought_tokens=4)).run("question")
    assert result.raw_text == "<think>\na b c\n\n</think>\n\nSo 48."


def test_two_thoughts_have_one_limit() -> None:
    drafts = [f"{HARMONY}a b<|end|>\n\n", f"<|start|>assistant{HARMONY}c d\n\n", "never", "48"]
    result = drafter(drafts, Thinking(MARKERS["harmony"]), limits=Limits(max_thought_tokens=4)).run("question")
    assert ([step.author for step in result.steps], result.text) == (["draft", "draft", "limit", "draft"], "48")


@pytest.mark.parametrize(
    ("limits", "authors", "finish"),
    [
        (Limits(max_thought_tokens=4, max_tokens=4), ["draft"], "max_tokens"),
        (Limits(max_thought_tokens=4, max_steps=2), ["draft", "limit"], "max_steps"),
    ],
)
def test_limits_of_the_response_override_that_of_the_thought(limits: Limits, authors: list[str], finish: str) -> None:
    result = drafter(["a b c d\n\n", "never", "So 48."], OPENED, limits=limits).run("question")
    assert ([step.author for step in result.steps], result.finish_reason) == (authors, finish)


def test_the_reward_of_the_targets_step_is_its_own_where_the_limit_closes_the_thought() -> None:
    decoder = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["x\n\n"], thinking=OPENED),
        verifier=ScriptedVerifier([0.3, 0.0, 0.6]),
        target=ScriptedTarget(["a b c d\n\n", "never", "So 48."], thinking=OPENED),
        policy=Learns(p=0),
        settings=Settings(limits=Limits(max_thought_tokens=4)),
    )
    steps = decoder.run("question").steps
    assert [(step.author, step.target_reward) for step in steps] == [("target", 0.3), ("limit", None), ("target", 0.6)]


def test_a_step_of_the_target_without_text_is_not_scored() -> None:
    decoder = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["x\n\n"]),
        verifier=ScriptedVerifier([0.3, 0.6]),
        target=ScriptedTarget(["Add.\n\n", ""]),
        policy=Learns(p=0),
    )
    assert [step.target_reward for step in decoder.run("question").steps] == [0.3]


def test_a_marker_among_candidates_has_no_reward() -> None:
    texts = iter(["</think>\n\n", "Add.\n\n"] + ["So 48."] * 2)
    decoder = RewardGuidedDecoder(
        drafter=ScriptedDrafter(lambda path, rng: next(texts), thinking=OPENED),
        verifier=ScriptedVerifier([0.9] * 3),
        target=ScriptedTarget(["x"], thinking=OPENED),
        settings=Settings(temperature=0.5, candidates=2),
    )
    scored = [event.rewards for event in decoder.stream("question") if isinstance(event, StepScored)]
    assert scored[0] == (None, 0.9)


def test_a_run_of_steps_that_are_scored_has_no_gap() -> None:
    runs: list[list[str]] = []

    class InRuns(ScriptedVerifier):
        async def score_run(self, path: Path, steps: Sequence[Step]) -> list[Scores]:
            runs.append([step.text for step in steps])
            scores = []
            for step in steps:
                scores.append(await self.score(path, [step]))
                path = path.extend(step)
            return scores

    drafts = [f"{i} a\n\n" if i % 5 else "\n\n" for i in range(1, 20)] + ["So 48."]
    verifier = InRuns(lambda path, step: 0.9 if step.text == drafts[path.depth] else 0.1, delay=0.002)
    decoder = RewardGuidedDecoder(
        drafter=ScriptedDrafter(drafts),
        verifier=verifier,
        target=ScriptedTarget(["x"]),
        policy=Constant(p=1),
        settings=Settings(lookahead=4),
    )
    rewards = [step.reward for step in decoder.run("question").steps]
    assert rewards == [0.9 if text.strip() else 0.0 for text in drafts]
    assert runs
    for run in runs:
        first = drafts.index(run[0])
        assert run == drafts[first : first + len(run)]


def test_a_turn_is_not_cut_where_its_thought_ends() -> None:
    requests: list[StepRequest] = []

    class Asked(ScriptedDrafter):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            requests.append(request)
            return await super().generate(path, request)

    settings = Settings(granularity="turn", thoughts=ThoughtSettings(delimiter="line"))
    DraftOnly(drafter=Asked(["Add.\n</think>\n\nSo 48."], thinking=OPENED), settings=settings).run("question")
    assert [(request.delimiter, request.close) for request in requests] == [(None, "")]


def test_the_answer_of_an_assisted_target_has_the_room_that_its_thought_left() -> None:
    rooms: list[int] = []

    class Assisted(ScriptedTarget):
        def checked_speculation(self, speculation: Speculation) -> Speculation:
            return speculation

        async def generate(self, path: Path, request: StepRequest) -> Generation:
            rooms.append(request.max_tokens)
            step = Step("So 48.", "end", size=3) if path.depth else Step("a b c d", "length", size=4)
            return Generation((step,), Usage(generated=step.size))

    settings = Settings(limits=Limits(max_thought_tokens=4, max_tokens=100))
    target = Assisted([], thinking=OPENED)
    result = SpeculativeDecoding(drafter=ScriptedDrafter([""]), target=target, settings=settings).run("question")
    assert (rooms, result.thought, result.text) == ([4, 96], "a b c d", "So 48.")


# Results


def test_a_response_that_is_cut_off_keeps_what_was_held_back() -> None:
    result = drafter(["a b </ d"], OPENED, limits=Limits(max_tokens=3)).run("question")
    assert (result.thought, result.finish_reason) == ("a b </", "max_tokens")


def test_a_thinking_model_that_thinks_nothing_has_its_markers() -> None:
    assert drafter(["So 48."], Thinking(THINK)).run("question").markers == THINK
    assert drafter(["So 48."]).run("question").markers is None


def test_a_stop_string_takes_nothing_from_the_thought() -> None:
    (step,) = drafter(["<think>Add.</think>So 48.\nStop"]).run("question", stop=["\nStop"]).steps
    assert (step.thought, step.content) == ("Add.", "So 48.")


# Streams


def test_an_end_without_text_repeats_nothing() -> None:
    stream = TextStream()
    parts = [
        part
        for event in drafter(["<think>Add.</think>So 48.\n\n", ""]).stream("question")
        for part in stream.feed_parts(event)
    ]
    assert parts == [("thought", "Add."), ("answer", "So 48.\n\n")]


@pytest.mark.parametrize(
    ("text", "limits", "wanted"),
    [
        ("a b </ d", Limits(max_tokens=3), [("thought", "a b </")]),
        ("a\nSto</think>48.\nStop", Limits(), [("thought", "a\nSto"), ("answer", "48.")]),
    ],
)
def test_thoughts_are_streamed_whole_and_no_stop_string_holds_them_back(
    text: str, limits: Limits, wanted: list[Piece]
) -> None:
    stream, parts = TextStream(["\nStop"]), {"thought": "", "answer": ""}
    for event in drafter([text], OPENED, limits=limits).stream("question", stop=["\nStop"]):
        for kind, piece in stream.feed_parts(event):
            parts[kind] += piece
            assert not (kind == "thought" and parts["answer"])
    assert [(kind, piece) for kind, piece in parts.items() if piece] == wanted


# Who writes, and who judges


def test_only_who_writes_the_thought_has_to_agree_on_it() -> None:
    decoder = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["", "48"], thinking=Thinking(None)),
        target=ScriptedTarget(["never"]),
        policy=AlwaysDraft(),
        thoughts=Roles(target=ScriptedTarget(["Add.\n</think>\n\n"], thinking=OPENED), policy=AlwaysTarget()),
    )
    result = decoder.run("question")
    assert (result.thought, result.text) == ("Add.", "48")


def test_recipes_pass_their_parameters_on() -> None:
    for method, policy in (("glimprouter:0.1", FirstToken(threshold=0.1)), ("glimprouter", FirstToken(threshold=1))):
        recipe = parse_method(method)
        assert isinstance(recipe, GlimpRouterMethod)
        assert recipe.policies() == (policy, policy)
    setup = Setup(ScriptedDrafter(["a"]), "scripted:verifier", ScriptedTarget(["0"]))
    assert [step.author for step in parse_method("speccot:2").build(setup).run("question").steps] == ["target"]


def test_a_solution_that_the_prompt_began_is_shown_without_gaps() -> None:
    target = ScriptedTarget(["1"])
    path = Path(as_prompt([("user", "question"), ("assistant", "So")])).extend(Step("Add.\n\n", "delimiter"))
    asyncio.run(TargetChoice(target).score(path, [Step("48.", "end")]))
    assert "problem:\n\nSo\n\nAdd.\n\nOne of" in target.calls[0].prompt[-1].content


def test_a_threshold_of_entropy_is_a_number_that_still_drafts() -> None:
    class Asked:
        entropy = 0.5

    assert FirstToken(threshold=0.5).route(Asked()) == "draft"  # type: ignore[arg-type]
    assert FirstToken(threshold=0.4).route(Asked()) == "target"  # type: ignore[arg-type]
    for wrong in (float("inf"), -0.1):
        with pytest.raises(ValueError, match="threshold"):
            FirstToken(threshold=wrong)


def test_the_entropy_of_one_step_is_not_that_of_the_next() -> None:
    class Doubts(ScriptedDrafter):
        async def first_token_entropy(self, path: Path) -> Entropy:
            if path.depth:
                raise ValueError("no logits")
            return Entropy(0.2, Usage(computed=1))

    result = RewardGuidedDecoder(
        drafter=Doubts(["a\n\n", "b"]), target=ScriptedTarget(["A\n\n", "B"]), policy=FirstToken()
    ).run("question")
    assert [step.text for step in result.steps] == ["a\n\n", "B"]


def test_nothing_is_drafted_ahead_of_a_verifier_that_is_not_asked() -> None:
    drafter = ScriptedDrafter([f"{i}\n\n" for i in range(6)] + ["end"])
    decoder = RewardGuidedDecoder(
        drafter=drafter, target=ScriptedTarget(["x"]), policy=AlwaysDraft(), settings=Settings(lookahead=2)
    )
    with mock.patch.object(Calls, "look_ahead") as look_ahead:
        decoder.run("question")
    assert look_ahead.call_count == 0


@pytest.mark.parametrize(("reply", "rewards"), [("2", (0.0, 1.0)), ("0.", (0.0, 0.0)), ("3", None), ("none", None)])
def test_the_target_chooses_among_steps_without_markers(reply: str, rewards: tuple[float, ...] | None) -> None:
    target = ScriptedTarget([reply])
    path = Path(as_prompt("question"), thinking=OPENED).extend(Step("Add.\n\n", "delimiter", size=1))
    steps = [Step("Two.\n</think>\n\n", "delimiter", size=3), Step("Three.\n\n", "delimiter", size=2)]
    choice = TargetChoice(target).score(path, steps)
    if rewards is None:
        with pytest.raises(VerifierError, match=f"replied '{reply}' instead of a number from 0 to 2") as refused:
            asyncio.run(choice)
        usage = usage_of(refused.value)
    else:
        scores = asyncio.run(choice)
        usage = scores.usage
        assert scores.rewards == rewards
    assert usage is not None
    assert (usage.generated, usage.scored) == (2, 5)  # the reply and its end; the steps
    (asked,) = target.calls
    assert "problem:\n\nAdd.\n\nOne of" in asked.prompt[-1].content
    assert "1. Two.\n\n2. Three.\n\n" in asked.prompt[-1].content


def test_a_target_that_is_known_not_to_think_is_asked_without_a_thought() -> None:
    for thinking in (Thinking(None), Thinking(THINK, "<think>\n\n</think>\n\n"), None):
        target = ScriptedTarget(["1"], thinking=thinking)
        asyncio.run(TargetChoice(target).score(Path(as_prompt("question")), [Step("Add.", "end")]))
        assert [path.thinking for path in target.calls] == [None]
