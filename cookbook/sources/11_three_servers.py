# %% [markdown]
# # Three servers
#
# Learn to run RSD with its three models behind OpenAI-compatible servers, and how to start vLLM, Ollama and llama.cpp.
#
# So that this notebook runs anywhere, it starts a small server around the embedded models. It implements what RSD needs
# of vLLM's API: `/v1/completions` for drafter and target, `/pooling` for the reward model. **It is a stand-in**: one
# request at a time, no cache, no batching. The client side is real.

# %%
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from rsd_integrations.embedded.models import FOLDER

logging.set_verbosity_error()
logging.disable_progress_bar()
one_at_a_time = threading.Lock()


class Writer:
    """A language model behind /v1/completions."""

    def __init__(self, name):
        self.name = name
        self.model = AutoModelForCausalLM.from_pretrained(FOLDER / name, dtype=torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(FOLDER / name)

    def answer(self, body):
        read, stops = body["prompt"], body.get("stop") or ()  # ids: the client tokenises
        made, cache, feed, reason, stop = [], None, read, "length", None
        while len(made) < body["max_tokens"] and reason == "length":
            out = self.model(torch.tensor([feed]), past_key_values=cache, use_cache=True)
            cache, feed = out.past_key_values, [int(out.logits[0, -1].argmax())]
            made += feed
            text = self.tokenizer.decode(made, skip_special_tokens=True)
            stop = next((mark for mark in stops if mark in text), None)
            if stop or feed[0] == self.tokenizer.eos_token_id:
                reason = "stop"
        if stop:  # the client asks for the stop string to be kept, and for nothing behind it
            text = text[: text.index(stop) + len(stop)]
        choice = {"index": 0, "text": text, "token_ids": made, "finish_reason": reason, "stop_reason": stop}
        return {"choices": [choice], "usage": {"prompt_tokens": len(read), "completion_tokens": len(made)}}


class Judge:
    """A process reward model behind /pooling: probabilities of wrong and right at every token."""

    def __init__(self, name):
        self.name = name
        self.body = AutoModel.from_pretrained(FOLDER / name, dtype=torch.float32)
        self.weights = load_file(FOLDER / name / "model.safetensors")

    def layer(self, i, x):
        return x @ self.weights[f"score.{i}.weight"].float().T + self.weights[f"score.{i}.bias"].float()

    def answer(self, body):
        data = []
        for index, ids in enumerate(body["input"]):
            states = self.body(torch.tensor([ids])).last_hidden_state[0]
            rows = self.layer(2, self.layer(0, states).relu()).softmax(-1).tolist()
            data.append({"index": index, "data": rows})
        return {"data": data}


def serve(model):
    """Put a model behind a port of this machine; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply({"data": [{"id": model.name, "owned_by": "vllm", "max_model_len": 512}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with one_at_a_time, torch.inference_mode():
                self.reply(model.answer(body))

        def reply(self, data):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(data).encode())

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{http.server_port}/v1"


urls = {model.name: serve(model) for model in (Writer("draft"), Writer("target"), Judge("prm"))}
print(len(urls), "servers on loopback")

# %% [markdown]
# ## The same decoder, other specs
#
# A spec names a model at a URL. With `tokenizer=` the client sends exact token ids, so nothing is tokenised twice; for
# a model of the hub its name is enough.

# %%
from rsd_core import BinaryStep, RewardGuidedDecoder, load

decoder = RewardGuidedDecoder(
    drafter=load(f"openai,tokenizer={FOLDER / 'draft'}:draft@{urls['draft']}"),
    target=load(f"openai,tokenizer={FOLDER / 'target'}:target@{urls['target']}"),
    verifier=load(f"pooling,tokenizer={FOLDER / 'prm'}:prm@{urls['prm']}"),
    policy=BinaryStep(delta=0.3),
)
question = (
    "Lea has 71 pens. Later she buys 56 more. Later she gets 36 as a gift. After that the sun shines. Then she buys 4 "
    "bags of 4. After that she buys 4 more. Next she walks 39 miles. How many pens does Lea have now?"
)
result = decoder.run(question)

from rsd_integrations.display import show

show(result, decoder)

# %% [markdown]
# FLOPs are unknown here, because servers do not report the size of their models. Set `flops_per_token=` in the spec.
#
# ## The same answer as in process
#
# Steps, authors and rewards agree with the models in this process.

# %%
inside = RewardGuidedDecoder(
    drafter=load("embedded:draft"),
    target=load("embedded:target"),
    verifier=load("embedded:prm"),
    policy=BinaryStep(delta=0.3),
)
same = inside.run(question)
print("same text:", same.text == result.text)
gaps = [abs(a.reward - b.reward) for a, b in zip(same.steps, result.steps)]
print("rewards agree to three digits:", max(gaps) < 1e-3)

# %% [markdown]
# ## What a server can do
#
# `rsd doctor` tests what a server can do before you rely on it: whether it continues an unfinished answer, how the end
# of a step is detected, whether it reports log-probabilities. The same in Python; our stand-in reports none, so a
# one-word judge could not run on it:

# %%
for role in ("drafter", "target", "verifier"):
    for finding in await getattr(decoder, role).examine():
        print({True: "ok     ", False: "fails  ", None: "missing"}[finding.ok], role, "|", finding.name)

# %% [markdown]
# ## Real servers
#
# **vLLM**, a server for each model:
#
#     vllm serve Qwen/Qwen2.5-Math-1.5B-Instruct --port 8001 --enable-prefix-caching
#     vllm serve Qwen/Qwen2.5-Math-7B-Instruct --port 8002 --enable-prefix-caching
#     vllm serve Qwen/Qwen2.5-Math-PRM-7B --port 8003 --runner pooling
#
# **Ollama** and **llama.cpp** run no reward model, so the target judges: `judge,mode=rubric:openai:…`.
#
#     ollama pull qwen2.5:1.5b-instruct && ollama pull qwen2.5:14b-instruct
#     llama-server -m draft.gguf --port 8080
#
# The folder `recipes` next to this notebook has complete configurations for one GPU and three, for hosted APIs and for
# replicas.
#
# ## What next
#
# - [Swapping providers](05_swapping_providers.ipynb)
# - [Limits and faults](13_limits_and_faults.ipynb): servers fail, answers stay
