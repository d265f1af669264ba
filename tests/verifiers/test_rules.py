"""Rules and programs: right about what they can check, silent about the rest."""

import asyncio
import os
import socket
import sys
import time
from pathlib import Path as Folder

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsd_core import ConfigurationError, Path, Step, as_prompt, load
from rsd_integrations.verifiers import Arithmetic, Confidence, Format, Programs, Repetition, equations

START = Path(as_prompt("q"))


def step(text: str, **options: object) -> Step:
    return Step(text, options.pop("ending", "delimiter"), **options)  # type: ignore[arg-type]


def judged(rule: Arithmetic | Format | Repetition, text: str, path: Path = START, **options: object) -> float | None:
    return asyncio.run(rule.score(path, [step(text, **options)])).rewards[0]


@pytest.mark.parametrize(
    "text",
    [
        "On Monday she buys 12 more: 45+12=57.",
        "She buys 56 more: 71+56=121+6=127.",
        "So $1,200 \\times 3 = 3{,}600$".replace("{,}", ","),
        "\\frac{3}{4} + \\frac{1}{4} = 1",
        "That is 10 / 3 = 3.33 each",
        "2 * (3 + 4) - 5 = 9, so we go on",
        "It costs $5 × 3 = $15 in all",
        "x = 3 + 4 = 7",
        "2^10 = 1024",
        "(0 - 3) + 5 = 2",
        "we get \\boxed{3 + 4 = 7}",
        "7 = 3 + 4",
    ],
)
def test_right_arithmetic_is_right(text: str) -> None:
    assert judged(Arithmetic(), text) == 1


@pytest.mark.parametrize(
    "text",
    [
        "45+12=58.",
        "71+56=121+6=128.",
        "5 * 3 = 14 apples",
        "10 / 3 = 3.34 each",
        "3 + 4 = 7 and 2 + 2 = 5",
        "\\frac{1}{2} + \\frac{1}{4} = \\frac{2}{6}",
        "2^10 = 1000",
        "x = 3 + 4 = 8",
    ],
)
def test_wrong_arithmetic_is_wrong(text: str) -> None:
    assert judged(Arithmetic(), text) == 0


@pytest.mark.parametrize(
    "text",
    [
        "She has some apples.",
        "2x + 3 = 7",
        "x - 3 = 4",
        "sin 30 + 1 = 1.5",
        "\\sqrt{9} - 1 = 2",
        "5 times 3 + 1 = 16",
        "f(2) + 1 = 6",
        "3 + 4 = 7 million",
        "3 + 4 = 2y",
        "it is 3:30 + 1 = 4:30",
        "5 = 5",
        "20% of 50 = 10",
        "1 / 0 = 3",
        "9^9^9^9 = 1",
        "((((((1",
        "a = b",
        "4 * 5! = 480",
    ],
)
def test_what_is_no_plain_arithmetic_is_left_alone(text: str) -> None:
    assert judged(Arithmetic(), text) is None


@given(st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 99)), min_size=1, max_size=5), st.integers(1, 9))
def test_any_equation_is_judged_as_python_does(terms: list[tuple[str, int]], off: int) -> None:
    left = "7" + "".join(f" {op} {n}" for op, n in terms)
    value = eval(left)
    assert equations(f"so {left} = {value}.")[0][1]
    assert not equations(f"so {left} = {value + off}.")[0][1]


@given(st.text(alphabet="0123456789+-*/^()=. x\\,{}$:%", max_size=60))
def test_no_text_makes_the_rule_fail(text: str) -> None:
    assert judged(Arithmetic(), text) in (0.0, 1.0, None)


def test_form_is_judged_only_where_it_is_broken() -> None:
    assert judged(Format(), "fine \\boxed{1}") is None
    assert judged(Format(), "broken \\boxed{1") == 0
    assert judged(Format(), "broken }") == 0
    assert judged(Format(), "a set \\{1") is None
    assert judged(Format(), "```python\nd = {\n```") is None
    assert judged(Format(max_chars=3), "long") == 0
    assert judged(Format(), "cut", ending="length") == 0
    assert judged(Format(pattern="^Step"), "Stop") == 0
    assert judged(Format(answer=r"\\boxed"), "done", ending="end") == 0
    assert judged(Format(answer=r"\\boxed"), "\\boxed{1}", ending="end") is None
    with pytest.raises(ConfigurationError, match="regular expression"):
        Format(pattern="(")


