"""Drafts ahead come from one continuing request, and equal those of separate requests."""

import asyncio
import gc
import itertools
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsd_core import (
    BinaryStep,
    Delimiter,
    DraftOnly,
    Interrupted,
    Limits,
    Path,
    PromptError,
    Result,
    RewardGuidedDecoder,
    RunError,
    Sampling,
    Settings,
    Step,
    StepRequest,
    Usage,
    as_prompt,
)
from rsd_core.blocking import wait_for
from rsd_core.testing import ScriptedTarget, ScriptedVerifier
from rsd_integrations.huggingface import HuggingFaceGenerator
from rsd_integrations.openai_compatible import EndpointError, OpenAIGenerator
from rsd_integrations.openai_compatible.answers import Answer, StreamedSteps
from rsd_integrations.openai_compatible.background import on_background_loop
from rsd_integrations.openai_compatible.streams import Stream, Streams
from tests.openai_compatible.server import Habits, wait_until

Connect = Callable[..., OpenAIGenerator]
PLAIN = StepRequest(seeds=(0,), max_tokens=60)
AHEAD = StepRequest(seeds=(0,), max_tokens=60, ahead=8)


def steps_of(model: OpenAIGenerator, question: str, *asked: StepRequest) -> list[Step]:
    """The steps of an answer, each asked for when the one before it is there."""
    path, steps = Path(as_prompt(question)), list[Step]()
    for request in asked:
        (step,) = wait_for(model.generate(path, request)).steps
        steps.append(step)
        if step.ending == "end":
            break
        path = path.extend(step)
    return steps


def rsd(drafter: OpenAIGenerator, rewards: Sequence[float], question: str, **options: Any) -> Result:
    made = RewardGuidedDecoder(
        drafter=drafter,
        verifier=ScriptedVerifier(list(rewards), delay=0.02),
        target=ScriptedTarget(["So be it.\n\n"]),
        policy=BinaryStep(delta=0.5),
        settings=Settings(**options),
    )
    return made.run(question)


@pytest.fixture
def slow(vllm: Habits) -> Habits:
    """One that is not done before its client goes away."""
    vllm.pace = 0.02
    return vllm


def streams(server: Habits) -> list[bool]:
    return [bool(request.get("stream")) for request in server.requests]


def test_an_answer_that_stays_is_one_request(vllm: Habits, connect: Connect, questions: list[str]) -> None:
    model = connect(vllm)
    plain = rsd(model, [0.9], questions[0])
    apart = len(vllm.requests)
    vllm.requests.clear()
    ahead = rsd(model, [0.9], questions[0], lookahead=8)
    assert ahead.steps == plain.steps
    assert apart == len(plain.steps) > 2
    assert streams(vllm) == [True]
    was, now = plain.ledger.drafter, ahead.ledger.drafter
    assert now.generated == was.generated
    prompt = len(vllm.requests[0]["prompt"])
    assert now.computed + now.reused == prompt + now.generated  # nothing is read twice


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("rewards", [[0.9, 0.1, 0.9, 0.9], [0.9, 0.9, 0.1, 0.1, 0.9], [0.1]])
def test_answers_are_the_same_where_drafts_are_rejected(
    vllm: Habits, connect: Connect, questions: list[str], rewards: list[float], depth: int
) -> None:
    model = connect(vllm)
    for question in questions[:3]:
        plain = rsd(model, rewards, question, limits=Limits(max_steps=12))
        ahead = rsd(model, rewards, question, limits=Limits(max_steps=12), lookahead=depth)
        assert (ahead.steps, ahead.finish_reason) == (plain.steps, plain.finish_reason)
        assert not ahead.degradations
    assert wait_until(lambda: vllm.inside == 0)


