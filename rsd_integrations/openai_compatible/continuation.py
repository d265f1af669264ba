"""Whether a server goes on with an answer that was begun, and what to do where it does not."""

from __future__ import annotations

from typing import Any

from rsd_core import ConfigurationError, Path
from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.profile import Profile
from rsd_integrations.openai_compatible.prompts import Prompts
from rsd_integrations.openai_compatible.request_fields import RequestFields, off_options
from rsd_integrations.openai_compatible.written import THINK, Written


def check_completions(endpoint: Endpoint, prompts: Prompts, profile: Profile, path: Path) -> None:
    """Refuse completions where there are none, or where the marks of a thought would be lost.

    Raises:
        ConfigurationError: Either is so.
    """
    if not profile.completions:
        raise ConfigurationError(
            f"{endpoint} has chats alone ({profile.summary}): leave mode=completions and tokenizer=… out"
        )
    vocabulary = prompts.vocabulary
    if vocabulary is None or profile.give_ids:
        return
    thinking = prompts.thinking(path.prompt)
    if thinking is None or thinking.is_off or thinking.markers is None:
        return
    special = {token.content for token in vocabulary.tokenizer.added_tokens_decoder.values() if token.special}
    if lost := [mark for mark in (thinking.markers.open, thinking.markers.close) if mark in special]:
        raise ConfigurationError(
            f"{endpoint.model} writes {lost[0]!r} as a special token, which this server leaves out of its text, so "
            f"that thought and answer would run together ({profile.summary}). Remedies: a server that tells ids (vLLM, "
            "llama-server); a model that thinks in other marks; thinking switched off by template.NAME=VALUE."
        )


async def check_chat_steps(endpoint: Endpoint, profile: Profile, fields: RequestFields) -> None:
    """Refuse steps where chats do not go on with an answer exactly.

    Raises:
        ConfigurationError: They do not.
    """
    wrong = await _wrong(endpoint, profile, fields)
    if wrong is not None:
        off = "".join(
            f"{option}, where the model can do without thoughts; " for option in off_options(profile.without_thoughts)
        )
        raise ConfigurationError(
            f"{endpoint} cannot write steps in mode=chat: {wrong}. Remedies: tokenizer=FOLDER_OR_ID, with which it "
            f"continues the exact text; {off}a profile=… whose chats go on (vllm, sglang); granularity='turn'."
        )


async def _wrong(endpoint: Endpoint, profile: Profile, fields: RequestFields) -> str | None:
    """What is wrong with the way a chat continues the assistant's last message; None where it is right.

    Told by the lengths of prompts: going on with a digit adds a token, and a blank line after it another. A server that
    closes the turn and opens a new one adds the template's words for that, and one that drops or trims the message
    adds too little. A thought that was closed has to be read again as it was written.
    """
    if profile.continues is None:
        return "its chats open a new turn, whatever comes last"

    async def read(beginning: str | None) -> int:
        return await _prompt_tokens(endpoint, profile, fields, beginning)

    if await _thinks_apart(endpoint, profile, fields):
        return (
            "it gives thoughts in a field of their own (its reasoning parser is on), and nothing can be gone on with "
            "inside of one"
        )
    bare, digit, blank = await read(None), await read("1"), await read("1\n\n")
    if not 1 <= digit - bare <= 2:
        return f"an answer begun with one digit made the prompt {digit - bare} tokens longer, so it is not continued"
    if blank <= digit:
        return "blank lines at the end of an answer that was begun are lost"
    if await read(f"{THINK.wrap('1')}1") < digit + 3:
        return "the chat template drops a thought that was begun"
    return None


async def _thinks_apart(endpoint: Endpoint, profile: Profile, fields: RequestFields) -> bool:
    """Whether the beginning of an answer is a thought in a field of its own: nothing of it is in the text."""

    def read(reply: dict[str, Any]) -> bool:
        written = Written(profile)
        written.add(reply["choices"][0])
        ended = reply["choices"][0].get("finish_reason") != "length"
        return bool(written.thought) or not (written.text() or ended)

    messages = [{"role": "user", "content": "What is 2 + 3?"}]
    body = {"model": endpoint.model, "messages": messages, "max_tokens": 16, "temperature": 0}
    return await endpoint.post("chat/completions", fields.applied(body, profile), read)


async def _prompt_tokens(endpoint: Endpoint, profile: Profile, fields: RequestFields, beginning: str | None) -> int:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Count."}]
    body: dict[str, Any] = {"model": endpoint.model, "max_tokens": 1, "temperature": 0}
    if beginning is not None:
        messages.append({"role": "assistant", "content": beginning, **profile.begun})
        body |= profile.continues or {}
    body = fields.applied({**body, "messages": messages}, profile)
    return await endpoint.post("chat/completions", body, lambda reply: int(reply["usage"]["prompt_tokens"]))
