"""Reward-guided speculative decoding, free of any model library.

A cheap drafter writes one reasoning step, a verifier scores it, and a weighting policy accepts it or hands the step
to the strong target (arXiv 2501.19324).
"""

# fmt: off
# isort: off
from rsd_core.algorithm import RewardGuidedDecoder
from rsd_core.baselines import (
    Backtracking, BestOfN, DraftOnly, MajorityVote, SpecReason, SpeculativeDecoding, StepBeam, TargetJudge, TargetOnly,
    TiltedDecoder,
)
from rsd_core.config import RSDConfig
from rsd_core.calls import Calls
from rsd_core.decoder import Decoder, RequestOptions
from rsd_core.errors import (
    BatchError, ConfigurationError, DrafterError, MissingDependency, PromptError, RSDError, RoleWarning, RunError,
    SpecError,
    TargetError, VerifierError,
)
from rsd_core.events import (
    Degraded, Event, Finished, StepAccepted, StepDrafted, StepFinished, StepRejected, StepReplaced, StepScored,
)
from rsd_core.interfaces import (
    Drafter, Explains, Explanation, Generation, HasLikelihood, Interrupted, Likelihoods, Model, NextWord,
    PredictsWords, Price, Sampling, Scores, ScoresRuns, SpeculativeTarget, StepRequest, Target, Usage, Verifier,
    add_usage, usage_of,
)
from rsd_core.guard import Cancellation
from rsd_core.ledger import Account, Ledger
from rsd_core.limits import Limits
from rsd_core.methods import Method, Setup, parse_method
from rsd_core.paths import Message, Path, Prompt, Step
from rsd_core.policies import (
    AdvantageAware, BinaryStep, BudgetAware, Clipping, Constant, Decision, FirstSteps, Logistic, Policy, RequestBudget,
    RequestView, Retry, Sigmoid, Takeover, WeightingPolicy, parse_policy,
)
from rsd_core.prompts import PromptLike, as_prompt
from rsd_core.registry import backends, load
from rsd_core.request import Request
from rsd_core.results import Degradation, Result, StepRecord, boxed
from rsd_core.settings import Settings
from rsd_core.stopping import TextStream
from rsd_core.version import __version__ as __version__

__all__ = [
    "Account", "AdvantageAware", "Backtracking", "BatchError", "BestOfN", "BinaryStep", "BudgetAware", "Calls",
    "Cancellation", "Clipping", "ConfigurationError", "Constant", "Decision", "Decoder", "Degradation", "Degraded",
    "DraftOnly", "Drafter", "DrafterError", "Event", "Explains", "Explanation", "Finished", "FirstSteps",
    "Generation", "HasLikelihood", "Interrupted", "Ledger", "Likelihoods", "Limits", "Logistic", "MajorityVote",
    "Message", "Method", "MissingDependency", "Model", "NextWord", "Path", "Policy", "PredictsWords", "Price",
    "Prompt", "PromptError", "PromptLike", "RSDConfig", "RSDError", "Request", "RequestBudget", "RequestOptions",
    "RequestView", "Result", "Retry", "RewardGuidedDecoder", "RoleWarning", "RunError", "Sampling", "Scores",
    "ScoresRuns", "Settings", "Setup", "Sigmoid", "SpecError", "SpecReason", "SpeculativeDecoding",
    "SpeculativeTarget", "Step", "StepAccepted", "StepBeam", "StepDrafted", "StepFinished", "StepRecord",
    "StepRejected", "StepReplaced", "StepRequest", "StepScored", "Takeover", "Target", "TargetError", "TargetJudge",
    "TargetOnly", "TextStream", "TiltedDecoder", "Usage", "Verifier", "VerifierError", "WeightingPolicy",
    "add_usage", "as_prompt", "backends", "boxed", "load", "parse_method", "parse_policy", "usage_of",
]
