"""A byte-level BPE tokenizer, made in a moment, that knows the special strings of one chat template."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.templates.rendering import BOS, EOS

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen's tokenizers, among many others, cut a text before they merge bytes."""
_CORPUS = [
    "First add the two.\n\nThen take one away.\n",
    "So it is 4.\n\nThe answer is 4.\n\n",
    "assistant\nuser\n\n\n",
]
_SPECIAL = re.compile(
    r"<\|[^<>|\s]{1,40}\|>"  # <|im_start|>
    r"|<｜[^<>]{1,40}｜>|〈\|[A-Z]+\|〉"  # <｜User｜>
    r"|<\|[a-z_]+>|<[a-z_]+\|>"  # <|channel> and <channel|>
    r"|\[/?[A-Z_]{3,}\]"  # [THINK]
    r"|</?seed:\w+>|<SPECIAL_\d+>|\]~b\]|\]~!b\[|\[e~\[|\[gMASK\]|<sop>|<sep>"
)
_PLAIN = ("<think>", "</think>", "<mm:think>", "</mm:think>", "<think:opensource>", "</think:opensource>")
"""Added tokens that most published tokenizers have as no special ones: `skip_special_tokens` leaves them."""
_NO_TOKENS = {"[BEGIN_FINAL_RESPONSE]", "[IMG]"}


@lru_cache
def _trained() -> str:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        _CORPUS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    )
    return backend.to_str()


def tiny_tokenizer(template: str, special: Collection[str] = ()) -> Any:
    """A tokenizer with this chat template, in which its special strings and those named are single tokens."""
    backend = Tokenizer.from_str(_trained())
    named = sorted({*_SPECIAL.findall(template), *special} - _NO_TOKENS - set(_PLAIN))
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (BOS, EOS, *named)])
    plain = [token for token in _PLAIN if token in template]
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    make: Any = PreTrainedTokenizerFast
    tokenizer = make(tokenizer_object=backend, bos_token=BOS, eos_token=EOS)
    tokenizer.chat_template = template
    return tokenizer
