#!/usr/bin/env bash
# llama.cpp: a full-size window cache still loses what lies behind the window, to another sequence
# Versions: xllamacpp==2026.10.11549, gguf==0.19.0
# Expected: with swa_full = true a model with a sliding window keeps all positions, so a sequence can always be rolled
#   back behind its window; other sequences take free cells.
# Seen: in a unified cache another sequence's decode takes cells behind the window, though others are free: pos_min of
#   the first moves from 0 to 10. Rolling it back to 10 then says true and empties it (pos_max -1), decode goes on at
#   10 without an error, and the logits are of another text. With a cache of its own (kv_unified = false) nothing is
#   lost.
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

def write_gemma(file, width=64, window=8, layers=6):
    w = gguf.GGUFWriter(file, "gemma3")
    w.add_context_length(4096), w.add_embedding_length(width), w.add_block_count(layers), w.add_feed_forward_length(width)
    w.add_head_count(2), w.add_layer_norm_rms_eps(1e-6), w.add_key_length(32), w.add_value_length(32)
    w.add_sliding_window(window), w.add_tokenizer_model("gpt2"), w.add_tokenizer_pre("qwen2"), w.add_token_merges(["Ċ Ċ"])
    w.add_token_list([chr(256 + i) for i in range(256)] + ["ĊĊ"]), w.add_token_types([1] * 257)
    random, tensors = np.random.default_rng(0), {}
    weight = lambda rows=width: random.normal(0, width**-0.5, (rows, width)).astype(np.float32)
    for i in range(layers):
        for part in "attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm":
            tensors[f"blk.{i}.{part}"] = np.ones(32 if part.endswith(("q_norm", "k_norm")) else width, np.float32)
        for part in "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down":
            tensors[f"blk.{i}.{part}"] = weight()
    for name, value in {"token_embd": weight(257), "output_norm": np.ones(width, np.float32), **tensors}.items():
        w.add_tensor(f"{name}.weight", value)
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()

write_gemma("model.gguf")
loaded = model("model.gguf")
words = np.random.default_rng(0).integers(0, 250, 120).tolist()
memory = function("llama_get_memory", ["P"], "P")
remove = function("llama_memory_seq_rm", ["P", "I", "I", "I"], "B")
lowest, highest = (function(f"llama_memory_seq_pos_{end}", ["P", "I"], "I") for end in ("min", "max"))
for unified in True, False:
    cache = context(loaded, swa_full=True, kv_unified=unified, n_ctx=1024, flash_attn_type=OFF)
    decode(cache, words[:20], sequence=1)
    decode(cache, words)
    positions = [(lowest(memory(cache), 0), highest(memory(cache), 0))]
    remove(memory(cache), 1, -1, -1)
    decode(cache, words[:30], sequence=2)
    positions.append((lowest(memory(cache), 0), highest(memory(cache), 0)))
    said = remove(memory(cache), 0, 10, -1)
    positions.append((lowest(memory(cache), 0), highest(memory(cache), 0)))
    again = decode(cache, words[10:20], start=10)
    fresh = context(loaded, swa_full=True, kv_unified=unified, n_ctx=1024, flash_attn_type=OFF)
    decode(fresh, words[:10])
    off = np.abs(again - decode(fresh, words[10:20], start=10)).max()
    print(f"unified {unified}: positions {positions}, rolled back {said}, logits off by {off:.0e}")
    assert said and positions == [(0, 119), *([(10, 119), (-1, -1)] if unified else [(0, 119), (0, 9)])]
    assert off > 1 if unified else off < 1e-4
print('as seen before')
END
