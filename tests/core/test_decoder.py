"""The algorithm on scripted models: accepted and replaced steps, events, and costs."""

import asyncio
import random
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsd_core import (
    BinaryStep,
    Clipping,
    ConfigurationError,
    Constant,
    DraftOnly,
    Finished,
    Path,
    PromptError,
    RewardGuidedDecoder,
    RunError,
    Settings,
    Sigmoid,
    Step,
    StepAccepted,
    StepDrafted,
    StepRejected,
    StepReplaced,
    StepScored,
    TargetOnly,
    as_prompt,
    parse_policy,
)
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from tests.core.worlds import DRAFT, TARGET, Dice, Table

DRAFTS = ["one\n\n", "two\n\n", "three"]
TARGETS = ["ONE\n\n", "TWO\n\n", "THREE"]


def decoder(rewards: list[float], **options: object) -> RewardGuidedDecoder:
    return RewardGuidedDecoder(
        drafter=ScriptedDrafter(DRAFTS),
        verifier=ScriptedVerifier(rewards),
        target=ScriptedTarget(TARGETS),
        **options,  # type: ignore[arg-type]
    )


def test_good_drafts_stay_and_bad_ones_are_replaced() -> None:
    result = decoder([0.9, 0.2, 0.7]).run("question")
    assert result.text == "one\n\nTWO\n\nthree"
    assert [step.author for step in result.steps] == ["draft", "target", "draft"]
    assert [step.reward for step in result.steps] == [0.9, 0.2, 0.7]
    assert [step.discarded_draft for step in result.steps] == [None, "two\n\n", None]
    assert result.finish_reason == "stop"
    assert result.target_share == pytest.approx(1 / 3)
    assert result.acceptance_rate == pytest.approx(2 / 3)


def test_events_tell_the_story_in_order() -> None:
    events = list(decoder([0.9, 0.2, 0.7]).stream("question"))
    kinds = [type(event) for event in events]
    accepted, replaced = [StepDrafted, StepScored, StepAccepted], [StepDrafted, StepScored, StepRejected, StepReplaced]
    assert kinds == [*accepted, *replaced, *accepted, Finished]
    assert [event.index for event in events] == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3]


def test_the_target_continues_the_same_prefix_and_never_sees_the_rejected_draft() -> None:
    made = decoder([0.9, 0.2, 0.7])
    made.run("question")
    target = made.target
    assert isinstance(target, ScriptedTarget)
    (path,) = target.calls
    assert path.text == "one\n\n"


def test_the_targets_end_ends_the_answer_and_a_rejected_end_does_not() -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["premature end", "draft end"]),
        verifier=ScriptedVerifier([0.0, 0.0]),
        target=ScriptedTarget(["goes on\n\n", "target end"]),
    )
    assert made.run("question").text == "goes on\n\ntarget end"


def test_a_blank_draft_is_not_scored_and_goes_to_the_target() -> None:
    verifier = ScriptedVerifier([1.0])
    made = RewardGuidedDecoder(drafter=ScriptedDrafter(["\n\n"]), verifier=verifier, target=ScriptedTarget(["the end"]))
    result = made.run("question")
    assert result.text == "the end"
    assert verifier.calls == []


def test_the_policy_decides_about_the_best_of_several_candidates() -> None:
    def draft(path: Path, rng: random.Random) -> str:
        return f"{rng.randrange(10**6)} end"

    def reward(path: Path, step: Step) -> float:
        return int(step.text.split()[0]) / 10**6

    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(draft),
        verifier=ScriptedVerifier(reward),
        target=ScriptedTarget(["target"]),
        policy=Constant(p=1),
        settings=Settings(candidates=8, temperature=1),
    )
    (drafted, scored, accepted, finished) = list(made.stream("question"))
    assert isinstance(drafted, StepDrafted)
    assert isinstance(scored, StepScored)
    assert isinstance(accepted, StepAccepted)
    assert len({step.text for step in drafted.candidates}) == 8
    assert accepted.record.reward == max(reward or 0 for reward in scored.rewards)
    assert isinstance(finished, Finished)
    ledger = finished.result.ledger
    assert (ledger.drafter.generated, ledger.drafter.discarded) == (24, 21)  # two words and an end each


