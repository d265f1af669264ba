"""Prompt lookup: the tokens that followed the same ones before, as found by a simple search."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsd_core import ConfigurationError
from rsd_integrations.speculation.parsing import parse_proposer

IDS = st.lists(st.sampled_from([0, 1, 2, 256, 65_536, 2**24 + 1]), max_size=40)


def searched(ids: list[int], n: int, count: int) -> list[int]:
    """The same by looking at every place of the text; what goes beyond its end is appended to it and read on."""
    for size in range(min(n, len(ids) - 1), 0, -1):
        for place in range(len(ids) - size - 1, -1, -1):
            if ids[place : place + size] == ids[-size:]:
                longer = [*ids]
                for i in range(count):
                    longer.append(longer[place + size + i])
                return longer[len(ids) :]
    return []


@given(ids=IDS, cut=st.integers(0, 40), n=st.integers(1, 4), count=st.integers(1, 8))
def test_what_followed_the_longest_run_last_is_proposed(ids: list[int], cut: int, n: int, count: int) -> None:
    state = parse_proposer(f"lookup:n={n}").begin(ids[:cut], seed=0)
    for id_ in ids[cut:]:
        state.accept([id_])
    proposal = state.propose(count)
    assert list(proposal.tokens) == searched(ids, n, count)
    assert (proposal.parents, proposal.draft) == (None, None)


def test_a_loop_goes_on() -> None:
    assert parse_proposer("lookup").begin([7, 1, 2, 3, 1, 2, 3], 0).propose(7).tokens == (1, 2, 3, 1, 2, 3, 1)


@pytest.mark.parametrize("text", ["lookup:0", "lookup:n=17", "lookup:m=3", "look"])
def test_errors_are_reported(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"greater than|less than|unknown"):
        parse_proposer(text)
