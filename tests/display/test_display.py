"""The page of a run says what happened, and no text of models or users becomes markup."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from typer.testing import CliRunner

from rsd_core import (
    AdvantageAware,
    BinaryStep,
    BudgetAware,
    Clipping,
    Constant,
    Degradation,
    FirstSteps,
    Ledger,
    Limits,
    Logistic,
    Result,
    RewardGuidedDecoder,
    Settings,
    StepRecord,
    WeightingPolicy,
    as_prompt,
    load,
)
from rsd_core.control_characters import visible
from rsd_integrations.cli.app import app
from rsd_integrations.display import show, to_html
from rsd_integrations.display.reading import amount, digits, duration, threshold_of, times
from tests.display.pages import Page

HOSTILE = (
    "<script>document.title='taken'</script>\"'><img src=x onerror=\"document.title='taken'\">\n\n"
    "</style></div></details><!-- \u202eright to left\u2066 &amp; &lt;b&gt; ünï 数学 🧮 ]]> {x} %s"
)


def decoder(policy: WeightingPolicy | None = None, settings: Settings | None = None) -> RewardGuidedDecoder:
    return RewardGuidedDecoder(
        drafter=load("scripted:draft"),
        verifier=load("scripted:verifier"),
        target=load("scripted:target"),
        policy=policy,
        settings=settings,
    )


def result_with(text: str) -> Result:
    steps = (
        StepRecord(text, "draft", 0.83, accepted=True, size=9),
        StepRecord(text, "target", 0.2, accepted=False, discarded_draft=text, size=4, target_reward=0.66),
        StepRecord(text, "target", None, accepted=False),
    )
    degraded = (Degradation(1, "verifier_error", text),)
    return Result(as_prompt([("system", text + "!"), ("user", "q")]), text, "stop", steps, Ledger(), 0.5, degraded)


def test_a_page_tells_steps_rewards_fates_costs_and_savings() -> None:
    made = decoder()
    page = Page(html := to_html(made.run("How many seats?"), made))
    assert page.blocks == [
        "How many seats?",
        "There are 3 rows of 4 seats: 3*4=12.",
        "Two seats are taken: 12-2=10.",
        "Two seats are taken: 12-2=9.",
        "The answer is \\boxed{10}.",
    ]
    assert [step["class"] for step in page.all("li")] == ["step draft", "step target", "step draft"]
    assert "rejected draft, reward 0.10, below 0.70" in html
    assert len(page.all("details")) == 1
    for told in ("scripted drafter", "12", "everything charged", "paper&#x27;s convention", "x more", "estimate:"):
        assert told in html


@given(st.text() | st.just(HOSTILE))
def test_what_is_written_stays_text(text: str) -> None:
    page = Page(to_html([result_with(text), result_with("plain")], title=text))  # fails at what we do not make
    shown = visible(text.strip("\n"), turning=False)
    assert page.blocks[2:6] == [shown] * 4
    assert page.attributes() <= {
        *("lang", "charset", "name", "content", "http-equiv", "class", "dir", "id", "href", "style"),
        *("aria-label", "aria-hidden", "role", "tabindex", "scope"),
    }
    assert all(re.fullmatch(r"#run-\d", link["href"] or "") for link in page.all("a"))
    assert all(re.fullmatch(r"(width|left):[\d.]+%", i["style"] or "") for i in page.all("i"))


ESCAPES = "\x1b[2J\x1b]0;taken\x07\x9b31m\x7f\r\b\u202e\u2066\x00\ud800 end"
SHOWN = "\\u001b[2J\\u001b]0;taken\\u0007\\u009b31m\\u007f\\u000d\\u0008\\u202e\\u2066\\u0000\\ud800 end"


@given(st.text())
def test_control_characters_are_shown_and_text_stays_as_it_is(text: str) -> None:
    assert visible(ESCAPES) == SHOWN
    assert visible("a\tb\r\nc ünï 数学 🧮") == "a\tb\nc ünï 数学 🧮"
    shown = visible(text)
    shown.encode()
    assert not [char for char in shown if unicodedata.category(char) == "Cc" and char not in "\t\n"]
    assert not [char for char in shown if unicodedata.bidirectional(char) in {"RLO", "LRO", "RLE", "LRE", "RLI", "LRI"}]
    data = json.dumps({"text": ESCAPES + text}, ensure_ascii=False)
    assert json.loads(visible(data)) == {"text": ESCAPES + text}


def test_a_notebook_and_a_page_show_control_characters() -> None:
    assert SHOWN in repr(show(result_with(ESCAPES)))
    assert ESCAPES[:4] not in (html := to_html(result_with(ESCAPES), title=ESCAPES))
    assert Page(html).blocks[1:2] == ["q"]
    assert "\\u001b[2J" in html


def test_a_page_asks_for_nothing_and_can_be_read_by_anyone() -> None:
    html = to_html([result_with("x")] * 2)
    assert not re.search(r"https?:|//|url\(|@import|javascript:", html)
    page = Page(html)
    assert page.all("html") == [{"lang": "en"}]
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in page.all("meta"))
    tables = len(page.all("table"))
    assert tables == len(page.all("caption")) == html.count('role="region"') == html.count('tabindex="0"')
    assert all(cell.get("scope") in ("row", "col") for cell in page.all("th"))
    named = [given["id"] for _, given in page.tags if "id" in given]
    assert len(named) == len(set(named)) == 2


def test_what_is_not_known_is_called_unknown() -> None:
    made = decoder()
    made.target.flops_per_token = None
    html = to_html(made.run("q"), made)
    assert "Savings are unknown" in html
    assert ">unknown<" in html
    cut = decoder(settings=Settings(limits=Limits(max_steps=1)))
    assert "none found" in to_html(cut.run("q"))
    assert "not scored" in to_html(
        Result((), "", "stop", (StepRecord("a", "target", None, False, "b"),), Ledger(), 0.0)
    )


def test_only_a_threshold_that_stands_still_is_drawn() -> None:
    assert threshold_of(BinaryStep(delta=0.55)) == 0.55
    assert threshold_of(Logistic(alpha=20, delta=0.6)) == 0.6
    assert threshold_of(Clipping()) == 0.5
    assert threshold_of(FirstSteps(n=1, then=BinaryStep(delta=0.3))) == 0.3
    for policy in (Constant(p=1), Constant(p=0), BudgetAware(), AdvantageAware(), BinaryStep(delta=0)):
        assert threshold_of(policy) is None


def test_figures_in_words() -> None:
    assert [amount(n) for n in (None, 12, 1_234, 5.6e6, 1.5e9, 2e12, 3e15)] == [
        *("unknown", "12", "1.23 k", "5.6 M", "1.5 G", "2 T", "3 P")
    ]
    assert [amount(n) for n in (999.4, 999.6, 999_700, 5e18)] == ["999", "1 k", "1 M", "5000 P"]
    assert [duration(s) for s in (2e-6, 0.0414, 0.9996, 59.99, 7e6)] == ["2 µs", "41.4 ms", "1 s", "1 min", "1944 h"]
    assert [digits(n, 4) for n in (0.00012, 12.345, 9999.4, 12_345.6)] == ["0.00012", "12.35", "9999", "12346"]
    assert (times(2.5), times(0.5)) == ("2.50x fewer", "2.00x more")


def test_a_notebook_draws_results() -> None:
    made = decoder()
    result = made.run("q")
    shown = show(result, made)
    assert Page(shown._repr_html_()).all("details")
    assert repr(shown).splitlines()[:4] == [
        "  1 ● draft    0.95  There are 3 rows of 4 seats: 3*4=12.",
        "  2 ✕ rejected 0.10  Two seats are taken: 12-2=9.",
        "  2 ▲ target         Two seats are taken: 12-2=10.",
        "  3 ● draft    0.95  The answer is \\boxed{10}.",
    ]
    shell: Any = InteractiveShell()  # type: ignore[no-untyped-call]
    shell.run_line_magic("load_ext", "rsd_integrations.display")
    drawn, _ = shell.display_formatter.format(result)
    assert drawn["text/html"] == show(result)._repr_html_()
    assert drawn["text/plain"] == repr(show(result))


def test_the_command_writes_the_page_with_either_output(tmp_path: Path) -> None:
    file = tmp_path / "trace.html"
    words = ["run", "How many?", "--draft", "scripted:draft", "--target", "scripted:target"]
    words += ["--verifier", "scripted:verifier", "--html", str(file)]
    shown = CliRunner().invoke(app, words)
    assert "rejected" in shown.output
    page = Page(file.read_text(encoding="utf-8"))
    assert "Two seats are taken: 12-2=9." in page.blocks
    file.unlink()
    assert CliRunner().invoke(app, [*words, "--json"]).stdout.startswith("{")
    assert file.exists()
    refused = CliRunner().invoke(app, [*words[:-1], str(tmp_path / "no" / "x.html")])
    assert "does not exist" in str(refused.exception)


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed; the page is checked as text above")


def in_browser(file: Path, *options: str) -> str:
    assert BROWSER is not None
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options, file.as_uri()]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout


@browser
def test_hostile_text_does_nothing_in_a_browser(tmp_path: Path) -> None:
    file = tmp_path / "trace.html"
    file.write_text(to_html(result_with(HOSTILE)), encoding="utf-8")
    page = Page(in_browser(file, "--dump-dom"))  # fails at any element that we do not make
    assert page.blocks[0] == HOSTILE + "!"
    assert "<title>RSD trace</title>" in in_browser(file, "--dump-dom")


@browser
@pytest.mark.parametrize(("scheme", "light"), [("1", True), ("0", False)])
def test_a_browser_shows_it_light_and_dark_without_scrolling_aside(tmp_path: Path, scheme: str, light: bool) -> None:
    file, picture = tmp_path / "trace.html", tmp_path / "shot.png"
    made = decoder()
    file.write_text(to_html(made.run("word" * 200), made), encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={scheme}"
    in_browser(file, f"--screenshot={picture}", "--window-size=500,1400", scheme)
    with Image.open(picture) as shot:
        pixels = shot.convert("L")
        backdrop = pixels.getpixel((4, 4))
        assert isinstance(backdrop, int | float)
        assert (backdrop > 200) == light
        margin = pixels.crop((488, 0, 500, 1400))  # nothing runs over the right edge
        assert margin.getextrema() == (backdrop, backdrop)
        counts = pixels.histogram()
        assert sum(counts[:60]) > 1000 < sum(counts[200:])  # and there is something to read
