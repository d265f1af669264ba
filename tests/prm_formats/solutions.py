"""Solutions as models write them, and as they should not: what reward models are given in the end."""

from __future__ import annotations

import random
from dataclasses import dataclass

NBSP = "\u00a0"


@dataclass(frozen=True)
class Solution:
    """A solution with its problem; a thought stands before the answer."""

    name: str
    problem: str
    text: str
    thought: str = ""

    @property
    def plain(self) -> str:
        """Thought and answer as one text."""
        return f"{self.thought}\n\n{self.text}" if self.thought else self.text

    @property
    def written(self) -> str:
        """The same as a model writes it."""
        return f"<think>\n{self.thought}\n</think>\n\n{self.text}" if self.thought else self.text


PROBLEMS = (
    "What is 45+12?",
    " How many apples does Mia have now? ",
    "Find $x$ with $x^2 = 16$\n",
    "Is 91 prime?\n\n",
    "\tSort: 3, 1, 2\t",
    f"{NBSP}How much is 7*8?{NBSP}",
    "A farmer has 3 hens.\r\nHow many eggs are 3+4?\r\n",
    "求 12 与 18 的最大公约数。",
    "Simplify \\(\\frac{6}{8}\\)",
    "x",
)
_TEXTS = {
    "plain": "She buys 12 more.\n\nSo 45+12=57.\n\nThe answer is \\boxed{57}.",
    "one step": "The answer is \\boxed{57}.",
    "several lines in a step": "First line.\nSecond line.\nThird.\n\nNext step,\nof two lines.",
    "display LaTeX": "We write\n\\[\n\\frac{a}{b} = \\sqrt{2}\n\\]\n\n\\[\n\\boxed{\\tfrac{3}{4}}\n\\]",
    "inline LaTeX": "Let $x=3$, so $$x^2 = 9$$\n\nThen \\(x+1 = 4\\)\n\n$\\boxed{4}$",
    "aligned LaTeX": "\\begin{aligned}\na &= b + c \\\\\n  &= 5\n\\end{aligned}\n\nSo $a=5$.",
    "code": "```python\ndef f(x):\n    if x > 1:\n        return x * f(x - 1)\n\n    return 1\n```\n\nIt gives 120.",
    "code with tabs": "```c\nint main(void) {\n\treturn 0;\t// done\n}\n```\n\nIt ends with 0.",
    "a table": "| n | n^2 |\n|---|---|\n| 1 | 1 |\n| 2 | 4 |\n\nThe last one is 4.",
    "a list": "- one\n- two\n  - nested\n\n1. first\n2. second\n\n* done",
    "headings": "## Step 1\n\n**Bold** and _slanted_.\n\n### Answer\n\n4",
    "Chinese": "首先，计算 12 = 2×2×3。\n\n然后，18 = 2×3×3。\n\n所以答案是 6。",
    "Japanese": "まず、足します。\n\n答えは「57」です。",
    "Korean": "먼저 더합니다.\n\n답은 57입니다.",
    "Arabic": "أولاً نجمع العددين.\n\nالجواب هو ٥٧.",
    "Russian with the separator's letters": "Берём три книги и две ки.\n\nПотом ки и кит, ответ 5.",
    "Greek and signs": "α + β ≤ γ ⇒ δ ∈ ℝ∖{0}…\n\n∴ ∑ᵢ xᵢ² = π²⁄6",
    "emoji": "Count 🧮 them 👩‍👩‍👧: 3.\n\n✅ So 3.",
    "plus and minus": "+ 3 - 2 = 1\n\n-5 + -6 = -11, so + or -?\n\n+",
    "long numbers": "12345678901234567890 * 10 = 123456789012345678900\n\n3.14159265358979\n\n1,000,000",
    "numbered steps": "Step 1: Add 45 and 12.\n\nStep 2: The sum is 57.\n\nStep 3: Done.",
    "spaces before the blank line": "Add them.  \n\nThe sum is 57. \n\nDone.   ",
    "tabs before the blank line": "Add them.\t\n\nThe sum is 57.\t\t\n\nDone.\t",
    "no-break spaces": f"Add them.{NBSP}\n\n{NBSP}The sum is 57{NBSP}\n\n{NBSP}{NBSP}Done.{NBSP}",
    "spaces before a step": "Add them.\n\n  The sum is 57.\n\n\tDone.",
    "carriage returns": "Add them.\r\n\r\nThe sum is 57.\r\n\r\nDone.\r\n",
    "a carriage return before the blank line": "Add them.\r\n\nThe sum\r\nis 57.\r\n\nDone.\r",
    "three newlines": "Add them.\n\n\nThe sum is 57\n\n\nDone",
    "four newlines": "Add them.\n\n\n\nThe sum is 57.\n\n\n\n\nDone.",
    "newlines first": "\nAdd them.\n\nDone.",
    "blank lines first": "\n\n\nAdd them.\n\nDone.",
    "newlines last": "Add them.\n\nDone.\n",
    "blank lines last": "Add them.\n\nDone.\n\n\n",
    "lines of spaces": "Add them.\n \n\t\nThe sum\n  \n\nis 57.\n\n \n\nDone.",
    "other line ends": "Add\u2028them.\u2029\n\nThe sum\u0085\n\nis\x0b57.\x0c\n\nDone.",
    "punctuation at line ends": 'So:\n\n(57)\n\n"57"!\n\n57;\n\n[57]\n\n57...\n\n`57`\n\n/',
    "the separator in a step": "The token <extra_0> is text.\n\nSo is </s>?\n\nDone.",
}
_THOUGHTS = {
    "a thought": ("Mia has 45.\n\nShe buys 12 more.", "45+12=57.\n\nThe answer is \\boxed{57}."),
    "a thought with code": ("Try it:\n```\nprint(45+12)\n\n```\nIt is 57.", "So 57."),
    "a thought with blank lines": ("Hmm.\n\n\nLet me see.\n\n  Yes", "57\n\n\nDone."),
}
SOLUTIONS = tuple(
    Solution(name, PROBLEMS[i % len(PROBLEMS)], answer, thought)
    for i, (name, (thought, answer)) in enumerate(
        [*((name, ("", text)) for name, text in _TEXTS.items()), *_THOUGHTS.items()]
    )
)
assert len(SOLUTIONS) == 40


def random_solution(rng: random.Random, name: str) -> Solution:
    """A solution of words, signs and white space of every sort."""
    spaces = ["", "", "", " ", "  ", "\t", NBSP, "\r", "\n", "\r\n", " \n", "\n\n"]
    words = ["Add", "12", "3.5", "So:", "(57)", "+", "-", "x²", "次", "ки", "🧮", "$$", "```", "é", "a_b", "/", "'s"]

    def space() -> str:
        return "".join(rng.choice(spaces) for _ in range(rng.randint(0, 3)))

    def words_in_a_row() -> str:
        return rng.choice([" ", "", "\n", "  "]).join(rng.choice(words) for _ in range(rng.randint(1, 5)))

    text = "\n\n".join(f"{space()}{words_in_a_row()}{space()}" for _ in range(rng.randint(1, 4)))
    return Solution(name, f"{space()}{rng.choice(PROBLEMS)}{space()}", text)
