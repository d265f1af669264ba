#!/usr/bin/env bash
# transformers: a drafter of another vocabulary does not see the markers of a chat
# Versions: transformers==5.23.0, torch==2.13.0
# Expected: the drafter reads the chat that the target reads; both vocabularies have its markers.
# Seen: the prompt goes over as text without its special tokens, by both ways that transformers knows (greedy and
#   sampled): the drafter reads `user\nadd\nassistant\n` where the target reads the same with `<|im_start|>` and
#   `<|im_end|>`, so it drafts for a plain text.
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


words, others = tokenizer("adeinrstu\n"), tokenizer("xy\nutsrnieda")
for each in words, others:
    each.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
target, drafter = model(1, len(words)), model(2, len(others))
chat = "<|im_start|>user\nadd<|im_end|>\n<|im_start|>assistant\n"
prompt, read, forward = words(chat, return_tensors="pt").input_ids, [], drafter.forward
assert words.decode(prompt[0]) == others.decode(others(chat).input_ids) == chat

def recorded(**inputs):
    read.append(inputs["input_ids"])
    return forward(**inputs)

drafter.forward = recorded
for sample in False, True:
    read.clear()
    both = dict(tokenizer=words, assistant_tokenizer=others)
    target.generate(prompt, max_new_tokens=4, do_sample=sample, assistant_model=drafter, **both)
    print("sampled" if sample else "greedy", repr(others.decode(read[0][0])))
    assert others.decode(read[0][0]) == "user\nadd\nassistant\n"
print('as seen before')
END