def test_repetition_is_seen_within_and_across_steps() -> None:
    path = START.extend(step("She has 3.\n\n")).extend(step("She has 4.\n\n"))
    assert judged(Repetition(), "She  has 3.", path) == 0
    assert judged(Repetition(), "She has 5.", path) is None
    assert judged(Repetition(), "and so on and so on and so on and so on", path) == 0
    assert judged(Repetition(times=3), "no no yes no no", path) is None


def test_confidence_is_what_the_drafter_told() -> None:
    told = step("a", tokens=(1, 2), logprobs=(-0.1, -0.7))
    (least,) = asyncio.run(Confidence("min").score(START, [told])).rewards
    (mean,) = asyncio.run(Confidence("mean").score(START, [told])).rewards
    assert (least, mean) == pytest.approx((0.4966, 0.6703), abs=1e-4)
    with pytest.raises(ConfigurationError, match="its steps carry none"):
        asyncio.run(Confidence().score(START, [told, step("a")]))


# -- programs -------------------------------------------------------------------------------------------------------

TESTS = {"Write add.": ["assert add(2, 3) == 5", "assert add(-1, 1) == 0"]}
ASKED = Path(as_prompt("Write  add."))


def block(code: str) -> Step:
    return step(f"Here:\n```python\n{code}\n```\n\n")


def run(code: str, **options: object) -> float | None:
    programs = Programs(TESTS, **options)  # type: ignore[arg-type]
    return asyncio.run(programs.score(ASKED, [block(code)])).rewards[0]


def test_programs_are_scored_by_the_tests_they_pass() -> None:
    assert run("def add(a, b):\n    return a + b") == 1
    assert run("def add(a, b):\n    return a * b - 1") == 0.5
    assert run("def add(a, b) return") == 0
    assert run("import os; os._exit(0)") == 0


def test_programs_abstain_where_there_is_nothing_to_run() -> None:
    programs = Programs(TESTS)
    assert asyncio.run(programs.score(ASKED, [step("no code")])).rewards == (None,)
    assert asyncio.run(programs.score(START, [block("x = 1")])).rewards == (None,)


def test_a_program_may_span_steps() -> None:
    path = ASKED.extend(step("```python\ndef add(a, b):\n\n"))
    assert asyncio.run(Programs(TESTS).score(path, [step("    return a + b\n```\n\n")])).rewards == (1,)


def test_endless_and_greedy_programs_are_stopped() -> None:
    started = time.monotonic()
    assert run("while True: pass", seconds=1.0) == 0
    assert run("import time; time.sleep(60)", seconds=1.0) == 0
    assert time.monotonic() - started < 10
    assert run("x = bytearray(10 ** 9)\ndef add(a, b): return a + b", memory=256) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not let a process give up its network")
def test_a_program_has_no_network_no_secrets_and_writes_nothing(
    tmp_path: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "hidden")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            pass  # the server is there, for us
        programs = Programs({})
        file = tmp_path / "written"
        tests = [
            f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=2)",
            "import os; assert 'A_SECRET' in os.environ",
            f"f = open({str(file)!r}, 'w'); f.write('x' * 10); f.close()",
            "import os; os.fork()",  # refused to anybody but root; a second process must not spoil the result
            "assert True",
        ]
        # The user namespace that takes the network away is not to be had everywhere, such as in some containers.
        able = os.system("unshare -rn true 2>/dev/null") == 0
        passed = asyncio.run(programs.run("", tests))
    assert passed[1:3] == [False, False]
    assert passed[4]
    assert not file.exists() or not file.read_text()
    if able:
        assert not passed[0]


def test_tests_come_from_a_file(tmp_path: Folder) -> None:
    file = tmp_path / "tests.jsonl"
    file.write_text('{"problem": "Write add.", "tests": ["assert add(2, 3) == 5"]}\n\n')
    assert asyncio.run(load(f"code:{file}").score(ASKED, [block("def add(a, b): return a + b")])).rewards == (1,)
    file.write_text('{"problem": "Write add."}\n')
    with pytest.raises(ConfigurationError, match="line 1"):
        load(f"code:{file}")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(f"code:{tmp_path}/none.jsonl")
