"""llama.cpp's own server around a checkpoint of the embedded family.

    python -m tests.servers.llamacpp FOLDER PORT NAME WINDOW

It runs in the environment of the servers: `xllamacpp` brings llama-server, `gguf` writes the file that it loads.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_file(folder: Path, file: Path) -> None:
    """Write a checkpoint of the architecture qwen2 as a GGUF file in single precision."""
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = {token["id"]: token["special"] for token in tokenizer["added_tokens"]}
    words = {id_: word for word, id_ in tokenizer["model"]["vocab"].items()}
    words |= {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    ids = range(config["vocab_size"])

    def kind(id_: int) -> int:
        own, added = gguf.TokenType.NORMAL, (gguf.TokenType.USER_DEFINED, gguf.TokenType.CONTROL)
        return int(gguf.TokenType.UNUSED if id_ not in words else added[special[id_]] if id_ in special else own)

    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([words.get(id_, f"[unused {id_}]") for id_ in ids])
    writer.add_token_types([kind(id_) for id_ in ids])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template((folder / "chat_template.jinja").read_text())
    for name, tensor in tensors(folder / "model.safetensors"):
        layer, _, part = name.removeprefix("model.layers.").partition(".")
        module, _, weight = part.rpartition(".")
        writer.add_tensor(NAMES.get(name) or f"blk.{layer}.{PARTS[module]}.{weight}", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(file: Path) -> Iterator[tuple[str, Any]]:
    """The tensors of a safetensors file in bfloat16, the upper halves of single precision: numpy does not know it."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = (start + at for at in entry["data_offsets"])
            halves = np.frombuffer(data[begin:end], np.uint16).astype(np.uint32)
            yield name, (halves << 16).view(np.float32).reshape(entry["shape"])


def main() -> None:
    """Serve until killed."""
    import xllamacpp  # who only writes files needs no server

    folder, port, name, window = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"{name}.gguf"
        write_file(Path(folder), file)
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.model_alias = {name}
        params.hostnames, params.port = ["127.0.0.1"], int(port)
        params.n_ctx, params.n_parallel, params.warmup = int(window), 1, False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        server = xllamacpp.Server(params)
        print(server.listening_address, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
