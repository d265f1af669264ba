"""Chat templates of our own, one in the manner of each format in use, as short as they can be."""

from __future__ import annotations

from typing import Any

from tests.templates.families import Family, Mode

_OFF = {"enable_thinking": False}

_LAST = """
{%- set last = namespace(question=-1) -%}
{%- for message in messages -%}{%- if message.role == 'user' -%}{%- set last.question = loop.index0 -%}{%- endif -%}{%- endfor -%}
"""
_SPLIT = """
{%- set thought, content = message.reasoning_content or '', message.content -%}
{%- if not thought and '</think>' in content -%}
  {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
  {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
"""


def _chat(
    assistant: str, generation: str = "", *, before: str = "", turn: str = "<|im_start|>", end: str = "<|im_end|>\\n"
) -> str:
    """A template: what begins it, what it writes of an assistant's message, and what of a response to come."""
    return (
        f"{before}{{%- for message in messages -%}}{{{{- '{turn}' + message.role + '\\n' -}}}}"
        f"{{%- if message.role == 'assistant' -%}}{assistant}"
        f"{{%- else -%}}{{{{- message.content -}}}}{{%- endif -%}}{{{{- '{end}' -}}}}{{%- endfor -%}}"
        f"{{%- if add_generation_prompt -%}}{{{{- '{turn}assistant\\n' -}}}}{generation}{{%- endif -%}}"
    )


_OFF_ONLY = "{%- if enable_thinking is false -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
_OFF_OR_ON = "{%- if enable_thinking is false -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- else -%}{{- '<think>\\n' -}}{%- endif -%}"
_CLOSER_OR_ON = "{{- '</think>' if enable_thinking is false else '<think>' -}}"
_THINK_AFTER_THE_QUESTION = (
    _SPLIT
    + "{%- if loop.index0 > last.question -%}"
    + "{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' -}}{%- endif -%}{{- content.lstrip('\\n') -}}"
)
_TRIMMED = (
    _SPLIT
    + "{%- if loop.index0 > last.question -%}"
    + "{{- '<think>\\n' + (thought | trim) + '\\n</think>\\n\\n' -}}{%- endif -%}{{- content | trim -}}"
)
_TIGHT = "{{- ('<think>' + message.reasoning_content if message.reasoning_content else '') + '</think>' + message.content -}}"
_SPLIT_UNLESS_LAST = "{{- message.content if loop.last else message.content.split('</think>')[-1].lstrip('\\n') -}}"
_ALWAYS_SPLIT = "{{- message.content.split('</think>')[-1] -}}"
_OWN_LINE = (
    _SPLIT
    + "{{- '\\n<think>' + (thought.strip() if loop.index0 > last.question else '') + '</think>\\n' + content.strip() -}}"
)
_BRIEF = "{%- set brief = messages[0].role == 'system' and '/no_think' in messages[0].content -%}"
_AFTER_OPENING = (
    "{%- if loop.last -%}{{- ('<think></think>' if brief else '<think>\\n') + message.content.strip() -}}"
    "{%- else -%}{{- message.content.split('</think>')[-1].strip() -}}{%- endif -%}"
)
_BLOCKS = """
{{- bos_token -}}
{%- for message in messages -%}
  {%- if message.role == 'user' -%}{{- '[INST]' + message.content + '[/INST]' -}}
  {%- elif message.content is string -%}{{- message.content + eos_token -}}
  {%- else -%}
    {%- for block in message.content -%}
      {{- '[THINK]' + block.thinking + '[/THINK]' if block.type == 'thinking' else block.text -}}
    {%- endfor -%}
    {{- eos_token -}}
  {%- endif -%}
{%- endfor -%}
"""
_CHANNELS = """
{{- '<|start|>system<|message|>Reasoning: ' + (reasoning_effort or 'medium') + '<|end|>' -}}
{%- for message in messages -%}
  {%- if message.role == 'assistant' -%}
    {%- if '<|channel|>' in message.content -%}{{- raise_exception('channels are fields here') -}}{%- endif -%}
    {%- if message.thinking and loop.last and not add_generation_prompt -%}
      {{- '<|start|>assistant<|channel|>analysis<|message|>' + message.thinking + '<|end|>' -}}
    {%- endif -%}
    {{- '<|start|>assistant<|channel|>final<|message|>' + message.content -}}
    {{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' -}}
  {%- else -%}{{- '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}
"""
_MESSAGES_OF_THEIR_OWN = """
{%- for message in messages -%}
  {%- if message.role == 'assistant' and message.reasoning -%}
    {{- '<|begin|>assistant<|think|>' + message.reasoning + '<|end|>' -}}
  {%- endif -%}
  {{- '<|begin|>' + message.role + '<|content|>' + message.content + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- ('<|begin|>assistant<|think|><|end|>' if enable_thinking is false else '') + '<|begin|>assistant' -}}
{%- endif -%}
"""
_ANSWER_MARKER = (
    "{%- if message.reasoning_content -%}{{- '<|START_THINKING|>' + message.reasoning_content + '<|END_THINKING|>' -}}"
    "{%- endif -%}{{- '<|START_TEXT|>' + message.content + '<|END_TEXT|>' -}}"
)
_ANSWER_MARKER_ON = "{{- '<|START_THINKING|>' + ('<|END_THINKING|>' if enable_thinking is false else '') -}}"
_HARMONY = "<|end|><|start|>assistant<|channel|>final<|message|>"
_THINK: tuple[Any, ...] = ("<think>\n", "\n</think>\n\n")
_EMPTY = Mode("<think>\n\n</think>\n\n", _OFF)

