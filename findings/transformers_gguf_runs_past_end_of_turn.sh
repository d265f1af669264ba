#!/usr/bin/env bash
# transformers does not end at the end-of-turn token of a GGUF file
# Versions: transformers==5.23.0, torch==2.13.0, accelerate==1.15.0, gguf==0.19.0, xllamacpp==2026.10.11549
# Expected: generation ends at tokenizer.ggml.eot_token_id, as in llama.cpp: where a chat model's eos ends a text and
#   its eot a turn, the file states both.
# Seen: transformers reads the eos alone (but for gemma4, whose three are in its code): the model writes its end of
#   turn and goes on.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq transformers==5.23.0 torch==2.13.0 accelerate==1.15.0 gguf==0.19.0 xllamacpp==2026.10.11549
cd "$work"
venv/bin/python - <<'END' || { echo 'no longer as seen before'; exit 3; }
import ctypes as c, glob, os
from importlib.util import find_spec
import gguf, numpy as np

llama = c.CDLL(glob.glob(os.path.dirname(find_spec("xllamacpp").origin) + "/*.so")[0])  # it exports llama.cpp's C functions
KINDS = dict(P=c.c_void_p, I=c.c_int32, U=c.c_uint32, F=c.c_float, B=c.c_bool, Z=c.c_size_t)

def structure(text):
    """Fields in order; a letter says the type of those after it."""
    fields, kind = [], None
    for word in text.split():
        if word in KINDS:
            kind = KINDS[word]
        else:
            fields.append((word, kind))
    return type("Structure", (c.Structure,), {"_fields_": fields})

def function(name, kinds, result=None):
    call = getattr(llama, name)
    call.argtypes, call.restype = [KINDS.get(kind, kind) for kind in kinds], KINDS.get(result, result)
    return call

ModelParameters = structure("""P devices overrides I n_gpu_layers split_mode load_mode lazy_mode main_gpu P tensor_split
    progress progress_data kv_overrides B vocab_only check_tensors use_extra_bufts no_host no_alloc load_mtp""")
log = c.CFUNCTYPE(None, c.c_int32, c.c_char_p, c.c_void_p)(lambda *_: None)
llama.llama_log_set(log, None)
llama.llama_backend_init()

def model(file):
    parameters = function("llama_model_default_params", [], ModelParameters)()
    parameters.n_gpu_layers = 0
    return function("llama_model_load_from_file", [c.c_char_p, ModelParameters], "P")(file.encode(), parameters)

def vocabulary(model):
    return function("llama_model_get_vocab", ["P"], "P")(model)

def ids(model, text, parse_special=True):
    data = text.encode()
    out = (c.c_int32 * 64)()
    tokenize = function("llama_tokenize", ["P", c.c_char_p, "I", "P", "I", "B", "B"], "I")
    return out[: tokenize(vocabulary(model), data, len(data), out, 64, False, parse_special)]

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

def written():
    model = AutoModelForCausalLM.from_pretrained("folder", gguf_file="model.gguf", dtype=torch.float32)
    return model.generate(torch.tensor([[60, 61, 62]]), max_new_tokens=8, do_sample=False)[0, 3:].tolist()

write("folder/model.gguf")
before = written()
ends = before[3]  # a token that the model writes in the middle
for name, change in ("eot", lambda w: w.add_eot_token_id(ends)), ("eos", lambda w: w.add_uint32("tokenizer.ggml.eos_token_id", ends)):
    if name == "eos":
        gguf.GGUFWriter.add_eos_token_id = lambda self, _: None  # the other one, which `write` adds
    write("folder/model.gguf", change=change)
    after = written()
    there = function("llama_vocab_is_eog", ["P", "I"], "B")(vocabulary(model("folder/model.gguf")), ends)
    print(f"{ends} as {name}: llama.cpp ends there {there}, transformers wrote {after}")
    assert there and after == (before if name == "eot" else before[: before.index(ends) + 1])
print('as seen before')
END
