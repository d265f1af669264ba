#!/usr/bin/env bash
# llama.cpp: an F32 cache holds no more than an F16 one, as long as flash attention is on
# Versions: xllamacpp==2026.10.11549, gguf==0.19.0
# Expected: type_k = type_v = F32 keeps keys and values in full precision, so the logits of a model in F32 agree with
#   float arithmetic to 1e-5.
# Seen: flash attention (on by default) rounds what it reads to half precision: F32 and F16 caches give the same
#   logits, off by more than 1e-3. Only with flash attention off does F32 agree with numpy in double precision.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq xllamacpp==2026.10.11549 gguf==0.19.0
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

ContextParameters = structure("""U n_ctx n_batch n_ubatch n_seq_max n_rs_seq n_outputs_max n_outputs_max_per_seq
    I n_threads n_threads_batch ctx_type rope_scaling_type pooling_type attention_type flash_attn_type F rope_freq_base
    rope_freq_scale yarn_ext_factor yarn_attn_factor yarn_beta_fast yarn_beta_slow U yarn_orig_ctx F defrag_thold
    P cb_eval cb_eval_data I type_k type_v Z moe_cache_size P abort abort_data B embeddings offload_kqv no_perf op_offload
    swa_full kv_unified P samplers Z n_samplers P ctx_other""")
Batch = structure("I n_tokens P token embd pos n_seq_id seq_id logits")
ON, OFF, F32, F16 = 1, 0, 0, 1  # of flash_attn_type; of type_k and type_v

def context(model, **values):
    parameters = function("llama_context_default_params", [], ContextParameters)()
    for name, value in (dict(n_ctx=256, n_seq_max=4, kv_unified=True, n_threads=1, n_threads_batch=1) | values).items():
        setattr(parameters, name, value)
    return function("llama_init_from_model", ["P", ContextParameters], "P")(model, parameters)

def decode(context, words, sequence=0, start=0, vocabulary=257):
    """The logits after each word."""
    batch = function("llama_batch_init", ["I"] * 3, Batch)(len(words), 0, 1)
    batch.n_tokens = len(words)
    for field, kind, value in ("token", "i4", words), ("pos", "i4", range(start, start + len(words))), ("n_seq_id", "i4", 1), ("logits", "i1", 1):
        array = c.cast(getattr(batch, field), c.POINTER(c.c_int32 if kind == "i4" else c.c_int8))
        np.ctypeslib.as_array(array, (len(words),))[:] = value
    for row in range(len(words)):
        c.cast(batch.seq_id, c.POINTER(c.POINTER(c.c_int32)))[row][0] = sequence
    assert function("llama_decode", ["P", Batch], "I")(context, batch) == 0
    row = function("llama_get_logits_ith", ["P", "I"], c.POINTER(c.c_float))
    return np.array([np.ctypeslib.as_array(row(context, i), (vocabulary,)).copy() for i in range(len(words))])

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

def reference(weights, words):
    """The same model in double precision."""
    w = {name: value.astype(float) for name, value in weights.items()}
    norm = lambda x: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    turn = np.exp(1j * np.arange(len(words))[:, None] / 10000 ** (np.arange(16) / 16))[:, None]
    rotate = lambda x: ((x[..., ::2] + 1j * x[..., 1::2]) * turn).view(float)
    heads = lambda x: x.reshape(len(words), 2, 32)
    x = w["token_embd"][words]
    for i in 0, 1:
        q, k, v = (heads(norm(x) @ w[f"blk.{i}.attn_{part}"].T) for part in "qkv")
        scores = np.einsum("qhd,khd->hqk", rotate(q), rotate(k)) / 32**0.5
        scores = np.exp(np.where(np.tri(len(words)), scores, -np.inf))
        x = x + np.einsum("hqk,khd->qhd", scores / scores.sum(-1, keepdims=True), v).reshape(-1, 64) @ w[f"blk.{i}.attn_output"].T
        y = norm(x) @ w[f"blk.{i}.ffn_gate"].T
        x = x + (y / (1 + np.exp(-y)) * (norm(x) @ w[f"blk.{i}.ffn_up"].T)) @ w[f"blk.{i}.ffn_down"].T
    return norm(x) @ w["output"].T

words = list(range(60, 100))
exact, loaded = reference(write("model.gguf"), words), model("model.gguf")
found = {}
for flash, kind in (-1, F16), (-1, F32), (OFF, F32):  # -1: the default
    found[flash, kind] = decode(context(loaded, flash_attn_type=flash, type_k=kind, type_v=kind), words)
    off = np.abs(found[flash, kind] - exact).max()
    print(f"flash attention {'off' if flash == OFF else 'default'}, cache {'F32' if kind == F32 else 'F16'}: off by {off:.0e}")
    assert off < 1e-5 if flash == OFF else off > 1e-3
assert np.abs(found[-1, F16] - found[-1, F32]).max() < 1e-6
print('as seen before')
END
