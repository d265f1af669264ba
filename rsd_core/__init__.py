"""Reward-guided speculative decoding, independent of any model library.

A cheap drafter writes one reasoning step, a verifier scores it, and a weighting policy accepts it or hands the step
to the strong target (arXiv 2501.19324).
"""

# fmt: off
# isort: off
from rsd_core.algorithm import RewardGuidedDecoder
from rsd_core.baselines import (
    Backtracking, BestOfN, DraftOnly, HeuristicGreedySearch, MajorityVote, SpecReason, SpeculativeDecoding, StepBeam,
    TargetChoice, TargetJudge, TargetOnly, TiltedDecoder,
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
    Drafter, Entropy, Explains, Explanation, FirstTokenEntropy, Generation, Generator, HasLikelihood, Likelihoods,
    NextWord, PredictsWords, Sampling, Scores, ScoresRuns, SpeculativeTarget, StepRequest, Target, Verifier,
)
from rsd_core.model import Interrupted, Model, Price, Usage, add_usage, usage_of
from rsd_core.guard import Cancellation
from rsd_core.ledger import Account, Ledger
from rsd_core.limits import Limits
from rsd_core.methods import Method, Setup, parse_method
from rsd_core.paths import Message, Path, Prompt, Step, begun
from rsd_core.policies import (
    AdvantageAware, AlwaysDraft, AlwaysTarget, BinaryStep, BudgetAware, Clipping, Constant, Decision, FirstSteps,
    FirstToken, Logistic, Policy, RequestBudget, RequestView, Retry, Sigmoid, Takeover, WeightingPolicy, parse_policy,
)
from rsd_core.prompts import PromptLike, as_prompt
from rsd_core.registry import backends, load
from rsd_core.request import Request
from rsd_core.results import Degradation, Result, StepRecord, boxed
from rsd_core.roles import Roles
from rsd_core.settings import Settings, ThoughtSettings
from rsd_core.splitting import Delimiter, Sentence, Splitter, Words, parse_delimiter
from rsd_core.stopping import TextStream
from rsd_core.structured import StructuredDecoder
from rsd_core.thoughts.markers import Markers, Thinking
from rsd_core.thoughts.reading import Kind, Parts, Reader, beginning, parts_of, split, visible
from rsd_core.version import __version__ as __version__

__all__ = [
    "Account", "AdvantageAware", "AlwaysDraft", "AlwaysTarget", "Backtracking", "BatchError", "BestOfN", "BinaryStep",
    "BudgetAware", "Calls", "Cancellation", "Clipping", "ConfigurationError", "Constant", "Decision", "Decoder",
    "Degradation", "Degraded", "Delimiter", "DraftOnly", "Drafter", "DrafterError", "Entropy", "Event", "Explains",
    "Explanation", "Finished", "FirstSteps", "FirstToken", "FirstTokenEntropy", "Generation", "Generator",
    "HasLikelihood", "HeuristicGreedySearch", "Interrupted", "Kind", "Ledger", "Likelihoods", "Limits", "Logistic",
    "MajorityVote", "Markers", "Message", "Method", "MissingDependency", "Model", "NextWord", "Parts", "Path", "Policy",
    "PredictsWords", "Price", "Prompt", "PromptError", "PromptLike", "RSDConfig", "RSDError", "Reader", "Request",
    "RequestBudget", "RequestOptions", "RequestView", "Result", "Retry", "RewardGuidedDecoder", "RoleWarning", "Roles",
    "RunError", "Sampling", "Scores", "ScoresRuns", "Sentence", "Settings", "Setup", "Sigmoid", "SpecError",
    "SpecReason", "SpeculativeDecoding", "SpeculativeTarget", "Splitter", "Step", "StepAccepted", "StepBeam",
    "StepDrafted", "StepFinished", "StepRecord", "StepRejected", "StepReplaced", "StepRequest", "StepScored",
    "StructuredDecoder", "Takeover", "Target", "TargetChoice", "TargetError", "TargetJudge", "TargetOnly", "TextStream",
    "Thinking", "ThoughtSettings", "TiltedDecoder", "Usage", "Verifier", "VerifierError", "WeightingPolicy", "Words",
    "add_usage", "as_prompt", "backends", "beginning", "begun", "boxed", "load", "parse_delimiter", "parse_method",
    "parse_policy", "parts_of", "split", "usage_of", "visible",
]
