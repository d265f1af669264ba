#!/usr/bin/env bash
# transformers: num_assistant_tokens given to generate() is not used
# Versions: transformers==5.23.0, torch==2.13.0
# Expected: `generate(..., assistant_model=drafter, num_assistant_tokens=3)` has three tokens drafted at a time.
# Seen: only what stands in the drafter's own generation_config counts: with 3, and with 12, given to generate() the
#   target reads the same numbers of tokens as without, and no warning. assistant_confidence_threshold is taken from
#   there as well, and its default of 0.4 ends most drafts early, whatever number was asked for.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq transformers==5.23.0 torch==2.13.0
cd "$work"
venv/bin/python - <<'END' || { echo 'no longer as seen before'; exit 3; }
import torch, transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

transformers.logging.set_verbosity_error()

def tokenizer(letters):
    """One token for each letter, numbered in this order."""
    letter = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token=letters[0]))
    letter.pre_tokenizer, letter.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=letter)

def model(seed, size):
    """A small random llama without an end token."""
    torch.manual_seed(seed)
    sizes = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    made = LlamaForCausalLM(LlamaConfig(vocab_size=size, **sizes, bos_token_id=None, eos_token_id=None)).eval()
    for weight in made.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.4)
    return made


words = tokenizer("abcdefghijklmnopqrstuvwxyz ")
target, drafter = model(1, len(words)), model(1, len(words))
prompt, read, forward = words("abc", return_tensors="pt").input_ids, [], target.forward

def counted(**inputs):
    read.append(inputs["input_ids"].shape[1])
    return forward(**inputs)

target.forward = counted

def reads(**settings):
    """How many tokens the target reads in each pass after the prompt's."""
    read.clear()
    target.generate(prompt, max_new_tokens=40, do_sample=False, assistant_model=drafter, **settings)
    return read[1:]

asked = [reads(), reads(num_assistant_tokens=3), reads(num_assistant_tokens=12), reads(assistant_confidence_threshold=0.0)]
for settings, passes in zip(("nothing", "3 tokens", "12 tokens", "no threshold"), asked):
    print("generate() told", settings, passes)
assert all(passes == asked[0] for passes in asked)
drafter.generation_config.assistant_confidence_threshold = 0.0
for number in 3, 12:
    drafter.generation_config.num_assistant_tokens = number
    passes = reads()
    print("drafter's config told", number, "and no threshold", passes)
    assert set(passes[:-1]) == {number + 1}  # and the token that was written last
print('as seen before')
END
