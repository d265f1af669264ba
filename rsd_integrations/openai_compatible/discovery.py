"""What a few questions reveal about a server: where thoughts come back, what switches them off, the spec to use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rsd_core import ConfigurationError, MissingDependency, as_prompt
from rsd_core.data import masked
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.errors import EndpointError, Refused
from rsd_integrations.openai_compatible.profile import Profile
from rsd_integrations.openai_compatible.prompts import Prompts, load_vocabulary
from rsd_integrations.openai_compatible.request_fields import RequestFields, off_options, options_of
from rsd_integrations.openai_compatible.server import Server
from rsd_integrations.openai_compatible.written import FIELDS, Written

QUESTION = "Mia has 45 apples. Then she buys 12 more. How many apples does Mia have now?"
TOKENS = 1024
"""Maximum tokens of an answer to it: thoughts take a few hundred."""
SWITCHES: tuple[Mapping[str, Any], ...] = (
    {"chat_template_kwargs": {"enable_thinking": False}},  # Qwen3, GLM, SmolLM3 and others
    {"chat_template_kwargs": {"thinking": False}},  # DeepSeek-V3.1, Kimi, granite
    {"reasoning_effort": "none"},
    {"reasoning": {"enabled": False}},
    {"thinking": {"type": "disabled"}},
)
"""Known ways to switch thinking off, tried if the profile's does not work."""


@dataclass(frozen=True, slots=True)
class Thoughts:
    """What one answer showed."""

    where: str | None
    """Where the thought was, in words; None without a thought."""
    options: list[str] = field(default_factory=list)
    """Spec options that switch thinking off, if found."""


async def find_thoughts(endpoint: Endpoint, fields: RequestFields, profile: Profile) -> Thoughts:
    """Ask a chat once, and if it thought, again with options that may switch thinking off.

    Raises:
        EndpointError: The server failed.
        Refused: It does not accept the request.
    """
    where = await _asked(endpoint, fields, profile, {})
    if where is None:
        return Thoughts(None)
    tried = [profile.without_thoughts] if profile.without_thoughts else []
    for switch in [*tried, *(one for one in SWITCHES if one not in tried)]:
        try:
            if await _asked(endpoint, fields, profile, switch) is None:
                return Thoughts(where, off_options(switch))
        except (Refused, EndpointError):
            continue
    return Thoughts(where)


def rendered_thoughts(prompts: Prompts, fields: RequestFields) -> Thoughts:
    """The same if the tokenizer's template renders the prompt locally: the template itself shows it."""
    prompt = as_prompt(QUESTION)
    thinking = prompts.thinking(prompt)
    if thinking is None or thinking.is_off or thinking.markers is None:
        return Thoughts(None)
    where = f"in the text, between {thinking.markers.open!r} and {thinking.markers.close!r}"
    for name in ("enable_thinking", "thinking"):
        try:
            other = load_vocabulary(str(prompts.tokenizer), {**fields.template, name: False}).thinking(prompt)
        except (ConfigurationError, MissingDependency):
            continue
        if other is None or other.is_off:
            return Thoughts(where, [f"template.{name}=false"])
    return Thoughts(where)


def spec_of(endpoint: Endpoint, prompts: Prompts, fields: RequestFields, server: Server, named: bool) -> str:
    """The spec that expresses what is known about a model.

    Args:
        endpoint: Where it is.
        prompts: How it is asked.
        fields: The user's part of requests.
        server: What is known of the server.
        named: Whether the profile must be named, since it is not recognised.
    """
    options = [f"profile={server.profile.name}"] if named else []
    if prompts.tokenizer is not None:
        options.append(f"tokenizer={prompts.tokenizer}")
    if prompts.mode != ("completions" if prompts.tokenizer else "chat"):
        options.append(f"mode={prompts.mode}")
    if endpoint.key_env is not None:
        options.append(f"key_env={endpoint.key_env}")
    options += options_of("template", fields.template) + options_of("body", fields.body)
    if fields.omit:
        options.append(f"omit={'+'.join(sorted(fields.omit))}")
    return masked(f"{','.join(['openai', *options])}:{endpoint.model}@{endpoint.base_url}")


async def _asked(endpoint: Endpoint, fields: RequestFields, profile: Profile, more: Mapping[str, Any]) -> str | None:
    """Where the thought of one answer was; None without a thought."""
    body = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": TOKENS,
        "temperature": 0,
    }
    return await endpoint.post(
        "chat/completions", {**fields.applied(body, profile), **more}, lambda reply: _where(reply, profile)
    )


def _where(reply: Mapping[str, Any], profile: Profile) -> str | None:
    (choice,) = reply["choices"]
    message = choice["message"]
    named = [f"`{name}`" for name in FIELDS if message.get(name)]
    if named:
        return f"in {' and '.join(named)} of the message"
    written = Written(profile)
    written.add(choice)
    if written.thought:
        return "in content parts of the type `thinking`"
    content = str(message.get("content") or "").lstrip()
    marks = [(markers.open, markers.close) for markers in MARKERS.values()] + [profile.inline or ("", "")]
    for opening, close in marks:
        if opening and (content.startswith(opening) or close in content):
            return f"in the text, between `{opening}` and `{close}`"
    details = (reply.get("usage") or {}).get("completion_tokens_details") or {}
    if count := details.get("reasoning_tokens"):
        return f"nowhere: {json.dumps(count)} thought tokens were counted, and are paid for"
    return None