def test_steps_are_those_of_the_model_in_process(
    vllm: Habits, connect: Connect, draft: HuggingFaceGenerator, questions: list[str]
) -> None:
    model = connect(vllm)
    for question in questions[:2]:
        wanted = DraftOnly(drafter=draft).run(question)
        made = steps_of(model, question, *[AHEAD] * 20)
        assert [step.text for step in made] == [step.text for step in wanted.steps]
        assert [step.size for step in made] == [step.size for step in wanted.steps]


def test_a_step_is_cut_at_its_cap(vllm: Habits, connect: Connect, questions: list[str]) -> None:
    plain, ahead = (StepRequest((0,), max_tokens=5, ahead=depth) for depth in (0, 2))
    model = connect(vllm)
    wanted = steps_of(model, questions[0], *[plain] * 12)
    assert steps_of(model, questions[0], *[ahead] * 12) == wanted
    assert {step.ending for step in wanted} > {"length"}


def test_a_stream_serves_as_long_as_its_steps_fit(vllm: Habits, connect: Connect, questions: list[str]) -> None:
    """Near the end of an answer's budget each step may have fewer tokens than the one before."""
    model = connect(vllm)
    wanted = steps_of(model, questions[0], *[PLAIN] * 3)
    vllm.requests.clear()
    less = [StepRequest((0,), max_tokens=60 - n, ahead=8) for n in range(3)]
    assert steps_of(model, questions[0], *less) == wanted
    assert streams(vllm) == [True]
    few = [StepRequest((0,), max_tokens=n, ahead=8) for n in (60, 3, 60)]
    plain = [StepRequest((0,), max_tokens=n) for n in (60, 3, 60)]
    wanted = steps_of(model, questions[0], *plain)
    vllm.requests.clear()
    assert steps_of(model, questions[0], *few) == wanted
    assert streams(vllm) == [True, True, True]


def test_drawn_steps_have_seeds_of_their_own(vllm: Habits, connect: Connect, questions: list[str]) -> None:
    hot = StepRequest((3,), max_tokens=60, sampling=Sampling(0.8), ahead=4)
    steps_of(connect(vllm), questions[0], hot, hot)
    assert streams(vllm) == [False, False]


@pytest.mark.parametrize("kind", ["sglang", "generic"])
def test_servers_that_tell_no_ids_are_asked_step_by_step(
    servers: dict[str, Habits], connect: Connect, questions: list[str], kind: str
) -> None:
    model, server = connect(servers[kind]), servers[kind]
    wanted = [step.text for step in steps_of(model, questions[0], PLAIN, PLAIN)]
    before = len(server.requests)
    assert [step.text for step in steps_of(model, questions[0], AHEAD, AHEAD)] == wanted
    assert len(server.requests) == before + 2


def test_a_server_that_keeps_its_ids_to_itself_is_found_out(
    vllm: Habits, connect: Connect, questions: list[str]
) -> None:
    model = connect(vllm)
    wanted = steps_of(model, questions[0], *[PLAIN] * 3)
    vllm.requests.clear()
    vllm.streams_ids = False
    assert steps_of(model, questions[0], *[AHEAD] * 3) == wanted
    assert streams(vllm) == [True, False, False, False]


def test_a_cap_of_the_servers_own_cuts_no_step(vllm: Habits, connect: Connect, questions: list[str]) -> None:
    plain, ahead = (StepRequest((0,), max_tokens=5, ahead=depth) for depth in (0, 8))
    vllm.most = 13
    model = connect(vllm)
    wanted = steps_of(model, questions[0], *[plain] * 12)
    vllm.requests.clear()
    assert steps_of(model, questions[0], *[ahead] * 12) == wanted
    assert 3 < len(vllm.requests) < len(wanted)


def test_a_stream_without_requests_ends(slow: Habits, connect: Connect, questions: list[str]) -> None:
    model, path = connect(slow), Path(as_prompt(questions[0]))
    asked = StepRequest((0,), max_tokens=4, ahead=1)
    (first,) = wait_for(model.generate(path, asked)).steps
    assert wait_until(lambda: slow.dropped == 1), "two steps wait to be taken, which is enough"
    wanted = steps_of(model, questions[0], *[StepRequest((0,), max_tokens=4)] * 30)
    made = [first]
    while len(made) < len(wanted):  # those that wait are taken first, and then a new stream goes on
        path = path.extend(made[-1])
        made += wait_for(model.generate(path, asked)).steps
    assert made == wanted


