"""Tokenizers loaded from their files by the `tokenizers` library, without the transformers library.

They implement what the decoder needs; everything else is delegated to transformers' own tokenizer, loaded on demand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer

from rsd_integrations.huggingface.from_pretrained import load_tokenizer
from rsd_integrations.inprocess.rendering import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class BareTokenizer:
    """A tokenizer with a chat template that uses `messages`, `add_generation_prompt` and its own arguments."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        named = json.loads((folder / "tokenizer_config.json").read_text())
        self.bos_token: str | None = named["bos_token"]
        self.eos_token: str | None = named["eos_token"]
        self.all_special_tokens = [named[key] for key in ("bos_token", "eos_token", "unk_token", "pad_token")]
        self.all_special_tokens += named["extra_special_tokens"]
        self.all_special_tokens = [token for token in self.all_special_tokens if token is not None]
        self.chat_template = (folder / "chat_template.jinja").read_text()

    def __call__(self, text: Any, **options: Any) -> Any:
        """Tokenise a text."""
        if not isinstance(text, str) or options.keys() - {"add_special_tokens"}:
            return self.transformers(text, **options)
        return {"input_ids": self._backend.encode(text, **options).ids}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle look these up, even before a folder is set
            raise AttributeError(name)
        return getattr(self.transformers, name)

    @cached_property
    def transformers(self) -> PreTrainedTokenizerBase:
        """The same tokenizer loaded by transformers."""
        return load_tokenizer(self._folder)

    @property
    def bos_token_id(self) -> int | None:
        """Id of the token that begins a text; None if there is none."""
        return None if self.bos_token is None else self._backend.token_to_id(self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends an answer; None if there is none."""
        return None if self.eos_token is None else self._backend.token_to_id(self.eos_token)

    @property
    def all_special_ids(self) -> list[int | None]:
        """Ids of tokens that are not text."""
        return [self._backend.token_to_id(token) for token in self.all_special_tokens]

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Tokens besides the merged ones, by id."""
        return self._backend.get_added_tokens_decoder()

    def get_vocab(self) -> dict[str, int]:
        """Ids by token."""
        return self._backend.get_vocab()

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[Any]:
        """The tokens of ids."""
        return [self._backend.id_to_token(id_) for id_ in ids]

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of ids, including special tokens unless they are skipped."""
        return self._backend.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]],
        *,
        tools: Any = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        **arguments: Any,
    ) -> Any:
        """Render messages."""
        if tokenize or arguments.get("continue_final_message"):
            options = {"tools": tools, "add_generation_prompt": add_generation_prompt, "tokenize": tokenize}
            return self.transformers.apply_chat_template(conversation, **options, **arguments)
        return render(self.chat_template, conversation, tools, add_generation_prompt, arguments)
