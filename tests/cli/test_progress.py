"""The progress of long commands, with and without a terminal."""

import io

import pytest
from rich.console import Console

from rsd_integrations.batch import Progress
from rsd_integrations.cli.progress import batch_progress


def test_without_a_terminal_a_line_per_minute_shows_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("rsd_integrations.cli.progress.time.monotonic", lambda: clock[0])
    out = io.StringIO()
    with batch_progress(Console(file=out, width=200)) as show:
        counts = Progress(100, found=20)
        for _ in range(80):
            show(counts)
            clock[0] += 3.0
            counts.done += 1
        counts.degraded = 2
        show(counts)
    lines = out.getvalue().splitlines()
    # 20 of the 100 were found: 80 take 3 seconds each, and the last one needs no line.
    assert lines == [
        "40 of 100 done, about 3 min left",
        "60 of 100 done, about 2 min left",
        "80 of 100 done, about 1 min left",
    ]


def test_nothing_is_told_of_the_time_left_before_as_many_are_done_as_are_in_flight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr("rsd_integrations.cli.progress.time.monotonic", lambda: clock[0])
    out = io.StringIO()
    with batch_progress(Console(file=out, width=200), 8) as show:
        show(counts := Progress(50))
        for clock[0], counts.done in ((61.0, 1), (122.0, 8)):
            show(counts)
    assert out.getvalue().splitlines() == ["1 of 50 done", "8 of 50 done, about 10.7 min left"]


def test_a_terminal_gets_a_bar_with_the_time_left() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, legacy_windows=False)
    with batch_progress(console) as show:
        counts = Progress(4)
        for _ in range(4):
            counts.done += 1
            show(counts)
    assert "4/4" in out.getvalue()
    assert "0:00:00" in out.getvalue()
