"""Published reward models, and how to recognise them from a checkpoint."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, TypeVar

from rsd_core import ConfigurationError
from rsd_core.data import unknown
from rsd_core.plugins import Registry
from rsd_integrations.prm_formats.described import is_file, of_package, read_format
from rsd_integrations.prm_formats.formats import PROBLEM, Chat, Head, PRMFormat, Text, Turns, Words
from rsd_integrations.prm_formats.heads import fits

logger = logging.getLogger(__name__)
T = TypeVar("T")
REASON = "Please reason step by step, and put your final answer within \\boxed{}."

SKYWORK = PRMFormat(
    name="skywork-prm",
    prompt=Text("{bos}{problem}\n"),
    heads=(Head(("v_head.summary",), 1),),
    separator="\n",
    read="at the last separator of each step",
    splits=True,
    choose_separator=True,
    models=("Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B", "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B"),
    threshold="0.7 in the RSD paper, which read these models at a blank line: separator=\\n\\n",
    source="SkyworkAI/skywork-o1-prm-inference, model_utils/io_utils.py",
)
QWEN = PRMFormat(
    name="qwen2.5-math-prm",
    prompt=Chat(system=REASON),
    heads=(Head(("score.0", "score.2"), 2),),
    separator="<extra_0>",
    read="at <extra_0> after each step",
    models=(
        "Qwen/Qwen2.5-Math-PRM-7B",
        "Qwen/Qwen2.5-Math-PRM-72B",
        "Qwen/Qwen2.5-Math-7B-PRM800K",
        "Babelscape/Qwen2.5-Math-PRM-7B-PDDL-r",
    ),
    threshold="0.5 is the authors' on ProcessBench; 0.7 accepts 95 % of steps for RSD (GSI's measurement)",
    source="model card of Qwen/Qwen2.5-Math-PRM-7B; arXiv 2501.07301",
)
QWEN_BARE = replace(
    QWEN,
    name="qwen2.5-math-prm-bare",
    prompt=Chat(),
    models=("Gen-Verse/ReasonFlux-PRM-7B", "embedded:prm"),
    threshold="none published, calibrate",
    thoughts="as steps before those of the answer, no markers: ReasonFlux's are trained on both (arXiv 2506.18896)",
    source="Gen-Verse/ReasonFlux, utils/rm_utils.py",
)
ACTPRM = replace(
    QWEN,
    name="actprm",
    heads=(Head(("score.model.nn1", "score.model.nn2", "score.model.nn_out"), 1, ensemble=True),),
    models=("ActPRM/ActPRM", "ActPRM/ActPRM-X"),
    threshold="0.5 (sail-sg/ActivePRM)",
    source="sail-sg/ActivePRM, code_snippets.py",
)
SHEPHERD = PRMFormat(
    name="math-shepherd",
    prompt=Text(),
    heads=(Words("+", "-"),),
    separator=" ки",
    read="at ки after each step",
    lead=(" Step 1: ", "\nStep {i}: "),
    apart=False,
    strip="steps",
    models=("peiyi9979/math-shepherd-mistral-7b-prm",),
    aggregation="last: its labels come from rollouts, as a value's",
    source="model card of peiyi9979/math-shepherd-mistral-7b-prm",
)
OPENR = PRMFormat(
    name="openr",
    prompt=Text(),
    heads=(Words(" +", " -"),),
    separator=" \n\n\n\n\n",
    read="at the five newlines after each step",
    lead=(" ", " "),
    apart=False,
    strip="steps",
    models=("openreasoner/Math-psa",),
    source="openreasoner/openr, reason/inference/rm_call.py and prm/infer_fns.py",
)
VERSA = PRMFormat(
    name="versaprm",
    prompt=Text(PROBLEM + " \n\n"),
    heads=(Words("+", "-"),),
    separator=" \n\n\n\n",
    read="at the four newlines after each step",
    apart=False,
    strip="all",
    models=(
        "UW-Madison-Lee-Lab/VersaPRM",
        "UW-Madison-Lee-Lab/VersaPRM-Base-8B",
        "UW-Madison-Lee-Lab/VersaPRM-Base-3B",
        "UW-Madison-Lee-Lab/VersaPRM-Aug",
        "UW-Madison-Lee-Lab/Llama-PRM800K",
        "UW-Madison-Lee-Lab/Qwen-PRM800K",
    ),
    source="UW-Madison-Lee-Lab/VersaPRM, evaluation/get_rewards_reasoning_step.py",
)
RLHFLOW = PRMFormat(
    name="rlhflow",
    prompt=Turns(),
    heads=(Words("+", "-"),),
    separator="",
    read="where the assistant's + or - follows each step",
    strip="steps",
    models=("RLHFlow/Llama3.1-8B-PRM-Deepseek-Data", "RLHFlow/Llama3.1-8B-PRM-Mistral-Data"),
    threshold="0.5: ProcessBench's authors take the likelier of + and -",
    aggregation="mean, as its authors",
    source="RLHFlow/RLHF-Reward-Modeling, math-rm/prm_evaluate.py",
)
GRANITE = PRMFormat(
    name="granite-prm",
    prompt=Turns(" Is this response correct so far (Y/N)?"),
    heads=(Words("Y", "N"),),
    separator="",
    read="where the assistant's Y or N follows each step and the question after it",
    strip="steps",
    models=("ibm-granite/granite-3.3-8b-math-prm-v2",),
    threshold="0.5: the likelier of Y and N",
    source="model card of ibm-granite/granite-3.3-8b-math-prm-v2",
)
TRL = PRMFormat(
    name="trl",
    prompt=Text("{bos}" + PROBLEM),
    heads=(Head(("score",), 2),),
    separator=None,
    read="at the last token of the separator after each step",
    strict=False,
    choose_separator=True,
    models=("ZaandaTeika/SHARP-PRM",),
    source="trl.experimental.prm.PRMTrainer",
)
H4 = replace(
    TRL,
    name="trl-blank-line",
    separator="\n\n",
    models=("HuggingFaceH4/Qwen2.5-Math-1.5B-Instruct-PRM-0.2", "HuggingFaceH4/Qwen2.5-Math-7B-Instruct-PRM-0.2"),
    threshold="0.5: the likelier class on ProcessBench",
    source="huggingface/search-and-learn, train.sh",
)
PURE = replace(
    H4,
    name="pure",
    separator="\n",
    models=("jinachris/PURE-PRM-7B",),
    threshold="0.5: the authors' 0 on P(right) - P(wrong)",
    aggregation="minimum, which it was trained for",
    source="model card of jinachris/PURE-PRM-7B; sail-sg/ActivePRM, pure_prm.py, has separator=\\n\\n",
)
UNIVERSAL = PRMFormat(
    name="universal-prm",
    prompt=Chat(
        "You are a helpful assistant.",
        PROBLEM + "\n\n###\n\nThe reference answer is: There is no reference answer for this question.",
    ),
    heads=tuple(
        Head(layers, 1, bias=False)
        for layers in (
            ("v_head.summary",),
            ("v_head",),
            ("value_head",),
            ("reward_head",),
            ("score",),
            ("score.0", "score.2"),
        )
    ),
    separator="\n\n",
    read="at an end-of-text token after each step, which is then removed",
    apart=False,
    strict=False,
    closing="eos",
    models=("infly/Universal-PRM-7B",),
    threshold="0.7 in SmartSwitch, where 0.71 was much worse: calibrate",
    thoughts="as steps like those of the answer, no markers; SmartSwitch reads thoughts with it",
    source="model card of infly/Universal-PRM-7B, by transcriptions of it",
)
REASONFLUX_SMALL = PRMFormat(
    name="reasonflux-prm-1.5b",
    prompt=Text(),
    heads=(Head(("",), 1, file="reward_head"),),
    separator="",
    read="at the last token of each step",
    models=("Gen-Verse/ReasonFlux-PRM-1.5B",),
    aggregation="last: it was trained on whole answers",
    thoughts="as text before the answer, a blank line between, no markers; trained on both (arXiv 2506.18896)",
    source="Gen-Verse/ReasonFlux, utils/rm_utils.py",
)
OUTCOME = PRMFormat(
    name="outcome",
    prompt=Chat(),
    heads=(Head(("score",), 1, bias=False), Head(("score.0", "score.2"), 1)),
    separator="",
    read="at the end of the assistant's turn, which is then removed",
    closing="turn",
    models=("Skywork/Skywork-Reward-Llama-3.1-8B", "Qwen/Qwen2.5-Math-RM-72B"),
    threshold="none published: the sigmoid of an unbounded score, calibrate",
    aggregation="last: it judges the answer as it stands",
    thoughts="where its chat template puts `reasoning_content`; if it has no place for it, as text before the answer",
    source="AutoModelForSequenceClassification; arXiv 2501.19324, appendix",
)
BABELSCAPE = PRMFormat(
    name="babelscape",
    prompt=Text(f"Problem: {PROBLEM}\nSteps:\n"),
    heads=tuple(
        Head((layer,), 1, bias=False)
        for layer in ("reward_head", "scalar_head", "score_head", "value_head", "regression_head", "head", "score")
    ),
    separator="\nки",
    read="at ки, on a line of its own after each step",
    lead=("Step 1: ", "\nStep {i}: "),
    apart=False,
    models=("Babelscape/Llama-3.1-8B-PRM800k-r", "Babelscape/Llama-3.1-8B-PRM800k-PDDL-r"),
    threshold="none published, nor how the head's output is used: its sigmoid is taken, calibrate",
    source="model card of Babelscape/Llama-3.1-8B-PRM800k-r; arXiv 2604.17957",
)
SPARE = PRMFormat(
    name="spare-prm",
    prompt=Chat(
        "You are an expert at solving challenging math problems spanning across various categories and "
        "difficulties such as Algebra, Number Theory, Geometry, Counting and Probability, Precalculus etc. For a "
        "given math problem, your task is to generate a step-by-step reasoning-based solution providing an answer "
        "to the question. Identify the correct concepts, formulas and heuristics that needs to be applied and then "
        "derive the contents of the reasoning steps from the given contexts and accurate calculations from the "
        "previous reasoning steps."
    ),
    heads=(Words("+", "-"),),
    separator=" ки",
    read="at the last token of ки after each step",
    lead=("", "\n"),
    apart=False,
    strict=False,  # Qwen's vocabulary has two tokens for it
    strip="steps",
    models=("UKPLab/Llama-3-8b-spare-prm-math", "UKPLab/Qwen2.5-3b-spare-prm-math"),
    source="UKPLab/arxiv2025-spare-prm, README.md",
)
BUILT_IN = {
    form.name: form
    for form in (
        *(SKYWORK, QWEN, QWEN_BARE, SHEPHERD, RLHFLOW, GRANITE, VERSA, OPENR, TRL, H4, PURE),
        *(UNIVERSAL, ACTPRM, BABELSCAPE, SPARE, REASONFLUX_SMALL, OUTCOME),
    )
}


FORMATS = Registry("format", "rsd.prm_formats", BUILT_IN, of_package)
"""Formats by name, including those of installed packages."""
_UNIQUE_HEAD = (SKYWORK, QWEN, TRL, ACTPRM, OUTCOME, REASONFLUX_SMALL)
"""Formats with a head that no other kind of model has."""
CONFIG_KEY = "prm_format"
"""A checkpoint's `config.json` may name its format under this key."""


