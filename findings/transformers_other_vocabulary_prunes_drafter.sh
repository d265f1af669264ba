#!/usr/bin/env bash
# transformers: sampling with a drafter of another vocabulary changes the drafter for good
# Versions: transformers==5.23.0, torch==2.13.0
# Expected: `generate(assistant_model=drafter)` leaves the drafter as it was: it can draft for another target, or write.
# Seen: the first call that samples cuts the words that the target does not have out of the drafter's head and puts an
#   embedding over its own that renumbers tokens and, from its second pass, reads only the last; both stay. The
#   drafter gives other logits afterwards, and its settings have lost their repetition penalty. A greedy call
#   changes nothing.
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


words, others = tokenizer("abcdefgh "), tokenizer("xy hgfedcba")
target, drafter = model(1, len(words)), model(2, len(others))
drafter.generation_config.repetition_penalty = 1.1
prompt, text = words("abc", return_tensors="pt").input_ids, others("cafe", return_tensors="pt").input_ids

@torch.no_grad()
def state():
    shapes = [tuple(drafter(text).logits.shape) for _ in range(2)]
    return shapes, type(drafter.get_input_embeddings()).__name__, drafter.generation_config.repetition_penalty

seen = [state()]
for sample in False, True:
    both = dict(tokenizer=words, assistant_tokenizer=others)
    target.generate(prompt, max_new_tokens=4, do_sample=sample, assistant_model=drafter, **both)
    seen.append(state())
for when, (shapes, embedding, penalty) in zip(("before", "after a greedy call", "after sampling"), seen):
    print(f"{when}: logits of two passes {shapes}, {embedding}, repetition penalty {penalty}")
assert seen[0] == seen[1] == ([(1, 4, len(others))] * 2, "Embedding", 1.1)
(_, shape), embedding, penalty = seen[2]
assert shape == (1, 1, len(words)) and embedding != "Embedding" and penalty is None
print('as seen before')
END
