"""GGUF files that hold a vocabulary and no weights, as the gguf package writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf

Kind = gguf.TokenType
BYTE = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Words:
    """A vocabulary as a GGUF file holds it."""

    tokens: Sequence[str]
    kinds: Sequence[int]
    model: str = "gpt2"
    """Byte-level BPE; `llama` is SentencePiece."""
    pattern: str = "qwen2"
    """The name by which llama.cpp knows how texts are cut before bytes are merged."""
    merges: Sequence[str] = ()
    scores: Sequence[float] = ()
    named: Mapping[str, int] = field(default_factory=dict)
    """Ids by what they are for: `bos`, `eos`, `unknown`, `padding`."""
    options: Mapping[str, bool | str] = field(default_factory=dict)
    """Further values: `add_bos_token`, `add_space_prefix`."""
    chat_template: str | Sequence[Mapping[str, str]] | None = None


def write_vocabulary(file: Path, words: Words) -> Path:
    """Write it, with the few figures of a model that llama.cpp wants to see."""
    writer = gguf.GGUFWriter(file, "llama")
    for add in (writer.add_context_length, writer.add_embedding_length, writer.add_feed_forward_length):
        add(64)
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model(words.model)
    writer.add_tokenizer_pre(words.pattern)
    writer.add_token_list(list(words.tokens))
    writer.add_token_types([int(kind) for kind in words.kinds])
    if words.merges:
        writer.add_token_merges(list(words.merges))
    if words.scores:
        writer.add_token_scores(list(words.scores))
    for name, id_ in words.named.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", id_)
    for name, value in words.options.items():
        adder: Any = writer.add_bool if isinstance(value, bool) else writer.add_string
        adder(f"tokenizer.ggml.{name}", value)
    if words.chat_template is not None:
        writer.add_chat_template(words.chat_template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def all_bytes() -> list[str]:
    """The printable stand-ins of all bytes, with which every byte-level vocabulary begins."""
    from rsd_integrations.inprocess.vocabulary import _BYTES

    return list(_BYTES)


def words_of(tokenizer: Any, pattern: str = "qwen2") -> Words:
    """The vocabulary of a fast tokenizer of transformers, as a converter writes it."""
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    model, added = data["model"], {token["id"]: token for token in data["added_tokens"]}
    ids = {id_: token for token, id_ in model["vocab"].items()} | {id_: one["content"] for id_, one in added.items()}
    tokens = [ids.get(id_, f"[PAD{id_}]") for id_ in range(max(ids) + 1)]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    named = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    sentencepiece = bool(model.get("byte_fallback"))

    def kind(id_: int) -> Kind:
        if id_ in added:
            unknown = sentencepiece and id_ == named["unknown"]
            return Kind.UNKNOWN if unknown else Kind.CONTROL if added[id_]["special"] else Kind.USER_DEFINED
        if id_ not in ids:
            return Kind.UNUSED
        return Kind.BYTE if sentencepiece and BYTE.fullmatch(tokens[id_]) else Kind.NORMAL

    first = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])[0]
    options = {"add_bos_token": tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id}
    options |= {"add_space_prefix": first.startswith("▁")} if sentencepiece else {}
    ranks = {merge.replace(" ", ""): float(-rank) for rank, merge in enumerate(merges)} if sentencepiece else {}
    return Words(
        tokens,
        [kind(id_) for id_ in range(len(tokens))],
        model="llama" if sentencepiece else "gpt2",
        pattern="default" if sentencepiece else pattern,
        merges=[] if sentencepiece else merges,
        scores=[ranks.get(token, -1e6) for token in tokens] if sentencepiece else [],
        named={name: id_ for name, id_ in named.items() if id_ is not None},
        options=options,
        chat_template=tokenizer.chat_template,
    )
