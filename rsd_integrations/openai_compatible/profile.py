"""How one kind of server extends or deviates from the OpenAI API.

Every quirk is a field here: code checks the profile, never the server's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ANY = ".*"
"""Every model."""
StopWay = Literal["kept", "left", "streamed"]
"""How the end of a step is distinguished from the end of the answer. `kept`: on request, the server leaves the stop
string in the text and names it (vLLM, SGLang). `left`: it always leaves the stop string there. `streamed`: it would
strip the stop string and only report "stop", so none is sent: the text is streamed and cut here, and the connection
closed."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of server."""

    name: str
    summary: str
    owner: tuple[str, ...] = ()
    """The value of `owned_by` in the server's list of models."""
    sign: tuple[str, str] | None = None
    """A specific route below the server's root, and a field in its reply."""
    slots: str | None = None
    """The field there with the number of concurrent requests."""
    hosts: tuple[str, ...] = ()
    """URLs where it certainly runs: patterns of host and path, such as `*.openai.azure.com/*`."""
    models: str = ANY
    """Regular expression for the names of the models at those hosts to which it applies."""
    stop: StopWay = "streamed"
    keep: Mapping[str, Any] = field(default_factory=dict)
    """Fields that request keeping the stop string."""
    reason: str | None = None
    """The field of a choice that names the stop string that ended it."""
    completions: bool = True
    """Whether it has `/completions`; otherwise it supports only chats."""
    token_ids: bool = False
    """Whether prompts may be token ids, so that token boundaries never move."""
    give_ids: Mapping[str, Any] = field(default_factory=dict)
    """Fields of completions that request the generated ids."""
    adds_bos: bool = False
    """Whether it prepends the beginning-of-text token to a text prompt."""
    continues: Mapping[str, Any] | None = None
    """Fields that make a chat continue the assistant's last message; None if every chat opens a new turn."""
    begun: Mapping[str, Any] = field(default_factory=dict)
    """Fields that the server requires in that message."""
    repeats: Literal["never", "whole", "always"] = "never"
    """Which answers begin with the text that they continue: none, complete ones, or streamed ones as well."""
    cap: str = "max_tokens"
    """The field of a chat that caps the tokens of its answer, thoughts included."""
    seed: str = "seed"
    """The field for the seed."""
    refuses: frozenset[str] = frozenset()
    """Fields that it refuses or ignores, and that are therefore not sent."""
    plain: Mapping[str, Any] = field(default_factory=dict)
    """Fields that switch off the server's sampling defaults, so that steps are sampled from the unmodified model."""
    top_k: bool = False
    """Whether it honours `top_k`."""
    template: bool = False
    """Whether chats accept chat template arguments, as `chat_template_kwargs`."""
    takes_thoughts: str | None = None
    """The field of an assistant message for an earlier thought; None if it is refused or useless."""
    inline: tuple[str, str] | None = None
    """Its own markers around a thought at the beginning of a message's text."""
    thoughts: str = "in a field of the message, where a reasoning parser is on; else in the text"
    """Where thoughts come back, in words."""
    without_thoughts: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a chat that switch thinking off, for models that support it."""
    json_schema: bool = False
    """Whether chats support `response_format` with a JSON Schema."""
    schema: tuple[str, ...] = ()
    """Where completions accept a JSON Schema: a field's name and nested names; empty if unsupported."""
    schema_is_text: bool = False
    """Whether they expect it as text."""
    logprobs: int = 0
    """How many likely tokens it reports per position; 0 for none."""
    fewest_logprobs: int = 0
    """Minimum number to request in order to get that of the generated token."""
    named_logprobs: bool = False
    """Whether log-probabilities can be requested by token id."""
    echo: bool = False
    """Whether it reports log-probabilities of the prompt's tokens."""
    ranks: Mapping[str, Any] = field(default_factory=dict)
    """Fields that request the rank of each prompt token among all alternatives."""
    stream_counts: Mapping[str, Any] = field(default_factory=dict)
    """Fields that put token counts into every event of a stream, since it may be closed early."""
    stream_usage: bool = True
    """Whether streams support usage through `stream_options`; others refuse or ignore it."""
    spent: frozenset[str] = frozenset()
    """Error codes of HTTP 429 that say that the account's money is spent; elsewhere they may mean throttling."""
    concurrency: int | None = None
    """Maximum concurrent requests, unless it or the user says otherwise; None for no limit."""