def test_a_stream_ends_with_the_request(slow: Habits, connect: Connect, questions: list[str]) -> None:
    """Also without a cancellation: the path is freed."""
    model, path = connect(slow), Path(as_prompt(questions[0]))
    slow.pace = 0.2
    wait_for(model.generate(path, StepRequest((0,), max_tokens=1, ahead=50)))
    del path
    gc.collect()
    assert wait_until(lambda: slow.dropped == 1)


def test_continuing_with_another_step_ends_the_stream(slow: Habits, connect: Connect, questions: list[str]) -> None:
    model, path = connect(slow), Path(as_prompt(questions[0]))
    few = StepRequest((0,), max_tokens=4, ahead=50)
    wait_for(model.generate(path, few))
    other = path.extend(Step("So be it.\n\n", "delimiter"))
    (made,) = wait_for(model.generate(other, few)).steps
    assert wait_until(lambda: slow.dropped == 1)
    twin = Path(as_prompt(questions[0])).extend(Step("So be it.\n\n", "delimiter"))
    (wanted,) = wait_for(model.generate(twin, StepRequest((0,), max_tokens=4))).steps
    assert made == wanted


def test_a_cancelled_step_ends_the_stream(slow: Habits, connect: Connect, questions: list[str]) -> None:
    model, path = connect(slow), Path(as_prompt(questions[0]))
    slow.pace = 0.1
    few = StepRequest((0,), max_tokens=2, ahead=50)
    (first,) = wait_for(model.generate(path, few)).steps

    async def cancelled() -> None:
        call = asyncio.ensure_future(model.generate(path.extend(first), few))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(cancelled())
    assert wait_until(lambda: slow.dropped == 1)


@pytest.mark.parametrize("fault", ["http500", "429", "cut"])
def test_faults_before_and_between_steps_are_handled(
    vllm: Habits, connect: Connect, questions: list[str], fault: str
) -> None:
    model = connect(vllm)
    wanted = steps_of(model, questions[0], *[PLAIN] * 20)
    first = len(vllm.requests)
    vllm.fault = lambda number: fault if number == first else None
    assert steps_of(model, questions[0], *[AHEAD] * 20) == wanted
    assert len(vllm.requests) == first + 2  # the one that failed, and another


def test_a_stream_that_breaks_after_a_step_goes_on_with_a_new_one(
    vllm: Habits, connect: Connect, questions: list[str]
) -> None:
    model = connect(vllm)
    few = StepRequest((0,), max_tokens=2, ahead=8)
    wanted = steps_of(model, questions[0], *[StepRequest((0,), max_tokens=2)] * 6)
    first = len(vllm.requests)
    vllm.fault = lambda number: "cut" if number == first else None  # after three tokens
    assert steps_of(model, questions[0], *[few] * 6) == wanted
    assert len(vllm.requests) == first + 2
    vllm.fault = lambda number: "cut"
    with pytest.raises(RunError, match="without a finish reason"):
        steps_of(connect(vllm, retries=1, patience=0), questions[1], *[AHEAD] * 6)


def test_what_streams_say_closes_the_breaker(slow: Habits, connect: Connect, questions: list[str]) -> None:
    """Also where they are left before their end."""
    model = connect(slow)
    steps_of(model, questions[0], PLAIN)
    for number in range(model.endpoint.breaker.limit - 1):
        model.endpoint.breaker.failed(EndpointError("a fault"), number)
    steps_of(model, questions[0], StepRequest((0,), max_tokens=4, ahead=50))
    model.endpoint.breaker.failed(EndpointError("another one"), 99)
    assert not model.endpoint.breaker.is_open


