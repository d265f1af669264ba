"""Thoughts in the terminal: shown while they are written, folded into a line afterwards, or shown in full."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rsd_core import BinaryStep, Decoder, Roles, RSDConfig, RSDError, StepRecord, Thinking, parse_method
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.batch import read_results
from rsd_integrations.cli.app import app
from rsd_integrations.cli.options import configured
from rsd_integrations.cli.show import RunView
from rsd_integrations.cli.thought_fold import ThoughtFold
from tests.display.pages import Page
from tests.display.thinking import ANSWER, QUESTION, SLIPS, THOUGHT, decoder

CONTROL = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")


class Screen(io.StringIO):
    """A terminal that keeps what can be seen on it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = [""]
        self.row, self.seen = 0, list[str]()
        """All that could be seen at some time."""
        self.hidden = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        at = 0
        while at < len(text):
            match = CONTROL.match(text, at)
            if match:
                self._act(match[2], match[1])
                at = match.end()
            else:
                self._put(text[at])
                at += 1
        self.seen.append("\n".join(self.lines))
        return len(text)

    def _put(self, char: str) -> None:
        if char == "\n":
            self.row += 1
            if self.row == len(self.lines):
                self.lines.append("")
        elif char != "\r":
            self.lines[self.row] += char

    def _act(self, action: str, number: str) -> None:
        if action == "A":
            self.row -= int(number or 1)
        elif action == "K":
            self.lines[self.row] = ""
        elif action in "lh":
            self.hidden = action == "l"

    def __str__(self) -> str:
        return "\n".join(self.lines)


def watched(made: Decoder, terminal: bool = True, screen: Screen | None = None, **options: Any) -> Screen:
    """A run as it looks in the end."""
    screen = screen or Screen()
    console = Console(file=screen, force_terminal=terminal, width=80, legacy_windows=False, color_system=None)
    with RunView(console, QUESTION, **options) as view:
        view.attach(made)
        for event in made.stream(QUESTION):
            view.show(event)
    assert not screen.hidden  # the cursor is back
    return screen


@pytest.mark.parametrize("terminal", [True, False])
def test_a_thought_is_a_line_in_the_end(terminal: bool) -> None:
    shown = str(watched(decoder(), terminal)).splitlines()
    assert [line.rstrip() for line in shown[2:5]] == [
        "    thought: 3 steps, 14 tokens, 2 by the target",
        " 4 ● draft    0.95 ━━━━━┃━━ Seats that are free: 12-2=10.",
        " 5 ● draft    0.95 ━━━━━┃━━ The answer is \\boxed{10}.",
    ]
    assert not re.search("think|3 rows|rejected", "\n".join(shown))


def test_its_last_steps_are_seen_while_it_is_written() -> None:
    seen = watched(decoder()).seen
    assert any(re.search(r"thought: 1 step, 5 tokens\s+1 ● draft +0.95 \S+ There are 3 rows", one) for one in seen)
    assert any(re.search(r"2 ✕ rejected +0.10 \S+ Two are taken: 12-2=9", one) for one in seen)
    long = [f"Step {i} of a thought.\n\n" for i in range(20)] + ["So.\n</think>\n\n", "It is \\boxed{1}."]
    seen = watched(decoder(long, long)).seen
    assert max(one.count("of a thought.") for one in seen) == 5
    assert not any(len(line) > 80 for one in seen for line in one.splitlines())
    assert not any(line.count("  ") for line in watched(decoder(), terminal=False).seen if "3 rows" in line)


def test_thoughts_are_shown_whole_where_one_asks() -> None:
    shown = str(watched(decoder(), thoughts=True))
    fates = re.findall(r"(\d) . (draft|target|rejected)", shown)
    assert [f"{number} {fate}" for number, fate in fates] == [
        *("1 draft", "2 rejected", "2 target", "3 rejected", "3 target", "4 draft", "5 draft")
    ]
    assert "thought:" not in shown
    assert "think>" not in shown


def test_rows_of_the_fold_are_single_lines() -> None:
    steps = ["One.\nTwo.\nThree.\n\n", "So.\n</think>\n\n", "It is \\boxed{1}."]
    assert any("One.  (and 2 more lines)" in one for one in watched(decoder(steps, steps)).seen)
    assert not any("Two." in one for one in watched(decoder(steps, steps)).seen)


def test_the_notch_in_a_bar_is_the_threshold_of_its_part() -> None:
    made = decoder()
    made.thoughts = Roles(policy=BinaryStep(delta=0.9))
    shown = str(watched(made, thoughts=True))
    assert re.findall(r"draft    0\.95 (\S+)", shown) == ["━━━━━━━┃", "━━━━━┃━━", "━━━━━┃━━"]


def test_thoughts_are_dimmed() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system="standard", legacy_windows=False)
    made = decoder()
    with RunView(console, QUESTION, thoughts=True) as view:
        view.attach(made)
        for event in made.stream(QUESTION):
            view.show(event)
    assert "\x1b[2;32mThere are 3 rows" in out.getvalue()
    assert "\x1b[32mThe answer is" in out.getvalue()


