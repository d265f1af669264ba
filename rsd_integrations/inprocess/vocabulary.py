"""The bytes of a tokenizer's ids, which show where steps end and which models can exchange ids."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from codecs import getincrementaldecoder
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Self

from rsd_core import ConfigurationError, Message, Path, Prompt, Step, Thinking, beginning
from rsd_core.paths import Ending, begun
from rsd_integrations.chat_fields import EFFORT, TEMPLATE
from rsd_integrations.inprocess.chat_template import Tokenizer, chat_template
from rsd_integrations.inprocess.path_ids import PathIds
from rsd_integrations.inprocess.safe_splits import SafeSplits

if TYPE_CHECKING:
    from rsd_core import Markers


class Vocabulary:
    """A tokenizer wrapped for the decoder.

    Args:
        tokenizer: The tokenizer.
        size: Number of ids for which the model has rows.
        template: Chat template arguments, such as `enable_thinking`.

    Raises:
        ConfigurationError: The chat template uses no such argument, or there is none.
    """

    def __init__(self, tokenizer: Tokenizer, size: int, template: Mapping[str, Any] | None = None) -> None:
        self.tokenizer = tokenizer
        self.template = chat_template(tokenizer, template)
        """None if the tokenizer has no chat template."""
        self.size = self._rows(size)
        """Number of ids for which the model has rows; often more than the tokenizer has."""
        self._splits = cache(lambda: _splits(tokenizer))  # lazy, and shared by copies with other fields
        self._own_marks: frozenset[int] = frozenset()
        self._views: dict[Markers, Self] = {}
        self.ids = PathIds(self)
        """Ids of paths. Steps by a model with the same vocabulary keep their sampled ids; the text of others is
        tokenised as a whole, whatever its steps."""

    def with_fields(self, fields: Mapping[str, Any]) -> Self:
        """The same tokenizer, with a request's chat template arguments overriding its own.

        Args:
            fields: `chat_template_kwargs`, arguments by name, and `reasoning_effort`, which is one if the template
                reads it; others are ignored.

        Raises:
            ConfigurationError: The chat template uses no such argument, or there is none.
        """
        own = {} if self.template is None else self.template.arguments
        effort = {EFFORT: fields[EFFORT]} if EFFORT in fields else {}
        other = copy.copy(self)
        try:
            other.template = chat_template(self.tokenizer, {**own, **fields.get(TEMPLATE, {}), **effort})
        except ConfigurationError as error:
            raise ConfigurationError(f"{' and '.join(fields)}: {error}") from error
        other.ids, other._views = PathIds(other, self.ids.lock), {}
        with self.ids.lock:
            vars(other).pop("pieces", None)
            if other._marked() == self._marked():
                vars(other)["pieces"] = self.pieces  # many megabytes for large vocabularies
        return other

    @cached_property
    def identity(self) -> str:
        """Equal for tokenizers that give every id the same meaning."""
        entries = sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])
        return hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:16]

    def _rows(self, size: int) -> int:
        return max(size, 1 + max(self.tokenizer.get_vocab().values()))

    @cached_property
    def pieces(self) -> list[bytes] | dict[int, bytes]:
        """The bytes of every id. Special tokens are empty, since they are not text, except those that mark thoughts."""
        tokenizer = self.tokenizer
        names = {id_: token for token, id_ in tokenizer.get_vocab().items()}
        tokens = [names.get(id_) for id_ in range(self.size)]
        special = self._special_ids - self._marked()
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

    def all_pieces(self) -> Iterable[bytes]:
        """The same in the order of ids; empty for ids unknown to the tokenizer."""
        return (self.pieces[id_] for id_ in range(self.size))

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        """Ids that mark the structure of a conversation: all that the tokenizer added as special, named or not."""
        added = self.tokenizer.added_tokens_decoder.items()
        named = {id_ for id_ in self.tokenizer.all_special_ids if id_ is not None}
        return frozenset(named | {id_ for id_, token in added if token.special})

    def _marked(self) -> frozenset[int]:
        """The special tokens that mark thoughts: the template's and a request's."""
        return self._own_marks | self._marking_ids(None if self.template is None else self.template.markers)

    def _marking_ids(self, markers: Markers | None) -> frozenset[int]:
        """The special tokens that thought markers consist of."""
        if markers is None:
            return frozenset()
        marks = (markers.open, markers.close, markers.ending, markers.answer, markers.end)
        return frozenset(id_ for mark in marks if mark for id_ in self.encode(mark)) & self._special_ids

    @cached_property
    def renders_tools(self) -> bool:
        """Whether the chat template shows the model the tools it may call."""
        return self.template is not None and "tools" in self.template.source

    def text(self, ids: list[int]) -> str:
        """The text of some ids, without special tokens."""
        pieces = self.pieces
        return b"".join(pieces[id_] for id_ in ids).decode("utf-8", errors="replace")

    def read(self, ids: Sequence[int], before: bytes = b"") -> tuple[str, bytes]:
        """The text of some ids, and the incomplete character at their end.

        Args:
            ids: The ids.
            before: The beginning of their first character, from the ids before them.
        """
        pieces, decoder = self.pieces, getincrementaldecoder("utf-8")("replace")
        return decoder.decode(b"".join([before, *[pieces[id_] for id_ in ids]])), decoder.getstate()[0]

    def as_step(
        self, ids: Sequence[int], ending: Ending, size: int, logprobs: Sequence[float] = (), before: bytes = b""
    ) -> Step:
        """A step of sampled ids; a character that they do not complete is left to the next step's text.

        Args:
            ids: The sampled ids, without one that ends the response.
            ending: Why it ends.
            size: Tokens generated for it.
            logprobs: Log-probabilities of the ids.
            before: As in `read`.
        """
        text, begun = self.read(ids, before)
        if begun and ending == "end":  # nothing will complete it
            text, begun = text + "\ufffd", b""
        return Step(text, ending, tuple(ids), self.identity, size, tuple(logprobs), partial=bool(begun))

    def written(self, id_: int) -> bytes:
        """The text of an id in a tokenised text: special tokens by their names."""
        added = self._added.get(id_)
        return self.pieces[id_] if added is None else added

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, without added special tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def following(self, text: str) -> list[int]:
        """Ids of plain text that follows other text, without a space prepended by the tokenizer."""
        return self.encode(_ANCHOR + text)[len(self._anchor) :] if self._anchor else self.encode(text)

    def settled(self, text: str) -> tuple[list[int], str]:
        """The first ids of a text, which no following text can change, and the rest of the text; see `SafeSplits`."""
        cut = self._splits().last(text)
        if text[cut - 1 : cut] != "\n":
            return self.following(text[:cut]), text[cut:]
        # White space may be tokenised differently at the end of a text than before a character.
        ids, sign, last = self.following(text[: cut + 1]), text[cut].encode(), b""
        while len(last) < len(sign) and ids:
            last = self.written(ids.pop()) + last
        # Tokenizers that normalise may change it, and its number of bytes.
        return (ids, text[cut:]) if last == sign else ([], text)

    @cached_property
    def _added(self) -> dict[int, bytes]:
        return {id_: token.content.encode() for id_, token in self.tokenizer.added_tokens_decoder.items()}

    @cached_property
    def _anchor(self) -> list[int]:
        """Prepended to texts that must get no space; empty if the tokenizer adds none."""
        puts_space = self.pieces[self.encode("a")[0]].startswith(b" ")
        return self.encode(_ANCHOR) if puts_space else []

    def thinking(self, prompt: Prompt) -> Thinking | None:
        """How the model thinks before it answers a prompt, according to its chat template; None if that is unknown."""
        return None if self.template is None else self.template.thinking(prompt)

    def prompt(self, prompt: Prompt, thinking: Thinking | None = None) -> list[int]:
        """Ids of `prompt_text`."""
        text = self.prompt_text(prompt, thinking)
        return self.encode(text) if self.template else list(self.tokenizer(text)["input_ids"])

    def prompt_text(self, prompt: Prompt, thinking: Thinking | None = None) -> str:
        """The text that the model reads before the first step, with the chat template's special tokens spelled out.

        Args:
            prompt: The prompt; a last message that begins the response is kept unchanged.
            thinking: How all models of the request begin the response, in place of the template's own opening. None
                leaves that to the template.
        """
        if self.template is not None:
            return self.template.start(prompt, thinking)
        *earlier, last = [message for message in prompt if message.role != "tools"]
        opening, markers = ("", None) if thinking is None else (thinking.opening, thinking.markers)
        end = last.content + opening if begun(prompt) is None else beginning(last, markers)
        return "\n\n".join([*(message.content for message in earlier), end])

    def path_text(self, path: Path) -> str:
        """The text that the model reads for a path."""
        return self.prompt_text(path.prompt, path.thinking) + "".join(step.text for step in path.steps)

    def asked(self, path: Path, messages: Sequence[Message] = ()) -> tuple[list[int], int]:
        """Ids of a path and messages after it, the assistant's last one begun; and the number of prompt ids.

        Raises:
            ConfigurationError: The chat template drops earlier turns of the assistant.
        """
        if not messages:
            return self.ids(path, goes_on=True)
        if self.template is None:
            text = "".join(f"\n\n{message.content}" for message in messages)
        else:
            text = self.template.after(path.prompt, messages)
        return self.ids(path.extend(Step(text, "length")))

    def first_tokens(self, last: int, words: Sequence[str]) -> list[int]:
        """The first token of each word if the text so far ends with the token `last`.

        Raises:
            ConfigurationError: Two words share it, or the text and a word merge into other tokens.
        """
        before = self.pieces[last].decode("utf-8", errors="replace")
        anchor = self.encode(before)
        firsts = []
        for word in words:
            ids = self.encode(before + word)
            if ids[: len(anchor)] != anchor or len(ids) == len(anchor):
                raise ConfigurationError(f"the tokenizer merges {before!r} and {word!r}; end the text elsewhere")
            firsts.append(ids[len(anchor)])
        if len(set(firsts)) < len(firsts):
            raise ConfigurationError(
                f"some of the words {list(words)} begin with the same token, so they cannot be distinguished"
            )
        return firsts

    def root(self, path: Path) -> list[int]:
        """Ids of the prompt of a path."""
        return self.prompt(path.prompt, path.thinking)

    def of(self, path: Path) -> Self:
        """The vocabulary for a path's request, in which special tokens that mark its thoughts are text."""
        with self.ids.lock:
            return self.marked(path.thinking)

    def marked(self, thinking: Thinking | None) -> Self:
        """The same for a caller that holds the lock."""
        markers = None if thinking is None else thinking.markers
        if markers is None:
            return self
        if markers not in self._views:
            marks = self._marking_ids(markers)
            view = self
            if not marks <= self._marked():  # given by the user
                view = copy.copy(self)
                vars(view).pop("pieces", None)
                view._own_marks = marks
            self._views[markers] = view
        return self._views[markers]


def _splits(tokenizer: Tokenizer) -> SafeSplits:
    return SafeSplits.of(tokenizer.get_vocab(), (token.content for token in tokenizer.added_tokens_decoder.values()))


def _byte_table() -> dict[str, int]:
    """The printable stand-ins of byte-level BPE (GPT-2): printable bytes stand for themselves, others follow 255."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


_ANCHOR = "\x01"
"""A character that no vocabulary merges with others."""
_BYTES = _byte_table()
_HEX = re.compile(r"<0x([0-9A-F]{2})>")


def _byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTES[char] for char in token)
    except KeyError:  # a token of another kind of vocabulary is its own text
        return token.encode()


def _sentencepiece(token: str) -> bytes:
    single = _HEX.fullmatch(token)
    return bytes([int(single[1], 16)]) if single else token.replace("▁", " ").encode()
