#!/usr/bin/env bash
# GGUF files with a SentencePiece vocabulary: llama.cpp puts its space after every marker, transformers at the begin
# Versions: transformers==5.23.0, torch==2.13.0, accelerate==1.15.0, gguf==0.19.0, xllamacpp==2026.10.11549
# Expected: the same file gives the same tokens in llama.cpp and in transformers: one space before the text, or none
#   where the file says add_space_prefix = false.
# Seen: llama.cpp puts it at the begin and again after every special or user-defined token; transformers at the begin
#   only, and there also where the file says false. So a chat prompt differs after each marker, and a file with false
#   in its first word.
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

import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

transformers.logging.set_verbosity_error()
os.makedirs("folder")

def write(file, prefix):
    words = ["▁ab", "ab", "▁", "a", "b"]
    w = gguf.GGUFWriter(file, "llama")
    w.add_name("tiny"), w.add_context_length(64), w.add_embedding_length(64), w.add_block_count(1)
    w.add_feed_forward_length(64), w.add_head_count(1), w.add_layer_norm_rms_eps(1e-6)
    w.add_tokenizer_model("llama"), w.add_token_types([2, 3, 3] + [6] * 256 + [1] * 5 + [3])
    w.add_token_list(["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + words + ["<turn>"])
    w.add_token_scores([0.0] * 259 + [-1.0, -2.0, -3.0, -4.0, -5.0, 0.0]), w.add_bos_token_id(1), w.add_eos_token_id(2)
    w.add_unk_token_id(0), w.add_add_space_prefix(prefix)
    one = np.ones(64, np.float32)
    tensors = dict(token_embd=np.ones((265, 64), np.float32), output_norm=one) | {"blk.0.attn_norm": one, "blk.0.ffn_norm": one}
    for part in "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down":
        tensors[f"blk.0.{part}"] = np.ones((64, 64), np.float32)
    for name, value in tensors.items():
        w.add_tensor(f"{name}.weight", value)
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()

for prefix, text, there, here in (
    (True, "ab<turn>ab", ["▁ab", "<turn>", "▁ab"], ["▁ab", "<turn>", "ab"]),
    (True, "<turn>ab", ["<turn>", "▁ab"], ["<turn>", "ab"]),
    (False, "ab<turn>ab", ["ab", "<turn>", "ab"], ["▁ab", "<turn>", "ab"]),
):
    write("folder/model.gguf", prefix)
    tokenizer = AutoTokenizer.from_pretrained("folder", gguf_file="model.gguf")
    words = tokenizer.convert_ids_to_tokens
    found = words(ids(model("folder/model.gguf"), text)), words(tokenizer(text, add_special_tokens=False).input_ids)
    print(f"add_space_prefix {prefix}, {text!r}: llama.cpp {found[0]}, transformers {found[1]}")
    assert found == (there, here)
print('as seen before')
END
