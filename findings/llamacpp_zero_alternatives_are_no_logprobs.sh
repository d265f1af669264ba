#!/usr/bin/env bash
# llama.cpp's server takes "no alternatives" for "no log-probabilities"
# Versions: xllamacpp==2026.10.11549 (llama.cpp build 11549), gguf==0.19.0
# Expected: as in the OpenAI API, completions with logprobs=0 and chats with logprobs=true, top_logprobs=0 tell the
#   log-probability of each token that was written, and none beside it. vLLM does so.
# Seen: both give none. logprobs=1, or logprobs=true without top_logprobs, tells them; completions take the words of
#   chats, with top_logprobs=0 as well, and answer in the form of chats (`content`) whichever way they are asked.
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

server = serve(1, 512)
routes = {"/v1/completions": {"prompt": "Count."}, "/v1/chat/completions": {"messages": [{"role": "user", "content": "Count."}]}}
for path, question in routes.items():
    told = {}
    for more in ({"logprobs": 0}, {"logprobs": 1}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 0}, {"logprobs": True, "top_logprobs": 1}):
        (choice,) = ask(server, path, **question, max_tokens=3, temperature=0, **more)["choices"]
        told[json.dumps(more)] = len((choice.get("logprobs") or {}).get("content", ()))
    print(path, told)
    none = [more for more, count in told.items() if not count]
    chat = path.endswith("chat/completions")
    assert none == ['{"logprobs": 0}'] + ['{"logprobs": true, "top_logprobs": 0}'] * chat
print("as seen before", flush=True)
os._exit(0)  # the server has no stop
END