def test_the_ledger_adds_up() -> None:
    ledger = decoder([0.9, 0.2, 0.7]).run("question").ledger
    assert (ledger.drafter.calls, ledger.verifier.calls, ledger.target.calls) == (3, 3, 1)
    assert (ledger.drafter.generated, ledger.drafter.discarded) == (4, 1)
    assert ledger.total.calls == 7
    assert ledger.total.computed == ledger.drafter.computed + ledger.verifier.computed + ledger.target.computed
    assert ledger.drafter.read + ledger.drafter.generated == ledger.drafter.computed + ledger.drafter.reused
    assert ledger.drafter.flops == 2.0 * ledger.drafter.computed
    assert ledger.drafter.flops_paper == 2.0 * ledger.drafter.generated
    assert ledger.total.cost is None  # nothing has a price
    assert ledger.target_only_flops == 2.0 * (1 + 4)
    assert "estimate" in str(ledger.target_only_basis)


def test_unknown_sizes_stay_unknown() -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(DRAFTS, flops_per_token=None),
        verifier=ScriptedVerifier([1.0]),
        target=ScriptedTarget(TARGETS, flops_per_token=None),
    )
    ledger = made.run("question").ledger
    assert ledger.total.flops is None
    assert ledger.target_only_flops is None
    assert ledger.target.flops == 0  # never called, so it cost nothing


def test_baselines_use_one_model() -> None:
    drafter, target = ScriptedDrafter(DRAFTS), ScriptedTarget(TARGETS)
    assert DraftOnly(drafter=drafter).run("question").text == "".join(DRAFTS)
    assert TargetOnly(target=target).run("question").text == "".join(TARGETS)
    assert decoder([0.5], policy=Constant(p=1)).run("question").text == "".join(DRAFTS)
    assert decoder([0.5], policy=Constant(p=0)).run("question").text == "".join(TARGETS)


def dice(policy: object) -> RewardGuidedDecoder:
    return RewardGuidedDecoder(
        drafter=Dice(DRAFT),
        verifier=Table(),
        target=Dice(TARGET),
        policy=policy,  # type: ignore[arg-type]
        settings=Settings(temperature=1),
    )


@settings(max_examples=25)
@given(
    policy=st.sampled_from([BinaryStep(), Clipping(), Sigmoid(), Constant(p=0.5)]),
    seed=st.integers(0, 2**63 - 1),
    size=st.sampled_from([1, 7, 64]),
    order=st.randoms(),
)
def test_a_result_does_not_depend_on_its_batch(policy: object, seed: int, size: int, order: random.Random) -> None:
    made = dice(policy)
    prompts = [f"question {i}" for i in range(size)]
    alone = {prompt: made.run(prompt, seed=seed) for prompt in prompts}
    shuffled = order.sample(prompts, size)
    together = dict(zip(shuffled, made.run_many(shuffled, seed=seed, concurrency=order.randint(1, 64)), strict=True))
    for prompt in prompts:
        assert together[prompt].text == alone[prompt].text
        assert together[prompt].steps == alone[prompt].steps


def test_the_same_prompt_twice_is_sampled_twice() -> None:
    made = dice(Clipping())
    results = made.run_many(["same"] * 20, seed=3)
    assert len({result.text for result in results}) > 5
    assert results[4].text == made.run("same", seed=3, repeat=4).text


def test_prompts_that_differ_in_fields_only_are_not_repeats() -> None:
    def prompt(thought: str) -> list[dict[str, str]]:
        earlier = {"role": "assistant", "content": "So.", "reasoning_content": thought}
        return [{"role": "user", "content": "one"}, earlier, {"role": "user", "content": "two"}]

    made = dice(Clipping())
    for seed in range(5):
        results = made.run_many([prompt("a"), prompt("b"), prompt("b")], seed=seed)
        assert results[1].text == made.run(prompt("b"), seed=seed).text
        assert results[2].text == made.run(prompt("b"), seed=seed, repeat=1).text


def test_equal_seeds_of_any_type_give_equal_results() -> None:
    made = dice(Clipping())
    for seed in range(9):
        equal: Any = np.int64(seed)
        assert made.run("q", seed=equal, repeat=True).steps == made.run("q", seed=seed, repeat=1).steps


def test_requests_do_not_wait_for_each_other() -> None:
    slow = ScriptedVerifier([1.0], delay=0.02)
    made = RewardGuidedDecoder(drafter=ScriptedDrafter(DRAFTS), verifier=slow, target=ScriptedTarget(TARGETS))
    results = made.run_many([f"q{i}" for i in range(50)])
    one_after_another = 50 * 3 * 0.02
    assert max(result.seconds for result in results) < one_after_another / 4


