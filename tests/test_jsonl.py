"""JSON Lines as the format defines them, whatever wrote the file."""

import json
from pathlib import Path

import pytest

from rsd_core import ConfigurationError
from rsd_integrations.jsonl import read_lines

SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"
"""What `str.splitlines` takes for the end of a line, and JSON for a character of a string."""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_end_at_line_feeds_alone(tmp_path: Path, end: str, mark: str) -> None:
    file = tmp_path / "x.jsonl"
    allowed = "".join(char for char in SEPARATORS if char >= " ")
    lines = [json.dumps(f"ä {char} ü", ensure_ascii=False) for char in (allowed, "数")]
    file.write_bytes((mark + end.join(lines)).encode())
    assert [line.value for line in read_lines(file)] == [f"ä {allowed} ü", "ä 数 ü"]


def test_a_bad_line_spoils_no_other_and_blank_ones_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'1\n\n{"a": \n"caf\xe9"\n' + b"[" * 100_000 + b"\n \n2")
    lines = read_lines(file)
    assert [(line.number, line.value) for line in lines] == [(1, 1), (3, None), (4, None), (5, None), (7, 2)]
    told = [line.error or "" for line in lines]
    assert told[0] == told[4] == ""
    assert told[1].startswith("it is not JSON (Expecting value")
    assert told[2].startswith("it is not UTF-8")
    assert told[3].startswith("it is not JSON (")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_torn_line_is_reported_in_the_same_way_whatever_ends_it(tmp_path: Path, end: bytes) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'"torn' + end + b"2" + end)
    assert [line.error for line in read_lines(file)] == [
        "it is not JSON (Unterminated string starting at: line 1 column 1 (char 0))",
        None,
    ]


def test_what_is_not_utf_8_as_a_whole_and_what_is_not_there_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('"one"\n', encoding="utf-16")
    with pytest.raises(ConfigurationError, match=r"x\.jsonl is UTF-16; save it as UTF-8"):
        read_lines(file)
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        read_lines(tmp_path / "nowhere.jsonl")
