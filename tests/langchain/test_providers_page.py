"""The table of classes on the page about providers is correct."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_huggingface import HuggingFacePipeline

from rsd_core import ConfigurationError
from rsd_integrations.langchain import LangChainDrafter
from rsd_integrations.langchain.partner_classes import lacking
from rsd_integrations.langchain.prefixes import PREFIX_MODES
from tests.langchain.providers import CHATS, LLMS, Provider, provider

PAGE = Path(__file__).parents[2] / "docs/guides/langchain/providers.md"
ROW = re.compile(r"^\| `(\w+)`( with `use_responses_api=True`)?" + r" \| (yes|no)" * 4 + r" \| (.*) \|$", re.M)
ROWS = ROW.findall(PAGE.read_text("utf-8"))


@pytest.fixture(scope="module")
def served() -> Iterator[Provider]:
    with provider() as running:
        yield running


def model(name: str, responses: str, served: Provider) -> Any:
    if name == "HuggingFacePipeline":
        return HuggingFacePipeline(pipeline=None, model_id="x")
    if name == "AzureChatOpenAI":
        return CHATS[name](served, azure_endpoint="https://x.openai.azure.com")
    return (CHATS | LLMS)[f"{name}, Responses" if responses else name](served)


def modes(inner: Any) -> set[str]:
    """The prefix modes that a role with this model is made with."""
    works = set()
    for mode in PREFIX_MODES:
        try:
            LangChainDrafter(inner, prefix=mode)
        except ConfigurationError:
            continue
        works.add(mode)
    return works


def test_all_classes_are_on_the_page() -> None:
    named = {f"{name}, Responses" if responses else name for name, responses, *_ in ROWS}
    assert named == {*CHATS, *LLMS, "HuggingFacePipeline"}


def test_openais_regional_hosts_continue_no_answer_either(served: Provider) -> None:
    for host, refuses in (("api.openai.com", True), ("eu.api.openai.com", True), ("notapi.openai.com.example", False)):
        inner = CHATS["ChatOpenAI"](served, base_url=f"https://{host}/v1")
        assert ("trailing_assistant" not in modes(inner)) is refuses, host


@pytest.mark.parametrize(("name", "responses", "sampling", "top_k", "cap", "seed", "prefixes"), ROWS)
def test_the_table_holds(
    name: str, responses: str, sampling: str, top_k: str, cap: str, seed: str, prefixes: str, served: Provider
) -> None:
    inner = model(name, responses, served)
    fields = ("temperature", sampling), ("top_p", sampling), ("top_k", top_k), ("max_tokens", cap), ("seed", seed)
    for field, told in fields:
        assert (lacking(inner, field) is None) == (told == "yes"), field
    assert modes(inner) == set(re.findall(r"`(\w+)`", prefixes))