def test_a_silent_stream_times_out(vllm: Habits, connect: Connect, questions: list[str]) -> None:
    model = connect(vllm, timeout=1.0, retries=0)
    steps_of(model, questions[0], PLAIN)
    vllm.fault = lambda number: "hang"
    with pytest.raises(RunError, match="no answer within 1 s"):
        steps_of(model, questions[0], AHEAD)
    vllm.fault = lambda number: None
    vllm.pace = 0.05  # the whole answer takes longer than the timeout, and no token does
    assert [step.text for step in steps_of(model, questions[0], *[AHEAD] * 9)]
    assert streams(vllm).count(True) == 2


def test_what_a_call_had_done_is_reported_across_event_loops() -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            raise Interrupted(Usage(computed=7)) from None

    async def cancelled() -> None:
        call = asyncio.ensure_future(on_background_loop(work()))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(Interrupted) as cut:
            await call
        assert cut.value.usage.computed == 7

    asyncio.run(cancelled())


def scripted(*steps: str) -> Callable[[Stream], Any]:
    """A request that writes steps of a token each at once, and then the half of another."""

    async def work(stream: Stream) -> None:
        for text in steps:
            if stream.put(Step(text, "delimiter", size=1), Usage(computed=1, generated=1)):
                return
        stream.unfinished = lambda: Usage(computed=5, generated=5)
        await asyncio.sleep(9)

    return work


def test_unused_text_of_a_stream_is_charged_to_the_draft_in_its_place() -> None:
    async def go() -> None:
        streams, asked = Streams(), StepRequest((0,), ahead=8)
        charged = list[Usage]()

        async def step(path: Path, write: Callable[[Stream], Any]) -> tuple[Step, int]:
            charged.clear()
            taken = await streams.step(path, asked, write, charged.append)
            return taken, sum(usage.generated for usage in charged)

        root = Path(as_prompt("?"))
        first, _ = await step(root, scripted("a", "b", "c"))
        after = root.extend(first)
        second, generated = await step(after, scripted("never"))
        assert (second.text, generated) == ("b", 1)
        del after  # the second step falls: "b" was charged, "c" and the half after it were not
        other, generated = await step(root.extend(Step("x", "delimiter")), scripted("y"))
        assert (other.text, generated) == ("y", 1 + 1 + 5)
        call = asyncio.ensure_future(step(root.extend(other), scripted()))
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert [usage.computed for usage in charged] == [5]
        await streams.aclose()

    asyncio.run(go())


def test_two_calls_for_the_same_step_get_the_same_step() -> None:
    """The continuing stream has one next step: the other call begins its own stream."""

    def write(begin: int) -> Callable[[Stream], Any]:
        async def work(stream: Stream) -> None:
            for number in range(begin, begin + 4):
                await asyncio.sleep(0.05)
                stream.put(Step(str(number), "delimiter", size=1), Usage(computed=1, generated=1))

        return work

    async def go() -> None:
        streams, asked, charged = Streams(), StepRequest((0,), ahead=8), list[Usage]()
        root = Path(as_prompt("?"))
        path = root.extend(await streams.step(root, asked, write(0), charged.append))
        steps = await asyncio.gather(*(streams.step(path, asked, write(1), charged.append) for _ in range(2)))
        assert [step.text for step in steps] == ["1", "1"]
        await streams.aclose()

    asyncio.run(go())


def test_a_stream_that_is_waited_for_outlives_another_call_for_its_first_step() -> None:
    begun = list[str]()

    def write(name: str, pause: float) -> Callable[[Stream], Any]:
        async def work(stream: Stream) -> None:
            begun.append(name)
            for number in range(4):
                await asyncio.sleep(pause)
                stream.put(Step(str(number), "delimiter", size=1), Usage(computed=1, generated=1))

        return work

    async def go() -> None:
        streams, asked, charged = Streams(), StepRequest((0,), ahead=8), list[Usage]()
        root = Path(as_prompt("?"))
        path = root.extend(await streams.step(root, asked, write("slow", 0.2), charged.append))
        call = asyncio.ensure_future(streams.step(path, asked, write("never", 0.2), charged.append))
        await asyncio.sleep(0.01)
        await streams.step(root, asked, write("quick", 0.0), charged.append)
        assert (await call).text == "1"
        assert begun == ["slow", "quick"]
        await streams.aclose()

    asyncio.run(go())


