"""Faults are in the logs under the package's name, and a role that never works causes a warning for all."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rsd_core import (
    BatchError,
    BestOfN,
    DraftOnly,
    Generation,
    Limits,
    MajorityVote,
    Path,
    RewardGuidedDecoder,
    RoleWarning,
    RunError,
    Settings,
    Step,
    StepBeam,
    StepRequest,
    TargetError,
    TargetOnly,
)
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier


@contextmanager
def no_warning() -> Iterator[None]:
    """No warning is issued. (A warning turned into an error would be handled like any other fault.)"""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert [str(item.message) for item in caught] == []


def records(caplog: pytest.LogCaptureFixture, level: int) -> list[logging.LogRecord]:
    assert all(record.name.startswith("rsd_core.") for record in caplog.records)
    return [record for record in caplog.records if record.levelno == level]


def rsd(
    drafter: list[str | Exception], rewards: list[float | Exception | None], limits: Limits | None = None
) -> RewardGuidedDecoder:
    return RewardGuidedDecoder(
        drafter=ScriptedDrafter(drafter),
        verifier=ScriptedVerifier(rewards),
        target=ScriptedTarget(["target\n\n", "target\n\n", "end"]),
        settings=Settings(limits=limits or Limits()),
    )


def test_every_retry_of_the_target_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    tries: Iterator[str | Exception] = iter([OSError("busy"), OSError("still busy"), "end"])
    made = TargetOnly(target=ScriptedTarget(lambda path, rng: next(tries)))
    with caplog.at_level(logging.DEBUG, "rsd_core"):
        made.run("question")
    assert [record.getMessage() for record in records(caplog, logging.INFO)] == [
        "step 0: the target 'scripted target' is tried again (1)",
        "step 0: the target 'scripted target' is tried again (2)",
    ]
    assert [record.getMessage() for record in records(caplog, logging.WARNING)] == [
        "step 0: target_error: OSError: busy; trying again",
        "step 0: target_error: OSError: still busy; trying again",
    ]


@pytest.mark.parametrize(
    ("made", "kind", "words"),
    [
        (rsd(["fine\n\n", OSError("no server")], [0.9]), "drafter_error", "no server"),
        (rsd(["fine\n\n", "x"], [0.9, OSError("no server")]), "verifier_error", "no server"),
        (rsd(["fine\n\n", "x"], [0.9, 1.5]), "verifier_error", "the reward 1.5 is not a number"),
    ],
)
def test_every_degradation_is_a_warning_with_its_traceback_at_debug(
    made: RewardGuidedDecoder, kind: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "rsd_core"):
        result = made.run("question")
    warned, traced = records(caplog, logging.WARNING), records(caplog, logging.DEBUG)
    assert len(warned) == len(traced) == len(result.degradations) > 0
    for record, item in zip(warned, result.degradations, strict=True):
        assert record.getMessage() == f"step {item.step}: {kind}: {item.message}"
        assert words in record.getMessage()
        assert record.exc_info is None
    for record in traced:
        assert record.exc_info is not None
        assert words in str(record.exc_info[1])


def test_a_handled_limit_is_a_warning_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "rsd_core"):
        rsd(["x"], [0.1], Limits(max_target_calls=0)).run("question")
    (record,) = caplog.records
    assert record.getMessage().startswith("step 0: target_limit: max_target_calls is reached: the draft is kept")
    assert (record.levelno, record.exc_info) == (logging.WARNING, None)


def test_nothing_is_logged_for_a_healthy_run(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        rsd(["a\n\n", "b"], [0.9, 0.1]).run("question")
    assert [record for record in caplog.records if record.name.startswith("rsd_core")] == []


def endless(path: Path, rng: object) -> str:
    return f"step {path.depth}\n\n"


def broken(role: str, accept: bool = False, steps: int = 9) -> RewardGuidedDecoder:
    """A decoder of which one role fails at every call."""
    return RewardGuidedDecoder(
        drafter=ScriptedDrafter([OSError("401")] if role == "drafter" else endless),
        verifier=ScriptedVerifier([OSError("401")] if role == "verifier" else [0.9]),
        target=ScriptedTarget([OSError("401")] if role == "target" else endless),
        settings=Settings.model_validate(
            {
                "on_verifier_error": "accept" if accept else "target",
                "target_retries": 10,
                "limits": {"max_steps": steps},
            }
        ),
    )


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (broken("drafter"), "the drafter has failed at its first 8 calls: 401; the target writes every step"),
        (broken("verifier"), "the verifier has failed at its first 8 calls: 401; the target writes every step"),
        (broken("verifier", accept=True), "the verifier has failed at its first 8 calls: 401; every draft is kept"),
    ],
)
def test_a_role_that_never_works_is_reported_once(made: RewardGuidedDecoder, message: str) -> None:
    with pytest.warns(RoleWarning) as caught:
        made.run("question")
    assert [str(item.message) for item in caught] == [message]
    with no_warning():
        made.run("another")


def test_a_target_that_never_works_is_reported_before_it_is_given_up() -> None:
    made = TargetOnly(target=ScriptedTarget([OSError("401")]), settings=Settings(target_retries=9))
    with (
        pytest.warns(RoleWarning, match=r"the target has failed at its first 8 calls: 401; no answer can be written"),
        pytest.raises(TargetError),
    ):
        made.run("question")


@pytest.mark.parametrize(
    ("baseline", "consequence"), [(BestOfN, "the first solution is taken"), (StepBeam, "the search chooses blindly")]
)
def test_a_baseline_without_its_verifier_says_what_that_means(
    baseline: type[BestOfN | StepBeam], consequence: str
) -> None:
    made = baseline(
        drafter=ScriptedDrafter(["one\n\n", "two\n\n", "end"]),
        verifier=ScriptedVerifier([OSError("401")]),
        settings=Settings(temperature=1),
    )
    with pytest.warns(RoleWarning, match=f"the verifier has failed at its first 8 calls: 401; {consequence}"):
        assert made.run("question").text == "one\n\ntwo\n\nend"


def test_seven_failures_are_not_enough() -> None:
    with no_warning():
        broken("drafter", steps=7).run("question")


def test_failures_of_several_requests_count_together() -> None:
    made = broken("drafter", steps=3)
    with no_warning():
        made.run("first")
        made.run("second")
    with pytest.warns(RoleWarning, match="the drafter has failed at its first 8 calls"):
        made.run("third")
    with no_warning():
        made.run("fourth")


def test_many_requests_at_once_are_reported_once() -> None:
    with pytest.warns(RoleWarning) as caught:
        broken("verifier", steps=4).run_many([f"question {i}" for i in range(20)])
    assert len(caught) == 1
    sampled = MajorityVote(drafter=ScriptedDrafter([OSError("401")]), n=4, settings=Settings(temperature=1))
    with pytest.warns(RoleWarning) as caught, pytest.raises(BatchError):
        sampled.run_many([f"question {i}" for i in range(5)])
    assert [str(item.message) for item in caught] == [
        "the drafter has failed at its first 8 calls: 401; no answer can be written"
    ]


def test_a_role_that_worked_once_is_not_broken() -> None:
    def once(path: Path, step: Step) -> float | Exception:
        return 0.9 if path.depth == 5 else OSError("busy")

    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(endless),
        verifier=ScriptedVerifier(once),
        target=ScriptedTarget(endless),
        settings=Settings(limits=Limits(max_steps=30)),
    )
    with no_warning():
        assert len(made.run("question").degradations) == 29
        made.run("another")


def test_every_decoder_tells_for_itself() -> None:
    for _ in range(2):
        with pytest.warns(RoleWarning):
            broken("drafter").run("question")


def test_a_warning_that_is_an_error_ends_the_request_with_the_text_so_far() -> None:
    """As under `python -W error`: no fault rule gets over it."""
    made = broken("drafter")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RunError, match="the drafter has failed at its first 8 calls") as caught:
            made.run("question")
    assert caught.value.partial is not None
    assert len(caught.value.partial.steps) == 7


@pytest.mark.parametrize("role", ["target", "verifier"])
def test_a_role_whose_every_failure_fails_its_request_is_reported_too(role: str) -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(endless),
        verifier=ScriptedVerifier([OSError("401") if role == "verifier" else 0.1]),
        target=ScriptedTarget([OSError("401")]),
        settings=Settings(on_verifier_error="raise", target_retries=0),
    )
    with pytest.warns(RoleWarning, match=f"the {role} has failed at its first 8 calls: 401"), pytest.raises(BatchError):
        made.run_many([f"question {i}" for i in range(9)])


def test_a_role_that_would_end_the_process_at_every_call_does_not_work_either() -> None:
    class Exits(ScriptedDrafter):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            raise SystemExit(3)

    made = RewardGuidedDecoder(
        drafter=Exits([]),
        verifier=ScriptedVerifier([0.9]),
        target=ScriptedTarget(endless),
        settings=Settings(limits=Limits(max_steps=8)),
    )
    with pytest.warns(
        RoleWarning, match=r"the drafter has failed at its first 8 calls: <Exits .*> called sys.exit\(3\)"
    ):
        made.run("question")


def test_a_drafter_alone_that_never_works_is_an_error_of_each_request() -> None:
    made = DraftOnly(drafter=ScriptedDrafter([OSError("401")]))
    with pytest.warns(RoleWarning, match="no answer can be written"), pytest.raises(BatchError, match="401"):
        made.run_many([f"question {i}" for i in range(8)])
