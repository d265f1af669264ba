"""Quality against cost: many methods over the same problems, on one ledger."""

from rsd_integrations.evaluation.report import MethodReport, Report, wilson
from rsd_integrations.evaluation.runner import evaluate, parse_method
from rsd_integrations.evaluation.tasks import TASKS, Item, Task

__all__ = ["TASKS", "Item", "MethodReport", "Report", "Task", "evaluate", "parse_method", "wilson"]
