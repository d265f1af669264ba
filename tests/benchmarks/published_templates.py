"""The thinking models among the chat templates that llama.cpp carries, and what each template does."""

from __future__ import annotations

from tests.templates.families import Family, Mode

_OFF = {"enable_thinking": False}
_ON = {"enable_thinking": True}
_QWEN_OFF = Mode("<think>\n\n</think>\n\n", _OFF)
_HARMONY = "<|end|><|start|>assistant<|channel|>final<|message|>"
_MUSE = "<|eom|><|start|>assistant to=user<|message|>"
_APRIEL = "\n[BEGIN FINAL RESPONSE]\n"
_HY = ("<think:opensource>", "</think:opensource>")
_HY_TOKENS = tuple(f"<｜hy_{name}:opensource｜>" for name in ("User", "Assistant", "eos", "begin_of_sentence"))
_NO_BUDGET = (
    "<seed:think>\n<seed:cot_budget_reflect>The current thinking budget is 0, so I will directly start answering the "
    "question.</seed:cot_budget_reflect>\n</seed:think>"
)
_GEMMA_OFF = Mode("<|channel>thought\n<channel|>", _OFF)
_CALL = "reasoning_content before a tool call"


def _think(name: str, thinks: Mode, answers: Mode | None = None, **more: str) -> Family:
    """`<think>` on a line of its own, and a blank line before the answer."""
    return Family(name, "<think>\n", "\n</think>\n\n", thinks, answers, **{"shown": "reasoning_content"} | more)  # type: ignore[arg-type]


def _line(name: str, thinks: Mode, answers: Mode | None = None, **more: str) -> Family:
    """`<think>` on a line of its own, and the answer on the next."""
    return Family(name, "<think>\n", "\n</think>\n", thinks, answers, **{"shown": "reasoning_content"} | more)  # type: ignore[arg-type]


def _tight(name: str, thinks: Mode, answers: Mode | None = None, **more: str) -> Family:
    """`<think>` with no white space around."""
    return Family(name, "<think>", "</think>", thinks, answers, **{"shown": "reasoning_content"} | more)  # type: ignore[arg-type]


