"""Limits, faults and cancellation: the text so far is kept, and the result says what happened."""

import asyncio
import math
import random
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from rsd_core import (
    BatchError,
    Cancellation,
    ConfigurationError,
    Degraded,
    DrafterError,
    DraftOnly,
    Interrupted,
    Limits,
    Path,
    Price,
    PromptError,
    RewardGuidedDecoder,
    RunError,
    Settings,
    Step,
    StepFinished,
    TargetError,
    TargetOnly,
    Usage,
    VerifierError,
    WeightingPolicy,
)
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier


def endless(path: Path, rng: random.Random) -> str:
    return f"step {path.depth}\n\n"


def decoder(limits: Limits | None = None, reward: float = 0.9) -> RewardGuidedDecoder:
    return RewardGuidedDecoder(
        drafter=ScriptedDrafter(endless),
        verifier=ScriptedVerifier([reward]),
        target=ScriptedTarget(endless),
        settings=Settings(limits=limits or Limits()),
    )


@pytest.mark.parametrize(
    ("limits", "reason", "steps"),
    [
        (Limits(max_steps=3), "max_steps", 3),
        (Limits(max_tokens=10), "max_tokens", 5),
        (Limits(max_flops=100), "max_flops", 6),
    ],
)
def test_a_limit_ends_the_answer_and_keeps_it(limits: Limits, reason: str, steps: int) -> None:
    result = decoder(limits).run("question")
    assert result.finish_reason == reason
    assert len(result.steps) == steps
    assert result.text == "".join(f"step {i}\n\n" for i in range(steps))
    told = [event.record for event in decoder(limits).stream("question") if isinstance(event, StepFinished)]
    assert told == list(result.steps)  # the step that reached the limit is told like any other


def test_a_limit_on_money() -> None:
    made = decoder(Limits(max_cost=1.0))
    for model in made.models:
        model.price = Price(prompt=1e4, generated=1e5)
    result = made.run("question")
    assert result.finish_reason == "max_cost"
    assert result.ledger.total.cost is not None
    assert 1.0 <= result.ledger.total.cost < 1.5


def test_a_limit_on_time_cuts_a_call_short() -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(endless, delay=0.03),
        verifier=ScriptedVerifier([0.9], delay=30),
        target=ScriptedTarget(endless),
        settings=Settings(limits=Limits(max_seconds=0.2)),
    )
    started = time.monotonic()
    result = made.run("question")
    assert time.monotonic() - started < 5
    assert (result.finish_reason, result.text) == ("max_seconds", "")


def test_a_step_is_capped() -> None:
    made = DraftOnly(
        drafter=ScriptedDrafter(["w " * 50]), settings=Settings(max_step_tokens=7, limits=Limits(max_steps=2))
    )
    result = made.run("question")
    assert [step.size for step in result.steps] == [7, 7]


@pytest.mark.parametrize("limits", [Limits(max_target_calls=2, max_steps=6), Limits(max_target_tokens=4, max_steps=6)])
def test_without_its_target_rsd_keeps_the_drafts_and_says_so(limits: Limits) -> None:
    result = decoder(limits, reward=0.1).run("question")
    assert [step.author for step in result.steps] == ["target"] * 2 + ["draft"] * 4
    assert result.ledger.target.calls == 2
    assert [item.kind for item in result.degradations] == ["target_limit"] * 4
    assert [item.step for item in result.degradations] == [2, 3, 4, 5]


def test_a_target_limit_ends_an_answer_that_has_no_draft() -> None:
    made = TargetOnly(target=ScriptedTarget(endless), settings=Settings(limits=Limits(max_target_calls=2)))
    result = made.run("question")
    assert (result.finish_reason, len(result.steps)) == ("max_target_calls", 2)


def test_repetition_ends_the_answer() -> None:
    made = DraftOnly(drafter=ScriptedDrafter(["again and again\n\n"]))
    result = made.run("question")
    assert (result.finish_reason, len(result.steps)) == ("repetition", 4)


