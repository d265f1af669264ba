"""Telemetry of requests equals their results."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest
from opentelemetry import context, trace
from opentelemetry.trace import SpanKind, StatusCode

from rsd_core import (
    BinaryStep,
    Cancellation,
    Decoder,
    Limits,
    MajorityVote,
    Price,
    PromptError,
    Result,
    RewardGuidedDecoder,
    RunError,
    Settings,
    TargetOnly,
)
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.telemetry.instruments import ROLES
from tests.telemetry.conftest import Told, attributes, inside

KINDS = ("computed", "reused", "generated", "discarded")
DRAFTS = ["First this.\n\n", "Then that.\n\n", "At last \\boxed{4}."]


def decoder(rewards: Sequence[float | Exception | None] = (0.9, 0.1, 0.9), **settings: object) -> RewardGuidedDecoder:
    drafter, target = ScriptedDrafter(DRAFTS), ScriptedTarget(DRAFTS)
    drafter.price, target.price = Price(1.0, 2.0), Price(10.0, 20.0)
    verifier = ScriptedVerifier(rewards)
    return RewardGuidedDecoder(
        drafter=drafter, verifier=verifier, target=target, policy=BinaryStep(), settings=Settings().updated(**settings)
    )


def check(told: Told, results: Sequence[Result]) -> None:
    """All numbers are those of the ledgers and of the results."""
    for role in ROLES:
        accounts = [result.ledger.account(role) for result in results]
        for kind in KINDS:
            tokens = told.total("rsd.tokens", rsd__role=role, rsd__token__kind=kind)
            assert tokens == sum(getattr(account, kind) for account in accounts), (role, kind)
        assert told.total("rsd.cost", rsd__role=role) == pytest.approx(sum(one.cost or 0.0 for one in accounts))
    assert told.total("gen_ai.client.token.usage", gen_ai__token__type="output") == told.total(
        "rsd.tokens", rsd__token__kind="generated"
    )
    read = [result.ledger.account(role).read for result in results for role in ROLES]
    assert told.total("gen_ai.client.token.usage", gen_ai__token__type="input") == sum(read)
    calls = sum(result.ledger.total.calls for result in results)
    assert told.count("rsd.call.duration") == calls
    assert told.count("gen_ai.client.operation.duration") == calls
    reasons = Counter(result.finish_reason for result in results)
    assert {reason: told.total("rsd.requests", rsd__finish_reason=reason) for reason in reasons} == reasons
    assert told.total("rsd.requests") == len(results)
    assert told.total("rsd.steps") == sum(len(result.steps) for result in results)
    accepted = told.total("rsd.steps", rsd__step__accepted=True)
    drafted = accepted + told.total("rsd.steps", rsd__step__accepted=False)
    rates = [result.acceptance_rate for result in results if result.acceptance_rate is not None]
    assert told.total("rsd.acceptance_rate") == pytest.approx(sum(rates))
    if len(rates) == 1:
        assert accepted / drafted == rates[0]
    kinds = Counter(item.kind for result in results for item in result.degradations)
    assert {kind: told.total("rsd.degradations", rsd__degradation__kind=kind) for kind in kinds} == kinds
    assert told.total("rsd.degradations") == sum(kinds.values())


def test_a_run_is_reported_as_its_result_says(told: Told) -> None:
    result = decoder().run("What is 2+2?")
    assert result.acceptance_rate == pytest.approx(2 / 3)
    assert result.ledger.drafter.discarded
    check(told, [result])


@pytest.mark.parametrize("lookahead", [1, 3])
def test_work_that_was_begun_early_is_reported_as_it_was_charged(told: Told, lookahead: int) -> None:
    check(told, [decoder(lookahead=lookahead).run("What is 2+2?")])


def test_a_stream_is_reported_like_a_run_also_where_it_is_left(told: Told) -> None:
    *_, last = decoder().stream("What is 2+2?")
    check(told, [last.result])  # type: ignore[attr-defined]
    before = told.total("rsd.tokens")
    events = decoder().stream("What is 2+2?")
    next(events)
    events.close()
    assert told.total("rsd.requests", rsd__finish_reason="cancelled", error__type="cancelled") == 1
    assert told.total("rsd.tokens") > before  # the draft that was written is on it
    (left,) = told.spans("invoke_workflow")[1:]
    assert left.status.status_code is StatusCode.UNSET


def test_many_requests_each_have_a_span_with_their_own_calls_inside(told: Told) -> None:
    results = decoder().run_many([f"What is {n}+2?" for n in range(8)])
    check(told, results)
    requests = {span.context.span_id: span for span in told.spans("invoke_workflow RewardGuidedDecoder")}
    assert len(requests) == 8
    calls = [span for span in told.spans() if span.context.span_id not in requests]
    for one in requests.values():
        own = [span for span in calls if span.parent and span.parent.span_id == one.context.span_id]
        assert Counter(attributes(span)["rsd.role"] for span in own) == {"drafter": 3, "verifier": 3, "target": 1}
        assert {span.context.trace_id for span in own} == {one.context.trace_id}
        assert all(inside(span, one) for span in own)
    assert len({span.context.trace_id for span in requests.values()}) == 8


def test_spans_have_the_words_of_the_conventions_and_no_text(told: Told) -> None:
    decoder().run("What is 2+2?")
    (request,) = told.spans("invoke_workflow")
    assert attributes(request)["gen_ai.operation.name"] == "invoke_workflow"
    assert [(event.attributes or {})["rsd.step.author"] for event in request.events] == ["draft", "target", "draft"]
    assert [(event.attributes or {})["rsd.step.accepted"] for event in request.events] == [True, False, True]
    draft = told.spans("text_completion")[0]
    assert draft.kind is SpanKind.INTERNAL
    assert attributes(draft)["gen_ai.provider.name"] == "rsd_core"
    assert attributes(draft)["gen_ai.usage.output_tokens"] == 2
    assert [attributes(span)["gen_ai.operation.name"] for span in told.spans("score")] == ["score"] * 3
    shown = "".join(span.to_json() for span in told.spans())
    for text in ("2+2", "First", "boxed"):
        assert text not in shown


def test_the_callers_span_is_the_parent_also_across_loops_and_threads(told: Told) -> None:
    tracer = told.tracers.get_tracer("program")
    with tracer.start_as_current_span("chain"):
        decoder().run("What is 2+2?")
        list(decoder().stream("What is 2+2?"))
        decoder().run_many(["What is 1+1?", "What is 2+2?"])
    with tracer.start_as_current_span("async chain"):
        asyncio.run(decoder().arun("What is 2+2?"))
    chains = {span.context.span_id: span.name for span in told.spans() if span.name.endswith("chain")}
    parents = [span.parent and chains[span.parent.span_id] for span in told.spans("invoke_workflow")]
    assert Counter(parents) == {"chain": 4, "async chain": 1}
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_a_call_sees_its_own_span(told: Told) -> None:
    """So what HTTP clients tell is inside of it."""
    seen = []

    class Drafter(ScriptedDrafter):
        async def generate(self, *what: object) -> object:  # type: ignore[override]
            seen.append(trace.get_current_span())
            return await super().generate(*what)  # type: ignore[arg-type]

    rsd = decoder()
    rsd.drafter = Drafter(DRAFTS)
    rsd.run("What is 2+2?")
    assert [attributes(span)["rsd.role"] for span in seen] == ["drafter"] * 3
    assert context.get_current() == {}


@pytest.mark.parametrize(
    "baseline",
    [
        lambda: TargetOnly(target=ScriptedTarget(DRAFTS)),
        lambda: MajorityVote(drafter=ScriptedDrafter(DRAFTS), n=3, settings=Settings(temperature=1.0)),
    ],
)
def test_baselines_are_reported_under_their_names(told: Told, baseline: object) -> None:
    made: Decoder = baseline()  # type: ignore[operator]
    check(told, [made.run("What is 2+2?")])
    assert told.total("rsd.requests", rsd__decoder=type(made).__name__) == 1


def test_handled_faults_are_reported_by_kind_and_call(told: Told) -> None:
    result = decoder([0.9, ValueError("the key is mykey"), 0.9]).run("What is 2+2?")
    assert [item.kind for item in result.degradations] == ["verifier_error"]
    check(told, [result])
    assert told.count("rsd.call.duration", rsd__role="verifier", error__type="ValueError") == 1
    (failed,) = [span for span in told.spans("score") if "error.type" in attributes(span)]
    assert failed.status.status_code is StatusCode.ERROR
    assert "mykey" not in "".join(span.to_json() for span in told.spans())


def test_a_request_that_fails_is_reported_with_what_it_had_done(told: Told) -> None:
    rsd = decoder([0.9, 0.1])
    rsd._target = ScriptedTarget([RuntimeError("down")] * 9)
    with pytest.raises(RunError) as caught:
        rsd.run("What is 2+2?")
    assert caught.value.partial is not None
    check(told, [caught.value.partial])
    assert told.total("rsd.requests", error__type="TargetError", rsd__finish_reason="error") == 1
    (request,) = told.spans("invoke_workflow")
    assert request.status.status_code is StatusCode.ERROR


def test_a_mistake_of_the_caller_ends_the_span(told: Told) -> None:
    rsd = decoder()
    rsd.drafter = ScriptedDrafter([PromptError("too long")])
    with pytest.raises(PromptError):
        rsd.run("What is 2+2?")
    assert told.total("rsd.requests", error__type="PromptError") == 1


def slow(seconds: float) -> ScriptedDrafter:
    class Slow(ScriptedDrafter):
        async def generate(self, *what: object) -> object:  # type: ignore[override]
            await asyncio.sleep(seconds)
            return await super().generate(*what)  # type: ignore[arg-type]

    return Slow(DRAFTS)


def test_requests_that_are_cut_or_cancelled_are_reported(told: Told) -> None:
    rsd = decoder(limits=Limits(max_seconds=0.05))
    rsd.drafter = slow(5)
    cut = rsd.run("What is 2+2?")
    assert cut.finish_reason == "max_seconds"
    check(told, [cut])
    assert [attributes(span)["error.type"] for span in told.spans("text_completion")] == ["cancelled"]

    async def cancelled() -> Result:
        button, rsd = Cancellation(), decoder()
        rsd.drafter = slow(5)
        request = asyncio.create_task(rsd.arun("What is 2+2?", cancel=button))
        await asyncio.sleep(0.05)
        button.cancel()
        given_up = asyncio.create_task(rsd.arun("What is 2+2?"))
        await asyncio.sleep(0.05)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        return await request

    assert asyncio.run(cancelled()).finish_reason == "cancelled"
    assert told.total("rsd.requests", rsd__finish_reason="cancelled") == 2
    assert told.total("rsd.requests", error__type="cancelled") == 1


def test_traces_alone_and_metrics_alone_work(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry import metrics

    monkeypatch.setattr(metrics, "get_meter_provider", metrics.NoOpMeterProvider)
    decoder().run("What is 2+2?")
    assert len(told.spans()) == 8
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: told.meters)
    monkeypatch.setattr(trace, "get_tracer_provider", trace.NoOpTracerProvider)
    check(told, [decoder().run("What is 2+2?")])
    assert len(told.spans()) == 8
