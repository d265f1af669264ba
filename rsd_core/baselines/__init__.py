"""The baselines: other loops over the same calls, with the same interface and ledger."""

from rsd_core.baselines.backtracking import Backtracking, HeuristicGreedySearch
from rsd_core.baselines.judged import SpecReason, TargetChoice, TargetJudge
from rsd_core.baselines.sampling import BestOfN, MajorityVote
from rsd_core.baselines.search import StepBeam
from rsd_core.baselines.single import DraftOnly, TargetOnly
from rsd_core.baselines.speculative import SpeculativeDecoding
from rsd_core.baselines.tilted import TiltedDecoder

__all__ = [
    "Backtracking",
    "BestOfN",
    "DraftOnly",
    "HeuristicGreedySearch",
    "MajorityVote",
    "SpecReason",
    "SpeculativeDecoding",
    "StepBeam",
    "TargetChoice",
    "TargetJudge",
    "TargetOnly",
    "TiltedDecoder",
]
