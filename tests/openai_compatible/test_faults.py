"""The benchmark of faults on few problems: nothing lost, nothing mixed up, nothing degraded without saying so."""

import pytest

from tests.benchmarks.faults import SCENARIOS

SMALL = [
    "hung_calls",
    "cut_streams",
    "nan_reward",
    "second_of_502",
    "kept_connections_reset",
    "last_chunk_without_text",
    "stop_reason_dropped",
    "stop_strings_stripped_and_not_named",
    "client_killed_and_resumed",
]


@pytest.mark.parametrize("fault", SMALL)
def test_no_answer_is_lost_or_mixed_up_by_a_fault(fault: str) -> None:
    found = SCENARIOS[fault](24)
    assert found["problems"] == 24
    assert (found["lost"], found["misattributed"], found["silently_cut"], found["degraded_unmarked"]) == (0, 0, 0, 0)
    if fault in ("second_of_502", "kept_connections_reset"):
        assert not found["degraded"], "an outage that patience covers"
    assert found.get("faults", 1) > 0
    assert found.get("repeated", 0) == 0
