from collections.abc import Iterator

import pytest

from tests.servers.launcher import Server
from tests.servers.launcher import family as run_family


@pytest.fixture(scope="session")
def family_servers() -> Iterator[dict[str, Server]]:
    """The embedded family behind three vLLM servers: `draft`, `target` and `prm`."""
    with run_family() as servers:
        yield servers
