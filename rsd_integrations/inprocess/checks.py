"""Checks that prompts and steps fit into a model's context, and that scores are valid."""

from __future__ import annotations

from rsd_core import PromptError, Scores, VerifierError


def check_prompt(prompt: int, context: int, name: str) -> None:
    """Check that a prompt of `prompt` tokens leaves room for at least one more.

    Raises:
        PromptError: It does not.
    """
    if prompt >= context:
        raise PromptError(f"the prompt has {prompt} tokens, the context of {name} is {context}")


def check_scored(prompt: int, scored: int, context: int, name: str) -> None:
    """Check that a verifier can read a prompt of `prompt` tokens, and `scored` tokens with the longest candidate.

    Raises:
        PromptError: The prompt alone fills the context.
        VerifierError: Path and step are longer than the context.
    """
    check_prompt(prompt, context, name)
    if scored > context:
        raise VerifierError(
            f"{scored} tokens to score, the context of {name} is {context}. Limit the answer (limits.max_tokens); "
            "reward models (prm:) also take a larger context=… where their positions allow it"
        )


def check_rewards(scores: Scores, name: str) -> Scores:
    """The scores, if all are valid.

    Raises:
        VerifierError: One is NaN or not in [0, 1]; its work is charged.
    """
    for reward in scores.rewards:
        if reward is None or not 0 <= reward <= 1:
            raise VerifierError(f"{name} gave {reward} for a step; load it in float32 or bfloat16", usage=scores.usage)
    return scores
