r"""Training data of the thinking models: thoughts that work out a problem, and answers that state the result.

    <think>
    On Monday she buys 12 more: 45+12=55+2=57.

    On Friday she sells 9: 57-9=48.
    </think>

    The answer is \boxed{48}.

Thought and answer together read like a solution, markers aside, so whatever judges solutions can judge them too. An
answer writes the steps missing from its thought: all of them after an empty thought, and the remaining ones after one
that was closed early.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rsd_integrations.embedded.language_model import IGNORE, Row, drill
from rsd_integrations.embedded.task import Problem, problems

OPEN, CLOSE = "<think>\n", "\n</think>\n\n"
ENDS = (".Ċ", ".ĊĊ", "</think>", "<|im_end|>")
"""Tokens that end a step, a thought or an answer, as the tokenizer spells them."""
DRILLS, CUT, LATER = 0.05, 0.15, 0.1
"""Shares of bare equations, and of problems: those whose thought is closed early, and those that follow an earlier one
in the same conversation."""


@dataclass(frozen=True, slots=True)
class Conversations:
    """An endless stream of conversations, with loss only on what the model itself writes in the last turn."""

    short: float = 0.0
    """Share of the training on short problems, which teach where thoughts end with few tokens."""
    plain: float = 0.3
    """Share of problems that are solved without a thought."""

    def __call__(self, tokenizer: PreTrainedTokenizerBase, rng: random.Random, progress: float) -> Iterator[Row]:
        """Rows for `language_model.train`."""
        stream = problems("train", rng.getrandbits(60), events=(1, 2) if progress < self.short else (2, 7))
        while True:
            if rng.random() < DRILLS:
                question, steps = drill(rng)
                yield _row(tokenizer, [("user", question)], [(OPEN + CLOSE, False), ("".join(steps), True)])
                continue
            turns = []
            if rng.random() < LATER:
                earlier = next(stream)
                said = "".join(earlier.solution()[rng.choice((0, -1)) :])  # follows an empty thought or a complete one
                turns = [("user", earlier.question), ("assistant", said)]
            problem = next(stream)
            turns.append(("user", problem.question))
            steps = problem.solution()
            response = [(OPEN + "".join(steps[:-1]).rstrip("\n") + CLOSE + steps[-1], True)]
            drawn = rng.random()
            if drawn < self.plain:
                response = [(OPEN + CLOSE, False), ("".join(steps), True)]
            elif drawn < self.plain + CUT:
                response = cut(problem, tokenizer, rng)
            yield _row(tokenizer, turns, response)


def cut(problem: Problem, tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> list[tuple[str, bool]]:
    """A response with its thought closed externally, after a step or within one, with or without its blank line."""
    steps = problem.solution()
    whole = rng.randint(0, len(steps) - 1)
    thought = "".join(steps[:whole])
    if whole < len(steps) - 1 and (not whole or rng.random() < 0.5):
        ids = tokenizer(steps[whole], add_special_tokens=False)["input_ids"]
        thought += str(tokenizer.decode(ids[: rng.randint(1, len(ids) - 1)]))
    elif rng.random() < 0.5:
        thought = thought.rstrip("\n")
    return [(OPEN + thought, True), (CLOSE, False), ("".join(steps[whole:]), True)]


def _row(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[tuple[str, str]], response: Sequence[tuple[str, bool]]
) -> Row:
    """Ids and labels of turns and a response in parts, with or without loss."""
    messages = [{"role": role, "content": content} for role, content in turns]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids: list[int] = []
    labels: list[int] = []
    for text, learned in [(str(prompt), False), *response, ("<|im_end|>", True)]:
        part: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += part
        labels += part if learned else [IGNORE] * len(part)
    return Row(ids, labels)
