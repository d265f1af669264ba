"""Converts vocabularies between checkpoints and GGUF files: byte-level BPE, and SentencePiece's BPE.

A GGUF file only names llama.cpp's code for splitting texts (`tokenizer.ggml.pre`), so a tokenizer is identified by how
it splits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from rsd_core import ConfigurationError
from rsd_integrations.huggingface.gguf_architectures import library

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class Splitter(NamedTuple):
    """How byte-level BPE splits a text before it merges."""

    names: tuple[str, ...]
    """Its names in GGUF files; a converted file gets the first."""
    regex: str | None = None
    """Regex of the pieces; None for that of GPT-2."""
    digits: bool = False
    """Whether every digit is a separate piece."""
    whole: bool = False
    """Whether a piece that is a token is not split, whatever its merges."""

    def parts(self) -> list[pre_tokenizers.PreTokenizer]:
        """The equivalent in the tokenizers library."""
        parts: list[pre_tokenizers.PreTokenizer] = []
        if self.digits:
            parts.append(pre_tokenizers.Digits(individual_digits=True))
        if self.regex is not None:
            parts.append(pre_tokenizers.Split(Regex(self.regex), behavior="isolated"))
        return [*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.regex is None)]


SPLITTERS = (
    Splitter(("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2"), rf"{_WORDS}|\p{{N}}|{_OTHERS}"),
    Splitter(("llama-bpe", "llama3", "llama-v3", "falcon3"), rf"{_WORDS}|\p{{N}}{{1,3}}|{_OTHERS}", whole=True),
    Splitter(("smollm",), digits=True),
    Splitter(("gpt-2", "phi-2")),
)
SPACE = "▁"
"""SentencePiece's symbol for a space."""
HEX = "<0x{:02X}>"
"""Tokens for single bytes in SentencePiece's vocabularies."""


def settings(tokenizer: PreTrainedTokenizerBase, rows: int, model: str) -> dict[str, Any]:
    """A tokenizer's settings in the file, without the prefix `tokenizer.ggml.`.

    Args:
        tokenizer: Tokenizer of the checkpoint.
        rows: Rows of the embeddings. Ids without a token are padded, tokens without a row omitted.
        model: Name of the model, for messages.

    Raises:
        ConfigurationError: llama.cpp has no tokenizer like this one.
    """
    backend: Any = tokenizer.backend_tokenizer
    raw = json.loads(backend.to_str())
    words = {id_: token for token, id_ in tokenizer.get_vocab().items() if id_ < rows}
    added = {token["id"]: token for token in raw["added_tokens"]}
    kinds = library().TokenType
    types = []
    for id_ in range(rows):
        if id_ in added:
            types.append(kinds.CONTROL if added[id_]["special"] else kinds.USER_DEFINED)
        else:
            types.append(kinds.NORMAL if id_ in words else kinds.UNUSED)
    own = _byte_level(raw, model) if not raw["model"].get("byte_fallback") else _sentencepiece(raw, backend, rows)
    if own["model"] == "llama":
        for id_, word in words.items():
            if types[id_] == kinds.NORMAL and word in {HEX.format(byte) for byte in range(256)}:
                types[id_] = kinds.BYTE
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "pad", "unk")}
    ends = {name.replace("unk", "unknown").replace("pad", "padding"): id_ for name, id_ in ends.items()}
    return {
        **own,
        "tokens": [words.get(id_, f"[PAD{id_}]") for id_ in range(rows)],
        "token_type": [int(kind) for kind in types],
        **{name: id_ for name, id_ in ends.items() if id_ is not None and id_ < rows},
        **_around(tokenizer, model),
    }


def _byte_level(raw: Mapping[str, Any], model: str) -> dict[str, Any]:
    kind = raw["model"]["type"]
    if kind != "BPE":
        raise ConfigurationError(f"{model}: its tokenizer is of the kind {kind}, and only BPE can be converted to GGUF")
    parts = _listed(raw["pre_tokenizer"])
    for splitter in SPLITTERS:
        alike = parts == [json.loads(part.__getstate__()) for part in splitter.parts()]
        if alike and bool(raw["model"].get("ignore_merges")) == splitter.whole:
            merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in raw["model"]["merges"]]
            return {"model": "gpt2", "pre": splitter.names[0], "merges": merges}
    known = ", ".join(splitter.names[0] for splitter in SPLITTERS)
    raise ConfigurationError(
        f"{model}: its tokenizer splits texts like none of llama.cpp's supported ones ({known}): {parts}"
    )


