"""Whether a server continues a begun answer, and what to do if it does not."""

from __future__ import annotations

import logging

from rsd_core import ConfigurationError, Message, Path, Step, as_prompt
from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.profile import Profile
from rsd_integrations.openai_compatible.profiles import OPEN
from rsd_integrations.openai_compatible.prompts import Prompts
from rsd_integrations.openai_compatible.request_fields import off_options
from rsd_integrations.openai_compatible.short_answers import QUESTION, ShortAnswers
from rsd_integrations.openai_compatible.written import THINK, Written

logger = logging.getLogger(__name__)
_GOING_ON = ", ".join(profile.name for profile in OPEN if profile.continues is not None)


def check_completions(endpoint: Endpoint, prompts: Prompts, profile: Profile, path: Path) -> None:
    """Refuse completions if the server has none, or if thought markers would be lost.

    Raises:
        ConfigurationError: Either applies.
    """
    if not profile.completions:
        raise ConfigurationError(
            f"{endpoint} supports only chats ({profile.summary}): remove mode=completions and tokenizer=…"
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
            f"{endpoint.model} writes {lost[0]!r} as a special token, which this server omits from its text, so that "
            f"thought and answer would run together ({profile.summary}). Remedies: a server that reports ids (vLLM, "
            "llama-server); a model with other thought markers; switching thinking off with template.NAME=VALUE."
        )


async def check_completion_steps(ask: ShortAnswers) -> None:
    """Refuse completions that do not read exactly what is sent, judging by a prompt's length, else by an answer.

    Raises:
        ConfigurationError: The server has another tokenizer, or adds a template.
    """
    answer, _ = await ask.to(BEGUN, 1)  # to compare its length
    if answer.read is not None:
        return
    wrong = await _goes_on_wrongly(ask)
    if wrong is not None:
        raise ConfigurationError(
            f"{ask.endpoint} does not report how many tokens it read, and does not continue a text exactly: {wrong}. "
            "It has a different tokenizer from the one given, adds its own template, or is not deterministic. "
            "Remedies: the model's own tokenizer=…; mode=chat; if a gateway omits `usage`, the server behind it"
        )
    _warn_of_counts(ask)


async def check_chat_steps(ask: ShortAnswers) -> None:
    """Refuse steps if chats do not continue an answer exactly.

    Raises:
        ConfigurationError: They do not.
    """
    wrong = await _wrong(ask)
    if wrong is not None:
        off = "".join(
            f"{option}, if the model can work without thoughts; "
            for option in off_options(ask.server.profile.without_thoughts)
        )
        raise ConfigurationError(
            f"{ask.endpoint} cannot write steps in mode=chat: {wrong}. Remedies: tokenizer=FOLDER_OR_ID, with which "
            f"it continues the exact text; {off}the profile=… of the server, if its chats can continue "
            f"({_GOING_ON}); granularity='turn'."
        )


async def _wrong(ask: ShortAnswers) -> str | None:
    """What is wrong with the way a chat continues the assistant's last message; None if nothing is.

    Judged by the lengths of prompts: continuing with a digit adds a token, and a blank line after it another. A server
    that closes the turn and opens a new one adds the template's tokens for that, and one that drops or trims the
    message adds too few. A closed thought must be read back as it was written.

    If lengths are not reported, or come from a gateway that does not count the template, half an answer is continued
    instead.
    """
    if ask.server.profile.continues is None:
        return "its chats always open a new turn"
    if await _thinks_apart(ask):
        return (
            "it returns thoughts in a separate field (its reasoning parser is on), and a thought in a field cannot "
            "be continued"
        )
    thought = f"{THINK.wrap('1')}1"
    lengths = [(await ask.to(path, 1))[0].read for path in (_ASKED, _begun("1"), _TURNS)]
    bare, digit, turns = (length or 0 for length in lengths)
    if not (bare and turns > digit + 2):
        return await _wrong_by_text(ask, thought)
    blank = (await ask.to(_begun("1\n\n"), 1))[0].read or 0
    if not 1 <= digit - bare <= 2:
        return f"an answer begun with one digit made the prompt {digit - bare} tokens longer, so it is not continued"
    if blank <= digit:
        return "blank lines at the end of a begun answer are lost"
    if ((await ask.to(_begun(thought), 1))[0].read or 0) < digit + 3:
        return "the chat template drops a begun thought"
    return None


async def _wrong_by_text(ask: ShortAnswers, thought: str) -> str | None:
    """The same, judged by what is written: if something is lost, it makes no difference to what follows."""
    if wrong := await _goes_on_wrongly(ask):
        return f"it does not report how many tokens it read, and {wrong}"
    after = [(await ask.to(_begun(text), _SHORT))[0].text for text in ("1", "1\n\n", thought)]
    if after[0] == after[1]:
        return "blank lines at the end of a begun answer seem to be lost: the continuation is the same"
    if after[0] == after[2]:
        return "the chat template seems to drop a begun thought: the continuation is the same"
    _warn_of_counts(ask)
    return None


async def _goes_on_wrongly(ask: ShortAnswers) -> str | None:
    """How an interrupted answer continues differently than in one piece; None if it does not."""
    path = Path(as_prompt(QUESTION))
    whole, first = [(await ask.to(path, tokens))[0].text for tokens in (3 * _SHORT, _SHORT)]
    second = (await ask.to(path.extend(Step(first, "length")), _SHORT))[0].text if first else ""
    if first and second and f"{whole} ".startswith(first + second):
        return None
    return f"{first!r} was continued with {second!r}, but in one piece it is {whole!r}"


async def _thinks_apart(ask: ShortAnswers) -> bool:
    """Whether an answer begins with a thought in a separate field, with none of it in the text."""
    answer, choice = await ask.to(Path(as_prompt("What is 2 + 3?")), 16)
    written = Written(ask.server.profile)
    written.add(choice)
    return bool(written.thought) or not (answer.text or answer.ending == "end")


def _warn_of_counts(ask: ShortAnswers) -> None:
    logger.warning(
        "%s does not report how many tokens it read: figures on the ledger are estimates, and a silently truncated "
        "prompt goes unnoticed",
        ask.endpoint,
    )


def _begun(text: str) -> Path:
    return _ASKED.extend(Step(text, "length"))


_ASKED = Path((Message("user", "Count."),))
_TURNS = Path((*_ASKED.prompt, Message("assistant", "1"), Message("user", "1")))
BEGUN = _begun("1\n\n")
"""A short begun answer."""
_SHORT = 5
"""Length of an interrupted answer, in tokens."""