WRITTEN: dict[str, tuple[Family, str]] = {
    family.name: (family, source)
    for family, source in (
        (
            Family("opened by the model", *_THINK, Mode(""), _EMPTY, "reasoning_content"),
            _chat(_THINK_AFTER_THE_QUESTION, _OFF_ONLY, before=_LAST),
        ),
        (
            Family(
                "opened by the template, everything trimmed", *_THINK, Mode("<think>\n"), _EMPTY, "reasoning_content"
            ),
            _chat(_TRIMMED, _OFF_OR_ON, before=_LAST),
        ),
        (
            Family(
                "no white space, the closer alone, thoughts kept",
                "<think>",
                "</think>",
                Mode("<think>"),
                Mode("</think>", _OFF),
                "reasoning_content",
                "kept",
            ),
            _chat(_TIGHT, _CLOSER_OR_ON),
        ),
        (
            Family("thoughts in the content alone", *_THINK, Mode("<think>\n"), None, "content"),
            _chat(_SPLIT_UNLESS_LAST, "{{- '<think>\\n' -}}"),
        ),
        (
            Family("content always split at the closer", *_THINK, Mode("<think>\n"), None, ""),
            _chat(_ALWAYS_SPLIT, "{{- '<think>\\n' -}}"),
        ),
        (
            Family(
                "a line break before the opener",
                "\n<think>",
                "</think>\n",
                Mode(""),
                Mode("\n<think></think>", _OFF),
                "reasoning_content",
                "an empty one",
                before_answer="\n",
            ),
            _chat(
                _OWN_LINE,
                "{{- '\\n<think></think>' if enable_thinking is false else '' -}}",
                before=_LAST,
                turn="<|",
                end="<|end|>",
            ),
        ),
        (
            Family(
                "switched off by the system message",
                "<think>\n",
                "\n</think>\n",
                Mode("<think>\n"),
                Mode("<think></think>", system="/no_think"),
                "content after the opening",
            ),
            _chat(_AFTER_OPENING, "{{- '<think></think>' if brief else '<think>\\n' -}}", before=_BRIEF),
        ),
        (Family("content blocks", "[THINK]", "[/THINK]", Mode(""), None, "content blocks", "kept"), _BLOCKS),
        (Family("channels", "<|channel|>analysis<|message|>", _HARMONY, Mode(""), None, "thinking"), _CHANNELS),
        (
            Family(
                "messages of their own",
                "<|think|>",
                "<|end|><|begin|>assistant<|content|>",
                Mode(""),
                Mode("<|think|><|end|><|begin|>assistant", _OFF),
                "reasoning",
                "kept",
                before_answer="<|content|>",
            ),
            _MESSAGES_OF_THEIR_OWN,
        ),
        (
            Family(
                "a marker before the answer",
                "<|START_THINKING|>",
                "<|END_THINKING|><|START_TEXT|>",
                Mode("<|START_THINKING|>"),
                Mode("<|START_THINKING|><|END_THINKING|>", _OFF),
                "reasoning_content",
                "kept",
                before_answer="<|START_TEXT|>",
            ),
            _chat(_ANSWER_MARKER, _ANSWER_MARKER_ON, end="<|END_OF_TURN_TOKEN|>"),
        ),
    )
}
"""By what is special about them."""
PLAIN = _chat("{{- message.content -}}")
"""A model that does not think."""
