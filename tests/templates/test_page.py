"""The page of thinking templates names every one, and says of none that what is fed is wrong."""

from pathlib import Path

from tests.benchmarks.published_templates import FAMILIES

PAGE = (Path(__file__).parents[2] / "docs" / "thinking-templates.md").read_text()


def test_every_template_has_its_row() -> None:
    rows = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]
    assert [row[0].strip("| `") for row in rows] == [family.name for family in FAMILIES]
    assert all(row[4].startswith("equal") for row in rows)
