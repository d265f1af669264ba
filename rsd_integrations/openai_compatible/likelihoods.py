"""Log-probabilities from servers: of the next word, for judges, and of steps that somebody else wrote."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rsd_core import ConfigurationError, Likelihoods, Message, NextWord, Path, Step, Usage
from rsd_integrations.openai_compatible.answers import usage_of
from rsd_integrations.openai_compatible.profiles import Profile
from rsd_integrations.openai_compatible.prompts import Prompts, as_json, conversation

if TYPE_CHECKING:
    from rsd_integrations.openai_compatible.generator import OpenAIGenerator

CHAT_LOGPROBS = 20
"""Likely tokens that a chat tells at most, by the OpenAI API."""


async def next_word(model: OpenAIGenerator, path: Path, words: Sequence[str], after: Sequence[Message]) -> NextWord:
    """As `OpenAIGenerator.next_word`."""
    started, profile = time.monotonic(), (await model.server()).profile
    if not profile.logprobs:
        raise ConfigurationError(
            f"{model.endpoint} tells no log-probabilities ({profile.summary}); judge with mode=rubric there"
        )
    route, body, firsts = _asked(model.prompts, profile, path, words, after)
    body |= {"model": model.endpoint.model, "max_tokens": 1, "temperature": 0}

    def read(data: dict[str, Any]) -> tuple[list[float], Usage]:
        (choice,) = data["choices"]
        likely = dict(_likely(choice["logprobs"]))
        if firsts is not None:
            found = [likely[f"token_id:{id_}"] for id_ in firsts]
        else:
            found = [_mass(word, likely) for word in words]
        return found, usage_of(data, time.monotonic() - started)

    logprobs, usage = await model.endpoint.post(route, body, read)
    return NextWord(tuple(logprobs), usage)


def _asked(
    prompts: Prompts, profile: Profile, path: Path, words: Sequence[str], after: Sequence[Message]
) -> tuple[str, dict[str, Any], list[int] | None]:
    """Route, fields, and the ids of the words' first tokens where the server can be asked for them."""
    if prompts.mode == "chat":
        messages = conversation(path, after)
        fields: dict[str, Any] = {"logprobs": True, "top_logprobs": CHAT_LOGPROBS}
        if messages[-1].role == "assistant":
            if profile.continues is None:
                messages = _without_opening(messages)
            else:
                fields |= profile.continues
        return "chat/completions", fields | {"messages": as_json(messages)}, None
    asked = prompts.ask(path, profile)
    fields = {"logprobs": profile.logprobs, **asked.fields}
    vocabulary = prompts.vocabulary
    if after and vocabulary is None:
        fields["prompt"] += "".join(f"\n\n{message.content}" for message in after)
    elif after and vocabulary is not None and not profile.token_ids:
        fields["prompt"] = vocabulary.prompt_text(tuple(conversation(path, after)))
    if vocabulary is None or not profile.token_ids:
        return asked.route, fields, None
    ids = [*asked.fields["prompt"], *(vocabulary.after(path.prompt, after) if after else ())]
    fields["prompt"] = ids
    if not profile.named_logprobs:
        return asked.route, fields, None
    firsts = vocabulary.first_tokens(ids[-1], words)
    return (
        asked.route,
        fields | {"logprobs": 1, "logprob_token_ids": firsts, "return_tokens_as_token_ids": True},
        firsts,
    )


def _without_opening(messages: Sequence[Message]) -> list[Message]:
    """For chats that cannot be begun: the question asks for what follows the opening."""
    *before, question, opening = messages
    return [*before, Message(question.role, f"{question.content}\nAnswer only with what follows {opening.content!r}.")]


def _likely(logprobs: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """The likely tokens at the one place, from either shape: of completions or of chats."""
    if logprobs.get("content"):
        return [(str(entry["token"]), float(entry["logprob"])) for entry in logprobs["content"][0]["top_logprobs"]]
    return [(str(token), float(value)) for token, value in logprobs["top_logprobs"][0].items()]


def _mass(word: str, likely: Mapping[str, float]) -> float:
    """Log-probability of the tokens that begin a word, spaces around them aside."""
    masses = [
        math.exp(value) for token, value in likely.items() if token.strip() and word.strip().startswith(token.strip())
    ]
    return math.log(math.fsum(masses)) if masses else -math.inf


async def log_likelihoods(model: OpenAIGenerator, path: Path, steps: Sequence[Step]) -> Likelihoods:
    """As `OpenAIGenerator.log_likelihoods`."""
    profile, vocabulary = (await model.server()).profile, model.prompts.vocabulary
    if vocabulary is None or model.prompts.mode == "chat" or not profile.echo:
        raise ConfigurationError(
            f"{model.endpoint} does not tell how likely a given step is: that takes a tokenizer=…, mode=completions "
            f"and a server that echoes a prompt's log-probabilities, such as vLLM (this one is {profile.summary})"
        )
    before, end = len(vocabulary.ids(path)[0]), vocabulary.tokenizer.eos_token_id
    values, usages = list[float](), list[Usage]()
    for step in steps:
        ids = list(vocabulary.ids(path.extend(step))[0])
        if step.ending == "end" and isinstance(end, int):
            ids.append(end)
        started = time.monotonic()

        def read(data: dict[str, Any], ids: list[int] = ids, started: float = started) -> tuple[float, Usage]:
            (choice,) = data["choices"]
            told = choice["logprobs"]["token_logprobs"]
            if len(told) < len(ids):
                raise ValueError(f"{len(told)} log-probabilities for {len(ids)} tokens")
            return math.fsum(told[before : len(ids)]), usage_of(data, time.monotonic() - started)

        body = {"model": model.endpoint.model, "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 1}
        value, usage = await model.endpoint.post("completions", body, read)
        values.append(value)
        usages.append(usage)
    return Likelihoods(tuple(values), sum(usages, Usage()))
