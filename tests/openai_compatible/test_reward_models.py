"""Reward models behind servers: invalid scores, and specs that cannot work.

Real servers are in `tests/servers`. Here answers are scripted, since no server gives all of these on demand.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path as Folder
from typing import Any

import pytest

from rsd_core import (
    ConfigurationError,
    Explains,
    Path,
    ScoresRuns,
    SpecError,
    Step,
    Thinking,
    Usage,
    VerifierError,
    load,
)
from rsd_core.blocking import wait_for
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.errors import Refused
from rsd_integrations.openai_compatible.reward_models import PoolingRunVerifier, PoolingVerifier, TokenLogitsVerifier
from rsd_integrations.prm_formats import FORMATS, bind
from tests.huggingface.reward_models import llama, mistral, qwen
from tests.inprocess.test_reward_models import STEPS, extended, step

Answer = Callable[[Mapping[str, Any]], dict[str, Any]]


class Scripted(Endpoint):
    """Answers as it is told to."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("prm", "http://127.0.0.1:9/v1")
        self.answer, self.asked = answer, list[tuple[str, Mapping[str, Any]]]()

    async def get(self, path: str, read: Any) -> Any:
        return read({"data": [{"id": "prm", "owned_by": "vllm"}]})

    async def post(self, path: str, body: Mapping[str, Any], read: Any = dict, charge: Any = None) -> Any:
        self.asked.append((path, body))
        answer, result = self.answer(body), None
        try:
            result = read(answer)
        finally:
            charge(answer, result, 0.0)
        return result


def pooled(answer: Answer, name: str = "qwen2.5-math-prm", separator: str | None = None) -> PoolingVerifier:
    return PoolingVerifier(Scripted(answer), bind(FORMATS[name], qwen(), "prm", separator))


def worded(answer: Answer) -> TokenLogitsVerifier:
    return TokenLogitsVerifier(Scripted(answer), bind(FORMATS["math-shepherd"], mistral(), "prm"))


def score(model: PoolingVerifier | TokenLogitsVerifier, *texts: str) -> Any:
    return asyncio.run(model.score(extended(STEPS[:2]), [step(text) for text in texts or (STEPS[2],)])).rewards


def rows(*of_each: list[list[float]] | list[float], read: int | None = None) -> Answer:
    def answer(body: Mapping[str, Any]) -> dict[str, Any]:
        sent = sum(len(ids) for ids in body["input"])
        data = [{"index": i, "object": "pooling", "data": made} for i, made in enumerate(of_each)]
        return {"data": data[::-1], "usage": {"prompt_tokens": sent if read is None else read}}

    return answer


GOOD = [[0.75, 0.25], [0.5, 0.5], [0.125, 0.875]]


def test_the_row_of_the_candidate_counts_whatever_the_order_of_the_answer() -> None:
    model = pooled(rows(GOOD, [*GOOD[:2], [0.25, 0.75]]))
    assert score(model, "a", "b") == (0.875, 0.75)
    assert isinstance(model.endpoint, Scripted)
    ((path, body),) = model.endpoint.asked
    assert path == "/pooling"
    assert body["use_activation"] is True
    assert all(ids.count(qwen().convert_tokens_to_ids("<extra_0>")) == 3 for ids in body["input"])


def test_a_row_per_token_is_read_at_the_separator() -> None:
    def answer(body: Mapping[str, Any]) -> dict[str, Any]:
        return {"data": [{"index": 0, "data": [[at / 100] for at in range(len(body["input"][0]))]}]}

    model = pooled(answer, "skywork-prm", "\n\n")
    told = model.explain(extended(STEPS[:2]), step(STEPS[2]))
    assert score(model) == (pytest.approx(1 / (1 + math.exp(-told.read[0] / 100))),)
    assert isinstance(model.endpoint, Scripted)
    assert model.endpoint.asked[0][1]["use_activation"] is False


def in_a_run(answer: Answer, name: str = "qwen2.5-math-prm", separator: str | None = None) -> PoolingRunVerifier:
    return PoolingRunVerifier(Scripted(answer), bind(FORMATS[name], qwen(), "prm", separator))


