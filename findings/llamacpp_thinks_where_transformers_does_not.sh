#!/usr/bin/env bash
# One template, one chat, two defaults: llama.cpp's server switches thinking on, transformers does not
# Versions: xllamacpp==2026.10.11549, gguf==0.19.0, transformers==5.23.0, jinja2==3.1.6, llama-cpp-python==0.3.36 (its
#   templates)
# Expected: the same template with the same messages and no arguments gives the same prompt; a switch as a word
#   ("false") is true, as any word is in Jinja.
# Seen: llama.cpp's server passes enable_thinking=true unless told otherwise, so in these templates the generation
#   prompt opens a thought there and closes or omits it in transformers; a word is refused with 400.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq xllamacpp==2026.10.11549 gguf==0.19.0 transformers==5.23.0 jinja2==3.1.6
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

from transformers.utils.chat_template_utils import render_jinja_template

def rendered(template, messages, **kwargs):
    (text,), _ = render_jinja_template([messages], chat_template=template, bos_token="", eos_token="<end>", **kwargs)
    return text

chat, servers = [{"role": "user", "content": "3 + 4?"}], []
ends = {"Qwen-QwQ-32B": ("<think>\n", "<think>\n</think>"), "deepseek-ai-DeepSeek-V3.1": ("<think>", "<think></think>"),
        "deepseek-ai-DeepSeek-V4": ("<think>", "</think>"), "poolside-Laguna-XS.2": ("<think>", "</think>"),
        "openbmb-MiniCPM5-1B": ("<think>\n", "assistant\n"), "google-gemma-4-31B-it": ("model\n", "<|channel>thought\n<channel|>")}
for name, (on, off) in ends.items():
    template = open(f"{name}.jinja").read()
    servers.append(server := serve(f"{name}.gguf", template))
    there, here = ask(server, "/apply-template", messages=chat)["prompt"], rendered(template, chat, add_generation_prompt=True)
    print(f"{name}: llama.cpp …{there[-24:]!r}, transformers …{here[-34:]!r}")
    assert there.endswith(on) and here.endswith(off) and there.removeprefix("<end>") != here
    assert there.removeprefix("<end>") == rendered(template, chat, add_generation_prompt=True, enable_thinking=True)
try:
    ask(servers[0], "/apply-template", messages=chat, chat_template_kwargs={"enable_thinking": "false"})
    raise AssertionError("a word was taken")
except urllib.error.HTTPError as error:
    print(error.code, said := json.load(error)["error"]["message"])
    assert error.code == 400 and "expected boolean, got string" in said
print('as seen before', flush=True)
os._exit(0)  # the server has no stop
END
