"""The kinds of model that a spec can name without a plugin."""

from __future__ import annotations

from dataclasses import dataclass

from rsd_core.ledger import Role
from rsd_core.plugins import Plugin

_WRITES: tuple[Role, ...] = ("drafter", "target")
_JUDGES: tuple[Role, ...] = ("verifier",)


@dataclass(frozen=True, slots=True)
class Backend:
    """A kind of spec."""

    kind: str
    module: str
    """Module and function that make the model, as `module:function`."""
    extra: str
    """The extra of the distribution that installs what the backend needs."""
    summary: str
    """Description of the rest of the spec."""
    examples: tuple[str, ...] = ()
    roles: tuple[Role, ...] = ()
    """Roles that its models can play; empty if that depends on the rest of the spec, or is unknown."""
    nested: bool = False
    """Whether the rest consists of specs."""
    inside: Role | None = None
    """The role that the models of those specs must be able to play; None for any."""
    gguf: str = ""
    """Module and function for a GGUF file instead, if the rest is `gguf=FILE`; needs the extra `llamacpp`."""
    plugin: Plugin | None = None
    """The package that provides it; None for built-in kinds."""


_ALL = (
    Backend(
        "embedded",
        "rsd_integrations.embedded.models:load",
        "huggingface",
        "a model that ships with the package: draft, target, thinking-draft, thinking-target, verifier or prm",
        ("embedded:draft", "embedded:target", "embedded:thinking-target", "embedded:verifier", "embedded:prm"),
    ),
    Backend(
        "hf",
        "rsd_integrations.huggingface:load_generator",
        "huggingface",
        "a causal language model, by hub id or folder, as drafter or target",
        ("hf:Qwen/Qwen2.5-Math-1.5B-Instruct", "hf,template.enable_thinking=false:Qwen/Qwen3-8B", "hf:./my-model"),
        roles=_WRITES,
    ),
    Backend(
        "gguf",
        "rsd_integrations.llamacpp:load_generator",
        "llamacpp",
        "a GGUF file as drafter or target, by path, package=DISTRIBUTION or hub=ORG/REPO:NAME.gguf; without torch",
        ("gguf:./Qwen3-8B-Q4_K_M.gguf", "gguf,threads=4:hub=Qwen/Qwen3-8B-GGUF:Qwen3-8B-Q4_K_M.gguf"),
        roles=_WRITES,
    ),
    Backend(
        "prm",
        "rsd_integrations.huggingface:load_verifier",
        "huggingface",
        "a process or outcome reward model, by hub id or folder, as verifier",
        ("prm:Qwen/Qwen2.5-Math-PRM-7B", "prm,format=trl,separator=\\n:./my-prm", "prm:gguf=./prm.gguf,head=./prm"),
        roles=_JUDGES,
        gguf="rsd_integrations.llamacpp:load_verifier",
    ),
    Backend(
        "likelihood",
        "rsd_integrations.huggingface:load_likelihood",
        "huggingface",
        "a causal language model as verifier: the probability of a step's least likely token, or how=mean, entropy",
        ("likelihood:Qwen/Qwen2.5-Math-7B-Instruct", "likelihood:gguf=./Qwen3-8B-Q4_K_M.gguf"),
        roles=_JUDGES,
        gguf="rsd_integrations.llamacpp:load_likelihood",
    ),
    Backend(
        "shared",
        "rsd_integrations.huggingface:load_shared",
        "huggingface",
        "the reward head of a checkpoint that `rsd merge` made; it shares body and cache with hf: of the same "
        "checkpoint",
        ("shared:./merged",),
        roles=_JUDGES,
    ),
    Backend(
        "pooling",
        "rsd_integrations.openai_compatible.reward_loading:load_pooling",
        "openai",
        "a reward model behind vLLM's /pooling, as MODEL@BASE_URL; format=, tokenizer= and separator= as for prm:",
        ("pooling:Qwen/Qwen2.5-Math-PRM-7B@http://127.0.0.1:8000/v1",),
        roles=_JUDGES,
    ),
    Backend(
        "token_logits",
        "rsd_integrations.openai_compatible.reward_loading:load_token_logits",
        "openai",
        "a generative reward model that judges by the probability of words, behind /v1/completions, as MODEL@BASE_URL",
        ("token_logits:peiyi9979/math-shepherd-mistral-7b-prm@http://127.0.0.1:8000/v1",),
        roles=_JUDGES,
    ),
    Backend(
        "judge",
        "rsd_integrations.verifiers.loading:judge",
        "",
        "any generator as verifier; mode=digit (SpecReason), yes_no, rubric, thinkprm, genprm or r-prm",
        ("judge:hf:Qwen/Qwen2.5-7B-Instruct", "judge,mode=yes_no:hf:Qwen/Qwen2.5-7B-Instruct"),
        roles=_JUDGES,
        nested=True,
    ),
    Backend(
        "confidence",
        "rsd_integrations.verifiers.loading:confidence",
        "",
        "the drafter's own probability of a step, if it reports one: min (of a token) or mean",
        ("confidence:mean",),
        roles=_JUDGES,
    ),
    Backend(
        "rule",
        "rsd_integrations.verifiers.loading:rule",
        "",
        "a check without a model: arithmetic, format or repetition; it abstains if it has nothing to say",
        ("rule:arithmetic", "rule,max_chars=2000:format", "rule:repetition"),
        roles=_JUDGES,
    ),
    Backend(
        "code",
        "rsd_integrations.verifiers.loading:code",
        "",
        "unit tests, run in a sandbox on the Python blocks of a step; the rest is a JSONL file of tests",
        ("code:tests.jsonl", "code,sandbox=none:tests.jsonl"),
        roles=_JUDGES,
    ),
    Backend(
        "cascade",
        "rsd_integrations.verifiers.loading:cascade",
        "",
        "verifiers from cheap to expensive: the next is asked if a reward lies between low and high, or is missing",
        ("cascade,low=0.1,high=0.9:rule:arithmetic|embedded:verifier",),
        roles=_JUDGES,
        nested=True,
        inside="verifier",
    ),
    Backend(
        "ensemble",
        "rsd_integrations.verifiers.loading:ensemble",
        "",
        "the mean, min or product of several verifiers' rewards",
        ("ensemble,how=min:rule:arithmetic|embedded:verifier",),
        roles=_JUDGES,
        nested=True,
        inside="verifier",
    ),
    Backend(
        "cached",
        "rsd_integrations.verifiers.loading:cached",
        "",
        "a verifier with a cache of rewards: the same step after the same text is scored once",
        ("cached:embedded:verifier",),
        roles=_JUDGES,
        nested=True,
        inside="verifier",
    ),
    Backend(
        "openai",
        "rsd_integrations.openai_compatible:load_generator",
        "openai",
        "a model behind a URL as drafter or target: vLLM, SGLang, llama.cpp, Ollama, hosted APIs; MODEL@BASE_URL",
        (
            "openai,tokenizer=Qwen/Qwen2.5-Math-7B-Instruct:Qwen/Qwen2.5-Math-7B-Instruct@http://127.0.0.1:8000/v1",
            "openai,profile=ollama:qwen2.5:0.5b@http://127.0.0.1:11434/v1",
        ),
        roles=_WRITES,
    ),
    Backend(
        "langchain",
        "rsd_integrations.langchain.roles:load",
        "agents",
        "a chat model that LangChain's init_chat_model makes, as drafter or target, in turns",
        ("langchain:openai:gpt-5-nano",),
        roles=_WRITES,
    ),
    Backend(
        "scripted",
        "rsd_core.testing:load",
        "",
        "a fake that plays a script, for experiments: draft, target or verifier",
        ("scripted:draft", "scripted:target", "scripted:verifier"),
    ),
)
BUILT_IN: dict[str, Backend] = {backend.kind: backend for backend in _ALL}
"""The kinds by name."""
FILES = {"huggingface": "rsd_integrations.huggingface.loading", "llamacpp": "rsd_integrations.llamacpp.files"}
"""By extra, the module whose `find` says what is wrong with a local path."""
