"""A published vocabulary through llama.cpp against its own tokenizer.

    python -m tests.llamacpp.compare_vocabularies FOLDER PATTERN

FOLDER holds tokenizer.json and tokenizer_config.json; PATTERN is llama.cpp's name for how the vocabulary cuts texts:
`qwen2`, `llama-bpe`, `deepseek-v3`, `gpt-4o` and so on, or `default` for SentencePiece. Prints how many of 2,000 random
texts have other ids, with the shortest of them, and whether 200,000 characters of the documentation have the same.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rsd_integrations.huggingface.from_pretrained import load_tokenizer
from rsd_integrations.inprocess.vocabulary import Vocabulary
from rsd_integrations.llamacpp.model import Model
from rsd_integrations.llamacpp.tokenizer import GGUFTokenizer
from tests.llamacpp.texts import texts
from tests.llamacpp.vocabularies import words_of, write_vocabulary

COUNT, SHOWN = 2000, 20
PAGES = Path(__file__).parents[2] / "docs"


def main() -> None:
    """Compare one vocabulary."""
    folder, pattern = sys.argv[1:]
    theirs = load_tokenizer(Path(folder))
    with tempfile.TemporaryDirectory() as scratch:
        file = write_vocabulary(Path(scratch) / "vocabulary.gguf", words_of(theirs, pattern))
        ours = GGUFTokenizer(Model.load(file, vocabulary_only=True), spaced=True)
        same = Vocabulary(ours, 0).identity == Vocabulary(theirs, 0).identity
    names = [token.content for token in ours.added_tokens_decoder.values()][:50]

    def differs(text: str) -> bool:
        mine, others = (one(text, add_special_tokens=False)["input_ids"] for one in (ours, theirs))
        return bool(mine != others)

    different = [text for text in texts(COUNT, 11, names) if differs(text)]
    prose = "".join(page.read_text() for page in sorted(PAGES.glob("*.md")))[:200_000]
    print("identity:", "equal" if same else "DIFFERS")
    print("prose:", "DIFFERS" if differs(prose) else "equal")
    print(f"{len(different)} of {COUNT} random texts have other ids")
    for text in sorted({shortest(text, differs) for text in different}, key=len)[:SHOWN]:
        pieces = (one.convert_ids_to_tokens(one(text, add_special_tokens=False)["input_ids"]) for one in (ours, theirs))
        print(ascii(text), *pieces)


def shortest(text: str, differs: Callable[[str], bool]) -> str:
    """What is left of a text when everything is dropped without which it differs still."""
    for size in (8, 4, 2, 1):
        at = 0
        while at < len(text):
            shorter = text[:at] + text[at + size :]
            if shorter and differs(shorter):
                text = shorter
            else:
                at += 1
    return text


if __name__ == "__main__":
    main()
