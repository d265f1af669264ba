"""Special tokens are not text, named by the tokenizer's configuration or not, in every backend."""

from __future__ import annotations

from pathlib import Path as Folder
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from rsd_core import Path, Sampling, StepRequest, Thinking, as_prompt
from rsd_core.blocking import wait_for
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.huggingface import load_generator, to_gguf
from rsd_integrations.huggingface.bare_tokenizer import BareTokenizer
from rsd_integrations.huggingface.from_gguf import export
from rsd_integrations.inprocess.vocabulary import Vocabulary
from rsd_integrations.llamacpp.model import Model
from rsd_integrations.llamacpp.tokenizer import GGUFTokenizer
from rsd_integrations.llamacpp.vocabulary import GGUFVocabulary
from rsd_integrations.openai_compatible.written import WrittenIds
from tests.huggingface.tiny import make_causal_lm
from tests.inprocess.test_path_ids import ALL

UNNAMED = ("<start_of_turn>", "<repo_name>", "<|channel|>", "<|message|>", "<|constrain|>")
PLAIN = "<tool_call>"
"""An added token that is text."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A checkpoint with special tokens that only their own flags call so."""
    folder = make_causal_lm(tmp_path_factory.mktemp("special") / "model", vocab_size=640)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer._tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in UNNAMED])
    tokenizer._tokenizer.add_tokens([AddedToken(PLAIN, normalized=False)])
    tokenizer.save_pretrained(folder)
    return folder


def vocabularies(folder: Folder) -> dict[str, Vocabulary]:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    file = folder.with_suffix(".gguf")
    if not file.exists():
        to_gguf.export(str(folder), file)
    model = Model.load(file, gpu_layers=0)
    back = folder.with_name("back")
    if not back.exists():
        export(file, back)
    return {
        "transformers": Vocabulary(tokenizer, 640),
        "without transformers": Vocabulary(BareTokenizer(folder), 640),
        "llama.cpp": GGUFVocabulary(GGUFTokenizer(model), model.vocab_size),
        "back from llama.cpp": Vocabulary(AutoTokenizer.from_pretrained(back), 640),
    }


@pytest.mark.parametrize("backend", ["transformers", "without transformers", "llama.cpp", "back from llama.cpp"])
def test_special_tokens_are_not_text_in_any_backend(folder: Folder, backend: str) -> None:
    vocabulary = vocabularies(folder)[backend]
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    assert not {tokenizer.convert_tokens_to_ids(name) for name in UNNAMED} & set(tokenizer.all_special_ids)
    written = "So".join(["", *UNNAMED, PLAIN, ""])
    ids = vocabulary.encode(written)
    assert {tokenizer.convert_tokens_to_ids(name) for name in (*UNNAMED, PLAIN)} < set(ids)
    assert vocabulary.text(ids) == tokenizer.decode(ids, skip_special_tokens=True)
    assert vocabulary.text(ids) == f"{'So' * (len(UNNAMED) + 1)}{PLAIN}So"
    assert vocabulary.as_step(ids, "length", len(ids)).text == vocabulary.text(ids)
    if backend == "llama.cpp":
        return
    # What a server tells of the same ids agrees with them, also llama.cpp's, which shows the channels of gpt-oss.
    told = WrittenIds(vocabulary)
    told.add(ids)
    told.check(tokenizer.decode(ids, skip_special_tokens=True))
    told.check(written)
    assert told.text == vocabulary.text(ids)


def test_marks_of_thoughts_are_text_only_for_those_who_think_with_them(folder: Folder) -> None:
    vocabulary = vocabularies(folder)["transformers"]
    ids = vocabulary.encode("<|channel|>analysis<|message|>So.")
    assert vocabulary.text(ids) == "analysisSo."
    thinker = Vocabulary(vocabulary.tokenizer, 640)
    thinker.template = SimpleNamespace(markers=MARKERS["harmony"])  # type: ignore[assignment]
    assert thinker.text(ids) == "<|channel|>analysis<|message|>So."
    assert thinker.text(thinker.encode("<|constrain|>So<start_of_turn>")) == "So"


@pytest.mark.parametrize(
    ("name", "tokens"), [("Gemma 3", ["<start_of_turn>", "<end_of_turn>"]), ("SmolLM2", ["<repo_name>"])]
)
def test_those_of_published_vocabularies_are_not_text(name: str, tokens: list[str]) -> None:
    vocabulary = ALL[name]()
    for token in tokens:
        (id_,) = vocabulary.encode(token)
        assert vocabulary.text([id_]) == ""
        assert vocabulary.written(id_) == token.encode()


@pytest.mark.parametrize("backend", ["transformers", "llama.cpp"])
def test_markers_of_one_request_are_not_text_in_another(folder: Folder, backend: str) -> None:
    """A user's own markers make text of special tokens, for the paths that they belong to and for no others."""
    vocabulary = vocabularies(folder)[backend]
    ids, mine = vocabulary.encode("<|channel|>analysis<|message|>So."), Thinking(MARKERS["harmony"])
    plain, thinking = Path(as_prompt("Hi")), Path(as_prompt("Hi"), thinking=mine)
    for _ in range(2):
        assert vocabulary.of(thinking).text(ids) == "<|channel|>analysis<|message|>So."
        assert vocabulary.of(plain).text(ids) == vocabulary.text(ids) == "analysisSo."
        step = vocabulary.of(thinking).as_step(ids, "length", len(ids))
        assert vocabulary.ids(thinking.extend(step))[0] == [*vocabulary.ids(thinking)[0], *ids]
        step = vocabulary.of(plain).as_step(ids, "length", len(ids))
        assert vocabulary.ids(plain.extend(step))[0] == [*vocabulary.ids(plain)[0], *ids]


def test_models_write_the_marks_of_a_request_for_that_request_alone(folder: Folder) -> None:
    model = load_generator(str(folder))
    for thinking, shown in ((Thinking(MARKERS["harmony"]), True), (None, False)) * 2:
        path = Path(as_prompt("Hi"), thinking=thinking)
        request = StepRequest(tuple(range(40)), 30, None, Sampling(temperature=2.0))
        steps = wait_for(model.generate(path, request)).steps
        marks = set(model.vocabulary.encode("<|channel|><|message|>"))
        marked = [step for step in steps if marks & set(step.tokens)]
        assert marked
        assert all(("<|channel|>" in step.text or "<|message|>" in step.text) == shown for step in marked)
