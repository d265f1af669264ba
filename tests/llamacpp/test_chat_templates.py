"""Chat templates of GGUF files: the same text as from transformers, and all that is checked of templates there."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from jinja2 import TemplateError
from jinja2.exceptions import SecurityError

from rsd_core import PromptError, as_prompt
from rsd_integrations.inprocess.rendering import render
from rsd_integrations.inprocess.vocabulary import Vocabulary
from rsd_integrations.llamacpp.model import Model
from rsd_integrations.llamacpp.tokenizer import GGUFTokenizer
from tests.llamacpp.vocabularies import words_of, write_vocabulary
from tests.templates import comparing
from tests.templates.checks import CHECKS
from tests.templates.families import Family
from tests.templates.tiny_tokenizer import tiny_tokenizer
from tests.templates.written import FOLDER, WRITTEN, source


def from_gguf(template: str, special: tuple[str, ...] = ()) -> GGUFTokenizer:
    """The tokenizer of the tests of templates, from a GGUF file."""
    words = words_of(tiny_tokenizer(template, special))
    file = write_vocabulary(Path(mkdtemp(prefix="rsd-tests-")) / "vocabulary.gguf", words)
    return GGUFTokenizer(Model.load(file, vocabulary_only=True))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("family", WRITTEN, ids=lambda family: family.name)
def test_what_is_fed_equals_the_templates_own_rendering(
    family: Family, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "tiny_tokenizer", from_gguf)
    for comparison in comparing.comparisons(family, source(family.name)):
        assert isinstance(comparison.tokenizer, GGUFTokenizer)
        CHECKS[check](comparison)


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": "<1 & 'é'>"}}}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "What is 1 + 3?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Why?\n"}],
    *(
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b", name: "Thought of it."},
            {"role": "user", "content": "c"},
        ]
        for name in ("reasoning_content", "reasoning", "thinking")
    ),
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "4", "tool_call_id": "1", "name": "add"},
    ],
]
FEATURES = """
{%- generation %}{{ messages[0].content | trim }}{% endgeneration %}
{%- for message in messages %}{% if loop.index > 1 %}{% break %}{% endif %}
    {{ message | tojson }} {{ message | tojson(indent=2, sort_keys=true) }}
{% endfor %}
{%- set ns = namespace(found=false, self='me') %}{% set ns.found = strftime_now('%Y') %}{{ ns.found }}{{ ns.self }}
{{- dict(a=1) | tojson(separators=(',', ':')) }}{{ dict.fromkeys(['x'], 2) }}{{ tools is none }}{{ documents }}
{{- bos_token }}{{ eos_token }}{{ unk_token is defined }}{{ add_generation_prompt }}{{ missing }}{{ given }}
"""
SOURCES = {file.stem: file.read_text() for file in sorted(FOLDER.glob("*.jinja"))} | {"features": FEATURES}


def outcome(render_: Callable[..., Any], *values: Any, **options: Any) -> str:
    """A rendered text, or that the template refuses."""
    try:
        return str(render_(*values, tokenize=False, **options))
    except (TemplateError, TypeError) as error:
        return type(error).__name__


@pytest.mark.parametrize("name", SOURCES)
def test_templates_are_rendered_as_by_transformers(name: str) -> None:
    theirs, ours = tiny_tokenizer(SOURCES[name]), from_gguf(SOURCES[name])
    rendered = set()
    for messages in CONVERSATIONS:
        for tools in (None, [TOOL]):
            for generate in (True, False):
                for arguments in ({}, {"enable_thinking": False}, {"given": [1, "é"]}):
                    options = {"tools": tools, "add_generation_prompt": generate, **arguments}
                    text = outcome(ours.apply_chat_template, messages, **options)
                    assert text == outcome(theirs.apply_chat_template, messages, **options)
                    rendered.add(text)
    assert len(rendered) > 3
    if name == "features":
        assert any(f"{datetime.now():%Y}me" in text and "<1 & 'é'>" not in text for text in rendered)


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ dict.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__ }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ namespace(__class__=1) }}",
        "{{ '%s' | format('').__class__ }}{{ cycler.__init__.__globals__ }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
    ],
)
def test_a_template_is_kept_in_its_sandbox(attack: str) -> None:
    try:
        text = render(attack, [{"role": "user", "content": "?"}], None, False, {})
    except (SecurityError, OverflowError, TemplateError):
        return
    assert text == ""


def test_what_a_template_refuses_is_reported_by_its_own_words() -> None:
    refusing = from_gguf("{% if messages | length > 1 %}{{ raise_exception('one message') }}{% endif %}x")
    vocabulary = Vocabulary(refusing, 0)
    assert vocabulary.prompt_text(as_prompt("Hi")) == "x"
    with pytest.raises(PromptError, match="does not accept this prompt: one message"):
        vocabulary.prompt_text(as_prompt([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]))
