#!/usr/bin/env bash
# llama.cpp's server with several slots tells a window for each that is no share of the one it was given: rounded up to 256
# Versions: xllamacpp==2026.10.11549 (llama.cpp build 11549), gguf==0.19.0
# Expected: N slots of a window of C tokens have C / N tokens each, and /v1/models tells either C or that.
# Seen: `meta.n_ctx` is the window of one slot, rounded up to a multiple of 256: 4 slots of 512 have 256 each, 3 of 1000
#   have 512, 8 of 512 have 256, one of 300 has 512. Together that is more than was asked for, and so is the memory.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq xllamacpp==2026.10.11549 gguf==0.19.0 numpy==2.4.6
cd "$work"
venv/bin/python - <<'END' || { echo 'no longer as seen before'; exit 3; }
import json, os, sys, urllib.request
sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(1))  # the server has no stop
import gguf, numpy as np, xllamacpp

def serve(slots, window):
    """llama.cpp's server around one random layer and a vocabulary of bytes."""
    w, draw = gguf.GGUFWriter("model.gguf", "llama"), np.random.default_rng(0)
    w.add_context_length(4096), w.add_embedding_length(64), w.add_block_count(1), w.add_feed_forward_length(64)
    w.add_head_count(2), w.add_layer_norm_rms_eps(1e-6), w.add_tokenizer_model("gpt2"), w.add_tokenizer_pre("qwen2")
    printed, others = [b for b in range(256) if 32 < b < 127 or 160 < b < 173 or b > 173], iter(range(256, 400))
    w.add_token_list([chr(b if b in printed else next(others)) for b in range(256)] + ["ĊĊ", "<end>"])
    w.add_token_types([1] * 257 + [3]), w.add_token_merges(["Ċ Ċ"]), w.add_eos_token_id(257)
    sizes = dict(token_embd=(258, 64), output=(258, 64), output_norm=64) | {"blk.0.attn_norm": 64, "blk.0.ffn_norm": 64}
    layer = "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"
    for name, size in (sizes | {f"blk.0.{part}": (64, 64) for part in layer}).items():
        w.add_tensor(f"{name}.weight", draw.normal(size=size).astype(np.float32))
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
    p = xllamacpp.CommonParams()
    p.model.path, p.hostnames, p.port, p.verbosity = "model.gguf", ["127.0.0.1"], 0, -1
    p.n_parallel, p.n_ctx = slots, window
    return xllamacpp.Server(p)

def ask(server, path, **body):
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(server.listening_address + path, data, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))

servers = []
for slots, window, told in ((1, 512, 512), (4, 512, 256), (4, 2048, 512), (3, 1000, 512), (8, 512, 256), (1, 300, 512)):
    servers.append(server := serve(slots, window))
    seen, slot = ask(server, "/v1/models")["data"][0]["meta"]["n_ctx"], ask(server, "/props")
    print(f"{slots} slots, a window of {window}: {seen} for each of {slot['total_slots']}")
    assert (seen, slot["total_slots"], slot["default_generation_settings"]["n_ctx"]) == (told, slots, told)
print("as seen before", flush=True)
os._exit(0)  # the server has no stop
END
