"""Reports of evaluations as JSON, under names that do not depend on the measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsd_integrations.evaluation import Report


def named(report: Report, names: Mapping[str, str]) -> dict[str, Any]:
    """A report as data, with some methods renamed, since chosen thresholds differ from run to run.

    Args:
        report: The report of an evaluation.
        names: New names by method; others keep theirs. The method itself is stored with its figures.
    """

    def under(methods: Mapping[str, Any]) -> dict[str, Any]:
        return {names.get(method, method): found for method, found in methods.items()}

    data = report.to_dict()
    data["methods"] = under({method: {"method": method, **found} for method, found in data["methods"].items()})
    data["comparisons"] = under(data["comparisons"])
    for problem in data["problems"]:
        problem["methods"] = under(problem["methods"])
    return data