def usable(registry: Registry[T]) -> Iterator[tuple[str, T]]:
    """All loadable parts, with their names; a broken package is logged and skipped."""
    for name in registry:
        try:
            yield name, registry[name]
        except ConfigurationError as error:
            logger.warning("%s", error)


def published_format(name: str) -> PRMFormat | None:
    """The format of the published model with this name, in any organisation or folder."""
    called = name.rstrip("/").rpartition("/")[2].lower()
    for _, form in usable(FORMATS):
        if called in {published.rpartition("/")[2].lower() for published in form.models}:
            return form
    return None


_OF_STEPS = re.compile(
    r"(?<![A-Z])P(?:RM|rm)s?(?![a-z]|Bench)|(?<![A-Za-z])prms?(?![a-z])|"
    r"(?i:process[ _-]?(?:based[ _-]?)?(?:reward|supervis|verif)|step[ _-]?(?:wise|level|reward))"
)
"""Names of reward models that judge steps; a number of training steps (`global_step_500`) does not match."""


def _says_steps(config: Mapping[str, object], model: str) -> str:
    """Where and how a checkpoint says that it judges steps; empty if it does not."""
    called = model.rstrip("/").rpartition("/")[2]
    claims = [("its name", called)]
    claims += [(f"{key} in its config.json", str(config[key])) for key in _NAMES_IN_CONFIG if config.get(key)]
    claims += [("config.json", key) for key in config if key in _OF_STEPS_IN_CONFIG]
    return next((f"{where} ({text})" for where, text in claims if _OF_STEPS.search(text) or where == "config.json"), "")