FAMILIES = (
    _think("Qwen-Qwen3-0.6B", Mode(""), _QWEN_OFF),
    _think("Qwen3.5-4B", Mode("<think>\n"), _QWEN_OFF),
    _think("Qwen-QwQ-32B", Mode("<think>\n", _ON), Mode("<think>\n</think>", _OFF), shown="content"),
    _think("MiniMax-M2", Mode("<think>\n")),
    _think("openbmb-MiniCPM5-1B", Mode("<think>\n", _ON), _QWEN_OFF),
    Family(
        "Reka-Edge",
        " <think>\n",
        "\n</think>\n\n",
        Mode(" <think>\n", _ON),
        Mode("", _OFF),
        "reasoning_content",
        before_answer=" ",
    ),
    _think("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", Mode("<think>\n"), shown=""),
    _think(
        "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", Mode("<think>\n", _ON), Mode("<think>\n</think>", _OFF), shown=""
    ),
    _think("llama-cpp-deepseek-r1", Mode("<think>\n"), shown=""),
    _think("LFM2.5-Instruct", Mode(""), shown="content"),
    _think(
        "HuggingFaceTB-SmolLM3-3B",
        Mode(""),
        Mode("<think>\n\n</think>\n", _OFF),
        shown="content",
        earlier="kept in the content",
    ),
    _line(
        "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", Mode("<think>\n"), Mode("<think></think>", _OFF), earlier="an empty one"
    ),
    _line(
        "NVIDIA-Nemotron-Nano-v2",
        Mode("<think>\n"),
        Mode("<think></think>", system="Be brief. /no_think"),
        shown="content after the opening",
    ),
    _line("StepFun3.5-Flash", Mode("<think>\n")),
    _line("Bielik-11B-v3.0-Instruct", Mode("<think>\n", _ON), Mode("", _OFF), earlier="kept"),
    _line("poolside-Laguna-XS-2.1", Mode("<think>", _ON), Mode("</think>", _OFF), earlier="kept", before_answer="\n"),
    _line("poolside-Laguna-XS.2", Mode("<think>", _ON), Mode("</think>", _OFF), earlier="kept", before_answer="\n"),
    _tight("poolside-Laguna-S-2.1", Mode("<think>"), Mode("</think>", _OFF), earlier="kept"),
    _tight(
        "deepseek-ai-DeepSeek-V3.1",
        Mode("<think>", {"thinking": True}),
        Mode("<think></think>", {"thinking": False}),
        shown="prefix",
    ),
    _tight(
        "deepseek-ai-DeepSeek-V3.2", Mode("<think>", {"thinking": True}), Mode("<think></think>", {"thinking": False})
    ),
    _tight("deepseek-ai-DeepSeek-V4", Mode("<think>", {"thinking": True}), Mode("</think>", {"thinking": False})),
    _tight(
        "deepseek-ai-DeepSeek-V4-Flash-0731", Mode("<think>", {"thinking": True}), Mode("</think>", {"thinking": False})
    ),
    Family(
        "GLM-4.6",
        "\n<think>",
        "</think>\n",
        Mode(""),
        Mode("\n<think></think>", _OFF),
        "reasoning_content",
        "an empty one",
        before_answer="\n",
    ),
    _tight("GLM-4.7-Flash", Mode("<think>"), Mode("</think>", _OFF), earlier="an empty one"),
    _tight("Kimi-K2-Thinking", Mode(""), shown="", earlier="an empty one"),
    _tight("Spark2.5", Mode("<think>"), Mode("</think>", _OFF), earlier="kept"),
    Family(
        "inclusionai-ling-3.0-flash",
        "\n<think>",
        "</think>",
        Mode("\n<think>"),
        Mode("\n<think></think>", _OFF),
        "reasoning_content",
        "kept",
    ),
    _tight("LFM2.5-8B-A1B", Mode(""), shown="thinking"),
    Family("llama-cpp-rwkv-world", " <think>", "</think>", Mode(" <think>", _ON), Mode(" <think>\n</think>", _OFF)),
    Family(
        "ibm-granite-granite-3.3-2B-Instruct",
        "<think>",
        "</think><response>",
        Mode("", {"thinking": True}),
        Mode("", {"thinking": False}),
        "content",
        "kept in the content",
    ),
    Family(
        "ByteDance-Seed-OSS",
        "<seed:think>",
        "</seed:think>\n",
        Mode(""),
        Mode(_NO_BUDGET, {"thinking_budget": 0}),
        "reasoning_content",
        "kept",
    ),
    Family(
        "tencent-Hy3",
        *_HY,
        Mode(_HY[0], {"reasoning_effort": "high"}),
        Mode("".join(_HY), {"reasoning_effort": "no_think"}),
        "reasoning_content",
        "an empty one",
        special=_HY_TOKENS,
    ),
    Family(
        "MiniMax-M3",
        "<mm:think>",
        "</mm:think>",
        Mode("<mm:think>", {"thinking_mode": "enabled"}),
        Mode("</mm:think>", {"thinking_mode": "disabled"}),
        "reasoning_content",
        "kept",
    ),
    Family("mistralai-Ministral-3-14B-Reasoning-2512", "[THINK]", "[/THINK]", Mode(""), None, "content blocks", "kept"),
    Family("openai-gpt-oss-120b", "<|channel|>analysis<|message|>", _HARMONY, Mode(""), None, "thinking"),
    Family(
        "upstage-Solar-Open-100B",
        "<|think|>",
        "<|end|><|begin|>assistant<|content|>",
        Mode(""),
        Mode("<|think|><|end|><|begin|>assistant", {"reasoning_effort": "low"}),
        "reasoning",
        before_answer="<|content|>",
    ),
    Family("muse-glimmer", " to=self<|message|>", _MUSE, Mode(""), None, "reasoning_content", "kept"),
    Family(
        "Kimi-K3",
        "<|open|>think<|sep|>",
        "<|close|>think<|sep|><|open|>response<|sep|>",
        Mode("<|open|>think<|sep|>"),
        Mode("<|open|>response<|sep|>", {"thinking": False}),
        "reasoning_content",
        "kept",
    ),
    Family(
        "Cohere2MoE",
        "<|START_THINKING|>",
        "<|END_THINKING|><|START_TEXT|>",
        Mode("<|START_THINKING|>"),
        Mode("<|START_THINKING|><|END_THINKING|>", {"reasoning": False}),
        "reasoning_content",
        "kept",
        before_answer="<|START_TEXT|>",
    ),
    Family(
        "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
        "<|START_THINKING|>",
        "<|END_THINKING|><|START_RESPONSE|>",
        Mode("", _ON),
        Mode("<|START_THINKING|><|END_THINKING|>", _OFF),
        _CALL,
        before_answer="<|START_RESPONSE|>",
    ),
    Family("google-gemma-4-31B-it", "<|channel>thought\n", "\n<channel|>", Mode("", _ON), _GEMMA_OFF, _CALL),
    Family("google-gemma-4-31B-it-interleaved", "<|channel>thought\n", "<channel|>", Mode("", _ON), _GEMMA_OFF, _CALL),
    Family(
        "Apertus-8B-Instruct",
        "<|inner_prefix|>",
        "<|inner_suffix|>",
        Mode("", _ON),
        Mode("", _OFF),
        "content parts",
        "kept",
    ),
    Family(
        "Apriel-1.6-15b-Thinker-fixed",
        "Here are my reasoning steps:\n",
        _APRIEL,
        Mode("Here are my reasoning steps:\n"),
        None,
        "reasoning_content",
    ),
    Family(
        "unsloth-Apriel-1.5",
        "Here are my reasoning steps:\n",
        _APRIEL,
        Mode(""),
        None,
        "content",
        "kept in the content",
    ),
)
"""In order of their formats."""