@pytest.mark.parametrize("whole", [True, False])
def test_what_ended_a_thought_is_reported(whole: bool) -> None:
    at_limit = str(watched(decoder([*SLIPS, "So 9.", "It is 9."], max_thought_tokens=11), thoughts=whole))
    assert "! thought_limit: max_thought_tokens=11 is reached: the thought was closed" in at_limit
    assert ("4 ■ limit" in at_limit) == whole
    assert "5 ✕ rejected" in at_limit  # a draft of the answer, which is not folded
    cut = str(watched(decoder(max_tokens=11), thoughts=whole))
    assert "! no_answer: the response ended inside of its thought (max_tokens)" in cut
    assert "none found   (max_tokens)" in cut
    assert ("thought: 3 steps" in cut) != whole
    assert cut.find("thought: 3 steps") < cut.index("! no_answer")


class Closes(BinaryStep):
    """Ends a thought after one step."""

    kind: Any = "closes"

    def route(self, request: Any) -> Any:
        return "answer" if request.kind == "thought" and request.records else "draft"


def test_a_thought_that_a_policy_ends_is_shown_as_closed_before_the_answer() -> None:
    made = decoder([*SLIPS, "So 9.", "It is 9."])
    made.policy = Closes()
    shown = str(watched(made, thoughts=True))
    assert shown.index("\n 1 ● draft") < shown.index("\n 2 ■ limit") < shown.index("\n 3 ")
    assert "(closed early)" in shown


def test_a_thought_that_no_answer_follows_is_folded_before_the_summary() -> None:
    shown = str(watched(decoder(["One.\n</think>"], ["One.\n</think>"])))
    assert 0 < shown.find("thought: 1 step") < shown.index("Answer: none found")


def test_each_of_several_thoughts_has_a_line_of_its_own() -> None:
    out = io.StringIO()
    fold = ThoughtFold(Console(file=out))
    for _ in range(2):
        fold.add("a row", StepRecord("x", "draft", None, accepted=True, size=3))
        fold.close()
    assert out.getvalue().splitlines() == ["    thought: 1 step, 3 tokens"] * 2


def test_a_step_that_ends_a_thought_and_answers_is_in_both() -> None:
    text = "Seven times six.\n</think>\n\nIt is \\boxed{42}."
    made = decoder([text], [text], granularity="turn")
    assert re.search(r"thought: 1 step\n 1 ● draft    0.95 \S+ It is", str(watched(made)))
    assert re.search(
        r" 1 ● draft +Seven times six\. *\n 1 ● draft    0.95 \S+ It is", str(watched(made, thoughts=True))
    )