_NAMES_IN_CONFIG = ("architectures", "auto_map", "_name_or_path", "model_type", "problem_type", "task")
_OF_STEPS_IN_CONFIG = ("step_separator", "step_tag", "step_token", "step_tag_id", "step_token_id", "rr_token")


def check_format(named: str | None) -> None:
    """Find out whether a format can be read by its name or file, before a model is fetched.

    Raises:
        ConfigurationError: The name is unknown, or the file does not describe a format.
    """
    if named is not None and is_file(named):
        read_format(named)
    elif named is not None:
        if named not in FORMATS:
            raise ConfigurationError(unknown("format", named, FORMATS))
        FORMATS[named]  # of a package that may be broken


FormatName = Annotated[str | None, check_format]
"""An option that names a format, or the file of one; checked before anything is loaded."""


def find_format(
    config: Mapping[str, object], tensors: Mapping[str, tuple[int, ...]], model: str, named: str | None = None
) -> PRMFormat:
    """The format of a checkpoint: as given, known from its hub id, or recognised from its head.

    Args:
        config: The checkpoint's `config.json`; its class names and remote code do not matter.
        tensors: Shapes of the tensors in its weights, by name, and `separate_files`.
        model: Hub id or folder; a folder named like the model on the hub is recognised.
        named: A format by name, or a file that describes it; overrides everything else.

    Raises:
        ConfigurationError: The name is unknown, the file does not describe a format, or no known head was found.
    """
    if named is not None and is_file(named):
        return read_format(named)
    named = named or (str(config[CONFIG_KEY]) if CONFIG_KEY in config else None)
    if named is not None:
        if named not in FORMATS:
            raise ConfigurationError(f"{model}: {unknown('format', named, FORMATS)}")
        return FORMATS[named]
    if (known := published_format(model)) is not None:
        return known
    for form in _UNIQUE_HEAD:
        if any(isinstance(head, Head) and fits(head, tensors) for head in form.heads):
            if form is OUTCOME and (said := _says_steps(config, model)):
                raise ConfigurationError(
                    f"{model}: its head has one output, like those of outcome models, but {said} says that it judges "
                    "steps. The weights do not show where such a head is read: name the format it was trained with, "
                    f"as in prm,format=…:{model}, or format=outcome if it does judge whole answers. Formats are "
                    f"{', '.join(FORMATS)}"
                )
            return form
    of_words = [name for name, form in usable(FORMATS) if isinstance(form.heads[0], Words)]
    raise ConfigurationError(
        f"{model} contains no known reward head. If it judges by words of its language model, name its format "
        f"({', '.join(of_words)}), as in prm,format={of_words[0]}:{model}. If it is a plain language model, use it "
        "as drafter or target, or as likelihood:… or judge:… verifier. Otherwise: is the download complete?"
    )
