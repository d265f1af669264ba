"""The table of reward models in the documentation is the one in the code."""

from pathlib import Path

import pytest

from rsd_integrations.prm_formats import CRITICS, FORMATS, PRMFormat

TEXT = (Path(__file__).parent.parent / "docs" / "reward-models.md").read_text()


def row(form: PRMFormat) -> str:
    """A format's row of the table."""
    separator = "to be named" if form.separator is None else "–" if not form.separator else f"`{form.separator!r}`"
    models = "<br>".join(f"`{model}`" for model in form.models)
    cells = (f"`{form.name}`", models, separator, form.read, form.threshold, form.aggregation, form.source)
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_its_row(name: str) -> None:
    assert row(FORMATS[name]) in TEXT


@pytest.mark.parametrize("name", FORMATS)
def test_what_becomes_of_thoughts_is_reported_for_every_format(name: str) -> None:
    assert f"| `{name}` | {FORMATS[name].thoughts} |" in TEXT


def test_every_generative_model_is_named() -> None:
    for critic in CRITICS.values():
        assert all(f"`judge:hf:{model}`" in TEXT for model in critic.models), critic.name
