# %% [markdown]
# # RSD behind a URL
#
# Learn how to serve decoders to programs that know nothing about RSD: any OpenAI client, in any language. In a clone of
# the repository, install:
#
#     pip install ".[serve,huggingface]" openai
#
# ## A server
#
# A configuration may name several models. Each is a decoder: clients choose one by name, as with any other server.
# Models that they share are loaded once.

# %%
from pathlib import Path
from tempfile import mkdtemp

folder = Path(mkdtemp())
file = folder / "serve.yaml"
_ = file.write_text("""
models:
  rsd-fast:                # keeps nearly everything that the drafter writes
    policy: binary_step:0.3
  rsd-careful:             # the target writes what is not nearly certain
    policy: binary_step:0.95
  target:                  # the strong model alone, to compare with
    method: target
concurrency: 32            # answers decoded at once
queue: 128                 # answers that may wait for a place
""")

# %% [markdown]
# On the command line it is `rsd serve --config serve.yaml`. Here it is a process that the last cell ends; port 0 picks
# a free port.

# %%
import subprocess
import sys

command = [sys.executable, "-m", "rsd_integrations.cli", "serve", "--config", str(file), "--port", "0"]
server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
first_line = next(line for line in server.stderr if line.startswith("serving"))
url = first_line.split(" at ")[1].strip()
print(first_line.split(" at ")[0])

# %% [markdown]
# ## A client from elsewhere

# %%
from openai import OpenAI

client = OpenAI(base_url=url, api_key="none-needed")
print([model.id for model in client.models.list()])

question = {
    "role": "user",
    "content": "Lea has 71 pens. Later she buys 56 more. Later she gets 36 as a gift. Then she buys 4 bags of 4. "
    "After that she buys 4 more. How many pens does Lea have now?",
}
answer = client.chat.completions.create(model="rsd-careful", messages=[question], seed=1)
print(answer.choices[0].message.content)
print(answer.choices[0].finish_reason)

# %% [markdown]
# Each accepted step is sent as soon as it is accepted. A rejected draft is never sent.

# %%
stream = client.chat.completions.create(model="rsd-careful", messages=[question], stream=True)
for chunk in stream:
    if chunk.choices and chunk.choices[0].delta.content:
        print(repr(chunk.choices[0].delta.content))

# %% [markdown]
# ## Cost and authors
#
# `usage` counts the tokens of prompt and answer, as clients expect. Its field `rsd` is the bill of all three roles:
# rejected drafts, and what the verifier read. With `rsd: {"trace": true}` the answer includes its steps as well.

# %%
traced = client.chat.completions.create(model="rsd-careful", messages=[question], extra_body={"rsd": {"trace": True}})
print(traced.usage.prompt_tokens, "tokens read,", traced.usage.completion_tokens, "written")
for role in ("drafter", "verifier", "target"):
    print(
        f"{role:8}: {traced.usage.rsd[role]['generated']:3} generated, {traced.usage.rsd[role]['computed']:3} computed"
    )
for step in traced.choices[0].rsd["trace"]["steps"]:
    print(f"{step['author']:6} {step['text'].strip()}")

# %% [markdown]
# ## Policy and limits of a request
#
# `rsd` also takes a policy that replaces the model's, and limits. A request can only tighten the model's limits:
# whoever runs the server has the last word.

# %%
for policy in ("always_draft", "binary_step:0.95", "always_target"):
    own = client.chat.completions.create(model="rsd-fast", messages=[question], extra_body={"rsd": {"policy": policy}})
    print(f"{policy:17} target share {own.choices[0].rsd['target_share']:.0%}")

# %% [markdown]
# ## What is refused
#
# Fields that would change the answer and cannot be honoured are refused with a reason, not ignored.

# %%
from openai import BadRequestError

try:
    client.chat.completions.create(model="rsd-fast", messages=[question], logprobs=True)
except BadRequestError as error:
    print(error.body["message"])

# %% [markdown]
# ## Metrics
#
# `/metrics` is in Prometheus's format: acceptance, steps by author, tokens and seconds by role, the queue, degradations.

# %%
from urllib.request import urlopen

with urlopen(url.removesuffix("/v1") + "/metrics") as metrics:
    for line in metrics.read().decode().splitlines():
        if line.startswith(("rsd_steps_total", "rsd_queue_depth")):
            print(line)

# %% [markdown]
# ## Shutting down
#
# When it is told to stop, the server refuses new requests, finishes those in flight, and exits. The guide *RSD behind a
# URL* covers keys, containers, and the app for your own programs.

# %%
client.close()
server.terminate()
print("exit code", server.wait(), "after", server.stderr.read().count("POST /v1/chat/completions 200"), "answers")
server.stderr.close()

# %% [markdown]
# ## What next
#
# - The guide *RSD behind a URL*: all fields and routes, keys, load, containers, Kubernetes, and the app for your own
#   programs.
# - The guide *Ray clusters*: replicas of this server that scale with the load, and a million prompts without a server.
# - Notebook 13, *Limits and faults*: what `finish_reason` and `degradations` in `rsd` mean.
