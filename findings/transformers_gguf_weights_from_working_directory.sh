#!/usr/bin/env bash
# transformers: a GGUF file of the same name in the working directory gives the weights, whatever the folder
# Versions: transformers==5.23.0, torch==2.13.0, accelerate==1.15.0, gguf==0.19.0
# Expected: from_pretrained(folder, gguf_file=name) reads folder/name, all of it, as it does with every other file of
#   a checkpoint.
# Seen: configuration and tokenizer come from folder/name, but the weights from ./name where there is one. With other
#   sizes that fails; with the same sizes nothing is said, and the weights are those of another model. AutoTokenizer
#   and AutoConfig read the right one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq transformers==5.23.0 torch==2.13.0 accelerate==1.15.0 gguf==0.19.0
cd "$work"
venv/bin/python - <<'END' || { echo 'no longer as seen before'; exit 3; }
import os
import gguf, numpy as np

def write(file, words=(), types=(), layers=2, change=lambda w: None, tensors={}, merges=(), pre="qwen2"):
    """A small random llama with a vocabulary of bytes, and of `words`."""
    w = gguf.GGUFWriter(file, "llama")
    w.add_name("tiny"), w.add_context_length(4096), w.add_embedding_length(64), w.add_block_count(layers)
    w.add_feed_forward_length(64), w.add_head_count(2), w.add_head_count_kv(2), w.add_layer_norm_rms_eps(1e-6)
    printed = [b for b in range(256) if 32 < b < 127 or 160 < b < 173 or b > 173]
    others = iter(range(256, 400))
    w.add_tokenizer_model("gpt2"), w.add_tokenizer_pre(pre), w.add_token_merges(["Ċ Ċ", *merges])
    w.add_token_list([chr(b if b in printed else next(others)) for b in range(256)] + ["ĊĊ", *words])
    w.add_token_types([1] * 257 + list(types)), w.add_eos_token_id(0), change(w)
    random, one = np.random.default_rng(0), np.ones(64, np.float32)
    weight = lambda rows=64: random.normal(0, 1 / 8, (rows, 64)).astype(np.float32)
    found = {"token_embd": weight(257 + len(words)), "output": weight(257 + len(words)), "output_norm": one}
    for layer in range(layers):
        found |= {f"blk.{layer}.{part}": one for part in ("attn_norm", "ffn_norm")}
        found |= {f"blk.{layer}.attn_{part}": weight() for part in ("q", "k", "v", "output")}
        found |= {f"blk.{layer}.ffn_{part}": weight() for part in ("gate", "up", "down")}
    for name, value in (found | tensors).items():
        w.add_tensor(f"{name}.weight", value)
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
    return found

import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

transformers.logging.set_verbosity_error()
os.makedirs("folder")

def loaded():
    model = AutoModelForCausalLM.from_pretrained("folder", gguf_file="model.gguf", dtype=torch.float32)
    return model.config.rope_parameters["rope_theta"], model.model.embed_tokens.weight.detach().numpy()

own = write("folder/model.gguf", change=lambda w: w.add_rope_freq_base(20000.0))["token_embd"]
base, weights = loaded()
print("nothing in the working directory: the folder's", base == 20000 and np.array_equal(weights, own))
assert base == 20000 and np.array_equal(weights, own)
other = own[::-1].copy()
write("model.gguf", change=lambda w: w.add_rope_freq_base(30000.0), tensors={"token_embd": other})
base, weights = loaded()
print("another file of that name there: configuration the folder's", base == 20000, "weights the other's", np.array_equal(weights, other))
assert base == 20000 and np.array_equal(weights, other)
print('as seen before')
END