def causal(every: bool) -> Answer:
    """Rows that depend on the text up to them: at each token, or at each separator."""
    mark = qwen().convert_tokens_to_ids("<extra_0>")

    def of(ids: list[int], pair: bool) -> list[list[float]]:
        texts = [tuple(ids[: at + 1]) for at, id_ in enumerate(ids) if every or id_ == mark]
        values = [hash(text) % 997 / 1000 for text in texts]
        return [[1 - value, value] if pair else [value] for value in values]

    def answer(body: Mapping[str, Any]) -> dict[str, Any]:
        return rows(*(of(ids, body["use_activation"]) for ids in body["input"]))(body)

    return answer


def test_formats_that_read_tokens_again_are_scored_step_by_step() -> None:
    settle = {name: bind(FORMATS[name], qwen(), "prm").settles for name in ("qwen2.5-math-prm", "skywork-prm", "pure")}
    again = {
        name: bind(FORMATS[name], qwen(), "prm").settles for name in ("universal-prm", "reasonflux-prm-1.5b", "outcome")
    }
    assert all(settle.values())
    assert not any(again.values())


@pytest.mark.parametrize(
    ("name", "separator", "every"),
    [("qwen2.5-math-prm", None, False), ("skywork-prm", "\n\n", True), ("skywork-prm", "\n", True)],
)
def test_a_run_over_the_end_of_a_thought_gives_what_plain_steps_do(
    name: str, separator: str | None, every: bool
) -> None:
    texts = [f"{STEPS[0]}\n\n", f"{STEPS[1]}\n\n", "</think>\n\n", f"{STEPS[2]}\n\n"]
    steps = [Step(text, "delimiter") for text in texts]
    path = Path(extended([]).prompt, thinking=Thinking(MARKERS["think"], "<think>\n"))
    run, alone = (in_a_run(causal(every), name, separator) for _ in range(2))
    found = [scores.rewards[0] for scores in asyncio.run(run.score_run(path, steps))]
    assert isinstance(run.endpoint, Scripted)
    assert len(run.endpoint.asked) == 1
    assert found[2] is None
    for i in (0, 1, 3):
        before = path
        for one in steps[:i]:
            before = before.extend(one)
        assert asyncio.run(alone.score(before, [steps[i]])).rewards == (found[i],)
    plain_run = asyncio.run(
        in_a_run(causal(every), name, separator).score_run(extended([]), [step(t) for t in STEPS[:3]])
    )
    assert [scores.rewards[0] for scores in plain_run] == [found[0], found[1], found[3]]
    assert asyncio.run(run.score_run(path.extend(steps[0]), steps[2:3]))[0].rewards == (None,)


