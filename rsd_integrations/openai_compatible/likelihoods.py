"""Log-probabilities from servers: of the next word, for judges, and of given steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rsd_core import ConfigurationError, Message, Path, Step
from rsd_core.concurrency import run_all
from rsd_core.thoughts.reading import reader_at
from rsd_integrations.openai_compatible.charges import Charges
from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.profile import Profile
from rsd_integrations.openai_compatible.prompts import Prompts, conversation
from rsd_integrations.openai_compatible.request_fields import RequestFields
from rsd_integrations.prm_formats import without_markers

CHAT_LOGPROBS = 20
"""Maximum number of likely tokens in a chat reply, by the OpenAI API."""


class LogProbabilities:
    """The likelihoods of a model behind an endpoint.

    Args:
        endpoint: Where the model is.
        prompts: How paths are sent to it.
        fields: The user's part of requests.
        profile: The server's profile.
        charges: Receives the work.
    """

    def __init__(
        self, endpoint: Endpoint, prompts: Prompts, fields: RequestFields, profile: Profile, charges: Charges
    ) -> None:
        self._endpoint, self._prompts, self._fields = endpoint, prompts, fields
        self._profile, self._charges = profile, charges

    async def of_words(self, path: Path, words: Sequence[str], after: Sequence[Message]) -> tuple[float, ...]:
        """See `OpenAIGenerator.next_word`."""
        if not self._profile.logprobs:
            raise ConfigurationError(
                f"{self._endpoint} reports no log-probabilities ({self._profile.summary}); judge with mode=rubric there"
            )
        route, body, first_ids = self._question(path, words, after)
        body |= {"model": self._endpoint.model, "max_tokens": 1, "temperature": 0}
        body = self._fields.applied(body, self._profile)

        def read(reply: dict[str, Any]) -> tuple[float, ...]:
            (choice,) = reply["choices"]
            if not choice.get("logprobs"):
                raise ConfigurationError(
                    f"{self._endpoint} returned no log-probabilities although requested. A gateway may drop them: "
                    "use the server behind it, or judge with mode=rubric"
                )
            likely = dict(_likely(choice["logprobs"]))
            if first_ids is not None:
                return tuple(likely[f"token_id:{id_}"] for id_ in first_ids)
            return tuple(_mass(word, likely) for word in words)

        return await self._endpoint.post(route, body, read, self._charges.add_reply)

    async def of_steps(self, path: Path, steps: Sequence[Step]) -> tuple[float, ...]:
        """See `OpenAIGenerator.log_likelihoods`; one request per step."""
        vocabulary = self._prompts.vocabulary
        if vocabulary is None or self._prompts.mode == "chat" or not self._profile.echo:
            raise ConfigurationError(
                f"{self._endpoint} does not report the likelihood of a given step: that needs a tokenizer=…, "
                "mode=completions and a server that returns a prompt's log-probabilities, such as vLLM (this one is "
                f"{self._profile.summary})"
            )
        all_, end = vocabulary.ids.after(path, steps), vocabulary.tokenizer.eos_token_id

        async def of_one(step: Step, feed: Sequence[int], own: int) -> float:
            ids = [*all_.prefix, *feed]
            before = len(ids) - own
            if step.ending == "end" and isinstance(end, int):
                ids.append(end)

            def read(reply: dict[str, Any]) -> float:
                (choice,) = reply["choices"]
                logprobs = choice["logprobs"]["token_logprobs"]
                if len(logprobs) < len(ids):
                    raise ValueError(f"{len(logprobs)} log-probabilities for {len(ids)} tokens")
                return math.fsum(logprobs[before : len(ids)])

            body = {"model": self._endpoint.model, "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 1}
            body = self._fields.applied(body, self._profile)
            return await self._endpoint.post("completions", body, read, self._charges.add_reply)

        return tuple(await run_all([of_one(*one) for one in zip(steps, all_.feeds, all_.own, strict=True)]))

    def _question(
        self, path: Path, words: Sequence[str], after: Sequence[Message]
    ) -> tuple[str, dict[str, Any], list[int] | None]:
        """Route, fields, and the ids of the words' first tokens if the server accepts ids."""
        prompts, profile = self._prompts, self._profile
        if prompts.mode == "chat":
            messages = conversation(_as_earlier_turn(path) if after else path, after)
            fields: dict[str, Any] = {"logprobs": True, "top_logprobs": CHAT_LOGPROBS}
            if messages[-1].role == "assistant":
                if profile.continues is None:
                    messages = _without_opening(messages)
                else:
                    fields |= profile.continues
            sent = prompts.as_json(messages, profile)
            if messages[-1].role == "assistant":
                sent[-1] |= profile.begun
            return "chat/completions", fields | {"messages": sent}, None
        sent_path = prompts.render(path, profile)
        fields = {"logprobs": profile.logprobs, **sent_path.fields}
        vocabulary = prompts.vocabulary
        if after and vocabulary is None:
            fields["prompt"] += "".join(f"\n\n{message.content}" for message in after)
        elif after and vocabulary is not None and not profile.token_ids:
            fields["prompt"] = vocabulary.prompt_text(tuple(conversation(_as_earlier_turn(path), after)))
        if vocabulary is None or not profile.token_ids:
            return sent_path.route, fields, None
        fields["prompt"] = ids = vocabulary.asked(path, after)[0]
        if not profile.named_logprobs:
            return sent_path.route, fields, None
        first_ids = vocabulary.first_tokens(ids[-1], words)
        named = {"logprobs": 1, "logprob_token_ids": first_ids, "return_tokens_as_token_ids": True}
        return sent_path.route, fields | named, first_ids


def _as_earlier_turn(path: Path) -> Path:
    """A response followed by further messages: its thought is plain text, since chat templates would drop it."""
    return path if reader_at(path).markers is None else without_markers(path)


def _without_opening(messages: Sequence[Message]) -> list[Message]:
    """For chats whose answer cannot be begun: the question asks for what follows the opening."""
    *before, question, opening = messages
    return [*before, Message(question.role, f"{question.content}\nAnswer only with what follows {opening.content!r}.")]


def _likely(logprobs: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """The likely tokens at the single position, from completions or chats."""
    if logprobs.get("content"):
        return [(str(entry["token"]), float(entry["logprob"])) for entry in logprobs["content"][0]["top_logprobs"]]
    return [(str(token), float(value)) for token, value in logprobs["top_logprobs"][0].items()]


def _mass(word: str, likely: Mapping[str, float]) -> float:
    """Log-probability of the tokens that begin a word, ignoring surrounding spaces."""
    masses = [
        math.exp(value) for token, value in likely.items() if token.strip() and word.strip().startswith(token.strip())
    ]
    return math.log(math.fsum(masses)) if masses else -math.inf
