"""The tokenizer of a GGUF file does everything that one of transformers does, with the same results."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from rsd_core import ConfigurationError, Step, as_prompt
from rsd_core import Path as StepPath
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.huggingface.from_pretrained import load_tokenizer
from rsd_integrations.inprocess.marks import Marks
from rsd_integrations.inprocess.vocabulary import Vocabulary
from rsd_integrations.llamacpp.header import read_header
from rsd_integrations.llamacpp.model import Model
from rsd_integrations.llamacpp.tokenizer import GGUFTokenizer
from rsd_integrations.llamacpp.vocabulary import GGUFVocabulary
from rsd_integrations.prm_formats import FORMATS, bind
from rsd_integrations.prm_formats.sequences import Layouts
from tests.huggingface import reward_models
from tests.llamacpp.gguf_files import embedded, gemma, smollm2
from tests.llamacpp.texts import texts
from tests.llamacpp.vocabularies import Kind, Words, all_bytes, words_of, write_vocabulary

FAMILY = ("draft", "target", "thinking-draft", "thinking-target")
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def of_file(file: Path) -> GGUFTokenizer:
    return GGUFTokenizer(Model.load(file, vocabulary_only=True))


def of_words(words: Words, *, spaced: bool = False) -> GGUFTokenizer:
    file = write_vocabulary(Path(mkdtemp(prefix="rsd-tests-")) / "vocabulary.gguf", words)
    return GGUFTokenizer(Model.load(file, vocabulary_only=True), spaced=spaced)


def encoded(tokenizer: Any, text: str, whole: bool = False) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=whole)["input_ids"]
    return ids


# -- the embedded family: the same vocabulary from both libraries -----------------------------------------------------


@pytest.mark.parametrize("name", FAMILY)
def test_a_vocabulary_is_the_same_from_both_libraries(name: str) -> None:
    ours, theirs = of_file(embedded(name)), load_tokenizer(FOLDER / name)
    a, b = Vocabulary(ours, 0), Vocabulary(theirs, 0)
    assert (a.identity, a.pieces, a.size) == (b.identity, b.pieces, b.size)
    assert ours.get_vocab() == theirs.get_vocab()
    assert (ours.bos_token, ours.eos_token) == (theirs.bos_token, theirs.eos_token)
    assert (ours.bos_token_id, ours.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert set(ours.all_special_ids) >= set(theirs.all_special_ids)
    added = {id_: (token.content, token.special) for id_, token in theirs.added_tokens_decoder.items()}
    assert {id_: (token.content, token.special) for id_, token in ours.added_tokens_decoder.items()} == added
    assert [str(token) for token in ours.added_tokens_decoder.values()] == [content for content, _ in added.values()]
    ids = list(range(len(ours)))
    assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)


@pytest.mark.parametrize("name", ["draft", "thinking-target"])
def test_texts_have_the_same_ids_from_both_libraries(name: str) -> None:
    ours, theirs = of_file(embedded(name)), load_tokenizer(FOLDER / name)
    names = [token.content for token in ours.added_tokens_decoder.values()]
    for text in texts(2000, 1, names):
        ids = encoded(ours, text)
        assert ids == encoded(theirs, text), text
        assert ours.decode(ids) == unicodedata.normalize("NFC", text) == theirs.decode(ids)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
        assert encoded(ours, text, whole=True) == encoded(theirs, text, whole=True)


CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "What is 1 + 3?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " What? <|im_end|>\n"}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "Thought of it."},
        {"role": "user", "content": "c"},
    ],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "It is", "prefix": True}],
]


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("arguments", [{}, {"enable_thinking": False}, {"enable_thinking": True}])
def test_prompts_are_the_same_from_both_libraries(name: str, arguments: dict[str, Any]) -> None:
    if arguments and not name.startswith("thinking"):
        with pytest.raises(ConfigurationError, match="enable_thinking"):
            Vocabulary(of_file(embedded(name)), 0, arguments)
        return
    a = Vocabulary(of_file(embedded(name)), 0, arguments)
    b = Vocabulary(load_tokenizer(FOLDER / name), 0, arguments)
    for messages in CONVERSATIONS:
        for tools in ((), ({"role": "tools", "content": f"[{TOOL}]".replace("'", '"')},)):
            prompt = as_prompt([*tools, *messages])
            assert a.prompt_text(prompt) == b.prompt_text(prompt)
            assert a.prompt(prompt) == b.prompt(prompt)
            assert a.thinking(prompt) == b.thinking(prompt)
            assert a.renders_tools == b.renders_tools
    path = StepPath(as_prompt(CONVERSATIONS[0]), thinking=a.thinking(as_prompt(CONVERSATIONS[0])))
    for text in ("<think>\n1 + 3.\n\n", "It is 4.\n</think>\n\n", "The answer is 4."):
        step = Step(text, "delimiter")
        assert Marks(a).after(path, [step]) == Marks(b).after(path, [step])
        path = path.extend(step)


# -- real vocabularies ------------------------------------------------------------------------------------------------


@cache
def smollm2_by_tokenizers() -> Tokenizer:
    """SmolLM2's tokenizer, built by the tokenizers library of what the file holds: digits apart, then GPT-2's cuts."""
    header = read_header(smollm2())
    tokens, kinds = header.array("tokenizer.ggml.tokens"), header.array("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in header.array("tokenizer.ggml.merges")]
    backend = Tokenizer(models.BPE({token: id_ for id_, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == Kind.CONTROL]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return backend


def test_smollm2_is_tokenised_as_by_the_tokenizers_library() -> None:
    ours, theirs = of_file(smollm2()), smollm2_by_tokenizers()
    names = [token.content for token in ours.added_tokens_decoder.values()]
    pieces = Vocabulary(ours, 0).pieces
    spelled = set(
        b"".join(pieces[id_] for id_ in range(len(pieces)))
    )  # it has no token for some bytes of control characters
    for text in texts(5000, 2, names):
        if set(text.encode()) <= spelled:
            ids = encoded(ours, text)
            assert ids == theirs.encode(text, add_special_tokens=False).ids, text
            assert ours.decode(ids) == text


@pytest.mark.parametrize("file", [smollm2, gemma, lambda: embedded("thinking-draft")])
def test_a_vocabulary_read_piece_by_piece_is_the_same(file: Callable[[], Path]) -> None:
    tokenizer = of_file(file())
    lazy, whole = GGUFVocabulary(tokenizer, tokenizer.model.vocab_size), Vocabulary(tokenizer, 0)
    assert (lazy.identity, lazy.size) == (whole.identity, whole.size)
    assert [lazy.pieces[id_] for id_ in range(whole.size)] == whole.pieces


@pytest.mark.parametrize("file", [smollm2, gemma])
def test_pieces_are_those_of_llamacpp(file: Callable[[], Path]) -> None:
    tokenizer = of_file(file())
    vocabulary = Vocabulary(tokenizer, 0)
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    for id_, piece in enumerate(vocabulary.pieces):
        assert piece == (b"" if id_ in special else tokenizer.model.piece(id_, special=True))
    assert len(vocabulary.pieces) == tokenizer.model.vocab_size == len(tokenizer)


def test_smollm2_takes_its_own_chat_template() -> None:
    vocabulary = Vocabulary(of_file(smollm2()), 0)
    prompt = as_prompt("Hi")
    assert vocabulary.prompt_text(prompt) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = vocabulary.prompt(prompt)
    assert [ids[0], *ids[-4:]] == [1, 1, *encoded(vocabulary.tokenizer, "assistant\n")]


def test_gemma_spells_every_text_and_begins_it_once() -> None:
    tokenizer = of_file(gemma())
    vocabulary = Vocabulary(tokenizer, 0)
    assert vocabulary.template is None
    for text in texts(3000, 3):
        ids = encoded(tokenizer, text)
        assert b"".join(vocabulary.pieces[id_] for id_ in ids).decode() == text == tokenizer.decode(ids)
        assert encoded(tokenizer, text, whole=True) == [tokenizer.bos_token_id, *ids]
    assert vocabulary.prompt(as_prompt("Q: 1 + 1?\nA:")) == [2, *encoded(tokenizer, "Q: 1 + 1?\nA:")]
    assert encoded(tokenizer, "<bos>Hi", whole=True) == encoded(tokenizer, "Hi", whole=True)


def test_steps_that_are_encoded_apart_join_to_the_text() -> None:
    vocabulary = Vocabulary(of_file(gemma()), 0)
    steps = ["First, 4 + 5 = 9.\n\n", " Then 9 * 2 = 18.\n\n", "\tSo:\n\n", "  the answer is 18."]
    path = StepPath(as_prompt("Q: (4 + 5) * 2?\nA:"))
    for text in steps:
        path = path.extend(Step(text, "delimiter"))
    ids, prompt = vocabulary.ids(path)
    assert vocabulary.text(ids[prompt:]) == "".join(steps)
    assert vocabulary.text(ids) == vocabulary.path_text(path)


# -- vocabularies that put a space before a text ----------------------------------------------------------------------


@cache
def spaced() -> GGUFTokenizer:
    return of_words(words_of(reward_models.mistral()))


def test_a_space_comes_before_a_whole_text_and_before_no_step() -> None:
    ours, theirs = spaced(), reward_models.mistral()
    byte: Any = theirs.convert_tokens_to_ids("<0x01>")
    for text in texts(1000, 4):
        text = text.replace("\0", "")
        assert encoded(ours, text, whole=True) == encoded(theirs, text, whole=True)  # with a space, as it has learned
        assert ours.decode(encoded(ours, text)) == text
        ids = encoded(theirs, "\x01" + text)  # where a byte stands before it, it has none there either
        assert encoded(ours, text) == ids[ids.index(byte) + 1 :]
    assert encoded(ours, "") == []
    assert ours.convert_ids_to_tokens(encoded(ours, "Step")) == ["Step"]
    assert ours.convert_ids_to_tokens(encoded(ours, "Step", whole=True)) == ["<s>", "▁Step"]
    vocabulary = Vocabulary(ours, 0)
    assert vocabulary.text(encoded(ours, " Step 1:\n Step")) == " Step 1:\n Step"
    assert vocabulary.identity == Vocabulary(reward_models.mistral(), 0).identity


def test_a_file_may_say_that_it_puts_no_space() -> None:
    words = words_of(reward_models.mistral())
    plain = of_words(Words(**{**vars(words), "options": {**words.options, "add_space_prefix": False}}))
    assert plain.convert_ids_to_tokens(encoded(plain, "Step", whole=True)) == ["<s>", "Step"]


# -- what else is asked of a tokenizer --------------------------------------------------------------------------------


def test_rows_that_pad_a_matrix_are_not_tokens() -> None:
    tokens = [*all_bytes(), "aa", "[PAD257]", "<end>", "<user>", "[PAD260]"]
    kinds = [*[Kind.NORMAL] * 257, Kind.UNUSED, Kind.CONTROL, Kind.USER_DEFINED, Kind.UNUSED]
    tokenizer = of_words(Words(tokens, kinds, merges=["a a"], named={"eos": 258}))
    vocabulary = Vocabulary(tokenizer, tokenizer.model.vocab_size)
    lazy = GGUFVocabulary(tokenizer, tokenizer.model.vocab_size)
    assert [lazy.pieces[id_] for id_ in range(261)] == vocabulary.pieces
    assert tokenizer.get_vocab() == {token: id_ for id_, token in enumerate(tokens) if "PAD" not in token}
    assert (len(tokenizer), vocabulary.size) == (259, 261)
    assert vocabulary.pieces[255:] == [b"\xad", b"aa", b"", b"", b"<user>", b""]
    assert (tokenizer.bos_token_id, tokenizer.bos_token, tokenizer.eos_token) == (None, None, "<end>")


def test_of_several_chat_templates_the_one_for_tools_is_taken_with_tools() -> None:
    words = Words(
        [*all_bytes(), "aa", "<end>"],
        [*[Kind.NORMAL] * 257, Kind.CONTROL],
        merges=["a a"],
        named={"eos": 257},
        chat_template=[
            {"name": "default", "template": "{{ messages[0].content }}{{ eos_token }}{{ bos_token }}"},
            {"name": "tool_use", "template": "{{ tools[0].function.name }}: {{ messages[0].content }}"},
        ],
    )
    vocabulary = Vocabulary(of_words(words), 0)
    assert vocabulary.renders_tools
    assert vocabulary.prompt_text(as_prompt("Hi")) == "Hi<end>"
    prompt = as_prompt([{"role": "tools", "content": f"[{TOOL}]".replace("'", '"')}, {"role": "user", "content": "Hi"}])
    assert vocabulary.prompt_text(prompt) == "add: Hi"


def test_other_kinds_of_vocabularies_are_refused() -> None:
    kinds = [Kind.UNKNOWN, *[Kind.NORMAL] * 3]
    words = Words(["[UNK]", "[CLS]", "[SEP]", "▁a"], kinds, model="bert", named={"unknown": 0, "bos": 1, "eos": 2})
    with pytest.raises(ConfigurationError, match="tokenizer of the kind 'bert'; a language model has one of"):
        of_words(words)


def bound_or_refused(name: str, tokenizer: Any, separator: str | None) -> Any:
    try:
        return bind(FORMATS[name], tokenizer, name, separator)
    except ConfigurationError as error:
        return str(error)


@pytest.mark.parametrize("name", FORMATS)
def test_reward_models_are_read_as_by_transformers(name: str) -> None:
    """Every format, over each of the vocabularies that it can be read with."""
    bound = 0
    for theirs in (reward_models.qwen(), reward_models.llama(), reward_models.mistral()):
        ours = of_words(words_of(theirs), spaced=True)
        separator = "\n" if FORMATS[name].separator is None else None
        readers = [bound_or_refused(name, tokenizer, separator) for tokenizer in (ours, theirs)]
        if isinstance(readers[1], str):
            assert readers[0] == readers[1]
            continue
        bound += 1
        (layouts, reference), path = map(Layouts, readers), StepPath(as_prompt("Mia has 45 apples."))
        for text in ("She buys 12 more.\n\n", "45 + 12 = 57\n\n", "The answer is \\boxed{57}."):
            step = Step(text, "delimiter")
            assert layouts.step(path, step) == reference.step(path, step)
            assert layouts.explain(path, step).tokens == reference.explain(path, step).tokens
            path = path.extend(step)
            assert layouts.ids(path) == reference.ids(path)
    assert bound