@pytest.mark.parametrize("blank", ["", "\n\n"])
def test_blank_steps_end_the_answer(blank: str) -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["first\n\n", blank]),
        verifier=ScriptedVerifier([0.9]),
        target=ScriptedTarget([blank + "\n\n"]),
    )
    result = made.run("question")
    assert result.finish_reason == "empty_step"
    assert result.text.strip() == "first"


def broken_verifier(kind: str) -> ScriptedVerifier:
    entries: dict[str, float | Exception] = {
        "raises": RuntimeError("no server"),
        "nan": math.nan,
        "too large": 1.5,
        "negative": -0.1,
    }
    return ScriptedVerifier([entries[kind]])


@pytest.mark.parametrize("kind", ["raises", "nan", "too large", "negative"])
@pytest.mark.parametrize("rule", ["target", "accept", "raise"])
def test_a_broken_verifier(kind: str, rule: str) -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["draft\n\n", "draft end"]),
        verifier=broken_verifier(kind),
        target=ScriptedTarget(["target\n\n", "target end"]),
        settings=Settings.model_validate({"on_verifier_error": rule}),
    )
    if rule == "raise":
        with pytest.raises(VerifierError) as caught:
            made.run("question")
        assert caught.value.partial is not None
        assert caught.value.partial.finish_reason == "error"
        return
    result = made.run("question")
    assert result.text == {"target": "target\n\ntarget end", "accept": "draft\n\ndraft end"}[rule]
    assert [item.kind for item in result.degradations] == ["verifier_error"] * 2
    assert all(step.reward is None for step in result.steps)


def test_a_verifier_that_fails_late_keeps_what_was_written() -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["fine\n\n", "lost"]),
        verifier=ScriptedVerifier([0.9, RuntimeError("gone")]),
        target=ScriptedTarget(endless),
        settings=Settings(on_verifier_error="raise"),
    )
    with pytest.raises(VerifierError, match="gone") as caught:
        made.run("question")
    assert caught.value.partial is not None
    assert caught.value.partial.text == "fine\n\n"
    assert caught.value.partial.ledger.drafter.calls == 2


def test_a_broken_drafter_leaves_it_to_the_target() -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter([RuntimeError("out of memory")]),
        verifier=ScriptedVerifier([0.9]),
        target=ScriptedTarget(["target\n\n", "target end"]),
    )
    events = list(made.stream("question"))
    assert [event.degradation.kind for event in events if isinstance(event, Degraded)] == ["drafter_error"] * 2
    result = made.run("question")
    assert result.text == "target\n\ntarget end"
    assert "out of memory" in result.degradations[0].message


def test_a_broken_drafter_alone_is_an_error() -> None:
    made = DraftOnly(drafter=ScriptedDrafter(["fine\n\n", RuntimeError("gone")]))
    with pytest.raises(DrafterError, match="gone") as caught:
        made.run("question")
    assert caught.value.partial is not None
    assert caught.value.partial.text == "fine\n\n"


def test_a_target_that_fails_once_is_asked_again() -> None:
    tries: Iterator[str | Exception] = iter([RuntimeError("busy"), "target end"])
    made = TargetOnly(target=ScriptedTarget(lambda path, rng: next(tries)))
    result = made.run("question")
    assert result.text == "target end"
    assert [item.kind for item in result.degradations] == ["target_error"]


def test_a_target_that_fails_for_good_raises_with_the_text_so_far() -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(endless),
        verifier=ScriptedVerifier([0.9, 0.9, 0.1]),
        target=ScriptedTarget([RuntimeError("gone")]),
        settings=Settings(target_retries=1),
    )
    with pytest.raises(TargetError, match="failed 2 times at step 2: gone") as caught:
        made.run("question")
    partial = caught.value.partial
    assert partial is not None
    assert (partial.text, partial.finish_reason) == ("step 0\n\nstep 1\n\n", "error")


class LastingError(Exception):
    is_retryable = False


class PassingError(Exception):
    is_retryable = True


