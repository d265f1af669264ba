"""Reward models with heads behind vLLM's /pooling score as they do in process.

Files of this folder run in the order of their names, so that the servers of one are gone when the next one's start.
"""

import asyncio
from collections.abc import Iterator

import pytest

from rsd_core import VerifierError
from rsd_integrations.huggingface.exporting import export
from rsd_integrations.openai_compatible.errors import EndpointError
from tests.huggingface.reward_models import CASES
from tests.inprocess.test_reward_models import STEPS, extended, step
from tests.servers.launcher import Server, step_tag
from tests.servers.served import Served, published, running_all

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]
ALL = ("--pooler-config", '{"pooling_type": "ALL"}')


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    root = tmp_path_factory.mktemp("served")
    models = []
    for case in ("qwen", "skywork", "trl"):
        folder, name = published(case, root), {"qwen": "qwen2.5-math-prm", "skywork": "skywork-prm"}.get(case, case)
        shown = folder if case == "qwen" else export(str(folder), root / f"{case}-for-vllm")
        arguments = step_tag(folder, "<extra_0>") if case == "qwen" else ALL
        server = Server(case, shown, pooling=True, arguments=arguments)
        models.append(Served(case, folder, server, {"format": name} | CASES[case].options))
    with running_all(*models) as made:
        yield made


@pytest.mark.parametrize("case", ["qwen", "skywork", "trl"])
def test_a_server_scores_as_in_process_and_as_the_card(served: dict[str, Served], case: str) -> None:
    # qwen: a row at each separator. skywork, trl: a value and a pair at each token, from their exported layouts.
    served[case].check()


def test_a_server_without_rows_at_the_separator_is_refused_with_what_it_needs(served: dict[str, Served]) -> None:
    model = served["qwen"].behind_server(format="trl", separator=" So")
    with pytest.raises(EndpointError, match=r"0 rows for 1 steps.*step_tag_id"):
        asyncio.run(model.score(extended([]), [step(STEPS[0])]))


def test_an_overlong_path_is_the_verifiers_fault_and_not_the_end(served: dict[str, Served]) -> None:
    with pytest.raises(VerifierError, match="Limit the answer"):
        asyncio.run(served["qwen"].behind_server().score(extended(STEPS * 30), [step("So")]))