@pytest.mark.parametrize(
    ("name", "separator", "every"),
    [
        ("qwen2.5-math-prm", None, False),
        ("skywork-prm", "\n\n", True),
        ("trl", "\n\n", True),
        ("skywork-prm", "\n", True),
    ],
)
@pytest.mark.parametrize("known", [0, 1])
def test_one_reading_gives_what_reading_step_by_step_does(
    name: str, separator: str | None, every: bool, known: int
) -> None:
    alone, run = (in_a_run(causal(every), name, separator) for _ in range(2))
    steps, path = [step(text) for text in STEPS], extended([])
    for before in steps[:known]:
        path = path.extend(before)
    found = asyncio.run(run.score_run(path, steps[known:]))
    assert isinstance(run.endpoint, Scripted)
    ((_, body),) = run.endpoint.asked
    (ids,) = body["input"]
    assert sum(scores.usage.computed for scores in found) == len(ids)
    assert found[0].usage.prefix == len(run.layouts.ids(path)[0])
    for scores, one in zip(found, steps[known:], strict=True):
        by_itself = asyncio.run(alone.score(path, [one]))
        assert scores.rewards == by_itself.rewards
        if path.depth == known:
            assert replace(scores.usage, seconds=0) == replace(by_itself.usage, seconds=0)
        else:
            assert scores.usage == Usage(computed=scores.usage.scored, scored=scores.usage.scored)
        path = path.extend(one)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (rows(GOOD[:2]), "2 rows for 3 steps"),
        (rows([GOOD[0], [0.2, 0.3], GOOD[2]]), "ignores use_activation"),
        (rows(GOOD, read=5), r"read 5 of \d+ tokens"),
    ],
)
def test_an_invalid_score_of_a_run_is_an_error(answer: Answer, told: str) -> None:
    with pytest.raises(VerifierError, match=told):
        asyncio.run(in_a_run(answer).score_run(extended(STEPS[:1]), [step(text) for text in STEPS[1:3]]))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (rows([]), r"0 rows for 3 steps.*step_tag_id"),
        (rows(GOOD[:2]), "2 rows for 3 steps"),
        (rows([0.1, 0.2, 0.3]), "an embedding model"),
        (rows([*GOOD[:2], [0.5]]), "rows of 1 numbers.*has 2"),
        (rows([*GOOD[:2], [math.nan, 0.5]]), "is not a score"),
        (rows([*GOOD[:2], [-1.5, 2.5]]), "ignores use_activation"),
        (rows([*GOOD[:2], [0.2, 0.3]]), "ignores use_activation"),
        (rows(GOOD, read=5), r"read 5 of \d+ tokens"),
    ],
)
def test_an_invalid_score_is_an_error_that_names_the_remedy(answer: Answer, told: str) -> None:
    with pytest.raises(VerifierError, match=told):
        score(pooled(answer))


def choice(logprobs: Any, i: int = 0) -> dict[str, Any]:
    return {"index": i, "text": "", "finish_reason": "length", "logprobs": logprobs}


def words(right: float, wrong: float) -> dict[str, Any]:
    plus, minus = (mistral().convert_tokens_to_ids(word) for word in ("▁+", "▁-"))
    return {"top_logprobs": [{f"token_id:{plus}": right, f"token_id:{minus}": wrong, "token_id:9": -0.1}]}