@pytest.mark.parametrize(
    ("error", "tries"),
    [(TypeError("no such argument"), 1), (LastingError("401"), 1), (PassingError("429"), 3), (ValueError("odd"), 3)],
    ids=repr,
)
def test_an_error_that_cannot_pass_is_not_retried(error: Exception, tries: int) -> None:
    asked: list[Path] = []

    def target(path: Path, rng: random.Random) -> str | Exception:
        asked.append(path)
        return error

    made = TargetOnly(target=ScriptedTarget(target), settings=Settings(target_retries=2))
    with pytest.raises(TargetError, match="failed once" if tries == 1 else "failed 3 times"):
        made.run("question")
    assert len(asked) == tries


@pytest.mark.parametrize(("error", "tries"), [(LastingError("401"), 1), (PassingError("429"), 3)], ids=repr)
def test_a_drafter_whose_error_cannot_pass_is_asked_once_for_an_answer(error: Exception, tries: int) -> None:
    asked: list[Path] = []

    def drafter(path: Path, rng: random.Random) -> str | Exception:
        asked.append(path)
        return error

    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(drafter),
        verifier=ScriptedVerifier([0.9]),
        target=ScriptedTarget(["one\n\n", "two\n\n", "end"]),
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        results = [made.run("question"), made.run("question")]
    assert [result.text for result in results] == ["one\n\ntwo\n\nend"] * 2
    assert len(asked) == 2 * tries
    assert [len(result.degradations) for result in results] == [tries, tries]
    wanted = ["the drafter has failed at its first call: 401; the target writes every step"] if tries == 1 else []
    assert [str(warning.message) for warning in told] == wanted


def test_a_batch_loses_nothing() -> None:
    def target(path: Path, rng: random.Random) -> str | Exception:
        return RuntimeError("gone") if path.prompt[0].content == "bad" else "fine"

    made = TargetOnly(target=ScriptedTarget(target))
    with pytest.raises(BatchError, match="1 of 3") as caught:
        made.run_many(["good", "bad", "good too"])
    assert [result.finish_reason for result in caught.value.results] == ["stop", "error", "stop"]
    assert [result.text for result in caught.value.results] == ["fine", "", "fine"]
    assert isinstance(caught.value.errors[1], TargetError)


def test_configuration_faults_are_not_mistaken_for_model_faults() -> None:
    made = DraftOnly(drafter=ScriptedDrafter([ConfigurationError("the prompt is too long")]))
    with pytest.raises(ConfigurationError, match="too long"):
        made.run("question")


def test_mistakes_of_the_user_are_not_retried() -> None:
    """A target may be asked for the first time after accepted drafts."""
    target = ScriptedTarget([ConfigurationError("the key is wrong")] * 3)
    verifier = ScriptedVerifier([0.9, 0.1])
    drafter, settings = ScriptedDrafter(["a\n\n", "b\n\n"]), Settings(reuse_rejected=False)
    made = RewardGuidedDecoder(drafter=drafter, verifier=verifier, target=target, settings=settings)
    with pytest.raises(TargetError, match="failed once at step 1: the key is wrong") as caught:
        made.run("question")
    assert caught.value.partial is not None
    assert caught.value.partial.text == "a\n\n"


def test_cancelling_from_another_thread_in_mid_step_keeps_the_text() -> None:
    cancel = Cancellation()

    def reward(path: Path, step: Step) -> float:
        return 0.9

    class Slow(ScriptedVerifier):
        async def score(self, path, steps):  # type: ignore[no-untyped-def]
            if path.depth == 2:
                threading.Timer(0.05, cancel.cancel).start()
                await asyncio.sleep(30)
            return await super().score(path, steps)

    made = RewardGuidedDecoder(drafter=ScriptedDrafter(endless), verifier=Slow(reward), target=ScriptedTarget(endless))
    started = time.monotonic()
    result = made.run("question", cancel=cancel)
    assert time.monotonic() - started < 5
    assert (result.finish_reason, result.text) == ("cancelled", "step 0\n\nstep 1\n\n")
    assert made.run("question", cancel=cancel).text == ""  # a pressed button stays pressed


