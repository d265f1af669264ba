"""The terminal while calls wait for an unavailable server."""

import io
import re
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from rsd_integrations.batch import Progress
from rsd_integrations.cli.progress import batch_progress
from rsd_integrations.cli.thought_fold import ThoughtFold
from rsd_integrations.cli.waits import Waits
from rsd_integrations.waiting import register

URL = "http://127.0.0.1:8000/v1"


class Server:
    """A server that may be unavailable."""

    base_url = URL
    waiting_since: float | None = None

    def leave(self, seconds_ago: float = 0.0) -> None:
        self.waiting_since = time.monotonic() - seconds_ago


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    register(server)
    yield server
    server.waiting_since = None


def screen(terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=100, legacy_windows=False, color_system=None), out


def test_a_progress_bar_counts_the_seconds(server: Server) -> None:
    console, out = screen(terminal=True)
    with batch_progress(console) as show:
        show(Progress(10))
        time.sleep(0.2)
        assert "waiting" not in out.getvalue()
        server.leave(seconds_ago=11.8)
        time.sleep(1.2)
        server.waiting_since = None
        before = len(out.getvalue())
        time.sleep(0.3)
        assert "waiting" not in out.getvalue()[before + 200 :]
    seconds = re.findall(rf"waiting for {URL} \((\d+) s\)", out.getvalue())
    assert seconds[0] == "12"
    assert seconds[-1] == "13"


def test_elsewhere_each_outage_is_a_line(server: Server) -> None:
    console, out = screen(terminal=False)
    with batch_progress(console) as show:
        show(Progress(10))
        for _ in range(2):
            server.leave(seconds_ago=2.4)
            time.sleep(1.2)
            server.waiting_since = None
            time.sleep(0.6)
    lines = [line for line in out.getvalue().splitlines() if "waiting" in line]
    assert [re.sub(r"\d s", "N s", line) for line in lines] == [f"waiting for {URL} (N s)"] * 2


def test_a_run_shows_them_below_what_it_prints(server: Server) -> None:
    """Beside the fold of a thought as well, and what is printed goes before."""
    console, out = screen(terminal=True)
    fold = ThoughtFold(console)
    with Waits(console) as waits:
        with waits.aside():
            fold.add("a step of a thought")
        server.leave(seconds_ago=5)
        time.sleep(0.8)
        assert f"waiting for {URL} (" in out.getvalue()
        with waits.aside():
            fold.close()
            console.print("the answer")
        server.waiting_since = None
    assert "the answer" in out.getvalue()
    assert "waiting" not in out.getvalue().split("the answer")[1]


def test_short_waits_are_not_shown(server: Server) -> None:
    console, out = screen(terminal=False)
    with Waits(console):
        server.leave()
        time.sleep(0.7)
        server.waiting_since = None
    assert out.getvalue() == ""
