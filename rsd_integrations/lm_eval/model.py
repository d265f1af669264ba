"""A model for lm-evaluation-harness, so that any of its generation tasks runs with RSD.

    lm_eval.simple_evaluate(model=RSDModel(drafter="hf:…", target="hf:…", verifier="prm:…"), tasks=["gsm8k_cot"])

or, once this module is imported, `model="rsd", model_args={"policy": "budget_aware:0.1"}`.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, NoReturn

from rsd_core import BatchError, ConfigurationError, Decoder, MissingDependency, PromptLike, Result, RSDConfig, Settings
from rsd_core.ledger import Account

try:
    import lm_eval.models  # noqa: F401 - the harness registers its own models only while none is registered
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ModuleNotFoundError as error:
    raise MissingDependency(error.name or "lm-eval", "lm-eval", "the lm-eval adapter") from error

logger = logging.getLogger(__name__)

_HONOURED = frozenset(
    {"until", "do_sample", "temperature", "top_p", "top_k", "max_gen_toks", "max_new_tokens", "max_tokens"}
)
"""Options of a task's requests that have an effect."""


@register_model("rsd")
class RSDModel(LM):  # type: ignore[misc]
    """RSD, or any other decoder, as a model of the harness.

    Tasks that generate text run; tasks that compare likelihoods do not, since the likelihood under a stepwise mixture
    of two models cannot be computed. Chat templates are applied by the models themselves: with
    `apply_chat_template=True` messages reach them as messages.

    Args:
        decoder: The method to build from the configuration, as for `rsd eval --methods`: `majority:8`; RSD by default.
            Or a decoder object, instead of the configuration.
        concurrency: Number of concurrent requests.
        config: Fields of `rsd_core.RSDConfig`: drafter, verifier, target, policy, settings. Chat template arguments,
            `template.NAME`, go to drafter and target, as does `enable_thinking`, the harness's own name for that one.

    A model's thought is not part of the answer, neither for filters nor for stop strings, but counts towards the
    length: give thinking models room, as in `gen_kwargs={"max_gen_toks": 32768}`.
    """

    def __init__(self, decoder: Decoder | str | None = None, *, concurrency: int | str = 16, **config: Any) -> None:
        super().__init__()
        for name in ("batch_size", "max_batch_size", "device"):  # the harness passes these to every model
            config.pop(name, None)
        if isinstance(decoder, Decoder):
            if config:
                raise ConfigurationError(f"a decoder has its own models and settings; remove {', '.join(config)}")
            self.decoder = decoder
        else:
            if decoder is not None:
                if "method" in config:
                    method = config["method"]
                    raise ConfigurationError(f"{decoder=} and {method=} mean the same; remove one")
                config["method"] = decoder
            self.decoder = RSDConfig.parse(_with_template_arguments(config)).build()
        self.concurrency = int(concurrency)
        self.results: list[Result] = []
        """Results of all requests so far, with their ledgers."""

    @property
    def tokenizer_name(self) -> str:
        """The harness's cache key for rendered prompts."""
        return "rsd-messages"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages as text that `generate_until` reads back.

        Raises:
            ConfigurationError: The task writes the beginning of the answer.
        """
        if not add_generation_prompt:
            raise ConfigurationError("tasks that write the beginning of the answer (gen_prefix) cannot run with RSD")
        return json.dumps(chat_history)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        """Answer the prompts; each request has its own stop strings, length and temperature.

        Raises:
            BatchError: Some requests failed. The answers to all others are in the harness's cache, if enabled.
        """
        positions_by_options: defaultdict[str, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            positions_by_options[json.dumps(request.args[1], sort_keys=True)].append(i)
        results: dict[int, Result] = {}
        failures: dict[int, Exception] = {}
        for options, positions in positions_by_options.items():
            answered, errors = self._answer([requests[i].args[0] for i in positions], json.loads(options))
            self.results += answered
            results |= zip(positions, answered, strict=True)
            failures |= {positions[n]: error for n, error in errors.items()}
            for i in positions:
                if i not in failures:
                    self.cache_hook.add_partial("generate_until", requests[i].args, results[i].text)
        in_order = [results[i] for i in range(len(requests))]
        if failures:
            raise BatchError(in_order, failures)
        return [result.text for result in in_order]

    def _answer(self, contexts: list[str], options: dict[str, Any]) -> tuple[list[Result], dict[int, Exception]]:
        """The results of requests with the same options, and the errors of those that failed, by position."""
        decoder = self.decoder.with_settings(_settings(self.decoder.settings, options))
        until = options.get("until") or []
        stop = [mark for mark in ([until] if isinstance(until, str) else until) if mark]
        try:
            prompts = [_prompt(context) for context in contexts]
            return decoder.run_many(prompts, concurrency=self.concurrency, stop=stop), {}
        except BatchError as error:
            return error.results, error.errors

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:  # noqa: ARG002
        """Not supported."""
        raise ConfigurationError(
            "RSD has no likelihood: it is a mixture of two models, step by step. Choose the generative version of "
            "the task (its output_type is generate_until), such as gsm8k_cot or mmlu_generative."
        )

    loglikelihood_rolling = loglikelihood

    def get_model_info(self) -> dict[str, Any]:
        """The configuration and its cost, for the harness's report."""
        total = Account()
        for result in self.results:
            total.add(result.ledger.total)
        return {
            "decoder": type(self.decoder).__name__,
            "models": [model.name for model in self.decoder.models],
            "requests": len(self.results),
            "degradations": dict(Counter(one.kind for result in self.results for one in result.degradations)),
            "flops": total.flops,
            "flops_paper": total.flops_paper,
            "cost": total.cost,
        }


def _with_template_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with chat template arguments moved into its specs, since the harness splits specs at commas."""
    if "enable_thinking" in config:
        config = {**config, "template.enable_thinking": config["enable_thinking"]}
    fields = {name: value for name, value in config.items() if not name.startswith("template.")}
    fields.pop("enable_thinking", None)
    options = [
        f",{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in config.items()
        if name.startswith("template.")
    ]
    writers = [role for role in ("drafter", "target") if isinstance(fields.get(role), str)]
    if options and not writers:
        raise ConfigurationError(f"{options[0][1:]} applies to models given by spec: set drafter and target")
    for role in writers:
        kind = re.split("[,:]", fields[role])[0]
        fields[role] = "".join([kind, *options, fields[role].removeprefix(kind)])
    return fields


def _prompt(context: str) -> PromptLike:
    """Messages that `apply_chat_template` wrote, or a plain text."""
    try:
        messages = json.loads(context)
    except ValueError:
        return context
    is_chat = isinstance(messages, list) and messages and all(isinstance(m, Mapping) and "role" in m for m in messages)
    return messages if is_chat else context


def _settings(settings: Settings, options: Mapping[str, Any]) -> Settings:
    """The decoder's settings with a request's own length and sampling."""
    if idle := sorted(name for name, value in options.items() if value is not None and name not in _HONOURED):
        logger.warning("RSD does not honour %s of the task's generation_kwargs", ", ".join(idle))
    own = {"max_tokens": options.get("max_gen_toks") or options.get("max_new_tokens") or options.get("max_tokens")}
    if options.get("do_sample", True):
        own |= {name: options.get(name) for name in ("temperature", "top_p", "top_k")}
        if own["top_k"] == -1:  # vLLM's value for all tokens
            own["top_k"] = 0
    else:
        own["temperature"] = 0.0
    return settings.updated(**own)
