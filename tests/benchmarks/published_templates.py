"""The thinking models among the chat templates in llama.cpp, and the behaviour of each template."""

from __future__ import annotations

from tests.templates.families import Family, Mode

_OFF = {"enable_thinking": False}
_ON = {"enable_thinking": True}
_THINK = ("<think>\n", "\n</think>\n\n")
_LINE = ("<think>\n", "\n</think>\n")
_TIGHT = ("<think>", "</think>")
_HY = ("<think:opensource>", "</think:opensource>")
_COHERE = "<|START_THINKING|>"
_APRIEL = ("Here are my reasoning steps:\n", "\n[BEGIN FINAL RESPONSE]\n")
_EMPTY = Mode("<think>\n\n</think>\n\n", _OFF)
_CLOSER = Mode("</think>", _OFF)
_GEMMA_OFF = Mode("<|channel>thought\n<channel|>", _OFF)
_DEEPSEEK_ON = Mode("<think>", {"thinking": True})
_DEEPSEEK_OFF = Mode("<think></think>", {"thinking": False})
_NO_BUDGET = (
    "<seed:think>\n<seed:cot_budget_reflect>The current thinking budget is 0, so I will directly start answering the "
    "question.</seed:cot_budget_reflect>\n</seed:think>"
)
_FIELD = "reasoning_content"
_CALL = "reasoning_content before a tool call"
_NEVER = ""
_EMPTY_ONE = "an empty one"
_IN_CONTENT = "kept in the content"

