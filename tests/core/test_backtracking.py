"""Searches that go back: against a simple recursion, their bounds, and their results when they are cut short."""

import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsd_core import (
    Backtracking,
    ConfigurationError,
    Decoder,
    DrafterError,
    HeuristicGreedySearch,
    Limits,
    Path,
    RSDConfig,
    Settings,
)
from rsd_core.testing import ScriptedDrafter, ScriptedVerifier

DEPTH = 3
POSITIVE, NEGATIVE = 0.7, 0.3


def reward(text: str) -> float:
    """Of a whole answer's last step: negative, neutral and positive ones, all different."""
    return random.Random(text).choice((0.0, 0.3, 0.7)) + random.Random(f"{text}!").random() / 4


def drafter(seed: int, fails_at: int | None = None) -> ScriptedDrafter:
    """Numbers the children of each place; the answer ends at a given depth."""
    children, calls = Counter[str](), Counter[str]()

    def write(path: Path, rng: random.Random) -> str | Exception:
        calls["all"] += 1
        if calls["all"] == fails_at:
            return ConnectionError("gone")
        children[path.text] += 1
        name = f"{seed}.{children[path.text]}"
        return name if path.depth == DEPTH - 1 else f"{name}\n\n"

    return ScriptedDrafter(write)


def search(seed: int, children: int = 3, iterations: int = 50, **settings: object) -> HeuristicGreedySearch:
    return HeuristicGreedySearch(
        drafter=drafter(seed),
        verifier=ScriptedVerifier(lambda path, step: reward(path.text + step.text)),
        positive=POSITIVE,
        negative=NEGATIVE,
        children=children,
        iterations=iterations,
        settings=Settings.model_validate({"temperature": 0.1, **settings}),
    )


class Settled(Exception):  # noqa: N818 - no error
    """The iterations are used up."""


class Recursion:
    """The same search over the same tree, in its simplest form."""

    def __init__(self, seed: int, children: int, iterations: int) -> None:
        self.seed, self.children, self.iterations = seed, children, iterations
        self.tree, self.gone, self.drafts = defaultdict[str, list[str]](list), set[str](), 0

    def answer(self) -> str:
        try:
            return self.explore("") or self.settle("")
        except Settled as settled:
            return self.settle(settled.args[0])

    def draft(self, text: str) -> None:
        self.drafts += 1
        end = "" if text.count("\n\n") == DEPTH - 1 else "\n\n"
        self.tree[text].append(f"{text}{self.seed}.{len(self.tree[text]) + 1}{end}")

    def explore(self, text: str) -> str | None:
        while not text or text.endswith("\n\n"):
            full = len(self.tree[text]) == self.children
            least = NEGATIVE if full else POSITIVE
            good = [child for child in self.tree[text] if child not in self.gone and reward(child) >= least]
            if good:
                self.gone.add(child := max(good, key=reward))
                if (found := self.explore(child)) is not None:
                    return found
            elif self.drafts >= self.iterations:
                raise Settled(text)
            elif full:
                return None
            else:
                self.draft(text)
        return text

    def settle(self, text: str) -> str:
        while not text or text.endswith("\n\n"):
            if not self.tree[text]:
                self.draft(text)
            stand_by = [child for child in self.tree[text] if child not in self.gone and reward(child) >= NEGATIVE]
            text = max(stand_by or self.tree[text], key=reward)
            self.gone.add(text)
        return text


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 30))
def test_three_classes_are_searched_as_a_plain_recursion_does(seed: int, children: int, iterations: int) -> None:
    result = search(seed, children, iterations).run("question")
    plain = Recursion(seed, children, iterations)
    assert (result.text, result.ledger.drafter.calls) == (plain.answer(), plain.drafts)
    assert plain.drafts <= iterations + DEPTH
    ledger, size = result.ledger, sum(step.size for step in result.steps)
    assert ledger.drafter.generated == ledger.drafter.discarded + size == ledger.verifier.discarded + size


