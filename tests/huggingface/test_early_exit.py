"""Early exit: rewards follow the rule on the full model's states, whatever was deferred."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path as Folder
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from rsd_core import (
    BinaryStep,
    ConfigurationError,
    DraftOnly,
    Path,
    RewardGuidedDecoder,
    RSDError,
    Settings,
    SpecError,
    Step,
    as_prompt,
    load,
)
from rsd_core.ledger import Account
from rsd_core.testing import ScriptedDrafter, ScriptedTarget
from rsd_integrations.cli import distill
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.embedded.task import problems
from rsd_integrations.evaluation.scoring import solution_of
from rsd_integrations.evaluation.statistics import wilson
from rsd_integrations.huggingface import HuggingFaceGenerator, deferring, distilling, early_exit, load_verifier
from rsd_integrations.huggingface.deferring import DeferringRunner
from rsd_integrations.huggingface.distilling import Readings
from rsd_integrations.huggingface.early_exit import ExitRule, Exits
from rsd_integrations.huggingface.fused_decoder import FusedDecoder
from rsd_integrations.huggingface.heads import linear
from rsd_integrations.huggingface.reward_models import load_with_exits
from rsd_integrations.huggingface.verifier import HuggingFaceVerifier
from rsd_integrations.inprocess import runner
from rsd_integrations.verifiers import Cached
from tests.cli.test_cli import rsd
from tests.conftest import Counter
from tests.huggingface.tiny import copied, make_prm

DEPTH, WIDTH, AT, THRESHOLD, MARGIN = 6, 64, (1, 3, 4, 5), 0.45, 0.4
SIZES = {"num_hidden_layers": DEPTH, "initializer_range": 0.15}
QUESTIONS = [
    "Mia has 45 apples.",
    "Leo has 7 pens and 12 boxes. He buys 3 more, then he sells 2.",
    "Zoe walks 5 miles.",
]
WORDS = [
    "She buys 12 more: 45+12=57.\n\n",
    "Then 57-9=48.\n\n",
    "No.\n\n",
    "The answer is \\boxed{57}.\n\n",
    "7*8=56.\n\n",
]


def step(text: str) -> Step:
    return Step(text, "delimiter")


Heads = Sequence[nn.Module]


@pytest.fixture(scope="module")
def prm(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return make_prm(tmp_path_factory.mktemp("exits") / "prm", sizes=SIZES)


@pytest.fixture(scope="module")
def heads(prm: Folder) -> Heads:
    """Heads whose log odds have mean 0 and deviation 1 over some steps, so that each depth is some step's."""
    model = load_verifier(str(prm))
    plain = Plain(model, [], inf)
    made = list[nn.Module]()
    paths = [Path(as_prompt(question)) for question in QUESTIONS]
    paths += [path.extend(step(text)) for path in paths for text in WORDS]
    states = [plain.states(plain.ids(path, step(text))) for path in paths for text in WORDS]
    for index, layers in enumerate(AT):
        x = torch.stack([rms(one[layers]) for one in states])
        # Where they differ most, so that rounding stays small; by another direction in later heads.
        weight = torch.pca_lowrank(x, 2, niter=8)[2][:, index // 2, None].T
        weight = weight / (x @ weight.T).std()
        made.append(linear(weight, -(x @ weight.T).mean(0)))
    return made


def rms(x: torch.Tensor) -> torch.Tensor:
    return x / x.square().mean().sqrt()


def loaded(
    folder: Folder, heads: Heads, margin: float = MARGIN, **options: Any
) -> tuple[HuggingFaceVerifier, DeferringRunner]:
    def make(fingerprint: str, _: object) -> Exits:
        return Exits(ExitRule(AT, THRESHOLD, margin, fingerprint), heads).eval()

    model = load_with_exits(str(folder), make, **options)
    assert isinstance(model.runner, DeferringRunner)
    return model, model.runner


@dataclass
class Plain:
    """Rewards by a full pass of transformers' own modules over path and step, and the rule read off its states."""

    model: HuggingFaceVerifier
    heads: Heads
    margin: float = MARGIN
    depths: dict[tuple[int, ...], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.body: Any = copy.deepcopy(self.model.body)
        self.body.set_attn_implementation("sdpa")

    @torch.inference_mode()
    def states(self, ids: list[int]) -> list[torch.Tensor]:
        return [layer[0, -1] for layer in self.body(torch.tensor([ids]), output_hidden_states=True).hidden_states]

    @torch.inference_mode()
    def reward(self, path: Path, candidate: Step) -> float:
        ids = self.ids(path, candidate)
        states, at = self.states(ids), math.log(THRESHOLD / (1 - THRESHOLD))
        odds = [float(head(rms(states[layers]))) for head, layers in zip(self.heads, AT, strict=True)]
        for before, now, layers in zip(odds, odds[1:], AT[1:], strict=False):
            if min(before, now) - at >= self.margin or max(before, now) - at <= -self.margin:
                self.depths[tuple(ids)] = layers
                return 1 / (1 + math.exp(-now))
        self.depths[tuple(ids)] = DEPTH
        return float(self.model.head(states[-1][None])[0])

    def ids(self, path: Path, candidate: Step) -> list[int]:
        return [*self.model.layouts.ids(path)[0], *self.model.layouts.step(path, candidate).feed]


async def walk(model: HuggingFaceVerifier, plain: Plain, seed: int, moves: int = 12) -> None:
    """Extends, branches, rolls back and forgets a path; each reward is checked at once."""
    rng = random.Random(seed)
    path = Path(as_prompt(rng.choice(QUESTIONS)))
    for _ in range(moves):
        candidates = [step(rng.choice(WORDS)) for _ in range(rng.choice((1, 1, 2, 3)))]
        if rng.random() < 0.15:
            call = asyncio.ensure_future(model.score(path, candidates))
            await asyncio.sleep(rng.random() * 0.003)
            call.cancel()
            await asyncio.wait([call])
        else:
            rewards = (await model.score(path, candidates)).rewards
            assert rewards == pytest.approx([plain.reward(path, candidate) for candidate in candidates], abs=1e-5)
        move = rng.random()
        if move < 0.6 and path.depth < 7:
            path = path.extend(rng.choice([*candidates, step(WORDS[1])]))
        elif move < 0.85 and path.parent is not None:
            path = path.parent
        else:
            path = copied(path) if rng.random() < 0.5 else Path(as_prompt(rng.choice(QUESTIONS)))


@pytest.mark.parametrize("seed", range(3))
def test_no_order_of_work_changes_a_reward(seed: int, prm: Folder, heads: Heads, counted: Counter) -> None:
    model, deferring_runner = loaded(prm, heads)
    plain = Plain(model, heads)  # before anything is counted, whose hooks its copy would have
    counted.watch("model", model.body)
    asyncio.run(walk(model, plain, seed, 20))
    assert len(set(plain.depths.values())) > 2  # steps ended early, and went deep
    assert counted.tokens["model"] == deferring_runner.tokens  # deferred tokens are not embedded again
    assert deferring_runner.layers < deferring_runner.tokens * DEPTH


@pytest.mark.parametrize("chunk", [512, 16])
def test_neither_neighbours_nor_a_full_cache_change_a_reward(
    chunk: int, prm: Folder, heads: Heads, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (runner, deferring):
        monkeypatch.setattr(module, "PREFILL_CHUNK", chunk)
    spacious, _ = loaded(prm, heads)
    token = spacious.runner.store.token_bytes
    model, deferring_runner = loaded(prm, heads, cache_bytes=token * 256 * 2)
    plain = Plain(model, heads)

    async def all_at_once() -> None:
        await asyncio.gather(*(walk(model, plain, 100 + seed, 10) for seed in range(4)))

    asyncio.run(all_at_once())
    assert deferring_runner.store.evicted > 0


def test_layers_are_those_of_the_deepest_step_from_each_token_on(prm: Folder, heads: Heads) -> None:
    model, deferring_runner = loaded(prm, heads)
    plain = Plain(model, heads)
    path, spent, charged = Path(as_prompt(QUESTIONS[0])), 0.0, Account()
    ends: list[tuple[int, int]] = []
    for text in WORDS * 2:
        scores = asyncio.run(model.score(path, [step(text)]))
        charged.charge(model, scores.usage)
        plain.reward(path, step(text))
        ids = tuple(plain.ids(path, step(text)))
        ends.append((len(ids), plain.depths[ids]))
        path = path.extend(step(text))
        begins = [0, *(end for end, _ in ends)]
        deepest = [max(depth for _, depth in ends[i:]) for i in range(len(ends))]
        spent = sum((end - begin) * depth for begin, (end, _), depth in zip(begins, ends, deepest, strict=False))
        assert deferring_runner.layers == spent
    assert len({depth for _, depth in ends}) > 1
    assert deferring_runner.tokens == charged.computed == ends[-1][0]
    assert model.flops_per_token is not None
    assert charged.flops == pytest.approx(model.flops_per_token * spent / DEPTH)
    assert sum(deferring_runner.read_at.values()) == len(ends)


def test_what_candidates_share_goes_deeper_once(prm: Folder, heads: Heads) -> None:
    """And the chosen one continues from there."""
    model, deferring_runner = loaded(prm, heads, inf)
    path = Path(as_prompt(QUESTIONS[1]))
    candidates = [step(text) for text in WORDS]
    asyncio.run(model.score(path, candidates))
    for candidate in reversed(candidates):
        asyncio.run(model.score(path.extend(candidate), candidates))
    assert deferring_runner.layers == deferring_runner.tokens * DEPTH
    assert deferring_runner.layers_share == 1


def test_without_an_early_end_every_reward_is_the_full_models(prm: Folder, heads: Heads) -> None:
    (full, (model, _)), path = (load_verifier(str(prm)), loaded(prm, heads, inf)), Path(as_prompt(QUESTIONS[2]))
    for text in WORDS:
        candidates = [step(text), step(WORDS[2])]
        wanted = asyncio.run(full.score(path, candidates))
        found = asyncio.run(model.score(path, candidates))
        assert found.rewards == pytest.approx(wanted.rewards, abs=1e-5)
        assert found.usage.computed == wanted.usage.computed
        path = path.extend(step(text))


@pytest.fixture
def file(prm: Folder, tmp_path: Folder) -> Folder:
    """As `rsd distill-exits` writes it."""
    nets = [nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, 1)) for _ in AT]
    made = loaded(prm, nets)[0].exits
    assert made is not None
    early_exit.save(made, tmp_path / "exits.safetensors")
    return tmp_path / "exits.safetensors"


def test_exits_come_back_from_their_file(prm: Folder, heads: Heads, file: Folder) -> None:
    path = Path(as_prompt(QUESTIONS[0]))
    candidates = [step(text) for text in WORDS]
    from_file = load(f"prm,exits={file}:{prm}", role="verifier")
    assert isinstance(from_file, HuggingFaceVerifier)
    assert from_file.exits is not None
    plain = Plain(from_file, list(from_file.exits.heads))
    found = asyncio.run(from_file.score(path, candidates)).rewards
    assert found == pytest.approx([plain.reward(path, candidate) for candidate in candidates], abs=1e-5)
    assert from_file.exits.rule.layers == AT
    assert (from_file.exits.rule.margin, from_file.exits.rule.threshold) == (MARGIN, THRESHOLD)


def test_exits_of_another_model_are_refused_before_its_weights_are_read(
    prm: Folder, heads: Heads, file: Folder, tmp_path: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsd_integrations.huggingface.reward_models._body", lambda *_: pytest.fail("it was loaded"))
    other = make_prm(tmp_path / "other", seed=5, sizes=SIZES)
    with pytest.raises(ConfigurationError, match="belong to another reward model"):
        load_verifier(str(other), exits=str(file))
    with pytest.raises(ConfigurationError, match="belong to another reward model"):
        load_verifier(str(prm), exits=str(file), format="qwen2.5-math-prm-bare")
    with pytest.raises(ConfigurationError, match="there is no such file"):
        load_verifier(str(prm), exits=str(tmp_path / "none.safetensors"))
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(ConfigurationError, match="not a safetensors file"):
        load_verifier(str(prm), exits=str(tmp_path / "text.safetensors"))
    with pytest.raises(ConfigurationError, match="holds no exits"):
        load_verifier(str(prm), exits=str(prm / "model.safetensors"))
    broken = tmp_path / "broken.safetensors"
    for rule in ("{}", json.dumps({"layers": [3, 1], "threshold": 0.5, "margin": 1}), "no json"):
        save_file({"1.0.weight": torch.ones(1)}, broken, metadata={"format": early_exit.FORM, "rule": rule})
        with pytest.raises(ConfigurationError, match=r"broken|ascending"):
            load_verifier(str(prm), exits=str(broken))


@pytest.mark.parametrize("place", range(len(AT)))
def test_every_head_has_to_be_of_the_models_width(prm: Folder, file: Folder, place: int) -> None:
    tensors = load_file(file)
    name = f"{AT[place]}.0.weight"
    with safe_open(file, "pt") as opened:
        told = opened.metadata()
    save_file(tensors | {name: tensors[name][:, 1:].contiguous()}, file, metadata=told)
    with pytest.raises(ConfigurationError, match="belong to another reward model"):
        load_verifier(str(prm), exits=str(file))


def test_a_threshold_that_is_not_the_policys_is_warned_of(prm: Folder, heads: Heads) -> None:
    model, _ = loaded(prm, heads)
    roles: Any = {"drafter": ScriptedDrafter(["a"]), "target": ScriptedTarget(["b"])}
    RewardGuidedDecoder(**roles, verifier=model, policy=BinaryStep(delta=THRESHOLD))
    for verifier in (model, Cached(model)):
        with pytest.warns(UserWarning, match=f"hold around the reward {THRESHOLD}, and .*=0.7.* decides elsewhere"):
            RewardGuidedDecoder(**roles, verifier=verifier)


def test_plan_reads_the_file_of_exits_and_counts_what_deferring_keeps(file: Folder, prm: Folder) -> None:
    with pytest.raises(ConfigurationError, match="there is no such file"):
        rsd("plan", f"prm,exits=./none.safetensors:{prm}")
    plain, deferring = (rsd("plan", f"prm{exits}:{prm}", "--dtype", "float32") for exits in ("", f",exits={file}"))
    told = [float(re.search(r"([\d.]+) KiB", shown)[1]) for shown in (plain, deferring)]  # type: ignore[index]
    assert told[1] - told[0] == pytest.approx(4 * WIDTH / 1024, abs=0.06)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (3,)}, "at least two"),
        ({"layers": (0, 2)}, "each at least 1"),
        ({"threshold": 1.0}, r"\(0, 1\)"),
        ({"margin": -1.0}, "at least 0"),
        ({"margin": float("nan")}, "at least 0"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        replace(ExitRule((1, 2), 0.5, 1.0), **change)


def test_a_model_that_cannot_stop_midway_takes_no_exits(
    prm: Folder, heads: Heads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FusedDecoder, "of", lambda *_: None)
    with pytest.raises(ConfigurationError, match="cannot stop midway"):
        loaded(prm, heads)


def test_a_body_that_others_write_with_takes_no_exits(prm: Folder, heads: Heads, file: Folder) -> None:
    with pytest.raises(SpecError, match="exits"):
        load(f"shared,exits={file}:{prm}")


@pytest.fixture(scope="module")
def solutions(draft: HuggingFaceGenerator) -> list[list[tuple[Path, Step]]]:
    """What the embedded drafter writes, its mistakes included."""
    questions = [problem.question for problem in itertools.islice(problems("dev", 3), 110)]
    decoder = DraftOnly(drafter=draft, settings=Settings(temperature=0.9))
    texts = [result.text for result in decoder.run_many(questions)]
    found = [solution_of(as_prompt(question), text) for question, text in zip(questions, texts, strict=True)]
    return [list(solution.paths()) for solution in found if solution is not None]


@pytest.fixture(scope="module")
def distilled(solutions: list[list[tuple[Path, Step]]]) -> tuple[Exits, Readings]:
    """Exits of the embedded reward model, and what they were learned from."""
    seen: list[Readings] = []

    def read(*arguments: Any) -> Readings:
        seen.append(whole(*arguments))
        return seen[0]

    whole = distilling._read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distilling, "_read", read)
        return distilling.distil(str(FOLDER / "prm"), solutions, agreement=0.9), seen[0]


