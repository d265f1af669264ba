"""Reports on LangChain's standard tests: the version, and for skips our reason along with the suite's."""

from __future__ import annotations

from collections.abc import Callable, Generator
from importlib.metadata import version

import pytest


@pytest.fixture(scope="session", autouse=True)
def core(record_testsuite_property: Callable[[str, object], None]) -> None:
    """Tells reports which langchain-core was tested."""
    record_testsuite_property("langchain-core", version("langchain-core"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    reasons = getattr(getattr(item, "cls", None), "reasons", None)
    if report.skipped and reasons is not None and isinstance(report.longrepr, tuple):
        file, line, told = report.longrepr
        said = told.removeprefix("Skipped: ")
        if said in reasons:
            report.longrepr = (file, line, f"{said.removesuffix('.')}: {reasons[said]}")
        else:
            report.outcome, report.longrepr = "failed", f"skipped without a reason in `reasons`: {said}"
    return report
