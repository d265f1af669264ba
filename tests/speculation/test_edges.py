"""Edges of speculation: a model that drafts for itself, little room, bad proposals and rules, grammars, hedges."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import PrivateAttr

from rsd_core import (
    BinaryStep,
    ConfigurationError,
    Ledger,
    Limits,
    Path,
    RewardGuidedDecoder,
    Sampling,
    Settings,
    Speculation,
    SpeculativeBeams,
    SpeculativeDecoding,
    Step,
    StepRequest,
    TargetOnly,
    Usage,
    as_prompt,
)
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.huggingface import HuggingFaceGenerator, load_generator
from rsd_integrations.huggingface.attention import _tree_mask
from rsd_integrations.inprocess.calls import Tree
from rsd_integrations.speculation.parsing import parse_rule
from rsd_integrations.speculation.rules import AcceptanceRule, Exact, Judged, Verdicts
from tests.huggingface.tiny import make_causal_lm
from tests.speculation.scripted import Scripted

QUESTION = "Mia has 45 apples. Then she buys 3 more. How many apples does Mia have now?"
WHOLE = StepRequest((0,), max_tokens=30, delimiter=None)


async def write(target: HuggingFaceGenerator, request: StepRequest = WHOLE, prompt: str = "Mia") -> Step:
    return (await target.generate(Path(as_prompt(prompt)), request)).steps[0]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[HuggingFaceGenerator, HuggingFaceGenerator]:
    """A drafter and a target over random weights, of a short context."""
    folder = tmp_path_factory.mktemp("tiny")
    made = [load_generator(str(make_causal_lm(folder / str(i), i, max_position_embeddings=64))) for i in range(2)]
    return made[0], made[1]


def test_a_model_that_drafts_for_itself_has_both_works_on_its_accounts(target: HuggingFaceGenerator) -> None:
    mine = SpeculativeDecoding(drafter=target, target=target).run(QUESTION)
    alone = TargetOnly(target=target).run(QUESTION)
    assert (mine.text, mine.prompt_tokens) == (alone.text, alone.prompt_tokens)
    assert mine.ledger.target.generated == alone.ledger.target.generated
    assert mine.ledger.target.computed >= alone.ledger.target.computed
    assert mine.ledger.drafter.computed > mine.ledger.drafter.generated > 0


def test_it_goes_on_where_only_one_of_its_sequences_has_room(
    tiny: tuple[HuggingFaceGenerator, HuggingFaceGenerator],
) -> None:
    """The target's and the drafter's take turns; neither waits for the other's room."""
    _, target = tiny
    known = asyncio.run(write(target))
    store = target.runner.store
    budget = store.budget
    store.clear()
    store.budget = store.token_bytes * store.context
    try:
        drafted = replace(WHOLE, speculation=Speculation(drafter=target))
        made = asyncio.run(asyncio.wait_for(write(target, drafted), 60))
    finally:
        store.budget = budget
    assert made.tokens == known.tokens


class Failing(AcceptanceRule):
    """A rule with a fault."""

    kind: Literal["failing"] = "failing"
    lossless: ClassVar[bool] = True

    def judge(self, judged: Judged) -> Verdicts:
        raise ZeroDivisionError("no verdict")


def test_a_rule_that_fails_fails_its_own_request_alone(tiny: tuple[HuggingFaceGenerator, HuggingFaceGenerator]) -> None:
    drafter, target = tiny

    async def both() -> tuple[object, object]:
        rules = (Failing(), Exact())
        requests = [replace(WHOLE, speculation=Speculation(drafter=drafter, rule=rule)) for rule in rules]
        failed, made = await asyncio.gather(*(write(target, request) for request in requests), return_exceptions=True)
        return failed, made

    failed, made = asyncio.run(both())
    assert isinstance(failed, ZeroDivisionError)
    assert isinstance(made, Step)
    assert made.tokens == asyncio.run(write(target)).tokens


def test_missing_ids_are_left_out(tiny: tuple[HuggingFaceGenerator, HuggingFaceGenerator]) -> None:
    _, target = tiny
    known = asyncio.run(write(target))
    text = (*known.tokens[:3], -1, target.vocabulary.size, *known.tokens)
    for tree in (False, True):
        speculation = Speculation(Scripted(text=text, tree=tree, right=1.0))
        assert asyncio.run(write(target, replace(WHOLE, speculation=speculation))).tokens == known.tokens


