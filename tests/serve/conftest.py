from __future__ import annotations

from collections.abc import Iterator

import pytest

from rsd_core import Decoder, RSDConfig
from tests.langchain.conftest import pytest_runtest_makereport  # noqa: F401 - skips of suites need a reason
from tests.serve.process import rsd_serve


@pytest.fixture(scope="session", autouse=True)
def no_proxy() -> Iterator[None]:
    """Clients that read the environment reach for loopback directly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        yield


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `rsd serve` on the embedded family, as it comes."""
    with rsd_serve(tmp_path_factory.mktemp("serve") / "log") as url:
        yield url


@pytest.fixture(scope="session")
def bare() -> Iterator[Decoder]:
    """The decoder that is served there as `rsd`, in this process."""
    with RSDConfig().build() as decoder:
        yield decoder
