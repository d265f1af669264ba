"""Scores in a judge's words: in any form, the number and the scale are read."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsd_core import RoleWarning
from rsd_core.baselines.spoken_scores import Abstentions, spoken_score

FORMS = [
    "Score: {n}", "Score: {n}.", "score = {n}", "SCORE {n}", "Score:\n{n}", "Score - {n}", "**Score:** {n}",
    "**Score: {n}**", "Score: **{n}**", "Score: `{n}`", "Score (0-{best}): {n}", "Score (out of {best}): {n}!",
    "Score [0–{best}]: {n}", "Score: {n}/{best}", "Score: {n} / {best}.", "Score: **{n}** out of {best}",
    "The score is {n}.", "The score is {n} of {best}.", "Final score: {n}/{best}", '{{"score": {n}}}',
    '{{"why": "12-2=10", "score": "{n}/{best}"}}', "<score>{n}</score>", "| Score | {n} |", r"Score: $\boxed{{{n}}}$",
    "Score of the latest step: {n}", "Score: {n} (fine)", "{n}", "**{n}**", "{n}.", "{n}/{best}", "{n}/{best}.",
    "It holds. {n}/{best}", "My verdict: {n} out of {best}.", "Score: {n}\n", "Score：{n}",
]  # fmt: skip
BEFORE = ["", "12-2=10, as the step says.\n\n", "First I thought Score: 3, but no.\n", "Score (0-9) follows.\n\n"]


@given(
    st.sampled_from([form for form in FORMS if form.lower().count("score")]),
    st.sampled_from(BEFORE),
    st.sampled_from([9, 10]),
    st.integers(0, 20),
)
def test_a_named_score_is_read_in_every_form_after_any_text(form: str, before: str, best: int, halves: int) -> None:
    value = min(halves / 2, best)
    told = f"{value:g}"
    assert spoken_score(before + form.format(n=told, best=best), best) == value / best


@given(st.sampled_from([form for form in FORMS if "core" not in form]), st.sampled_from([9, 10]), st.integers(0, 10))
def test_a_bare_score_is_all_of_the_text_or_its_end(form: str, best: int, value: int) -> None:
    value = min(value, best)
    assert spoken_score(form.format(n=value, best=best), best) == value / best


@given(st.sampled_from([form for form in FORMS if "{best}" in form]), st.integers(0, 10))
def test_a_scale_that_the_reply_tells_counts(form: str, value: int) -> None:
    assert spoken_score(form.format(n=value, best=10), 9) == value / 10


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("Score: 9.", 1.0),  # the first three stand for themselves in reports of users
        ("8/10.", 0.8),
        ("Score (0-9): 7", 7 / 9),
        ("Score: 2\nOn reflection:\nScore: 8", 8 / 9),
        ("Score: 70%", 0.7),
        ("Score: 7,5", 7.5 / 9),
        ("Score: 8\n(a perfect score (0-9) would be shorter)", 8 / 9),
    ],
)
def test_a_reply_as_it_was_seen(text: str, reward: float) -> None:
    assert spoken_score(text, 9) == pytest.approx(reward)


@pytest.mark.parametrize(
    "text",
    [
        "", "I cannot say.", "Score: N", "Score: high", "Score (0-9):", "Score: 0-9", "Score: 8-9", "Score: 7 to 8",
        "Score: 10", "Score: 11/10", "Score: -3", "Score: −3", "Score: 9.5", "Score: 8th", "Score: 1.2.3",
        "3/4 of the seats are free.", "So 9 of 10 are free, which is 9/10 of them.", "12-2=10", "Underscore: 8",
        "It scores. 3 goals", "10", "Score: 5/0",
    ],
)  # fmt: skip
def test_a_reply_without_a_score_abstains(text: str) -> None:
    assert spoken_score(text, 9) is None


@given(st.text())
def test_any_text_gives_a_reward_or_none(text: str) -> None:
    for before in ("", "Score: "):
        reward = spoken_score(before + text, 9)
        assert reward is None or 0 <= reward <= 1


def test_a_judge_that_is_silent_at_first_is_warned_of_once_and_one_that_is_silent_later_never(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    silent = Abstentions()
    for _ in range(7):
        silent.note("mine", None, "hm")
    with pytest.warns(RoleWarning, match="mine gave no score in any of its first 8 replies"):
        silent.note("mine", None, "hm")
    for _ in range(12):  # a second warning would be an error
        silent.note("mine", None, "hm")
    assert caplog.text.count("mine abstains") == 20
    proven = Abstentions()
    proven.note("mine", 0.0, "Score: 0")
    for _ in range(20):
        proven.note("mine", None, "hm")