def _listed(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The parts of a sequence, normalised for an option that only affects offsets."""
    if part is None:
        return []
    parts = part["pretokenizers"] if part["type"] == "Sequence" else [part]
    return [dict(one) | ({"trim_offsets": True} if one["type"] == "ByteLevel" else {}) for one in parts]


def _sentencepiece(raw: Mapping[str, Any], backend: Tokenizer, rows: int) -> dict[str, Any]:
    """Earlier merges get higher scores, since llama.cpp merges by the scores of the results."""
    ranks: dict[str, int] = {}
    for pair in raw["model"]["merges"]:
        ranks.setdefault("".join(pair.split(" ") if isinstance(pair, str) else pair), len(ranks))
    scores = [-float(len(ranks))] * rows
    for token, id_ in backend.get_vocab().items():
        if id_ < rows and token in ranks:
            scores[id_] = -float(ranks[token])
    begins = backend.encode("a", add_special_tokens=False).tokens[0].startswith(SPACE)
    return {"model": "llama", "pre": "default", "scores": scores, "add_space_prefix": begins}


def _around(tokenizer: PreTrainedTokenizerBase, model: str) -> dict[str, bool]:
    """Whether a text gets a beginning token."""
    plain, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    for begins in (False, True):
        if whole == [tokenizer.bos_token_id] * begins + plain:
            return {"add_bos_token": begins, "add_eos_token": False}
    raise ConfigurationError(
        f"{model}: its tokenizer turns the text 'a' into {tokenizer.convert_ids_to_tokens(whole)}; a GGUF file can "
        "only add the token that begins a text"
    )


def tokenizer_of(file: Mapping[str, Any], name: str) -> Tokenizer:
    """The tokenizer of a file, from its settings without the prefix `tokenizer.ggml.`.

    Raises:
        ConfigurationError: Its kind or its way of splitting texts is not supported.
    """
    kinds = library().TokenType
    tokens: list[str] = file["tokens"]
    types = file.get("token_type") or [kinds.NORMAL] * len(tokens)
    own = {token: id_ for id_, token in enumerate(tokens) if types[id_] != kinds.UNUSED}
    if file.get("model") == "gpt2":
        tokenizer = _byte_level_tokenizer(own, file, name)
    elif file.get("model") == "llama":
        tokenizer = _sentencepiece_tokenizer(own, types, file)
    else:
        raise ConfigurationError(
            f"{name}: its tokenizer is of the kind {file.get('model')!r}; supported are gpt2 (byte-level BPE) and "
            "llama (SentencePiece's BPE)"
        )
    for kind, special in ((kinds.CONTROL, True), (kinds.USER_DEFINED, False)):
        added = [
            AddedToken(token, normalized=False, special=special)
            for token, of in zip(tokens, types, strict=True)
            if of == kind
        ]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    begun = file["model"] == "llama" or any(one.whole for one in SPLITTERS if file.get("pre") in one.names)
    before = _ends(file, "bos", default=begun)
    after = _ends(file, "eos", default=False)
    if before or after:
        pieces = [*(f"{tokens[id_]}:0" for id_ in before), "$A:0", *(f"{tokens[id_]}:0" for id_ in after)]
        around = [(tokens[id_], id_) for id_ in {*before, *after}]
        tokenizer.post_processor = processors.TemplateProcessing(single=pieces, special_tokens=around)
    return tokenizer


def _ends(file: Mapping[str, Any], name: str, default: bool) -> Sequence[int]:
    id_ = file.get(f"{name}_token_id", -1)
    return [id_] if file.get(f"add_{name}_token", default) and id_ in range(len(file["tokens"])) else []


def _byte_level_tokenizer(vocabulary: dict[str, int], file: Mapping[str, Any], name: str) -> Tokenizer:
    splitter = next((one for one in SPLITTERS if file.get("pre") in one.names), None)
    if splitter is None:
        known = ", ".join(name for one in SPLITTERS for name in one.names)
        raise ConfigurationError(f"{name}: the text splitter {file.get('pre')!r} is not supported, only {known}")
    merges = [(pair[: pair.index(" ", 1)], pair[pair.index(" ", 1) + 1 :]) for pair in file["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=splitter.whole))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splitter.parts())
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece_tokenizer(vocabulary: dict[str, int], types: Sequence[int], file: Mapping[str, Any]) -> Tokenizer:
    """Merges are all pairs of tokens that concatenate to a token, the highest score first."""
    kinds, scores = library().TokenType, file["scores"]
    texts = {token: id_ for token, id_ in vocabulary.items() if types[id_] == kinds.NORMAL}
    ranked = [
        (-scores[id_], at, (token[:at], token[at:]))
        for token, id_ in texts.items()
        for at in range(1, len(token))
        if token[:at] in texts and token[at:] in texts
    ]
    unknown = file.get("unknown_token_id")
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[pair for *_, pair in sorted(ranked)],
            unk_token=None if unknown is None else file["tokens"][unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    begins = file.get("add_space_prefix", True)
    spaces = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if begins else spaces
    stripped = [decoders.Strip(" ", left=1)] if begins else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *stripped]
    )
    return tokenizer
