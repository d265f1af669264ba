"""What one kind of server does beyond the OpenAI API, and against it.

A quirk is a field here and nowhere else: code asks the profile, never the server's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ANY = ".*"
"""Every model."""
StopWay = Literal["kept", "left", "streamed"]
"""How the end of a step is told from the end of the answer. `kept`: the server is asked to leave the stop string in the
text and names it (vLLM, SGLang). `left`: it leaves the stop string there by itself. `streamed`: it would strip the stop
string and say no more than "stop", so none is sent: the text is streamed and cut here, and the connection closed."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of server."""

    name: str
    summary: str
    owner: tuple[str, ...] = ()
    """What `owned_by` says in the server's list of models."""
    sign: tuple[str, str] | None = None
    """A route of its own, below the server's root, and a field of what it tells there."""
    slots: str | None = None
    """The field there that says how many requests it works on at once."""
    hosts: tuple[str, ...] = ()
    """Where it certainly is: patterns of host and path, such as `*.openai.azure.com/*`."""
    models: str = ANY
    """Regular expression of the names of the models at those hosts that it is about."""
    stop: StopWay = "streamed"
    keep: Mapping[str, Any] = field(default_factory=dict)
    """Fields that ask for the stop string to be kept."""
    reason: str | None = None
    """The field of a choice that names the stop string which ended it."""
    completions: bool = True
    """Whether it has `/completions`; else chats are all there is."""
    token_ids: bool = False
    """Whether prompts may be token ids, so that no boundary between tokens ever moves."""
    give_ids: Mapping[str, Any] = field(default_factory=dict)
    """Fields of completions that ask for the ids of what was written."""
    adds_bos: bool = False
    """Whether it puts the token that begins a text before a prompt that is text."""
    continues: Mapping[str, Any] | None = None
    """Fields that make a chat go on with the assistant's last message; None where every chat opens a new turn."""
    begun: Mapping[str, Any] = field(default_factory=dict)
    """Fields of that message itself which the server wants for it."""
    repeats: Literal["never", "whole", "always"] = "never"
    """Which answers begin with the text that they go on with: none, those in one piece, or streamed ones as well."""
    cap: str = "max_tokens"
    """The field of a chat that caps the tokens of its answer, thoughts included."""
    seed: str = "seed"
    """The field of a seed."""
    refuses: frozenset[str] = frozenset()
    """Fields that it refuses, or takes and ignores: they are not sent."""
    plain: Mapping[str, Any] = field(default_factory=dict)
    """Fields that switch off the server's own defaults of sampling: a step is drawn from the model as it is."""
    template: bool = False
    """Whether chats take arguments of the chat template, as `chat_template_kwargs`."""
    takes_thoughts: str | None = None
    """The field of an assistant's message that takes an earlier thought back; None where it is refused or of no use."""
    inline: tuple[str, str] | None = None
    """Marks of its own around a thought at the beginning of a message's text."""
    thoughts: str = "in a field of the message, where a reasoning parser is on; else in the text"
    """Where thoughts come back, in words."""
    without_thoughts: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a chat that switch thinking off, in models that can do without."""
    json_schema: bool = False
    """Whether chats write by a JSON Schema, as `response_format` of the type `json_schema` asks."""
    schema: tuple[str, ...] = ()
    """Where completions take a JSON Schema to write by: a field's name, and those inside of it; empty where nowhere."""
    schema_is_text: bool = False
    """Whether they take it as text."""
    logprobs: int = 0
    """How many likely tokens it tells for one place; 0 where it tells none."""
    fewest_logprobs: int = 0
    """How many have to be asked for, at the fewest, to be told that of the token which was written."""
    named_logprobs: bool = False
    """Whether the log-probabilities of tokens named by their ids can be asked for."""
    echo: bool = False
    """Whether it tells log-probabilities of the prompt's tokens."""
    ranks: Mapping[str, Any] = field(default_factory=dict)
    """Fields that ask for the rank of each token of the prompt among all that might stand there."""
    stream_counts: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a stream that bring the counts of tokens with every event, since it may be closed before its end."""
    stream_usage: bool = True
    """Whether streams end with the usage where `stream_options` ask for it; refused or ignored elsewhere."""
    concurrency: int | None = None
    """Requests that it works on at once, at most, unless it or the user tells otherwise; None where they are as many
    as it is sent."""
