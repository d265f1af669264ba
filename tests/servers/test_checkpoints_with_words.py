"""Reward models that judge by words, behind vLLM's completions, score as they do in process."""

import asyncio
from collections.abc import Iterator

import pytest

from rsd_core import Path, Step, VerifierError, as_prompt, load
from rsd_integrations.openai_compatible.errors import Refused
from tests.huggingface.reward_models import CASES
from tests.inprocess.test_reward_models import STEPS, extended, step
from tests.servers.launcher import Server
from tests.servers.served import Served, published, running_all

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    root = tmp_path_factory.mktemp("served")
    models = []
    for case in ("math-shepherd", "rlhflow"):
        folder = published(case, root)
        models.append(Served(case, folder, Server(case, folder), CASES[case].options))
    with running_all(*models) as made:
        yield made


@pytest.mark.parametrize("case", ["math-shepherd", "rlhflow"])
def test_a_server_scores_as_in_process_and_as_the_card(served: dict[str, Served], case: str) -> None:
    served[case].check()


def test_an_overlong_path_is_the_verifiers_fault_and_not_the_end(served: dict[str, Served]) -> None:
    with pytest.raises(VerifierError, match="Limit the answer"):
        asyncio.run(served["math-shepherd"].behind_server().score(extended(STEPS * 30), [step("So")]))


def test_pooling_at_a_server_that_writes_is_refused(served: dict[str, Served]) -> None:
    one = served["rlhflow"]
    model = load(f"pooling,format=outcome,tokenizer={one.checkpoint}:{one.server.name}@{one.server.url}")
    with pytest.raises(Refused, match="404"):
        asyncio.run(model.score(Path(as_prompt("q")), [Step("a", "end")]))
