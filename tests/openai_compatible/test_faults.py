"""The benchmark of faults on few problems: nothing lost, nothing mixed up, nothing degraded without saying so."""

import pytest

from tests.benchmarks.faults import SCENARIOS


@pytest.mark.parametrize("fault", ["hung_calls", "cut_streams", "nan_reward", "client_killed_and_resumed"])
def test_no_answer_is_lost_or_mixed_up_by_a_fault(fault: str) -> None:
    found = SCENARIOS[fault](24)
    assert found["problems"] == 24
    assert (found["lost"], found["misattributed"], found["degraded_unmarked"]) == (0, 0, 0)
    assert found.get("faults", 1) > 0
    assert found.get("repeated", 0) == 0
