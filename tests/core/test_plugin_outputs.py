"""The output of a plugin is checked before it becomes part of an answer, and errors name the plugin."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rsd_core import (
    Drafter,
    DraftOnly,
    Generation,
    Likelihoods,
    Path,
    RewardGuidedDecoder,
    RunError,
    Scores,
    Settings,
    Speculation,
    SpeculativeDecoding,
    Step,
    StepRequest,
    Target,
    TargetError,
    TargetOnly,
    TiltedDecoder,
    Usage,
    Verifier,
    VerifierError,
    WeightingPolicy,
)
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier

FINE = Step("fine\n\n", "delimiter", size=2)


class Odd(Drafter, Target):
    """Writes one fine step and then what it was given."""

    name = "odd"

    def __init__(self, reply: Any) -> None:
        self.reply = reply

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        if not path.depth:
            return Generation((FINE,), Usage(prefix=1, computed=3, generated=2))
        reply: Generation = self.reply
        return reply

    async def log_likelihoods(self, path: Path, steps: Sequence[Step]) -> Likelihoods:
        reply: Likelihoods = self.reply
        return reply

    def checked_speculation(self, speculation: Speculation) -> Speculation:
        return speculation


WORK = Usage(prefix=1, computed=5, generated=4)


def one(step: Any, usage: Any = WORK) -> Generation:
    return Generation((step,), usage)


def work(**changes: Any) -> Usage:
    return dataclasses.replace(WORK, **changes)


END = Step("end", "end", size=2)
STEPS: dict[str, tuple[Any, str]] = {
    "unknown ending": (one(Step("x", "finished", size=1)), "'finished' of a step is not one of delimiter, end, length"),  # type: ignore[arg-type]
    "no ending": (one(Step("x", None, size=1)), "ending None of a step"),  # type: ignore[arg-type]
    "no delimiter": (
        one(Step("x\n", "delimiter", size=1)),
        r"claims to end with '\\n\\n' but does not contain it: 'x\\n'",
    ),
    "negative size": (one(Step("x", "end", size=-1)), "size of a step is -1"),
    "size of none": (one(Step("x", "end", size=None)), "size of a step is None"),  # type: ignore[arg-type]
    "size in parts": (one(Step("x", "end", size=math.nan)), "size of a step is nan"),  # type: ignore[arg-type]
    "bytes": (one(Step(b"x", "end", size=1)), "text of a step is bytes, not str"),  # type: ignore[arg-type]
    "no text": (one(Step(None, "end", size=1)), "text of a step is NoneType"),  # type: ignore[arg-type]
    "no step": (one("x"), "returned 'x' instead of a Step"),
    "two steps": (Generation((END, END), Usage()), "returned 2 steps instead of 1"),
    "no steps": (Generation((), Usage()), "returned 0 steps instead of 1"),
    "no generation": ("text", "returned 'text' instead of a Generation"),
    "nothing": (None, "returned None instead of a Generation"),
    "no usage": (one(END, None), "an impossible usage: None"),
    **{
        f"usage {name} {value}": (one(END, work(**{name: value})), "reports an impossible usage")
        for name in ("prefix", "computed", "reused", "generated", "scored", "seconds")
        for value in (-1, math.nan, None, math.inf)
    },
}
odd = pytest.mark.parametrize(("reply", "words"), STEPS.values(), ids=STEPS)


@odd
def test_a_drafters_odd_step_is_a_fault_of_the_drafter(reply: Any, words: str) -> None:
    made = RewardGuidedDecoder(
        drafter=Odd(reply), verifier=ScriptedVerifier([0.9]), target=ScriptedTarget(["", "by the target"])
    )
    result = made.run("question")
    assert result.text == "fine\n\nby the target"
    (fault,) = result.degradations
    assert (fault.step, fault.kind) == (1, "drafter_error")
    assert "<Odd 'odd'>" in fault.message
    assert re.search(words, fault.message)
    account = result.ledger.drafter
    assert (account.calls, account.failed) == (2, 1)
    assert math.isfinite(account.seconds + account.computed)


@odd
def test_a_targets_odd_step_fails_the_request_with_the_text_so_far(reply: Any, words: str) -> None:
    made = TargetOnly(target=Odd(reply), settings=Settings(target_retries=1))
    with pytest.raises(TargetError, match=words) as caught:
        made.run("question")
    assert "<Odd 'odd'>" in str(caught.value)
    partial = caught.value.partial
    assert partial is not None
    assert (partial.text, partial.ledger.target.failed) == ("fine\n\n", 2)


@pytest.mark.parametrize("name", ["unknown ending", "two steps", "nothing", "usage computed -1"])
def test_an_odd_step_of_speculation_is_reported_as_the_targets(name: str) -> None:
    reply, words = STEPS[name]
    with pytest.raises(RunError, match=words) as caught:
        SpeculativeDecoding(drafter=ScriptedDrafter(["x"]), target=Odd(reply)).run("question")
    assert "<Odd 'odd'>" in str(caught.value)


def test_the_assistant_of_an_odd_speculation_is_paid() -> None:
    class Assisted(Odd):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            parts: Any = ((self, WORK),)
            if request.speculation is not None:
                parts += ((request.speculation.drafter, Usage(prefix=1, computed=7)),)
            return one(Step("x", "finished", size=1), dataclasses.replace(WORK, parts=parts))  # type: ignore[arg-type]

    with pytest.raises(RunError, match="'finished'") as caught:
        SpeculativeDecoding(drafter=ScriptedDrafter(["x"]), target=Assisted(None)).run("question")
    assert caught.value.partial is not None
    ledger = caught.value.partial.ledger
    assert (ledger.drafter.computed, ledger.target.computed) == (7, 5 * 3)  # twice more without


def test_an_odd_step_was_paid_all_the_same() -> None:
    with pytest.raises(RunError) as caught:
        DraftOnly(drafter=Odd(one(Step("x", "finished", size=1)))).run("question")  # type: ignore[arg-type]
    assert caught.value.partial is not None
    assert caught.value.partial.ledger.drafter.generated == 2 + 4


class Rates(Verifier):
    name = "rates"

    def __init__(self, *rewards: Any, usage: Any = WORK) -> None:
        self.rewards, self.usage = rewards, usage

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        return Scores(self.rewards, self.usage)


REWARDS: dict[str, tuple[Verifier, str]] = {
    "text": (Rates("0.5"), r"the reward '0.5' is not a number in \[0, 1\]"),
    "bytes": (Rates(b"0.5"), "the reward b'0.5' is not a number"),
    "nan": (Rates(math.nan), "the reward nan is not a number"),
    "two": (Rates(2), "the reward 2.0 is not a number"),
    "below": (Rates(-0.01), "the reward -0.01 is not a number"),
    "list": (Rates([0.5]), r"the reward \[0.5\] is not a number"),
    "array": (Rates(np.array([0.1, 0.2])), "the reward array"),
    "numpy nan": (Rates(np.float32("nan")), "the reward nan is not a number"),
    "none": (Rates(), "returned 0 rewards for 1 steps"),
    "many": (Rates(0.1, 0.2), "returned 2 rewards for 1 steps"),
    "usage": (Rates(0.5, usage=Usage(scored=-1)), "an impossible usage"),
    "no usage": (Rates(0.5, usage=None), "an impossible usage: None"),
}


@pytest.mark.parametrize(("verifier", "words"), REWARDS.values(), ids=REWARDS)
@pytest.mark.parametrize("rule", ["target", "accept", "raise"])
def test_an_invalid_reward_is_a_fault_of_the_verifier(verifier: Verifier, words: str, rule: str) -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["draft"]),
        verifier=verifier,
        target=ScriptedTarget(["target"]),
        settings=Settings.model_validate({"on_verifier_error": rule}),
    )
    if rule == "raise":
        with pytest.raises(VerifierError, match=words) as caught:
            made.run("question")
        assert "<Rates 'rates'>" in str(caught.value)
        return
    result = made.run("question")
    assert result.text == {"target": "target", "accept": "draft"}[rule]
    assert re.search(words, result.degradations[0].message)


@pytest.mark.parametrize("reward", [np.float32(0.75), np.float64(0.75), np.array(0.75), 0.75])
def test_numbers_of_other_libraries_are_rewards(reward: Any) -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["draft"]), verifier=Rates(reward), target=ScriptedTarget(["target"])
    )
    (step,) = made.run("question").steps
    assert (step.author, step.reward, type(step.reward)) == ("draft", 0.75, float)


@pytest.mark.parametrize(("reward", "value"), [(1, 1.0), (0, 0.0), (True, 1.0), (np.int64(1), 1.0)])
def test_whole_numbers_are_rewards(reward: Any, value: float) -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["draft"]), verifier=Rates(reward), target=ScriptedTarget(["target"])
    )
    (step,) = made.run("question").steps
    assert (step.reward, type(step.reward)) == (value, float)


class Says(WeightingPolicy):
    decision: Any = "accept"
    author: Any = "draft"

    def weight(self, reward: float) -> float:
        return 1.0

    def decide(self, step: Step, reward: float, request: Any) -> Any:
        return self.decision if request.index else "accept"

    def route(self, request: Any) -> Any:
        return self.author if request.index else "draft"


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (
            Says(decision="yes"),
            r"decide\(\) of the policy Says\(.*\) returned 'yes', not one of: accept, retry, target",
        ),
        (Says(decision=True), r"decide\(\) of the policy Says\(.*\) returned True"),
        (Says(decision=None), r"decide\(\) of the policy Says\(.*\) returned None"),
        (Says(author="drafter"), r"route\(\) of the policy Says\(.*\) returned 'drafter', not one of: draft, target"),
    ],
)
def test_an_unknown_decision_of_a_policy_fails_the_request(policy: Says, words: str) -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["one\n\n", "two"]),
        verifier=ScriptedVerifier([0.9]),
        target=ScriptedTarget(["target"]),
        policy=policy,
    )
    with pytest.raises(RunError, match=words) as caught:
        made.run("question")
    assert caught.value.partial is not None
    assert caught.value.partial.text == "one\n\n"


@pytest.mark.parametrize("values", [(), (0.5,), (-1.0, -1.0), (math.nan,)])
def test_invalid_likelihoods_are_reported(values: tuple[float, ...]) -> None:
    class Likely(Odd):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            return one(END)

    made = TiltedDecoder(
        drafter=Likely(None), verifier=ScriptedVerifier([0.9]), target=Likely(Likelihoods(values, Usage()))
    )
    result = made.run("question")
    assert result.text == "end"  # by the target, as after any fault
    assert ["<Likely 'odd'> returned log-likelihoods" in one.message for one in result.degradations] == [True]


def test_a_step_may_go_on_after_its_delimiter() -> None:
    """Further newlines in the same token belong to the step."""

    class Newlines(Odd):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            return one(END if path.depth else Step("one\n\n\n", "delimiter", size=1))

    assert DraftOnly(drafter=Newlines(None)).run("question").text == "one\n\n\nend"