def test_the_two_words_share_the_probability() -> None:
    sent: list[int] = []

    def answer(body: Mapping[str, Any]) -> dict[str, Any]:
        sent[:] = [len(ids) for ids in body["prompt"]]
        usage = {"prompt_tokens": sum(sent), "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 16}}
        return {"choices": [choice(words(-7.0, -7.0), 1), choice(words(-2.0, -3.0), 0)], "usage": usage}

    model = worded(answer)
    scores = asyncio.run(model.score(extended(STEPS[:2]), [step("a"), step("b")]))
    assert scores.rewards == pytest.approx((1 / (1 + math.exp(-1)), 0.5))
    assert scores.usage.reused == 16
    assert scores.usage.generated == 2
    assert scores.usage.computed == sum(sent) - 16 + 2


@pytest.mark.parametrize(
    ("logprobs", "told"),
    [
        (None, "logprob_token_ids"),
        ({"top_logprobs": [{"token_id:9": -0.1}]}, "logprob_token_ids"),
        (words(math.nan, -1.0), "not a score"),
        (words(-math.inf, -math.inf), "not a score"),
    ],
)
def test_missing_words_are_an_error(logprobs: Any, told: str) -> None:
    with pytest.raises(VerifierError, match=told):
        score(worded(lambda body: {"choices": [choice(logprobs)]}))


def test_an_overlong_path_is_a_fault_of_the_verifier_and_other_refusals_are_not() -> None:
    def refuse(told: str) -> Answer:
        def answer(body: Mapping[str, Any]) -> dict[str, Any]:
            raise Refused(told, 400, told)

        return answer

    with pytest.raises(VerifierError, match=r"Limit the answer"):
        score(pooled(refuse("This model's maximum context length is 512 tokens.")))
    with pytest.raises(Refused):
        score(pooled(refuse("no such field")))


def test_formats_are_served_by_the_kind_of_server_that_has_their_head() -> None:
    with pytest.raises(ConfigurationError, match="token_logits,format=rlhflow"):
        PoolingVerifier(Scripted(dict), bind(FORMATS["rlhflow"], llama(), "prm"))
    with pytest.raises(ConfigurationError, match="several heads"):
        PoolingVerifier(Scripted(dict), bind(FORMATS["actprm"], qwen(), "prm"))
    with pytest.raises(ConfigurationError, match="pooling:"):
        TokenLogitsVerifier(Scripted(dict), bind(FORMATS["qwen2.5-math-prm"], qwen(), "prm"))


def test_specs_find_the_format_by_name_folder_or_option(tmp_path: Folder) -> None:
    qwen().save_pretrained(tmp_path)
    url = "http://127.0.0.1:9/v1"
    hub = load(f"pooling,tokenizer={tmp_path}:Qwen/Qwen2.5-Math-PRM-7B@{url}")
    assert hub.reader.format.name == "qwen2.5-math-prm"
    assert isinstance(hub, Explains)
    assert isinstance(hub, ScoresRuns)
    assert load(f"pooling,format=trl,separator=\\n,tokenizer={tmp_path}:prm@{url}").reader.format.name == "trl"
    with pytest.raises(ConfigurationError, match="Give the format: format="):
        load(f"pooling,tokenizer={tmp_path}:prm@{url}")
    (tmp_path / "config.json").write_text('{"prm_format": "qwen2.5-math-prm-bare", "model_type": "qwen2"}')
    assert load(f"pooling,tokenizer={tmp_path}:prm@{url}").reader.format.name == "qwen2.5-math-prm-bare"
    with pytest.raises(ConfigurationError, match="unknown format 'no'"):
        load(f"pooling,format=no,tokenizer={tmp_path}:prm@{url}")
    with pytest.raises(ConfigurationError, match="tokenizer="):
        load(f"pooling,format=trl,separator=\\n,tokenizer={tmp_path / 'none'}:prm@{url}")
    with pytest.raises(SpecError, match="no model at a URL"):
        load(f"pooling,tokenizer={tmp_path}:@{url}")
    with pytest.raises(SpecError, match="unknown option of pooling 'nonsense'; known are"):
        load(f"pooling,nonsense=1,tokenizer={tmp_path}:prm@{url}")
    with pytest.raises(ConfigurationError, match="timeout=0 is out of range"):
        load(f"token_logits,timeout=0,format=rlhflow,tokenizer={tmp_path}:prm@{url}")


@pytest.mark.parametrize(
    "spec", ["pooling,format=outcome", "pooling,format=universal-prm", "token_logits,format=rlhflow"]
)
def test_verifiers_whose_scores_are_not_all_in_one_text_score_no_runs(spec: str, tmp_path: Folder) -> None:
    llama().save_pretrained(tmp_path)
    assert not isinstance(load(f"{spec},tokenizer={tmp_path}:prm@http://127.0.0.1:9/v1"), ScoresRuns)


def test_the_doctor_tells_whether_steps_get_their_rewards() -> None:
    def answer(body: Mapping[str, Any]) -> dict[str, Any]:
        return rows(*[GOOD[1:]] * len(body["input"]))(body)

    well = wait_for(pooled(answer).examine())
    assert [(one.name, one.ok) for one in well] == [("reachable", True), ("model", True), ("step rewards", True)]
    runs = wait_for(in_a_run(causal(False)).examine())
    assert [one.name for one in runs] == ["reachable", "model", "step rewards", "runs of steps"]
    assert all(one.ok for one in runs)
    sick = wait_for(pooled(rows([])).examine())
    assert sick[-1].ok is False
    assert "step_tag_id" in sick[-1].told


def test_the_doctor_finds_rewards_that_change_with_what_follows() -> None:
    def looks_ahead(body: Mapping[str, Any]) -> dict[str, Any]:
        marks = body["input"][0].count(qwen().convert_tokens_to_ids("<extra_0>"))
        return rows(*[[[1 - marks / 10, marks / 10]] * marks for _ in body["input"]])(body)

    found = wait_for(in_a_run(looks_ahead).examine())
    assert [(one.name, one.ok) for one in found[2:]] == [("step rewards", True), ("runs of steps", False)]
