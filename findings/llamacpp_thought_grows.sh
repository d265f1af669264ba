#!/usr/bin/env bash
# llama.cpp's server: the thought of an answer that is gone on with comes back longer than it was sent
# Versions: xllamacpp==2026.10.11549, gguf==0.19.0, llama-cpp-python==0.3.36 (its templates)
# Expected: an assistant message that the server continues comes back with the thought as it was sent; streamed and
#   plain answers hold the same.
# Seen: the thought has a line break more in each round (X, X\n, X\n\n, all of it in the next prompt), and the plain
#   answer repeats thought and text while the stream has neither.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq xllamacpp==2026.10.11549 gguf==0.19.0
"$work/venv/bin/pip" download -qq --no-deps --no-binary :all: -d "$work" llama-cpp-python==0.3.36  # for its templates
tar -xzf "$work"/llama_cpp_python-0.3.36.tar.gz -C "$work" --wildcards --strip-components=5 '*/models/templates/*.jinja'
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

server = serve("model.gguf", open("Qwen-Qwen3-0.6B.jinja").read())
turn, user = {"role": "assistant", "content": "It", "reasoning_content": "X"}, {"role": "user", "content": "3 + 4?"}
for round in 1, 2, 3:
    body = dict(messages=[user, turn], max_tokens=20, grammar='root ::= " is"')
    turn = ask(server, "/v1/chat/completions", **body)["choices"][0]["message"]
    print(f"round {round}: {turn}")
    assert turn == {"role": "assistant", "content": "It" + " is" * round, "reasoning_content": "X" + "\n" * round}
prompt = ask(server, "/apply-template", messages=[user, turn])["prompt"]
assert prompt.endswith("<think>\nX\n\n\n\n</think>\n\nIt is is is"), prompt
request = urllib.request.Request(server.listening_address + "/v1/chat/completions", json.dumps(body | {"stream": True}).encode())
lines = urllib.request.urlopen(request).read().decode().split("\n\n")
deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines if line.startswith("data: {")]
print("streamed:", deltas)
assert "".join(delta.get("content") or "" for delta in deltas) == " is" and not any("reasoning_content" in d for d in deltas)
print('as seen before', flush=True)
os._exit(0)  # the server has no stop
END
