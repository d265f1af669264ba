r"""The tokenizer of the embedded family: byte-level BPE in the layout of Qwen2, trained on the task's own text.

Digits are single tokens, every word of the task is one token, a step's closing `.\n\n` is one token, and any other
text falls back to bytes. The merges are real, so every loader of Qwen2 tokenizers produces the same ids.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
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
MARKERS = ("<think>", "</think>")
"""Around a thought; text, not special tokens, as in Qwen3."""
# Qwen3's without tools: thoughts are kept only after the last user message, and an answer there without one follows an
# empty one.
THINKING_TEMPLATE = """\
{%- set ns = namespace(last_query_index=messages|length - 1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- set ns.last_query_index = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}
            {%- set content = content.lstrip('\\n') %}
        {%- endif %}
    {%- endif %}
    {{- content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
THINKING_CONTEXT = 1024
"""Tokens the thinking models are trained and configured for: conversations are longer."""


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


def thinking(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Add to the family's tokenizer the two markers, each a single token, and the thinkers' chat template."""
    tokenizer.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in MARKERS])
    tokenizer.chat_template = THINKING_TEMPLATE
    tokenizer.model_max_length = THINKING_CONTEXT
    return tokenizer


def _texts(seed: int) -> Iterator[str]:
    for problem in itertools.islice(problems("train", seed), 20_000):
        yield "user\n" + problem.question
        yield "assistant\n" + "".join(problem.solution())