def test_a_context_that_is_full_ends_the_answer(
    vllm: Habits, connect: Connect, draft: HuggingFaceGenerator, questions: list[str]
) -> None:
    vllm.context = len(draft.vocabulary.prompt(as_prompt(questions[0]))) + 30
    plain, ahead = (rsd(connect(vllm), [0.9], questions[0], lookahead=depth) for depth in (0, 1))
    assert (ahead.steps, ahead.finish_reason) == (plain.steps, plain.finish_reason)
    assert "So be it." in ahead.steps[2].text  # by the target, since the drafter had no room left
    with pytest.raises(PromptError, match="too long"):
        rsd(connect(vllm), [0.9], "word " * 200, lookahead=1)


PIECES = (b"", b"a", b"b\n", b"\n", b"c\n\n", b"\n\nd", "é".encode()[:1], "é".encode()[1:], b"e\n\n\n")


@settings(max_examples=400, deadline=None)
@given(
    ids=st.lists(st.integers(1, len(PIECES) - 1), max_size=20),
    cuts=st.sets(st.integers(1, 20)),
    most=st.integers(1, 6),
    ends=st.booleans(),
)
def test_steps_do_not_depend_on_where_events_fall(ids: list[int], cuts: set[int], most: int, ends: bool) -> None:
    """Cut by a plain rule: after the token that completes the delimiter, at the cap, and at the end."""
    ids = [*ids, 0] if ends else ids
    wanted, step, before = list[tuple[tuple[int, ...], str]](), list[int](), b""
    for at, id_ in enumerate(ids):
        step.append(id_)
        written = b"".join([before, *(PIECES[one] for one in step)])
        whole = "\n\n" in written.decode(errors="replace").lstrip()
        if whole or (len(step) == most and not (ends and at == len(ids) - 1)):
            wanted.append((tuple(step), "delimiter" if whole else "length"))
            step, before = [], PIECES[6] if written.endswith(PIECES[6]) else b""
    if ends or (step and not wanted):  # text that the server's own cap cuts in the middle is rewritten
        wanted.append((tuple(step), "end" if ends else "length"))
    made = list[Answer]()

    def put(answer: Answer) -> bool:
        made.append(answer)
        return False

    words: Any = SimpleNamespace(pieces=PIECES, tokenizer=SimpleNamespace(added_tokens_decoder={}))
    reader = StreamedSteps(Delimiter(), words, most, put)
    for event in _events(ids, sorted(cuts), "stop" if ends else "length"):
        assert not reader.complete
        assert not reader.take(event)
    assert reader.complete
    assert [(answer.ids, answer.ending) for answer in made] == wanted
    assert [answer.wrote for answer in made] == [len(one) for one, _ in wanted]
    for earlier, later in itertools.pairwise(made):
        assert later.before == (PIECES[6] if earlier.ids[-1] == 6 else b"")


def _events(ids: list[int], cuts: list[int], reason: str) -> Iterator[dict[str, Any]]:
    bounds = [0, *(cut for cut in cuts if cut < len(ids)), len(ids)]
    decoder = getincrementaldecoder("utf-8")(errors="replace")  # servers hold back a character that is not whole
    for start, end in itertools.pairwise(bounds):
        last = end == len(ids)
        part = ids[start:end]
        text = decoder.decode(b"".join(PIECES[id_] for id_ in part), last)
        yield {"choices": [{"text": text, "token_ids": part, "finish_reason": reason if last else None}]}
