"""A model's input equals its chat template's rendering, for one template per format in use."""

import pytest

from rsd_core import as_prompt
from rsd_integrations.inprocess.vocabulary import Vocabulary
from tests.templates.checks import CHECKS
from tests.templates.comparing import comparisons
from tests.templates.families import Family
from tests.templates.tiny_tokenizer import tiny_tokenizer
from tests.templates.written import WRITTEN, source


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("family", WRITTEN, ids=lambda family: family.name)
def test_what_is_fed_equals_the_templates_own_rendering(family: Family, check: str) -> None:
    for comparison in comparisons(family, source(family.name)):
        CHECKS[check](comparison)


def test_a_template_without_thoughts_is_known_not_to_think() -> None:
    tokenizer = tiny_tokenizer(source("no_thoughts"))
    thinking = Vocabulary(tokenizer, len(tokenizer)).thinking(as_prompt("What is 1 + 3?"))
    assert thinking is not None
    assert thinking.is_off
    assert thinking.opening == ""
