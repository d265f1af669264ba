"""What a tokenizer's ids mean in bytes: where steps end, and which models may exchange ids."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rsd_core import ConfigurationError, Message, Path, Prompt, Step
from rsd_core.paths import begun
from rsd_core.thoughts.markers import MARKERS, Thinking
from rsd_integrations.prm_formats import PathIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rsd_integrations.huggingface.bare_tokenizer import BareTokenizer

_ANSWER = "⟦answer⟧"


class Vocabulary:
    """A tokenizer as the decoder needs it."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase | BareTokenizer, size: int, template: Mapping[str, Any] | None = None
    ) -> None:
        self.tokenizer, self.template = tokenizer, dict(template or {})
        self.size = max(size, 1 + max(tokenizer.get_vocab().values()))
        """Ids the model has rows for; often some more than the tokenizer names."""
        self.ids = PathIds(self._encode_node)
        """Ids of a path. Steps by a model of the same vocabulary keep their sampled ids; others are tokenised from
        their text, step by step: a step ends after its newlines, where tokenising apart and together agree."""

    @cached_property
    def identity(self) -> str:
        """Equal for tokenizers that give every id the same meaning."""
        entries = sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])
        return hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:16]

    @cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of every id. Special tokens are empty: they are no text."""
        tokenizer = self.tokenizer
        names = {id_: token for token, id_ in tokenizer.get_vocab().items()}
        tokens = [names.get(id_) for id_ in range(self.size)]
        special = set(tokenizer.all_special_ids)
        added = {id_: token.content for id_, token in tokenizer.added_tokens_decoder.items()}
        spaced = any(token is not None and token.startswith("▁") for token in tokens)
        pieces = []
        for id_, token in enumerate(tokens):
            if id_ in special or token is None:
                pieces.append(b"")
            elif id_ in added:
                pieces.append(added[id_].encode())
            else:
                pieces.append(_sentencepiece(token) if spaced else _byte_level(token))
        return pieces

    @cached_property
    def renders_tools(self) -> bool:
        """Whether the chat template shows the model the tools it may call."""
        return "tools" in str(self.tokenizer.chat_template or "")

    def text(self, ids: list[int]) -> str:
        """The text of some ids, special tokens left out."""
        pieces = self.pieces
        return b"".join(pieces[id_] for id_ in ids).decode("utf-8", errors="replace")

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, with no special tokens added."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def prompt(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt, through the chat template where there is one.

        A last message by the assistant is left open, to be continued.
        """
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer(self.prompt_text(prompt))["input_ids"])
        return self.encode(self.prompt_text(prompt))

    def prompt_text(self, prompt: Prompt) -> str:
        """The text whose ids `prompt` gives, special tokens of the template written out."""
        messages = [message for message in prompt if message.role != "tools"]
        if self.tokenizer.chat_template is None:
            return "\n\n".join(message.content for message in messages)
        tools = [tool for message in prompt if message.role == "tools" for tool in json.loads(message.content)]
        goes_on = prompt[-1].role == "assistant" and not prompt[-1].extra
        text = self.tokenizer.apply_chat_template(
            [{"role": message.role, "content": message.content, **message.extra} for message in messages],
            tools=tools or None,
            tokenize=False,
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
            **self.template,
        )
        return str(text)

    def thinking(self, prompt: Prompt) -> Thinking | None:
        """How the template has the model think."""
        source = str(self.tokenizer.chat_template or "")
        markers = next((markers for markers in MARKERS.values() if markers.open in source), None)
        if markers is None or begun(prompt) is not None:
            return None
        _, opened, rest = self.prompt_text(prompt).rpartition(markers.open)
        inside = opened and not any(message.content in rest for message in prompt if message.content)
        return Thinking(markers, opened + rest if inside else "")

    def path_text(self, path: Path) -> str:
        """The text of a path, prompt included."""
        text, own = self.prompt_text(path.prompt), self.thinking(path.prompt)
        if path.opening is not None and own is not None:
            text = text.removesuffix(own.opening)
        return text + path.text

    def after(self, prompt: Prompt, messages: Sequence[Message]) -> list[int]:
        """Ids of messages that follow the answer to a prompt; the last one, by the assistant, stays open."""
        if self.tokenizer.chat_template is None:
            return self.encode("".join(f"\n\n{message.content}" for message in messages))
        turns = [*(message for message in prompt if message.role != "tools"), Message("assistant", _ANSWER), *messages]
        text = self.tokenizer.apply_chat_template(
            [{"role": turn.role, "content": turn.content} for turn in turns],
            tokenize=False,
            continue_final_message=turns[-1].role == "assistant",
            add_generation_prompt=turns[-1].role != "assistant",
        )
        _, answer, rest = str(text).rpartition(_ANSWER)
        if not answer:
            raise ConfigurationError("the chat template drops earlier turns of the assistant, so no step can be judged")
        return self.encode(rest)

    def first_tokens(self, last: int, words: Sequence[str]) -> list[int]:
        """The first token of each word where the text so far ends with the token `last`.

        Raises:
            ConfigurationError: Two words share it, or the text and a word join to other tokens.
        """
        before = self.pieces[last].decode("utf-8", errors="replace")
        anchor = self.encode(before)
        firsts = []
        for word in words:
            ids = self.encode(before + word)
            if ids[: len(anchor)] != anchor or len(ids) == len(anchor):
                raise ConfigurationError(f"the tokenizer joins {before!r} and {word!r}; let the text end elsewhere")
            firsts.append(ids[len(anchor)])
        if len(set(firsts)) < len(firsts):
            raise ConfigurationError(
                f"some of the words {list(words)} begin with the same token, and cannot be told apart"
            )
        return firsts

    def _encode_node(self, node: Path) -> Sequence[int]:
        if node.step is not None:
            return self.step(node.step)
        return self.prompt(node.prompt) if node.opening is None else self.encode(self.path_text(node))

    def step(self, step: Step) -> Sequence[int]:
        """Ids of a step: those that were sampled where its model has this vocabulary, else those of its text."""
        return step.tokens if step.tokens and step.vocabulary == self.identity else self.encode(step.text)


def _byte_table() -> dict[str, int]:
    """The printable stand-ins of byte-level BPE (GPT-2): printable bytes stand for themselves, others follow 255."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_table()
_HEX = re.compile(r"<0x([0-9A-F]{2})>")


def _byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTES[char] for char in token)
    except KeyError:  # a token of another kind of vocabulary stands for itself
        return token.encode()


def _sentencepiece(token: str) -> bytes:
    single = _HEX.fullmatch(token)
    return bytes([int(single[1], 16)]) if single else token.replace("▁", " ").encode()
