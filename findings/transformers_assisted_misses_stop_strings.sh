#!/usr/bin/env bash
# transformers: with a drafter, generation runs past a stop string that ends inside a draft
# Versions: transformers==5.23.0, torch==2.13.0
# Expected: greedy generation with `assistant_model` writes what the target writes alone, and stops where it stops.
# Seen: criteria of stopping see the text once for each accepted draft, and StopStringCriteria looks at its end only. A
#   stop string that ends before the draft does is passed over, and generation goes on to max_new_tokens. (The
#   argument stop_strings is refused beside a drafter of the same vocabulary: it is passed on to the drafter,
#   without the tokenizer.)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq transformers==5.23.0 torch==2.13.0
cd "$work"
venv/bin/python - <<'END' || { echo 'no longer as seen before'; exit 3; }
import torch, transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, StopStringCriteria

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
target, drafter = model(1, len(words)), model(1, len(words))  # the same weights: every draft is accepted
drafter.generation_config.num_assistant_tokens, drafter.generation_config.assistant_confidence_threshold = 8, 0.0
prompt = words("abc", return_tensors="pt").input_ids

def written(stop=None, **drafting):
    criteria = [StopStringCriteria(words, [stop])] if stop else []
    ids = target.generate(prompt, max_new_tokens=40, do_sample=False, stopping_criteria=criteria, **drafting)
    return words.decode(ids[0, 3:])

whole = written()
assert written(assistant_model=drafter) == whole and len(whole) == 40
missed = 0
for end in 5, 7, 8, 11, 13:  # the drafts end at 9, 18, ...
    stop = whole[end - 2 : end]
    alone, drafted = written(stop), written(stop, assistant_model=drafter)
    print(repr(stop), repr(alone), repr(drafted))
    assert alone.endswith(stop) and len(alone) <= end
    missed += drafted == whole
assert missed >= 3
try:
    target.generate(prompt, max_new_tokens=8, stop_strings=[stop], tokenizer=words, assistant_model=drafter)
except ValueError as error:
    print(error)
    assert "could not locate a tokenizer" in str(error)
else:
    raise AssertionError("stop_strings is taken now")
print('as seen before')
END
