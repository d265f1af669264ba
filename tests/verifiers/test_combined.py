"""Cascades, ensembles and cached rewards: calls, results, and charges."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsd_core import (
    BinaryStep,
    ConfigurationError,
    Explains,
    Path,
    Price,
    RewardGuidedDecoder,
    Scores,
    Settings,
    SpecError,
    Step,
    as_prompt,
    load,
)
from rsd_core.paths import Ending
from rsd_core.registry import check_spec, parse_spec, parts_of
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.verifiers import Cached, Cascade, Ensemble

START = Path(as_prompt("q"))
Reward = float | None
rewards = st.one_of(st.none(), st.floats(0, 1))


def says(reward: Reward, flops: float | None = 2.0) -> ScriptedVerifier:
    return ScriptedVerifier(lambda _path, _step: reward, flops_per_token=flops)


def step(text: str = "a b c\n\n") -> Step:
    return Step(text, "delimiter", size=3)


@given(st.lists(rewards, min_size=2, max_size=4), st.floats(0, 0.5), st.floats(0.5, 1))
def test_a_cascade_stops_at_the_first_clear_reward(said: list[Reward], low: float, high: float) -> None:
    members = [says(reward) for reward in said]
    (reward,) = asyncio.run(Cascade(members, low, high).score(START, [step()])).rewards
    clear = [i for i, r in enumerate(said) if r is not None and not low < r < high]
    asked = clear[0] + 1 if clear else len(said)
    assert [len(member.calls) for member in members] == [1] * asked + [0] * (len(said) - asked)
    known = [r for r in said[:asked] if r is not None]
    assert reward == (known[-1] if known else None)


def test_a_cascade_escalates_only_what_is_open() -> None:
    cheap = ScriptedVerifier(lambda _path, step: {"good": 1.0, "bad": 0.0}.get(step.text))
    dear = says(0.6)
    steps = [Step(text, "delimiter", size=1) for text in ("good", "what", "bad")]
    assert asyncio.run(Cascade([cheap, dear]).score(START, steps)).rewards == (1.0, 0.6, 0.0)
    assert len(dear.calls) == 1


@given(st.lists(rewards, min_size=2, max_size=4))
def test_ensembles_leave_out_who_abstains(said: list[Reward]) -> None:
    known = [reward for reward in said if reward is not None]
    for how, fold in (("mean", lambda x: sum(x) / len(x)), ("min", min), ("product", _product)):
        (reward,) = asyncio.run(Ensemble([says(r) for r in said], how).score(START, [step()])).rewards  # type: ignore[arg-type]
        assert reward == (pytest.approx(fold(known)) if known else None)


def _product(values: list[float]) -> float:
    made = 1.0
    for value in values:
        made *= value
    return made


def test_each_member_is_charged_at_its_own_rate() -> None:
    cheap, dear = says(None, flops=2.0), says(0.9, flops=100.0)
    for verifier in (Cascade([cheap, dear]), Ensemble([cheap, dear]), Cascade([Ensemble([cheap, cheap]), dear])):
        decoder = RewardGuidedDecoder(
            drafter=ScriptedDrafter(["a b c"]), verifier=verifier, target=ScriptedTarget(["x"]), policy=BinaryStep()
        )
        account = decoder.run("q").ledger.verifier
        tokens = 4  # the scripted end of the answer is one more than its words
        cheaps = 2 if isinstance(verifier.members[0], Ensemble) else 1
        assert account.flops == tokens * (2.0 * cheaps + 100.0)
        assert account.computed == tokens * (cheaps + 1)
        assert account.calls == 1


def test_a_cut_short_member_is_charged() -> None:
    slow = Ensemble([says(0.5), ScriptedVerifier([0.5], delay=5)])
    decoder = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["a b c"]),
        verifier=slow,
        target=ScriptedTarget(["x"]),
        settings=Settings.model_validate({"limits": {"max_seconds": 0.2}}),
    )
    result = decoder.run("q")
    assert result.finish_reason == "max_seconds"
    assert result.ledger.verifier.computed == 4


def test_the_same_step_after_the_same_text_is_scored_once() -> None:
    inner = ScriptedVerifier(lambda path, step: len(step.text) / 10 + path.depth / 100)
    cached = Cached(inner, size=3)
    again = Path(as_prompt("q"))
    assert asyncio.run(cached.score(START, [step("a"), step("bb"), step("a")])).rewards == (0.1, 0.2, 0.1)
    scores = asyncio.run(cached.score(again, [step("bb")]))
    assert scores.rewards == (0.2,)
    assert scores.usage.computed == 0
    assert len(inner.calls) == 1
    assert asyncio.run(cached.score(again.extend(step("x")), [step("bb")])).rewards[0] == pytest.approx(0.21)
    asyncio.run(cached.score(again, [step("ccc"), step("dddd")]))
    asyncio.run(cached.score(again, [step("a")]))  # the oldest was forgotten
    assert len(inner.calls) == 4


def test_specs_are_nested_by_parentheses() -> None:
    assert parts_of("a:b|(c:d|e:f)|g:h") == ["a:b", "c:d|e:f", "g:h"]
    made = load("cascade,low=0.2,high=0.8:rule:arithmetic|(ensemble,how=min:scripted:verifier|rule:repetition)")
    assert isinstance(made, Cascade)
    assert (made.low, made.high) == (0.2, 0.8)
    assert isinstance(made.members[1], Ensemble)
    assert made.members[1].how == "min"
    assert isinstance(made, Explains)
    assert "2+2=5" not in made.explain(START, step("2+2=5")).text
    assert "2+2 = 5 is wrong" in made.explain(START, step("2+2=5")).text
    assert asyncio.run(made.score(START, [step("2+2=5"), step("hm")])).rewards == (0.0, 0.95)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("cascade:rule:arithmetic|nothing:x", "names no model"),
        ("cascade,low:rule:arithmetic|scripted:verifier", "'low' has no value"),
        ("cached:", "incomplete"),
        ("ensemble:prm,format=:our-lab/one|rule:arithmetic", r"'format' has no value; .* prm,KEY=VALUE:our-lab/one"),
    ],
)
def test_wrong_specs_are_reported_before_anything_is_loaded(spec: str, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        parse_spec(spec)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("prm,format=trll:our-lab/one", "unknown format 'trll', did you mean 'trl'"),
        ("prm,format=trll,head=h:gguf=one.gguf", "unknown format 'trll'"),
        ("pooling,format=no.yaml:one@http://localhost:1", "the format 'no.yaml' cannot be read"),
        ("token_logits,format=trll:one@http://localhost:1", "unknown format 'trll'"),
        ("judge,mode=rubrik:scripted:draft", "unknown mode 'rubrik', did you mean 'rubric'"),
    ],
)
def test_a_misspelt_format_or_mode_is_reported_before_anything_is_fetched(spec: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        check_spec(spec)
    with pytest.raises(ConfigurationError, match=told):
        load(spec)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("cascade,low=0.9,high=0.1:rule:arithmetic|scripted:verifier", "low ≤ high"),
        ("cascade:rule:arithmetic", "two verifiers"),
        ("ensemble,how=max:rule:arithmetic|scripted:verifier", "how=mean, min or product"),
        ("ensemble:rule:arithmetic|scripted:draft", "judge:scripted:draft"),
        ("rule:spelling", "rule:arithmetic"),
        ("rule,depth=3:format", "depth"),
        ("confidence:max", "confidence:min"),
        ("cached,size=0:scripted:verifier", "at least one"),
    ],
)
def test_wrong_options_are_reported(spec: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        load(spec)


def test_a_reward_that_is_forgotten_while_others_are_scored_is_not_missing() -> None:
    release = asyncio.Event()

    class Slow(ScriptedVerifier):
        async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
            if steps[0].text == "slow":
                await release.wait()
            return await super().score(path, steps)

    async def three() -> list[Scores]:
        cached = Cached(Slow(lambda _path, step: {"known": 0.1, "slow": 0.2, "other": 0.3}[step.text]), size=1)
        await cached.score(START, [step("known")])
        first = asyncio.ensure_future(cached.score(START, [step("known"), step("slow")]))
        await asyncio.sleep(0)
        second = await cached.score(START, [step("other")])  # which takes the only place
        release.set()
        return [await first, second]

    assert [scores.rewards for scores in asyncio.run(three())] == [(0.1, 0.2), (0.3,)]


def test_a_step_that_ends_otherwise_is_another_step() -> None:
    """A rule sees where a step was cut off, and a model reads how an answer ends."""
    cached = Cached(ScriptedVerifier(lambda _path, step: {"delimiter": 0.1, "length": 0.2, "end": 0.3}[step.ending]))
    endings: tuple[Ending, ...] = ("delimiter", "length", "end", "length")
    rewards = [asyncio.run(cached.score(START, [Step("a", ending)])).rewards[0] for ending in endings]
    assert rewards == [0.1, 0.2, 0.3, 0.2]


@pytest.mark.parametrize(
    ("reward", "asked"), [(0.2, 1), (0.20001, 2), (0.5, 2), (0.79999, 2), (0.8, 1), (0.0, 1), (1.0, 1), (None, 2)]
)
def test_a_reward_at_the_edge_of_a_cascade_is_clear(reward: Reward, asked: int) -> None:
    cheap, dear = says(reward), says(0.6)
    (found,) = asyncio.run(Cascade([cheap, dear], low=0.2, high=0.8).score(START, [step()])).rewards
    assert (found, len(cheap.calls) + len(dear.calls)) == (0.6 if asked == 2 else reward, asked)


@pytest.mark.parametrize("reward", [0.0, 0.5, 1.0])
def test_a_cascade_without_a_gap_asks_one_and_with_all_of_it_asks_everybody_of_doubt(reward: float) -> None:
    members = [says(reward), says(0.6)]
    asyncio.run(Cascade(members, low=0.5, high=0.5).score(START, [step()]))
    assert not members[1].calls
    asyncio.run(Cascade(members, low=0.0, high=1.0).score(START, [step()]))
    assert len(members[1].calls) == (0 < reward < 1)


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.9), (0.1, 1.1), (0.9, 0.1), (float("nan"), 0.9)])
def test_a_cascade_takes_bounds_in_order_and_in_range(low: float, high: float) -> None:
    with pytest.raises(ConfigurationError, match="0 ≤ low ≤ high ≤ 1"):
        Cascade([says(0), says(0)], low, high)
    assert Cascade([says(0), says(0)], 0.0, 1.0).low == 0


def test_the_rate_of_a_combination_is_its_most_expensive_members() -> None:
    """Limits are set by it before anything is computed."""
    cheap, dear, unknown = says(0, flops=2.0), says(0, flops=100.0), says(0, flops=None)
    cheap.price, dear.price = Price(1, 2), Price(5, 2)
    assert Cascade([cheap, dear]).flops_per_token == 100.0
    assert Ensemble([dear, cheap]).price == Price(5, 2)
    assert (Cascade([cheap, unknown]).flops_per_token, Cascade([cheap, unknown]).price) == (None, None)