def rewarded(*rewards: float, children: int = 3) -> str:
    """The one step that is kept of some drafts."""
    left, scores = iter(range(len(rewards))), iter(rewards)
    made = HeuristicGreedySearch(
        drafter=ScriptedDrafter(lambda path, rng: str(next(left))),
        verifier=ScriptedVerifier(lambda path, step: next(scores)),
        children=children,
    )
    return made.run("question").text


def test_a_positive_step_is_kept_at_once_and_a_neutral_one_stands_by() -> None:
    assert rewarded(0.7) == "0"
    assert rewarded(0.1, 0.7) == "1"
    assert rewarded(0.4, 0.6, 0.1) == "1"
    assert rewarded(0.1, 0.29, 0.2) == "1"  # there is nothing to go back to: the best of them
    assert rewarded(0.3, children=1) == "0"


def test_the_first_try_is_as_cold_as_the_settings_say_and_the_others_are_sampled() -> None:
    asked = []

    class Watched(ScriptedDrafter):
        async def generate(self, path, request):  # type: ignore[no-untyped-def]
            asked.append(request.sampling.temperature)
            return await super().generate(path, request)

    config = RSDConfig.parse({"method": "hgs:temperature=0.1", "settings": {"retry_temperature": 0.9}})
    HeuristicGreedySearch(
        drafter=Watched(["bad"]), verifier=ScriptedVerifier([0.1]), settings=config.method.settings(config.settings)
    ).run("question")
    assert asked == [0.1, 0.9, 0.9]


def going_back(kind: type[Decoder], fails_at: int | None = None, **settings: object) -> Decoder:
    """The first step is good, nothing that follows it is, and neither is another first step."""
    options: dict[str, object] = {"children": 2} if kind is HeuristicGreedySearch else {"tries": 2}
    return kind(
        drafter=drafter(0, fails_at),  # type: ignore[call-arg]
        verifier=ScriptedVerifier(lambda path, step: 0.9 if path.text + step.text in GOOD else 0.1),
        settings=Settings.model_validate(settings),
        **options,
    )


GOOD = {"0.1\n\n", "0.1\n\n0.1\n\n"}


@pytest.mark.parametrize("kind", [Backtracking, HeuristicGreedySearch])
def test_what_was_written_before_the_search_went_back_is_not_lost(kind: type[Decoder]) -> None:
    """The third step fails twice, so the second is removed; then the drafter is gone, or the FLOPs are."""
    with pytest.raises(DrafterError) as caught:
        going_back(kind, fails_at=5).run("question")
    assert caught.value.partial is not None
    assert len(caught.value.partial.steps) == 2
    whole = going_back(kind).run("question")
    for share in (0.3, 0.6, 0.9):
        assert whole.ledger.total.flops
        limit = whole.ledger.total.flops * share
        cut = going_back(kind, limits=Limits(max_flops=limit)).run("question")
        assert cut.finish_reason in ("max_flops", "stop")
        assert (cut.ledger.total.flops or 0) <= limit + 60  # of the last call
        assert len(cut.steps) >= 2
        size = sum(step.size for step in cut.steps)
        assert cut.ledger.drafter.generated == cut.ledger.drafter.discarded + size


def test_wrong_classes_are_reported_before_anything_is_loaded() -> None:
    for text, words in (("hgs:0.3,0.7", "negative=0.7 is above"), ("hgs:children=0", "greater than or equal to 1")):
        with pytest.raises(ConfigurationError, match=words):
            RSDConfig.parse({"method": text})
    with pytest.raises(ConfigurationError, match="0 ≤ negative ≤ positive ≤ 1"):
        HeuristicGreedySearch(drafter=ScriptedDrafter(["x"]), verifier=ScriptedVerifier([1.0]), negative=0.8)


def test_a_verifier_that_scores_nothing_gives_negative_steps() -> None:
    made = HeuristicGreedySearch(
        drafter=ScriptedDrafter(["a\n\n", "b"]), verifier=ScriptedVerifier(lambda path, step: None)
    )
    assert made.run("question").text == "a\n\nb"


def test_steps_are_events_as_they_are_scored() -> None:
    events = [type(event).__name__ for event in search(3).stream("question")]
    assert events.count("StepDrafted") == events.count("StepScored") >= events.count("StepAccepted") == DEPTH