def test_a_run_that_breaks_leaves_the_terminal_as_it_was() -> None:
    broken, screen = decoder(target=[RuntimeError("gone")]), Screen()  # type: ignore[list-item]
    with pytest.raises(RSDError, match="gone"):
        watched(broken, screen=screen)
    assert not screen.hidden
    assert str(screen).rstrip().endswith("thought: 1 step, 5 tokens")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Thinking models behind specs."""
    opened = Thinking(MARKERS["think"], "<think>\n")
    models: dict[str, Callable[[], object]] = {
        "draft": lambda: ScriptedDrafter(SLIPS + ANSWER, thinking=opened),
        "target": lambda: ScriptedTarget(THOUGHT + ANSWER, thinking=opened),
        "verifier": lambda: ScriptedVerifier(lambda _path, step: 0.1 if "9" in step.text else 0.95),
    }
    monkeypatch.setattr("rsd_core.methods.load", lambda spec, *_, **__: models[spec.partition(":")[2]]())
    return ["--draft", "scripted:draft", "--target", "scripted:target", "--verifier", "scripted:verifier"]


def rsd(*words: str, columns: int = 80) -> str:
    result = CliRunner().invoke(app, words, env={"COLUMNS": str(columns)})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_run_has_an_option_for_it_and_the_page_follows(scripted: list[str], tmp_path: Path) -> None:
    page = tmp_path / "trace.html"
    assert "thought: 3 steps" in rsd("run", QUESTION, *scripted, "--html", str(page))
    assert Page(page.read_text()).all("details")[0] == {"class": "thought"}
    assert "3 rows" in rsd("run", QUESTION, *scripted, "--thoughts", "--html", str(page))
    assert Page(page.read_text()).all("details")[0] == {"class": "thought", "open": None}


def test_run_as_json_tells_the_thought_apart(scripted: list[str]) -> None:
    told = json.loads(rsd("run", QUESTION, *scripted, "--json"))
    assert told["text"] == "".join(ANSWER)
    assert told["thought"].startswith("There are 3 rows")
    assert told["raw_text"] == f"<think>\n{''.join(THOUGHT + ANSWER)}"
    assert [step["kind"] for step in told["steps"]] == ["thought"] * 3 + ["answer"] * 2


def test_rows_of_a_batch_contain_the_answer_and_the_thought(scripted: list[str], tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text(json.dumps({"prompt": QUESTION, "id": "seats"}) + "\n")
    rsd("batch", str(prompts), "--out", str(out), *scripted)
    row = json.loads(out.read_text().splitlines()[-1])["result"]
    assert row["text"] == "".join(ANSWER)
    assert row["thought"].endswith("So it is 10.")
    again = read_results(out)["seats"]
    assert (again.text, again.thought, again.raw_text) == (row["text"], row["thought"], row["raw_text"])
    assert [step.kind for step in again.steps] == ["thought"] * 3 + ["answer"] * 2


def test_limits_delimiters_and_methods_are_words_of_the_command_line(scripted: list[str], tmp_path: Path) -> None:
    told = json.loads(rsd("run", QUESTION, *scripted, "--json", "--max-thought-tokens", "11"))
    assert [item["kind"] for item in told["degradations"]] == ["thought_limit"]
    assert [step["author"] for step in told["steps"]][3] == "limit"
    told = json.loads(rsd("run", QUESTION, *scripted, "--json", "--max-tokens", "11"))
    assert (told["finish_reason"], told["answer"], told["text"]) == ("max_tokens", None, "")
    for method, authors in (
        ("drafter_thinks", ["draft"] * 3 + ["target"] * 2),
        ("target_thinks", ["target"] * 3 + ["draft"] * 2),
        ("first_steps:1", ["target"] + ["draft"] * 4),
        ("target", ["target"] * 5),
    ):
        words = scripted[2:4] if method == "target" else scripted[:4]
        told = json.loads(rsd("run", QUESTION, *words, "--json", "--method", method))
        assert [step["author"] for step in told["steps"]] == authors
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text(json.dumps(QUESTION) + "\n")
    rsd("batch", str(prompts), "--out", str(out), *scripted[2:4], "--method", "target", "--max-thought-tokens", "9")
    (result,) = read_results(out).values()
    assert {step.author for step in result.steps} == {"target", "limit"}


def test_the_command_line_overrides_a_file() -> None:
    def settings(data: dict[str, Any], **words: Any) -> RSDConfig:
        return configured(data, None, None, None, None, None, None, **words)

    data = {"settings": {"delimiter": "line", "limits": {"max_tokens": 100, "max_thought_tokens": 50}}}
    config = settings(data, delimiter=r"\n---\n", max_thought_tokens=20, method="specreason:5")
    assert config.settings.delimiter == "\n---\n"
    assert (config.settings.limits.max_tokens, config.settings.limits.max_thought_tokens) == (100, 20)
    assert config.method == parse_method("specreason:5")
    assert settings({}, delimiter="words:Wait+But").settings.delimiter.words == ("Wait", "But")  # type: ignore[union-attr]
    assert settings({}, delimiter="line").settings.delimiter == "\n"
    with pytest.raises(RSDError, match="method: unknown method 'specreson', did you mean 'specreason'"):
        settings({}, method="specreson")
    with pytest.raises(RSDError, match="max_thought_tokens=20 with granularity='turn'"):
        settings({"settings": {"granularity": "turn"}}, max_thought_tokens=20)
    with pytest.raises(RSDError, match=r"--config x\.yaml: .*settings\.limits"):
        settings({"settings": {"limits": 3}}, max_tokens=20, source="--config x.yaml")


def test_a_file_says_what_is_different_for_thoughts(scripted: list[str], tmp_path: Path) -> None:
    file = tmp_path / "thinking.yaml"
    file.write_text(
        "thoughts: {policy: always_draft, target: 'scripted:target'}\n"
        "policy: always_target\n"
        "settings:\n  thoughts: {delimiter: sentence, max_step_tokens: 64, markers: think}\n"
    )
    told = json.loads(rsd("run", QUESTION, *scripted, "--config", str(file), "--json"))
    assert [step["author"] for step in told["steps"]] == ["draft"] * 3 + ["target"] * 2


def test_models_and_help_tell_how_to_switch_thinking() -> None:
    assert "hf,template.enable_thinking=false:Qwen/Qwen3-8B" in rsd("models")
    shown = " ".join(re.sub(r"[│\s]+", " ", rsd("run", "--help")).split())
    assert "template.NAME=VALUE" in shown
    assert "specreason:7" in shown
    for command in ("run", "batch", "eval"):
        assert "--max-thought-tokens" in rsd(command, "--help", columns=120)


def test_control_characters_of_thoughts_are_shown_and_not_sent() -> None:
    evil = ["One \x1b[2J\x1b]0;taken\x07.\n\n", "Two \x1b[2J.\n</think>\n\n", "So \x1b[2J\\boxed{3}."]
    for whole in (True, False):
        seen = watched(decoder(evil, evil), thoughts=whole).seen
        assert any("One \\u001b[2J\\u001b]0;taken\\u0007." in one for one in seen)
        assert not any("\x1b" in one or "\x07" in one for one in seen)
        assert any("One" in one and "Two" in one for one in seen)  # no screen was cleared between them