def test_reported_figures_of_distilled_exits_hold(
    solutions: list[list[tuple[Path, Step]]], distilled: tuple[Exits, Readings], tmp_path: Folder
) -> None:
    """On the held-out solutions, read by the exits from their file."""
    made, readings = distilled
    early_exit.save(made, tmp_path / "exits.safetensors")
    model = load(f"embedded,exits={tmp_path / 'exits.safetensors'}:prm", role="verifier")
    assert isinstance(model, HuggingFaceVerifier)
    assert isinstance(model.runner, DeferringRunner)
    held_out = [at for solution in solutions[:: distilling.HELD_OUT] for at in solution]
    early = torch.tensor([asyncio.run(model.score(at[0], [at[1]])).rewards[0] or 0 for at in held_out]) >= 0.5
    full = readings.of(readings.solution % distilling.HELD_OUT == 0).rewards >= 0.5
    same, rule = int((early == full).sum()), made.rule
    assert rule.steps == len(held_out)
    assert rule.agreement == pytest.approx(same / len(held_out))
    assert rule.kept_rejections == pytest.approx(float((~early)[~full].float().mean()))
    assert rule.share == pytest.approx(model.runner.layers_share)
    assert 0.9 <= rule.agreement < 1
    assert rule.share < 1


def test_no_more_agreement_is_promised_than_was_seen(distilled: tuple[Exits, Readings]) -> None:
    made, readings = distilled
    with pytest.raises(ConfigurationError, match=r"no margin lets .* with 99\.99% agreement"):
        distilling.learned(made.rule, readings, 5, agreement=0.9999, seed=0)
    stricter = distilling.learned(made.rule, readings, 5, agreement=0.95, seed=0).rule
    assert stricter.margin > made.rule.margin
    assert stricter.share > made.rule.share
    assert wilson(round(stricter.agreement * stricter.steps), stricter.steps)[0] > 0.945


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agreement": 1.0}, r"agreement must be in \(0, 1\)"),
        ({"threshold": 0.0}, r"threshold of exits must be in \(0, 1\)"),
        ({"layers": (2, 5)}, r"below the last of 5 layers"),
        ({"layers": (3,)}, "at least two"),
        ({"device": "nowhere"}, "cannot be used here"),
    ],
)
def test_exits_that_cannot_be_are_refused(
    options: dict[str, Any], message: str, solutions: list[list[tuple[Path, Step]]]
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        distilling.distil(str(FOLDER / "prm"), solutions, **{"agreement": 0.9} | options)


def test_too_few_steps_are_refused(solutions: list[list[tuple[Path, Step]]]) -> None:
    with pytest.raises(ConfigurationError, match="too few"):
        distilling.distil(str(FOLDER / "prm"), solutions[:20])


def test_what_ships_judges_as_the_full_model_does(
    solutions: list[list[tuple[Path, Step]]], verifier: HuggingFaceVerifier
) -> None:
    model = load("embedded,exits=true:prm", role="verifier")
    assert isinstance(model, HuggingFaceVerifier)
    assert isinstance(model.runner, DeferringRunner)
    verdicts = [
        [(asyncio.run(judge.score(path, [one])).rewards[0] or 0) >= 0.5 for judge in (model, verifier)]
        for solution in solutions[::3]
        for path, one in solution
    ]
    same = sum(early == full for early, full in verdicts)
    assert wilson(same, len(verdicts))[1] > 0.97
    assert model.runner.layers_share < 0.9
    assert model.runner.read_at.total() == len(verdicts)


def test_the_command_writes_a_file_that_loads(
    distilled: tuple[Exits, Readings], tmp_path: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def distil(model: str, solutions: list[list[tuple[Path, Step]]], **options: Any) -> Exits:
        given.update(options, model=model, steps=[[step.text for _, step in solution] for solution in solutions])
        return distilled[0]

    monkeypatch.setattr(distilling, "distil", distil)
    (tmp_path / "data.jsonl").write_text(json.dumps({"problem": "2+3?", "steps": ["2+3=5.", "\\boxed{5}"]}))
    words = ["--data", str(tmp_path / "data.jsonl"), "--agreement", "0.9", "--layers", "1,2,3,4"]
    shown = rsd("distill-exits", "embedded:prm", str(tmp_path / "exits.safetensors"), *words)
    assert given["model"] == str(FOLDER / "prm")
    assert given["steps"] == [["2+3=5.\n\n", "\\boxed{5}"]]
    assert (given["threshold"], given["agreement"], given["layers"]) == (0.5, 0.9, (1, 2, 3, 4))
    assert f"exits={tmp_path / 'exits.safetensors'}:prm" in shown.replace("\n", "")
    model = load(f"embedded,exits={tmp_path / 'exits.safetensors'}:prm")
    assert model.exits.rule == distilled[0].rule


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["embedded:prm", "exits.bin"], "name it exits.bin.safetensors"),
        (["embedded:prm", str(FOLDER / "prm" / "exits.safetensors")], "is inside a checkpoint"),
        (["embedded:prm", "nowhere/exits.safetensors"], "does not exist"),
        (["prm:./mine", "exits.safetensors"], "needs --data"),
        (["embedded,exits=true:prm", "exits.safetensors"], "already has exits"),
        (["embedded:verifier", "exits.safetensors"], "cannot have exits"),
        (["prm:gguf=./prm.gguf,head=./prm", "exits.safetensors"], "cannot have exits"),
        (["embedded:prm", "exits.safetensors", "--layers", "a,b"], "is not a list of numbers"),
        (["embedded:prm", "exits.safetensors", "--data", "none.jsonl"], "none.jsonl"),
        (["embedded:prmm", "exits.safetensors"], "embedded:prmm is unknown"),
        (["embedded:prm", "exits.safetensors", "--threshold", "1.5"], r"in \(0, 1\) \(got 1.5\)"),
        (["embedded:prm", "exits.safetensors", "--agreement", "1"], r"agreement must be in \(0, 1\)"),
        (["embedded:prm", "exits.safetensors", "--layers", "3,2"], "ascending"),
        (
            ["embedded:prm", "exits.safetensors", "--n", "40"],
            "--n 40 is too few .* --agreement 0.99; give at least 179",
        ),
        (["embedded:prm", "exits.safetensors", "--n", "66", "--agreement", "0.9"], "give at least 67"),
        (["embedded:prm", "exits.safetensors", "--layers", "2,5"], "below the last of 5 layers"),
    ],
)
def test_the_command_refuses_before_it_works(
    words: list[str], message: str, tmp_path: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(distilling, "distil", lambda *_, **__: pytest.fail("it began"))
    monkeypatch.setattr(distill, "_embedded", lambda *_: pytest.fail("it solved problems"))
    with pytest.raises(RSDError, match=message):
        rsd("distill-exits", *words)
