#!/usr/bin/env bash
# transformers takes two vocabularies of one size for the same
# Versions: transformers==5.23.0, torch==2.13.0
# Expected: a drafter of another vocabulary drafts through text once both tokenizers are given; whether they are the same is
#   seen from their words.
# Seen: the number of rows decides. With as many words in another order, `assistant_tokenizer` is refused, as "the main
#   and assistant models use the same tokenizer"; without it the drafter reads and drafts ids of the wrong words: no
#   draft is right. With one unused row more, the same drafter saves two thirds of the target's passes.
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


words, others = tokenizer("abcdefghijklmnop"), tokenizer("ponmlkjihgfedcba")
target, prompt = model(1, 16), words("abc", return_tensors="pt").input_ids
passes, forward = [], target.forward

def counted(**inputs):
    passes.append(inputs)
    return forward(**inputs)

def drafter(rows):
    """The target with its words in the other order, and unused rows below."""
    made = model(1, 16)
    for layer in made.model.embed_tokens, made.lm_head:
        layer.weight.data = torch.cat([layer.weight.data.flip(0), torch.zeros(rows - 16, 32)])
    made.config.vocab_size = rows
    made.generation_config.assistant_confidence_threshold = 0.0
    return made

def cost(rows, **tokenizers):
    passes.clear()
    target.generate(prompt, max_new_tokens=40, do_sample=False, assistant_model=drafter(rows), **tokenizers)
    return len(passes)

target.forward = counted
both = dict(tokenizer=words, assistant_tokenizer=others)
one, different = cost(16), cost(17, **both)
print(f"passes of the target for 40 tokens: {one} with 16 words each, {different} with a row more and both tokenizers")
assert one == 40 and different < 20
try:
    cost(16, **both)
except ValueError as error:
    print(error)
    assert "use the same tokenizer" in str(error)
else:
    raise AssertionError("both tokenizers are taken now")
print('as seen before')
END