class Seeing(AcceptanceRule):
    """The exact rule, which notes how likely the target finds what it judges."""

    kind: Literal["seeing"] = "seeing"
    lossless: ClassVar[bool] = True
    _seen: list[float] = PrivateAttr(default_factory=list)

    @property
    def seen(self) -> Sequence[float]:
        return self._seen

    def judge(self, judged: Judged) -> Verdicts:
        self._seen.extend(judged.target.gather(1, judged.tokens[:, None]).flatten().tolist())
        return Exact().judge(judged)


def test_a_drawn_token_that_the_grammar_forbids_is_judged(
    tiny: tuple[HuggingFaceGenerator, HuggingFaceGenerator],
) -> None:
    """Left out, its place would be drawn from p, and allowed tokens of the drafter's would come too often."""
    drafter, target = tiny
    schema = {"name": "answer", "schema": {"enum": ["yes", "no", "perhaps"]}, "strict": True}
    writer = target.with_fields({"response_format": {"type": "json_schema", "json_schema": schema}})
    rule = Seeing()
    for seed in range(4):
        request = StepRequest((seed,), 20, None, Sampling(1.0), speculation=Speculation(drafter=drafter, rule=rule))
        assert json.loads(asyncio.run(write(writer, request)).text) in ("yes", "no", "perhaps")
    assert 0.0 in rule.seen


def test_a_hedged_step_is_the_step_that_would_have_been_written_later(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator
) -> None:
    """When sampling too, and what was begun in vain is on the accounts of those who did it."""
    verifier = ScriptedVerifier(lambda path, _: 0.9 if path.depth % 2 else 0.1)
    results = []
    for hedge in (None, 0.2):
        settings = Settings(temperature=1.0, seed=5, speculate="drafter", hedge=hedge, reuse_rejected=False)
        decoder = RewardGuidedDecoder(
            drafter=draft, verifier=verifier, target=target, policy=BinaryStep(delta=0.5), settings=settings
        )
        results.append(decoder.run(QUESTION))
    late, early = results
    assert early.text == late.text
    assert early.ledger.target.calls > late.ledger.target.calls
    drafted = early.ledger.drafter
    assert draft.flops_per_token is not None
    assert drafted.flops == drafted.computed * draft.flops_per_token


def test_what_a_lost_call_had_drafted_is_discarded() -> None:
    drafter, target, ledger = ScriptedDrafter(["x"]), ScriptedTarget(["x"]), Ledger()
    own, drafting = Usage(generated=4, computed=9, discarded=2), Usage(generated=6, computed=7, discarded=2)
    usage = replace(own + drafting, parts=((target, own), (drafter, drafting)))
    assert ledger.charge("target", target, usage, drafter, failed=True) == own
    assert (ledger.target.generated, ledger.target.discarded, ledger.target.failed) == (4, 6, 1)
    assert (ledger.drafter.generated, ledger.drafter.discarded, ledger.drafter.failed) == (6, 6, 1)


def test_a_limit_that_cannot_be_kept_is_refused(draft: HuggingFaceGenerator, target: HuggingFaceGenerator) -> None:
    limits = Limits(max_target_flops=1e9)
    with pytest.raises(ConfigurationError, match=r"max_target_flops=1e\+09 cannot be kept by SpeculativeDecoding"):
        SpeculativeDecoding(drafter=draft, target=target, settings=Settings(limits=limits))
    with pytest.raises(ConfigurationError, match="cannot be kept by SpeculativeBeams"):
        SpeculativeBeams(drafter=draft, target=target, settings=Settings(temperature=0.7, limits=limits))


def test_rules_without_a_limit_survive_json() -> None:
    for text in ("typical:epsilon=1,delta=inf", "easd:draft_entropy=inf"):
        rule = parse_rule(text)
        assert parse_rule(json.loads(rule.model_dump_json())) == rule


@given(
    st.integers(1, 9), st.lists(st.integers(0, 99), min_size=1, max_size=7), st.integers(0, 99), st.integers(1, 20),
    st.booleans(),
)  # fmt: skip
def test_a_node_of_a_tree_sees_the_text_before_it(
    begin: int, choices: list[int], cut: int, window: int, windowed: bool
) -> None:
    parents = tuple(choice % (i + 1) - 1 for i, choice in enumerate(choices))
    longest = begin + len(parents)
    cached = cut % longest
    texts = [list(range(i + 1)) for i in range(begin)]
    for node, parent in enumerate(parents, begin):
        texts.append([*texts[begin + parent if parent >= 0 else begin - 1], node])
    mask = _tree_mask(Tree(begin, parents), cached, longest, window if windowed else None, torch.float32)
    assert mask.shape == (1, 1, longest - cached, longest)
    for row, text in zip(mask[0, 0], texts[cached:], strict=True):
        seen = text[-window:] if windowed else text
        assert [i for i, bias in enumerate(row.tolist()) if bias == 0] == seen
