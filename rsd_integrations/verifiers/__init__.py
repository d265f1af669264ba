"""Verifiers other than reward models: judges, rules and programs, and combinations of verifiers."""

from rsd_integrations.verifiers.arithmetic import equations
from rsd_integrations.verifiers.combine import Cached, Cascade, Ensemble
from rsd_integrations.verifiers.confidence import Confidence
from rsd_integrations.verifiers.judges import DIGIT, YES_NO, CriticJudge, Question, WordJudge
from rsd_integrations.verifiers.programs import Programs
from rsd_integrations.verifiers.rules import Arithmetic, Format, Repetition, Rule

__all__ = [
    "DIGIT",
    "YES_NO",
    "Arithmetic",
    "Cached",
    "Cascade",
    "Confidence",
    "CriticJudge",
    "Ensemble",
    "Format",
    "Programs",
    "Question",
    "Repetition",
    "Rule",
    "WordJudge",
    "equations",
]