def test_blocking_methods_work_inside_a_running_loop_and_from_threads() -> None:
    made = decoder([0.9])

    async def inside() -> str:
        return made.run("question").text  # as in a notebook cell

    assert asyncio.run(inside()) == "one\n\ntwo\n\nthree"
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(made.run("question").text)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["one\n\ntwo\n\nthree"] * 8


def test_a_blocking_call_from_inside_a_request_is_refused_and_not_a_deadlock() -> None:
    inner = decoder([0.9])

    def draft(path: Path, rng: random.Random) -> str:
        return inner.run("inner").text

    outer = DraftOnly(drafter=ScriptedDrafter(draft))
    with pytest.raises(RunError, match="async twin"):
        outer.run("question")


def test_leaving_a_stream_early_closes_it() -> None:
    made = decoder([0.9])
    for event in made.stream("question"):
        if isinstance(event, StepAccepted):
            break
    assert made.run("question").finish_reason == "stop"


@pytest.mark.parametrize("prompt", ["", "  \n", [], [("user", " ")]])
def test_an_empty_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(PromptError, match="empty"):
        decoder([0.9]).run(prompt)
    with pytest.raises(PromptError, match="empty"):
        decoder([0.9]).run_many(["fine", prompt])


def test_prompts_come_in_many_shapes() -> None:
    expected = as_prompt([("system", "s"), ("user", "u")])
    assert as_prompt([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]) == expected
    for bad in (["text"], ["hi"], [{"role": "user"}], [("user", 3)], [("human", "hi")]):
        with pytest.raises(PromptError, match="not a message"):
            as_prompt(bad)  # type: ignore[arg-type]


def test_a_role_of_the_wrong_kind_is_named() -> None:
    with pytest.raises(ConfigurationError, match="verifier"):
        RewardGuidedDecoder(
            drafter=ScriptedDrafter(DRAFTS),
            verifier=ScriptedTarget(TARGETS),  # type: ignore[arg-type]
            target=ScriptedTarget(TARGETS),
        )


def test_candidates_without_sampling_are_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        Settings(candidates=4)


def test_turn_granularity_asks_for_whole_answers() -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["a\n\nb\n\nc"]),
        verifier=ScriptedVerifier([0.1]),
        target=ScriptedTarget(["A\n\nB"]),
        settings=Settings(granularity="turn"),
    )
    result = made.run("question")
    assert (result.text, len(result.steps)) == ("A\n\nB", 1)


def test_decoders_close_their_models() -> None:
    closed: list[str] = []

    class Closing(ScriptedDrafter):
        async def aclose(self) -> None:
            closed.append("drafter")

    with DraftOnly(drafter=Closing(DRAFTS)) as made:
        made.run("question")
    assert closed == ["drafter"]


def test_what_models_run_in_is_reported_by_the_ledger() -> None:
    made = decoder([0.9, 0.2, 0.7])
    made.drafter.dtype, made.verifier.dtype = "int8", "float32"
    ledger = made.run("question").ledger
    assert [account.dtype for account in (ledger.drafter, ledger.verifier, ledger.target)] == ["int8", "float32", None]
    assert ledger.total.dtype == "int8, float32"
    ledger.drafter.add(ledger.total)
    assert ledger.drafter.dtype == ledger.to_dict()["drafter"]["dtype"] == "int8, float32"  # type: ignore[index]


@pytest.mark.parametrize(
    ("policy", "fits"),
    [
        ("binary_step:0.5", True),
        ("retry:2/first_steps:1/binary_step:0.5", True),
        ("constant:0.3", True),
        ("always_draft", True),
        ("binary_step:0.6", False),
        ("retry:2/binary_step:0.4", False),
        ("logistic:alpha=20,delta=0.5", False),
        ("clipping", False),
        ("budget_aware:0.2", False),
    ],
)
def test_a_policy_that_decides_away_from_a_verifiers_threshold_is_warned_of_once(policy: str, fits: bool) -> None:
    def make() -> None:
        verifier = ScriptedVerifier([0.9])
        verifier.name, verifier.threshold = f"exits for {policy}", 0.5
        RewardGuidedDecoder(
            drafter=ScriptedDrafter(DRAFTS),
            verifier=verifier,
            target=ScriptedTarget(TARGETS),
            policy=parse_policy(policy),
        )

    if not fits:
        with pytest.warns(UserWarning, match=f"exits for {policy} hold around the reward 0.5.* use binary_step:0.5"):
            make()
    make()  # warnings are errors
