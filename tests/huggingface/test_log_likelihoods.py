"""Log-likelihoods of given steps against an independent computation on the embedded models."""

import asyncio

import pytest
import torch

from rsd_core import Path, PromptError, Step, as_prompt
from rsd_integrations.embedded.task import problems
from rsd_integrations.huggingface import HuggingFaceGenerator


def test_log_likelihoods_are_sums_of_token_log_probabilities(draft: HuggingFaceGenerator) -> None:
    path = Path(as_prompt(next(problems("test", 3)).question)).extend(Step("She buys 2 more.\n\n", "delimiter"))
    steps = [Step("She sells 9: 57-9=48.\n\n", "delimiter"), Step("The answer is \\boxed{48}.", "end")]
    wanted = []
    for step in steps:
        before, ids = len(draft.vocabulary.ids(path)[0]), [*draft.vocabulary.ids(path.extend(step))[0]]
        if step.ending == "end":
            ids += sorted(draft.eos_ids)
        with torch.inference_mode():  # one token at a time, without a cache
            rows = [draft.model(torch.tensor([ids[:i]])).logits[0, -1].log_softmax(-1) for i in range(before, len(ids))]
        wanted.append(sum(row[token].item() for row, token in zip(rows, ids[before:], strict=True)))
    found = asyncio.run(draft.log_likelihoods(path, steps))
    assert found.values == pytest.approx(wanted, abs=1e-3)
    assert found.usage.computed > found.usage.scored > 0
    alone = [asyncio.run(draft.log_likelihoods(path, [step])) for step in (*steps, Step("", "end"))]
    assert [one.values[0] for one in alone[:2]] == pytest.approx(found.values, abs=1e-4)
    assert alone[0].usage.reused >= len(draft.vocabulary.ids(path)[0]) - 1  # the path was read before
    assert alone[2].values[0] < 0


def test_a_step_longer_than_the_context_is_refused(draft: HuggingFaceGenerator) -> None:
    path = Path(as_prompt("How much?"))
    with pytest.raises(PromptError, match=rf"4014 tokens to read, the context of .*draft is {draft.context}"):
        asyncio.run(draft.log_likelihoods(path, [Step("1 " * 2000, "delimiter")]))
