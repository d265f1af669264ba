"""Quality against cost: many methods over the same problems, on one ledger."""

from rsd_core import parse_method
from rsd_integrations.evaluation.calibration import Calibration, calibrate
from rsd_integrations.evaluation.outcome import Outcome
from rsd_integrations.evaluation.report import MethodReport, Report
from rsd_integrations.evaluation.rows import Evaluation
from rsd_integrations.evaluation.runner import evaluate
from rsd_integrations.evaluation.statistics import Comparison, wilson
from rsd_integrations.evaluation.tables import markdown
from rsd_integrations.evaluation.tasks import TASKS, Item, Task, find_task

__all__ = [
    "TASKS",
    "Calibration",
    "Comparison",
    "Evaluation",
    "Item",
    "MethodReport",
    "Outcome",
    "Report",
    "Task",
    "calibrate",
    "evaluate",
    "find_task",
    "markdown",
    "parse_method",
    "wilson",
]