FAMILIES = (
    Family("Qwen-Qwen3-0.6B", *_THINK, Mode(""), _EMPTY, _FIELD),
    Family("Qwen3.5-4B", *_THINK, Mode("<think>\n"), _EMPTY, _FIELD),
    Family("Qwen-QwQ-32B", *_THINK, Mode("<think>\n", _ON), Mode("<think>\n</think>", _OFF), "content"),
    Family("MiniMax-M2", *_THINK, Mode("<think>\n"), None, _FIELD),
    Family("openbmb-MiniCPM5-1B", *_THINK, Mode("<think>\n", _ON), _EMPTY, _FIELD),
    Family(
        "Reka-Edge", " <think>\n", "\n</think>\n\n", Mode(" <think>\n", _ON), Mode("", _OFF), _FIELD, before_answer=" "
    ),
    Family("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", *_THINK, Mode("<think>\n"), None, _NEVER),
    Family(
        "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
        *_THINK,
        Mode("<think>\n", _ON),
        Mode("<think>\n</think>", _OFF),
        _NEVER,
    ),
    Family("llama-cpp-deepseek-r1", *_THINK, Mode("<think>\n"), None, _NEVER),
    Family("LFM2.5-Instruct", *_THINK, Mode(""), None, "content"),
    Family("HuggingFaceTB-SmolLM3-3B", *_THINK, Mode(""), Mode("<think>\n\n</think>\n", _OFF), "content", _IN_CONTENT),
    Family(
        "NVIDIA-Nemotron-Nano-v2",
        *_THINK,
        Mode("<think>\n"),
        Mode("<think></think>", system="Be brief. /no_think"),
        "content after the opening",
    ),
    Family(
        "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        *_LINE,
        Mode("<think>\n"),
        Mode("<think></think>", _OFF),
        _FIELD,
        _EMPTY_ONE,
    ),
    Family("StepFun3.5-Flash", *_LINE, Mode("<think>\n"), None, _FIELD),
    Family("Bielik-11B-v3.0-Instruct", *_LINE, Mode("<think>\n", _ON), Mode("", _OFF), _FIELD, "kept"),
    Family("poolside-Laguna-XS-2.1", *_LINE, Mode("<think>", _ON), _CLOSER, _FIELD, "kept", before_answer="\n"),
    Family("poolside-Laguna-XS.2", *_LINE, Mode("<think>", _ON), _CLOSER, _FIELD, "kept", before_answer="\n"),
    Family("poolside-Laguna-S-2.1", *_TIGHT, Mode("<think>"), _CLOSER, _FIELD, "kept"),
    Family("deepseek-ai-DeepSeek-V3.1", *_TIGHT, _DEEPSEEK_ON, _DEEPSEEK_OFF, "prefix"),
    Family("deepseek-ai-DeepSeek-V3.2", *_TIGHT, _DEEPSEEK_ON, _DEEPSEEK_OFF, _FIELD),
    Family("deepseek-ai-DeepSeek-V4", *_TIGHT, _DEEPSEEK_ON, Mode("</think>", {"thinking": False}), _FIELD),
    Family("deepseek-ai-DeepSeek-V4-Flash-0731", *_TIGHT, _DEEPSEEK_ON, Mode("</think>", {"thinking": False}), _FIELD),
    Family(
        "GLM-4.6",
        "\n<think>",
        "</think>\n",
        Mode(""),
        Mode("\n<think></think>", _OFF),
        _FIELD,
        _EMPTY_ONE,
        before_answer="\n",
    ),
    Family("GLM-4.7-Flash", *_TIGHT, Mode("<think>"), _CLOSER, _FIELD, _EMPTY_ONE),
    Family("Kimi-K2-Thinking", *_TIGHT, Mode(""), None, _NEVER, _EMPTY_ONE),
    Family("Spark2.5", *_TIGHT, Mode("<think>"), _CLOSER, _FIELD, "kept"),
    Family(
        "inclusionai-ling-3.0-flash",
        "\n<think>",
        "</think>",
        Mode("\n<think>"),
        Mode("\n<think></think>", _OFF),
        _FIELD,
        "kept",
    ),
    Family("LFM2.5-8B-A1B", *_TIGHT, Mode(""), None, "thinking"),
    Family(
        "llama-cpp-rwkv-world", " <think>", "</think>", Mode(" <think>", _ON), Mode(" <think>\n</think>", _OFF), _NEVER
    ),
    Family(
        "ibm-granite-granite-3.3-2B-Instruct",
        "<think>",
        "</think><response>",
        Mode("", {"thinking": True}),
        Mode("", {"thinking": False}),
        "content",
        _IN_CONTENT,
    ),
    Family(
        "ByteDance-Seed-OSS",
        "<seed:think>",
        "</seed:think>\n",
        Mode(""),
        Mode(_NO_BUDGET, {"thinking_budget": 0}),
        _FIELD,
        "kept",
    ),
    Family(
        "tencent-Hy3",
        *_HY,
        Mode(_HY[0], {"reasoning_effort": "high"}),
        Mode("".join(_HY), {"reasoning_effort": "no_think"}),
        _FIELD,
        _EMPTY_ONE,
        special=tuple(f"<｜hy_{name}:opensource｜>" for name in ("User", "Assistant", "eos", "begin_of_sentence")),
    ),
    Family(
        "MiniMax-M3",
        "<mm:think>",
        "</mm:think>",
        Mode("<mm:think>", {"thinking_mode": "enabled"}),
        Mode("</mm:think>", {"thinking_mode": "disabled"}),
        _FIELD,
        "kept",
    ),
    Family("mistralai-Ministral-3-14B-Reasoning-2512", "[THINK]", "[/THINK]", Mode(""), None, "content blocks", "kept"),
    Family(
        "openai-gpt-oss-120b",
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        Mode(""),
        None,
        "thinking",
    ),
    Family(
        "upstage-Solar-Open-100B",
        "<|think|>",
        "<|end|><|begin|>assistant<|content|>",
        Mode(""),
        Mode("<|think|><|end|><|begin|>assistant", {"reasoning_effort": "low"}),
        "reasoning",
        before_answer="<|content|>",
    ),
    Family(
        "muse-glimmer",
        " to=self<|message|>",
        "<|eom|><|start|>assistant to=user<|message|>",
        Mode(""),
        None,
        _FIELD,
        "kept",
    ),
    Family(
        "Kimi-K3",
        "<|open|>think<|sep|>",
        "<|close|>think<|sep|><|open|>response<|sep|>",
        Mode("<|open|>think<|sep|>"),
        Mode("<|open|>response<|sep|>", {"thinking": False}),
        _FIELD,
        "kept",
    ),
    Family(
        "Cohere2MoE",
        _COHERE,
        "<|END_THINKING|><|START_TEXT|>",
        Mode(_COHERE),
        Mode(f"{_COHERE}<|END_THINKING|>", {"reasoning": False}),
        _FIELD,
        "kept",
        before_answer="<|START_TEXT|>",
    ),
    Family(
        "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
        _COHERE,
        "<|END_THINKING|><|START_RESPONSE|>",
        Mode("", _ON),
        Mode(f"{_COHERE}<|END_THINKING|>", _OFF),
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
    Family("Apriel-1.6-15b-Thinker-fixed", *_APRIEL, Mode(_APRIEL[0]), None, _FIELD),
    Family("unsloth-Apriel-1.5", *_APRIEL, Mode(""), None, "content", _IN_CONTENT),
)
"""Templates by format."""
