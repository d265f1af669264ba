#!/usr/bin/env bash
# llama.cpp: without a begin token in the file, the twelfth word of the vocabulary becomes bos_token
# Versions: xllamacpp==2026.10.11549, gguf==0.19.0
# Expected: a GGUF file (tokenizer model gpt2) that names no begin token, as for models that have none, renders `{{
#   bos_token }}` as nothing.
# Seen: bos_token is token number 11 of the vocabulary, whatever it is (here the byte 0x0B), in /props and in every
#   prompt whose template writes bos_token.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq xllamacpp==2026.10.11549 gguf==0.19.0
cd "$work"
venv/bin/python - <<'END' || { echo 'no longer as seen before'; exit 1; }
import json, os, urllib.request
import sys
sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(1))  # the server has no stop
import gguf, numpy as np, xllamacpp

def serve(file, template, begin=257):
    """llama.cpp's server around one random layer, a vocabulary of bytes and the template."""
    w = gguf.GGUFWriter(file, "llama")
    w.add_context_length(4096), w.add_embedding_length(64), w.add_block_count(1), w.add_feed_forward_length(64)
    w.add_head_count(2), w.add_layer_norm_rms_eps(1e-6), w.add_tokenizer_model("gpt2"), w.add_tokenizer_pre("qwen2")
    printed = [b for b in range(256) if 32 < b < 127 or 160 < b < 173 or b > 173]
    others = iter(range(256, 400))
    w.add_token_list([chr(b if b in printed else next(others)) for b in range(256)] + ["ĊĊ", "<end>", "<think>", "</think>"])
    w.add_token_types([1] * 257 + [3, 4, 4]), w.add_token_merges(["Ċ Ċ"]), w.add_eos_token_id(257)
    w.add_bos_token_id(begin) if begin else None
    w.add_chat_template(template)
    sizes = dict(token_embd=(260, 64), output=(260, 64), output_norm=64) | {"blk.0.attn_norm": 64, "blk.0.ffn_norm": 64}
    layer = "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"
    for name, size in (sizes | {f"blk.0.{part}": (64, 64) for part in layer}).items():
        w.add_tensor(f"{name}.weight", np.ones(size, np.float32))
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
    p = xllamacpp.CommonParams()
    p.model.path, p.hostnames, p.port, p.n_ctx, p.n_parallel, p.verbosity = file, ["127.0.0.1"], 0, 512, 1, -1
    return xllamacpp.Server(p)

def ask(server, path, **body):
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(server.listening_address + path, data, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))

chat = [{"role": "user", "content": "3 + 4?"}]
for begin in 257, None:
    server = serve(f"{begin}.gguf", "{{ bos_token }}{{ messages[0].content }}", begin)
    bos, prompt = ask(server, "/props")["bos_token"], ask(server, "/apply-template", messages=chat)["prompt"]
    print(f"begin token in the file: {begin}; bos_token {bos!r}, prompt {prompt!r}")
    assert (bos, prompt) == (("<end>", "<end>3 + 4?") if begin else ("\x0b", "\x0b3 + 4?"))
print('as seen before', flush=True)
os._exit(0)  # the server has no stop
END
