"""Checks by trial that llama.cpp and transformers tokenise texts in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import TYPE_CHECKING

from rsd_core import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rsd_integrations.llamacpp.model import Model

TEXTS = (
    "What is 12 + 7? 1234567 and 3.14159, or 1,000,000; 0x1F, 1e-5, 10%, $5.00, #1.",
    "I'm sure they'll say it's what we've said. DON'T! I'D",
    "def f(x):\n    if x > 0:\n        return x ** 2\n\n\n\treturn None\r\n\r\n",
    "  leading and   inner    spaces and trailing   ",
    "\\[ \\frac{a}{b} = \\sqrt{x^2 + y^2} \\]\n\nStep 2: So $\\boxed{25}$.",
    "a" * 50 + "!" * 20 + "-" * 30 + "http://example.com/path?x=1&y=2#frag CamelCase snake_case kebab-case",
    "café, naïve, Übergröße, façade; ∀x∈ℝ: ∑ᵢ xᵢ² ≥ 0 → π ≈ 3.14; ¼ ½ Ⅷ “quoted” – ‘so’ — …",
    "日本語のテキストと漢字、中文也有。한국어 문장입니다. हिन्दी पाठ",
    "Привет, мир! Сколько будет 2+2? مرحبا بالعالم 😀🎉 👩‍👩‍👧 ☃",
    "\n\n\n\n",
    " ",
    "<b>bold</b> <table><tr><td>1</td></tr></table> <think>\nso\n</think>\n\nthus",
)
ADDED = 256
"""Maximum number of added tokens to try; some vocabularies have thousands of unused ones."""


def check_vocabulary(other: Model, tokenizer: PreTrainedTokenizerBase, ends: Set[int], model: str) -> None:
    """Compare the two on texts of many kinds and on the vocabulary's added tokens.

    Args:
        other: The model in llama.cpp; its vocabulary is enough.
        tokenizer: Tokenizer of the checkpoint, in transformers.
        ends: Tokens that end an answer of the checkpoint.
        model: Name of the model, for messages.

    Raises:
        ConfigurationError: They differ; the message shows the first text on which they do.
    """
    for text in (*TEXTS, *_around_added_tokens(tokenizer)):
        own: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = other.encode(text)
        if own != ids:
            at = next((at for at, pair in enumerate(zip(own, ids, strict=False)) if pair[0] != pair[1]), 0)
            first, second = (tokenizer.convert_ids_to_tokens(some[at : at + 3]) for some in (own, ids))
            raise ConfigurationError(
                f"{model}: transformers and llama.cpp read {text[:60]!r} as different tokens, {first} and {second}; "
                "nothing is written, since the model would get wrong tokens"
            )
    own, ids = tokenizer("a")["input_ids"], other.encode("a", begin=True)
    if own != ids:
        first, second = (tokenizer.convert_ids_to_tokens(some) for some in (own, ids))
        raise ConfigurationError(f"{model}: transformers reads the text 'a' as {first}, and llama.cpp as {second}")
    unknown = sorted(id_ for id_ in ends if not other.ends(id_))
    if unknown:
        tokens = tokenizer.convert_ids_to_tokens(unknown)
        raise ConfigurationError(f"{model}: llama.cpp would continue after {tokens}, where its answers end")


def _around_added_tokens(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    added = [token.content for _, token in sorted(tokenizer.added_tokens_decoder.items())]
    for token in added[:: max(1, len(added) // ADDED)]:
        yield f"{token}a {token} b{token}{token}\n{token}"
