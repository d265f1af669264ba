r"""The tokenizer of the embedded family: byte-level BPE in the layout of Qwen2, trained on the task's own text.

Digits are single tokens, every word of the task is one token, a step's closing `.\n\n` is one token, and any other
text falls back to bytes. The merges are real ones, so every loader of Qwen2 tokenizers reads the same ids.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from rsd_integrations.embedded.task import problems

STEP_END = "<extra_0>"
"""Marks the end of a step for the process reward model, as in Qwen2.5-Math-PRM."""
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", STEP_END)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT = 512
"""Tokens the models are trained and configured for."""


def build(seed: int = 0) -> PreTrainedTokenizerBase:
    """Train the tokenizer on problems of the training split."""
    shell = Qwen2Tokenizer()
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = shell.backend_tokenizer.normalizer
    bpe.pre_tokenizer = shell.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=2000,  # an upper bound: training ends when every word of the task is one token
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(seed), trainer)
    model = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],  # type: ignore[misc]
        unk_token=None,  # type: ignore[arg-type]
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        extra_special_tokens=[STEP_END, "<|im_start|>"],
        model_max_length=CONTEXT,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _texts(seed: int) -> Iterator[str]:
    for problem in itertools.islice(problems("train", seed), 20_000):
        yield "user\n" + problem.question
        yield "assistant\n" + "".join(problem.solution())
