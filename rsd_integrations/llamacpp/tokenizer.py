"""The vocabulary of a GGUF file as the tokenizer needed by the decoder and the formats of reward models."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rsd_core import ConfigurationError
from rsd_integrations.inprocess.rendering import render
from rsd_integrations.llamacpp.header import read_header
from rsd_integrations.llamacpp.model import Attribute, Model

BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"
COMPOSED = frozenset({"qwen2", "qwen35", "deepseek-r1-qwen"})
"""Vocabularies that compose letters with accents (NFC), which llama.cpp does not do."""
_ADDED = Attribute.CONTROL | Attribute.USER_DEFINED | Attribute.UNKNOWN
_SPECIAL = Attribute.CONTROL | Attribute.UNKNOWN
_CONTROL = 3
"""The type of control tokens in `tokenizer.ggml.token_type`."""
_TEMPLATE = "tokenizer.chat_template"
_ANCHOR = "\x01"
"""A character that no vocabulary merges with others."""


@dataclass(frozen=True, slots=True)
class Added:
    """A token matched in a text before tokenisation."""

    content: str
    special: bool
    """Whether it marks structure and is not text."""

    def __str__(self) -> str:
        return self.content


class GGUFTokenizer:
    """The tokenizer of a GGUF file: llama.cpp's, with the parts of transformers' interface needed here.

    Texts are encoded unchanged: if a SentencePiece vocabulary prepends a space to a text, it is added before a whole
    prompt and after special tokens, as in training, but not before a step that continues a text.

    Args:
        model: The model, or only its vocabulary.
        spaced: Whether to prepend that space to every text, as transformers does and formats of reward models expect.

    Raises:
        ConfigurationError: Its vocabulary is of a kind that language models do not use.
    """

    def __init__(self, model: Model, *, spaced: bool = False) -> None:
        self.model = model
        self._header = read_header(model.file)
        kind, known = self._header.tokenizer, (BYTE_LEVEL, SENTENCEPIECE)
        if kind not in known:
            raise ConfigurationError(
                f"{model.file} has a tokenizer of the kind {kind or 'none'!r}; a language model has one of {known}"
            )
        puts_space = kind == SENTENCEPIECE and self._header.metadata.get("tokenizer.ggml.add_space_prefix", True)
        self._anchor = model.encode(_ANCHOR) if puts_space and not spaced else []
        """Prepended to texts that get no space; empty if none gets one."""
        self._composes = self._header.metadata.get("tokenizer.ggml.pre") in COMPOSED

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """Tokenise a text; names of special tokens in it become those tokens.

        Args:
            text: Any text.
            add_special_tokens: Whether it is a whole text, to be begun as the file requests, usually with one special
                token.
        """
        if self._composes:
            text = unicodedata.normalize("NFC", text)
        if add_special_tokens or not self._anchor:
            return {"input_ids": self.model.encode(text, begin=add_special_tokens)}
        return {"input_ids": self.model.encode(_ANCHOR + text)[len(self._anchor) :]}

    def __len__(self) -> int:
        return len(self.get_vocab())

    def get_vocab(self) -> dict[str, int]:
        """Ids by token, without the rows that a converter added to pad a matrix."""
        return {token: id_ for id_, token in self.tokens()}

    def tokens(self) -> Iterator[tuple[int, str]]:
        """The same in the order of ids, one by one."""
        filling = self._filling
        return (
            (id_, token)
            for id_, token in enumerate(self._header.strings("tokenizer.ggml.tokens"))
            if id_ not in filling
        )

    @cached_property
    def added_tokens_decoder(self) -> dict[int, Added]:
        """Tokens besides the merged ones, by id."""
        return {
            id_: Added(self.model.piece(id_, special=True).decode(), bool(kind & _SPECIAL))
            for id_, kind in self._kinds.items()
            if kind & _ADDED
        }

    @cached_property
    def _kinds(self) -> dict[int, Attribute]:
        """Attributes of tokens that are not ordinary ones, by id."""
        attributes = ((id_, self.model.attributes(id_)) for id_ in range(self.model.vocab_size))
        kinds = {id_: kind for id_, kind in attributes if not kind & (Attribute.NORMAL | Attribute.BYTE)}
        # llama.cpp shows some special tokens as text, for its own parser: the channels of gpt-oss.
        for id_, type_ in enumerate(self._header.array("tokenizer.ggml.token_type")):
            if type_ == _CONTROL and id_ in kinds:
                kinds[id_] |= Attribute.CONTROL
        return kinds

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset(self.all_special_ids)

    @cached_property
    def _filling(self) -> frozenset[int]:
        return frozenset(id_ for id_, kind in self._kinds.items() if not kind & _ADDED)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Ids that end a response: those named by the file, and others known to llama.cpp."""
        return frozenset(id_ for id_ in self.added_tokens_decoder if self.model.ends(id_))

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of tokens that are not text."""
        return [id_ for id_, token in self.added_tokens_decoder.items() if token.special]

    @property
    def bos_token_id(self) -> int | None:
        """Id of the token that begins a text; None if the file names none."""
        return self._named("bos")

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends an answer; None if the file names none."""
        return self._named("eos")

    @property
    def bos_token(self) -> str | None:
        """The token that begins a text."""
        return self._spelled("bos")

    @property
    def eos_token(self) -> str | None:
        """The token that ends an answer."""
        return self._spelled("eos")

    def _named(self, name: str) -> int | None:
        """An id given by the file itself: llama.cpp's defaults for missing ones are from GPT-2's vocabulary."""
        id_ = self._header.metadata.get(f"tokenizer.ggml.{name}_token_id")
        return id_ if isinstance(id_, int) and 0 <= id_ < self.model.vocab_size else None

    def _spelled(self, name: str) -> str | None:
        id_ = self._named(name)
        return None if id_ is None else self.model.token(id_)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Tokens' texts in the vocabulary."""
        return [self.model.token(id_) for id_ in ids]

    def piece(self, id_: int, *, special: bool = False) -> bytes:
        """The text of an id; nothing for special tokens, unless requested."""
        return b"" if id_ in self._special and not special else self.model.piece(id_, special=special)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of ids, special tokens included unless skipped."""
        pieces = [self.piece(id_, special=not skip_special_tokens) for id_ in token_ids]
        return b"".join(pieces).decode(errors="replace")

    @cached_property
    def chat_template(self) -> str | dict[str, str] | None:
        """The file's chat template; by name if it has several; None if it has none."""
        named = {
            key.removeprefix(f"{_TEMPLATE}."): str(value)
            for key, value in self._header.metadata.items()
            if key.startswith(f"{_TEMPLATE}.")
        }
        default = self._header.metadata.get(_TEMPLATE)
        if default is None:
            return named or None
        return {"default": str(default), **named} if named else str(default)

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        **arguments: Any,
    ) -> str:
        """Render messages as text.

        Args:
            conversation: Messages.
            tools: Tools that the model may call.
            add_generation_prompt: Begin the model's next turn.
            tokenize: Must be False: text is returned.
            **arguments: Template arguments, such as `enable_thinking`.

        Raises:
            TemplateError: The template refuses the conversation.
        """
        source = self.chat_template
        if isinstance(source, dict):
            source = source["tool_use" if tools and "tool_use" in source else "default"]
        assert source is not None
        assert not tokenize
        named = {f"{name}_token": self._spelled(name) for name in ("bos", "eos", "unknown", "padding")}
        special = {_SHORT.get(name, name): token for name, token in named.items() if token is not None}
        return render(source, conversation, tools, add_generation_prompt, {**special, **arguments})


_SHORT = {"unknown_token": "unk_token", "padding_token": "pad_token"}
