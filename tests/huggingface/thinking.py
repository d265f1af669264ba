"""Tiny checkpoints of thinking models: chat templates as published ones are, and markers as added tokens."""

from pathlib import Path

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.huggingface.from_pretrained import load_tokenizer
from tests.huggingface.tiny import make_causal_lm

_TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ CONTENT }}<|im_end|>\n{% endfor %}"
_GENERATION = "{% if add_generation_prompt %}<|im_start|>assistant\nOPENING{% endif %}"
_LAST = "m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content"

QWEN = (_TURNS + _GENERATION).replace("CONTENT", _LAST)
"""The model opens its thought itself, unless it is switched off."""
QWEN = QWEN.replace("OPENING", "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}")
R1 = (_TURNS + _GENERATION).replace("CONTENT", _LAST).replace("OPENING", "<think>\n")
"""The template opens the thought, and drops all earlier ones."""
SWITCH = (
    "{% set n = namespace(on=true) %}{% for m in messages %}{% if m.role == 'system' and '/no_think' in m.content %}"
)
SWITCH += "{% set n.on = false %}{% endif %}{% endfor %}"
SWITCH += (_TURNS + _GENERATION).replace("CONTENT", _LAST)
"""The system message switches thoughts off."""
SWITCH = SWITCH.replace("OPENING", "<think>{{ '\n' if n.on else '</think>' }}")
HARMONY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% if m.thinking %}"
    "<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
"""Thought and answer are separate messages, marked by special tokens; the thought is a field with its own name."""
PLAIN = (_TURNS + _GENERATION).replace("CONTENT", "m.content").replace("OPENING", "")
"""A model that does not think."""

HARMONY_TOKENS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")


def tokenizer(template: str) -> PreTrainedTokenizerBase:
    """A tokenizer with a chat template, and the tokens that it writes."""
    made = load_tokenizer(FOLDER / "target")
    special = template is HARMONY
    names = HARMONY_TOKENS if special else ("<think>", "</think>") if "<think>" in template else ()
    made.add_tokens([AddedToken(name, special=special, normalized=False) for name in names])
    made.chat_template = template
    return made


def make_thinker(folder: Path, template: str, seed: int = 0) -> Path:
    """A random model with the template."""
    own = tokenizer(template)
    make_causal_lm(folder, seed, vocab_size=len(own), max_position_embeddings=512)
    own.save_pretrained(folder)
    return folder
