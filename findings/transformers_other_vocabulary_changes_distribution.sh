#!/usr/bin/env bash
# transformers: sampling with a drafter of another vocabulary does not follow the target's distribution
# Versions: transformers==5.23.0, torch==2.13.0
# Expected: speculative sampling is lossless, whatever drafts: so says the paper that this follows (arXiv:2502.05202).
# Seen: the drafter's probabilities are put in another order than its words, as the order of `get_vocab()` is no order
#   of ids. First tokens are off by half of the probability or more (total variation; the order is another each
#   time); with a drafter of the same vocabulary, or one whose `get_vocab()` is sorted, by no more than chance in
#   300 draws.
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


words, others = tokenizer("abcdefghij "), tokenizer("xy jihgfedcba")
target = model(1, len(words))
prompt = words("abc", return_tensors="pt").input_ids
with torch.no_grad():
    exact = target(prompt).logits[0, -1].softmax(-1)

def distance(draws=300, **drafting):
    """Total variation of the first tokens drawn from what the target says of them."""
    torch.manual_seed(0)
    seen = torch.zeros(len(words))
    for _ in range(draws):
        seen[target.generate(prompt, max_new_tokens=2, do_sample=True, top_k=0, **drafting)[0, 3]] += 1 / draws
    return (seen - exact).abs().sum().item() / 2

def other(tokenizer):
    return dict(assistant_model=model(2, len(tokenizer)), tokenizer=words, assistant_tokenizer=tokenizer)

class Sorted(PreTrainedTokenizerFast):
    def get_vocab(self):
        return dict(sorted(super().get_vocab().items(), key=lambda word: word[1]))

ordered = Sorted(tokenizer_object=others.backend_tokenizer)
alone, same = distance(), distance(assistant_model=model(2, len(words)))
off = max(distance(100, **other(tokenizer("xy jihgfedcba"))) for _ in range(3))  # each has an order of its own
right = distance(**other(ordered))
print(f"alone {alone:.2f}, same vocabulary {same:.2f}, other vocabulary {off:.2f}, other and sorted {right:.2f}")
assert max(alone, same, right) < 0.12 and off > 0.3
print('as seen before')
END
