"""A decoder that reasons in steps and then writes JSON: one response of two parts."""

import copy
import json
import random
from collections.abc import Mapping
from typing import Any, Self

import pytest

from rsd_core import (
    BatchError,
    ConfigurationError,
    DraftOnly,
    Finished,
    Limits,
    MajorityVote,
    Markers,
    Message,
    Path,
    Result,
    RewardGuidedDecoder,
    RunError,
    Settings,
    StepFinished,
    StructuredDecoder,
    TargetOnly,
    TextStream,
    Thinking,
)
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_core.thoughts.markers import MARKERS

SCHEMA = {"title": "Answer", "type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
STEPS = ["2+2=4.\n\n", "So it is 4."]
THINK: Markers = MARKERS["think"]


class _TakesFields:
    """Scripted models that write JSON where they are asked for it."""

    script: Any
    json: str | Exception = '{"n": 4}'
    asked: Mapping[str, Any] = {}
    seen: list[Path]
    """What was read before the JSON."""

    def with_fields(self, fields: Mapping[str, Any]) -> Self:
        self.seen = []

        def play(path: Path, _chance: random.Random) -> str | Exception:
            self.seen.append(path)
            return self.json

        self.asked, other = fields, copy.copy(self)
        other.script = play
        return other


class Drafter(_TakesFields, ScriptedDrafter):
    """As drafter."""


class Target(_TakesFields, ScriptedTarget):
    """As target."""


def decoder(*rewards: float, settings: Settings | None = None, **scripts: Any) -> RewardGuidedDecoder:
    return RewardGuidedDecoder(
        drafter=Drafter(scripts.get("draft", STEPS), thinking=scripts.get("thinking")),
        verifier=ScriptedVerifier(rewards or [0.9]),
        target=Target(scripts.get("target", STEPS), thinking=scripts.get("thinking")),
        settings=settings,
    )


def seen(made: RewardGuidedDecoder) -> Path:
    assert isinstance(made.drafter, Drafter)
    (path,) = made.drafter.seen
    return path


def test_the_reasoning_is_the_thought_and_the_json_the_text() -> None:
    inner = decoder(0.9, 0.1, 0.9)
    structured = StructuredDecoder(inner, SCHEMA)
    events = list(structured.stream("What is 2+2?"))
    result = events[-1].result if isinstance(events[-1], Finished) else None
    assert result is not None
    assert (result.text, result.thought, result.finish_reason) == ('{"n": 4}', "2+2=4.\n\nSo it is 4.", "stop")
    assert [(step.kind, step.author) for step in result.steps] == [
        ("thought", "draft"),
        ("thought", "target"),
        ("answer", "draft"),
    ]
    assert [event.record for event in events if isinstance(event, StepFinished)] == list(result.steps)
    assert [event.index for event in events if isinstance(event, StepFinished)] == [0, 1, 2]
    assert (result.ledger.drafter.calls, result.ledger.verifier.calls, result.ledger.target.calls) == (3, 3, 1)
    assert result.prompt == (Message("user", "What is 2+2?"),)
    stream = TextStream()
    pieces = [piece for event in events for piece in stream.feed_parts(event)]
    for kind, whole in (("thought", result.thought), ("answer", result.text)):
        assert "".join(text for part, text in pieces if part == kind) == whole
    assert Result.from_dict(result.to_dict()).to_dict() == result.to_dict()
    assert structured.run("What is 2+2?").to_dict() | {"seconds": 0} == result.to_dict() | {"seconds": 0}


def test_models_read_the_conversation_the_reasoning_and_the_schema() -> None:
    inner = decoder()
    conversation = [("system", "Be brief."), ("tools", "[]"), ("user", "What is 2+2?")]
    StructuredDecoder(inner, SCHEMA, name="sum").run(conversation)
    system, user, said, asked = seen(inner).prompt
    assert (system.content, user.content) == ("Be brief.", "What is 2+2?")
    assert (said.role, said.content) == ("assistant", "2+2=4.\n\nSo it is 4.")
    assert asked.role == "user"
    assert json.loads(asked.content.partition("\n")[2]) == SCHEMA
    form = {"name": "sum", "schema": SCHEMA, "strict": True}
    assert isinstance(inner.drafter, Drafter)
    assert inner.drafter.asked == {"response_format": {"type": "json_schema", "json_schema": form}}
    begun = decoder()
    StructuredDecoder(begun, SCHEMA).run([("user", "What is 2+2?"), ("assistant", "Well, ")])
    assert [message.content for message in seen(begun).prompt[:2]] == ["What is 2+2?", "Well, 2+2=4.\n\nSo it is 4."]


def test_the_policy_decides_who_writes_the_json() -> None:
    rejected = StructuredDecoder(decoder(0.9, 0.9, 0.1), SCHEMA).run("?")
    assert [step.author for step in rejected.steps] == ["draft", "draft", "target"]
    assert rejected.steps[-1].discarded_draft == '{"n": 4}'
    failing = decoder(0.9)
    failing.drafter.json = RuntimeError("no grammar")  # type: ignore[attr-defined]
    got_over = StructuredDecoder(failing, SCHEMA).run("?")
    assert [step.author for step in got_over.steps] == ["draft", "draft", "target"]
    assert [one.kind for one in got_over.degradations] == ["drafter_error"]
    spent = StructuredDecoder(decoder(0.9, 0.9, 0.1, settings=Settings(limits=Limits(max_target_calls=0))), SCHEMA).run(
        "?"
    )
    assert spent.text == '{"n": 4}'
    assert [one.kind for one in spent.degradations] == ["target_limit"]


def test_models_that_think_do_not_think_again() -> None:
    for opening in ("", "<think>\n"):
        thinking = Thinking(THINK, opening)
        steps = [f"{'' if opening else '<think>' + chr(10)}2+2=4.\n\n", "Sure.\n</think>\n\n", "It is 4."]
        inner = decoder(draft=steps, target=steps, thinking=thinking)
        result = StructuredDecoder(inner, SCHEMA).run("?")
        assert result.thought == "2+2=4.\n\nSure.\n\nIt is 4."
        assert result.text == '{"n": 4}'
        assert result.raw_text == opening + "".join(steps) + '{"n": 4}'
        path = seen(inner)
        assert path.opening == "<think>\n\n</think>\n\n"
        assert (path.prompt[1].content, path.prompt[1].extra) == ("It is 4.", {"reasoning_content": "2+2=4.\n\nSure."})
    cut = decoder(
        draft=["<think>\n2+2=4.\n\n"] * 9, thinking=Thinking(THINK), settings=Settings(limits=Limits(max_steps=3))
    )
    result = StructuredDecoder(cut, SCHEMA).run("?")
    assert result.text == '{"n": 4}'
    assert seen(cut).prompt[1].content.startswith("2+2=4.")  # templates drop thoughts of earlier turns


def test_limits_are_of_both_and_leave_room() -> None:
    longer = [f"{i} and {i} is {2 * i}.\n\n" for i in range(100)]
    for most in (20, 50, 3000):
        inner = decoder(draft=longer * 20, settings=Settings(limits=Limits(max_tokens=most)))
        result = StructuredDecoder(inner, SCHEMA).run("?")
        assert (result.text, result.finish_reason) == ('{"n": 4}', "stop")
        assert sum(step.size for step in result.steps) <= most
        assert most - min(1024, most // 2) - 6 <= sum(step.size for step in result.steps[:-1]) or most == 3000
        if most != 3000:
            assert [one.kind for one in result.degradations] == ["thought_limit"]
    tight = StructuredDecoder(decoder(draft=longer, settings=Settings(limits=Limits(max_tokens=1))), SCHEMA).run("?")
    assert (tight.text, tight.finish_reason) == ("", "max_tokens")
    assert [one.kind for one in tight.degradations] == ["no_answer"]


def test_the_deadline_is_of_both() -> None:
    slow = decoder(settings=Settings(limits=Limits(max_seconds=0.3)))
    slow.drafter.delay = 0.2  # type: ignore[attr-defined]
    result = StructuredDecoder(slow, SCHEMA).run("?")
    assert (result.text, result.thought, result.finish_reason) == ("", "2+2=4.\n\n", "max_seconds")
    assert [one.kind for one in result.degradations] == ["no_answer"]


def test_a_limit_on_the_targets_flops_is_never_exceeded() -> None:
    for most in range(2, 200, 6):
        inner = decoder(0.1, settings=Settings(limits=Limits(max_target_flops=most)))
        result = StructuredDecoder(inner, SCHEMA).run("?")
        assert (result.ledger.target.flops or 0) <= most


def test_stop_strings_cut_no_json() -> None:
    result = StructuredDecoder(decoder(), SCHEMA).run("?", stop=['"n"', "So"])
    assert (result.text, result.thought) == ('{"n": 4}', "2+2=4.\n\nSo it is 4.")


@pytest.mark.parametrize("wrong", ["It is 4.", '{"n": 4', "[4]", '{"m": 4}', "NaN and more"])
def test_a_server_that_ignores_the_schema_is_an_error_that_keeps_everything(wrong: str) -> None:
    inner = decoder()
    inner.drafter.json = wrong  # type: ignore[attr-defined]
    with pytest.raises(RunError, match=r"wrote .* instead of JSON: .*Its server ignores schemas") as caught:
        StructuredDecoder(inner, SCHEMA).run("?")
    partial = caught.value.partial
    assert partial is not None
    assert (partial.thought, partial.text) == ("2+2=4.\n\nSo it is 4.", wrong)


def test_a_fault_in_the_reasoning_keeps_it_as_thought() -> None:
    inner = decoder(0.1, target=["2+2=4.\n\n", RuntimeError("gone")])
    with pytest.raises(RunError, match="gone") as caught:
        StructuredDecoder(inner, SCHEMA).run("?")
    assert caught.value.partial is not None
    assert (caught.value.partial.thought, caught.value.partial.text) == ("2+2=4.\n\n", "")


def test_other_decoders_reason_and_one_of_their_models_writes() -> None:
    sums = [r"2+2=4, \boxed{4}.", r"2+2=5, \boxed{5}."]
    voters = Drafter(lambda _path, chance: chance.choice(sums))
    vote = MajorityVote(drafter=voters, n=9, settings=Settings(temperature=1.0))
    result = StructuredDecoder(vote, SCHEMA).run("?", seed=3)
    assert result.thought == vote.run("?", seed=3).text
    assert result.text == '{"n": 4}'
    for one, author in ((DraftOnly(drafter=Drafter(STEPS)), "draft"), (TargetOnly(target=Target(STEPS)), "target")):
        assert [step.author for step in StructuredDecoder(one, SCHEMA).run("?").steps] == [author] * 3


def test_a_batch_is_what_each_is_alone() -> None:
    structured = StructuredDecoder(decoder(0.9, 0.1, 0.9), SCHEMA).with_settings(Settings(seed=7))
    prompts = ["What is 2+2?", "And 3+1?", "And 5-1?"]
    together = structured.run_many(prompts)
    assert [result.text for result in together] == ['{"n": 4}'] * 3
    for prompt, result in zip(prompts, together, strict=True):
        alone = structured.run(prompt)
        assert [step.text for step in alone.steps] == [step.text for step in result.steps]
    broken = decoder()
    broken.drafter.json = "no"  # type: ignore[attr-defined]
    with pytest.raises(BatchError):
        StructuredDecoder(broken, SCHEMA).run_many(prompts)


def test_what_cannot_work_is_refused_before_anything_is_asked() -> None:
    plain = RewardGuidedDecoder(drafter=ScriptedDrafter(STEPS), verifier=ScriptedVerifier([1.0]), target=Target(STEPS))
    with pytest.raises(ConfigurationError, match="does not accept response_format in a single request"):
        StructuredDecoder(plain, SCHEMA)
    with pytest.raises(ConfigurationError, match=r"ask must contain \{schema\}"):
        StructuredDecoder(decoder(), SCHEMA, ask="JSON, please")
    with pytest.raises(ConfigurationError, match="schema must be an object"):
        StructuredDecoder(decoder(), [])  # type: ignore[arg-type]


def test_work_begun_early_changes_nothing() -> None:
    plain = StructuredDecoder(decoder(0.9, 0.1, 0.1), SCHEMA).run("?")
    for early in (Settings(lookahead=2), Settings(hedge=0.3), Settings(lookahead=1, hedge=0.3)):
        result = StructuredDecoder(decoder(0.9, 0.1, 0.1, settings=early), SCHEMA).run("?")
        assert [(step.text, step.author) for step in result.steps] == [(step.text, step.author) for step in plain.steps]
