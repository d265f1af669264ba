"""What a model's card, or the script that its authors publish, makes of a whole solution: written from these alone.

Each recipe gives what is read up to the score of each step: steps are what stands between blank lines, and has anything
in it. They share nothing with the code under test, and take the whole text at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Reading = tuple[int, ...]
"""The ids up to the one that a step's score is read at."""
Recipe = Callable[[Any, str, str], list[Reading]]
"""From a tokenizer, a problem and a solution to what is read for each step."""
QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


def steps(solution: str) -> list[str]:
    """The pieces between blank lines that are not blank."""
    return [piece for piece in solution.split("\n\n") if piece.strip()]


def plain(tok: Any, text: str) -> list[int]:
    return list(tok(text, add_special_tokens=False)["input_ids"])


def beginnings(solution: str) -> list[str]:
    """The solution up to the end of each step, without the blank line after it."""
    pieces = solution.split("\n\n")
    return ["\n\n".join(pieces[: at + 1]) for at, piece in enumerate(pieces) if piece.strip()]


def skywork(separator: str) -> Recipe:
    """SkyworkAI/skywork-o1-prm-inference, model_utils/io_utils.py, `prepare_input`; Qwen's tokenizers add nothing.

    A step's score is that of its last line with something in it.
    """

    def recipe(tok: Any, problem: str, solution: str) -> list[Reading]:
        found = []
        for beginning in beginnings(solution):
            ids = plain(tok, (tok.bos_token or "") + problem + "\n")
            pieces = beginning.split(separator)
            while not pieces[-1].strip():
                pieces.pop()
            for piece in pieces:
                ids += plain(tok, piece) if piece != "" else []
                ids.append(plain(tok, separator)[-1])
            found.append(tuple(ids))
        return found

    return recipe


def qwen(system: str | None) -> Recipe:
    """The card of Qwen2.5-Math-PRM: one conversation, `<extra_0>` after each step, a score at each."""

    def recipe(tok: Any, problem: str, solution: str) -> list[Reading]:
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": problem})
        messages.append({"role": "assistant", "content": "<extra_0>".join(steps(solution)) + "<extra_0>"})
        text = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
        ids, mark = plain(tok, text), plain(tok, "<extra_0>")[0]
        return [tuple(ids[: at + 1]) for at, id_ in enumerate(ids) if id_ == mark]

    return recipe


def shepherd(tok: Any, problem: str, solution: str) -> list[Reading]:
    """The card of math-shepherd-mistral-7b-prm: `{question} {output}`, scores at ки; PRMBench strips the steps."""
    ids, mark = list(tok(f"{problem} " + "\n".join(_numbered(solution)))["input_ids"]), plain(tok, "ки")[-1]
    return [tuple(ids[: at + 1]) for at, id_ in enumerate(ids) if id_ == mark]


def _numbered(solution: str) -> list[str]:
    lines = []
    for number, step in enumerate(steps(solution), 1):
        numbered = re.match(r"Step \d+\s*[:.]", step.strip())
        lines.append(f"{'' if numbered else f'Step {number}: '}{step.strip()} ки")
    return lines


def rlhflow(tok: Any, problem: str, solution: str) -> list[Reading]:
    """RLHFlow/RLHF-Reward-Modeling, math-rm/prm_evaluate.py: steps in turns, the score two tokens before the end."""
    conversation, found = [], []
    for number, step in enumerate(part.strip() for part in solution.split("\n\n")):
        conversation.append({"content": step if number else problem + " " + step, "role": "user"})
        conversation.append({"content": "+", "role": "assistant"})
        ids = plain(tok, tok.apply_chat_template(conversation, tokenize=False))
        found.append(tuple(ids[:-2]))
    return found


def versa(tok: Any, problem: str, solution: str) -> list[Reading]:
    """UW-Madison-Lee-Lab/VersaPRM, evaluation/get_rewards_reasoning_step.py and prm_llama.py."""
    text = f"{problem.strip()} \n\n" + "".join(f"{step.strip()} \n\n\n\n" for step in steps(solution))
    ids, mark = list(tok(text)["input_ids"]), plain(tok, " \n\n\n\n")[-1]
    return [tuple(ids[: at + 1]) for at, id_ in enumerate(ids) if id_ == mark]


def openr(tok: Any, problem: str, solution: str) -> list[Reading]:
    """openreasoner/openr, reason/inference/rm_call.py: `{question} {answer}`, steps stripped, the tag after each."""
    parts = [part for part in (step.strip() for step in solution.split("\n\n")) if part != ""]
    text = f"{problem} " + " \n\n\n\n\n ".join(parts) + " \n\n\n\n\n "
    ids, mark = list(tok(text)["input_ids"]), plain(tok, " \n\n\n\n\n")[-1]
    return [tuple(ids[: at + 1]) for at, id_ in enumerate(ids) if id_ == mark]


def trl(separator: str) -> Recipe:
    """trl.experimental.prm, `PRMTrainer.tokenize_row`"""

    def recipe(tok: Any, problem: str, solution: str) -> list[Reading]:
        ids = [*([tok.bos_token_id] if tok.bos_token_id is not None else []), *plain(tok, problem)]
        found = []
        for step in steps(solution):
            ids = [*ids, *plain(tok, step), *plain(tok, separator)]
            found.append(tuple(ids))
        return found

    return recipe


def universal(tok: Any, problem: str, solution: str) -> list[Reading]:
    """The card of Universal-PRM-7B: the steps with blank lines between and after them, one pass for each beginning."""
    asked = f"{problem}\n\n###\n\nThe reference answer is: There is no reference answer for this question."
    system = {"role": "system", "content": "You are a helpful assistant."}
    messages = [system, {"role": "user", "content": asked}]
    prompt = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return [(*plain(tok, f"{prompt}{part}\n\n"), tok.eos_token_id) for part in beginnings(solution)]


def reasonflux(tok: Any, problem: str, solution: str) -> list[Reading]:
    """Gen-Verse/ReasonFlux, utils/rm_utils.py: instruction and output as one text, one score at its end."""
    return [tuple(plain(tok, problem + part)) for part in _as_written(solution)]


def outcome(tok: Any, problem: str, solution: str) -> list[Reading]:
    """`AutoModelForSequenceClassification` over the conversation with the answer so far."""
    found = []
    for part in _as_written(solution):
        messages = [{"role": "user", "content": problem}, {"role": "assistant", "content": part}]
        found.append(tuple(plain(tok, tok.apply_chat_template(messages, tokenize=False))))
    return found


def _as_written(solution: str) -> list[str]:
    """The solution up to the end of each step, with the blank line after it where there is one."""
    return [f"{part}\n\n" if solution.startswith(f"{part}\n\n") else part for part in beginnings(solution)]