def test_a_button_pressed_after_the_end_reaches_no_loop_that_is_gone() -> None:
    cancel, made = Cancellation(), DraftOnly(drafter=ScriptedDrafter(["done"]))
    assert asyncio.run(made.arun("question", cancel=cancel)).text == "done"  # with a loop that is closed by now
    cancel.cancel()
    assert cancel.cancelled


def test_a_cancelled_task_stops_its_models() -> None:
    running = asyncio.Event()
    ended: list[bool] = []

    class Slow(ScriptedDrafter):
        async def generate(self, path, request):  # type: ignore[no-untyped-def]
            running.set()
            try:
                await asyncio.sleep(30)
            finally:
                ended.append(True)

    async def go() -> None:
        task = asyncio.create_task(DraftOnly(drafter=Slow(["x"])).arun("question"))
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(go())
    assert ended == [True]


class Telling(ScriptedDrafter):
    """Never ends, and tells what it had done when it is cut short."""

    async def generate(self, path, request):  # type: ignore[no-untyped-def]
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            raise Interrupted(Usage(computed=17, generated=5)) from None


def test_a_callers_timeout_is_a_timeout() -> None:
    """Whatever a model tells when it is cancelled: asyncio takes a plain cancellation alone for its own."""

    async def go() -> None:
        async with asyncio.timeout(0.05):
            await DraftOnly(drafter=Telling(["x"])).arun("question")

    with pytest.raises(TimeoutError):
        asyncio.run(go())


def test_a_call_cut_short_is_charged_where_its_model_can_tell() -> None:
    made = DraftOnly(drafter=Telling(["x"]), settings=Settings(limits=Limits(max_seconds=0.05)))
    result = made.run("question")
    assert (result.finish_reason, result.ledger.drafter.computed) == ("max_seconds", 17)


def test_a_limit_that_could_not_be_kept_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="price of every model involved"):
        decoder(Limits(max_cost=1.0)).run("question")


def test_a_smaller_context_of_the_target_loses_no_text() -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(endless),
        verifier=ScriptedVerifier([0.9, 0.1]),
        target=ScriptedTarget([PromptError("the prompt has 9 tokens, the context is 8")]),
    )
    with pytest.raises(TargetError, match="the context is 8") as caught:
        made.run("question")
    assert caught.value.partial is not None
    assert caught.value.partial.text == "step 0\n\n"


@pytest.mark.parametrize("weight", [math.nan, 2.0, RuntimeError("broken")])
def test_a_broken_policy_fails_its_request_with_the_text_so_far(weight: float | Exception) -> None:
    class Broken(WeightingPolicy):
        def weight(self, reward: float) -> float:
            if reward > 0.8:
                return 1.0
            if isinstance(weight, Exception):
                raise weight
            return weight

    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(endless),
        verifier=ScriptedVerifier([0.9, 0.1]),
        target=ScriptedTarget(endless),
        policy=Broken(),
    )
    with pytest.raises(RunError) as caught:
        made.run("question")
    assert caught.value.partial is not None
    assert caught.value.partial.text == "step 0\n\n"


@pytest.mark.parametrize("options", [{"temperature": 0.5}, {"sed": 3}])
def test_an_unknown_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="seed, repeat, cancel, stop"):
        decoder().run("question", **options)


def test_run_many_takes_a_list() -> None:
    with pytest.raises(ConfigurationError, match="list of prompts"):
        decoder().run_many("question")
    with pytest.raises(ConfigurationError, match="concurrency"):
        decoder().run_many(["question"], concurrency=0)


def test_a_cancellation_reaches_all_requests_though_one_was_abandoned_with_its_loop() -> None:
    button = Cancellation()
    loop = asyncio.new_event_loop()
    abandoned = decoder().astream("question", cancel=button)
    loop.run_until_complete(anext(abandoned))
    loop.close()
    threading.Timer(0.05, button.cancel).start()
    slow = DraftOnly(drafter=ScriptedDrafter(endless, delay=20))
    started = time.monotonic()
    assert slow.run("question", cancel=button).finish_reason == "cancelled"
    assert time.monotonic() - started < 15

    async def close() -> None:
        await abandoned.aclose()

    asyncio.run(close())
