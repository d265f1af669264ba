"""Solutions written by the small models themselves, judged step by step: the training data of the reward model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rsd_integrations.embedded.checker import Verdict, judge, steps_of
from rsd_integrations.embedded.task import Problem, Split, problems

MAX_TOKENS = 300


@dataclass(frozen=True, slots=True)
class Rollout:
    """A written solution and the verdicts on its steps."""

    problem: Problem
    steps: list[str]
    """Steps, those of a thought first."""
    verdicts: list[Verdict]
    ended: bool
    """Whether the model ended the answer itself."""
    text: str = ""
    """The response as written, its markers included; without what the chat template wrote."""


def roll_out(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    seed: int,
    *,
    temperatures: Sequence[float],
    batch: int = 128,
    **template: Any,
) -> Iterator[Rollout]:
    """An endless stream of solutions by one model, one batch of fresh problems per temperature in turn.

    Args:
        model: A language model of the family.
        tokenizer: Its tokenizer.
        split: Split of the problems.
        seed: Seed of problems and sampling.
        temperatures: Used in turn.
        batch: Solutions written concurrently.
        template: Chat template arguments, such as `enable_thinking`.
    """
    torch.manual_seed(seed)
    generate: Any = model.generate
    stream = problems(split, seed)
    for temperature in itertools.cycle(temperatures):
        group = list(itertools.islice(stream, batch))
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": problem.question}], tokenize=False, add_generation_prompt=True, **template
            )
            for problem in group
        ]
        inputs: Any = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        with torch.inference_mode():
            out = generate(**inputs, max_new_tokens=MAX_TOKENS, **sampling)
        for problem, row in zip(group, out[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            ended = tokenizer.eos_token_id in row
            text = str(tokenizer.decode(row, skip_special_tokens=True))
            steps = steps_of(text)
            yield Rollout(problem, steps, judge(problem, steps), ended, text)
