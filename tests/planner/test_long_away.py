"""A switch that is away for long: what it may hold still is given to nobody, whatever is changed
meanwhile, and however often."""

from __future__ import annotations

import pytest

from tests.planner.test_any_sequence import Living
from xenflow.model.network import NetworkError
from xenflow.planner.book import KEPT_CHANGES

HEAD = """
[network]
name = "small"
[controllers]
h1 = { openflow = "10.0.0.1:6633", manage = "tcp://10.0.0.1:6640" }
[datapaths]
h1 = { kind = "host", controller = "h1", other = "drop" }
s1 = { kind = "plain", controller = "h1", other = "drop" }
[cables]
c1 = { ends = ["h1:c1", "s1:c1"] }
[links]
"""
KEEPS = 'keeps = { id = 9, vlan = 99, access = [{ at = "h1:k" }] }\n'
BEFORE = HEAD + KEEPS + 'one = { id = 1, vlan = 10, access = [{ at = "h1:a" }] }\n'
ANEW = HEAD + KEEPS + 'one = { id = 2, vlan = 11, access = [{ at = "h1:a" }] }\n'


def write(living: Living, text: str) -> None:
    living.write(living.propose(text).transaction)


@pytest.mark.parametrize("changes", [0, KEPT_CHANGES + 1])
def test_what_came_back_with_other_numbers_keeps_the_former_ones(changes: int) -> None:
    """Its tombstone is no more; the change that says what it had stays as long."""
    living = Living()
    write(living, BEFORE)
    living.in_force(["h1", "s1"])
    write(living, HEAD + KEEPS)
    write(living, ANEW)
    living.in_force(["h1"])
    for number in range(changes):
        other = "" if number % 2 else 'more = { id = 3, vlan = 12, access = [{ at = "h1:b" }] }\n'
        write(living, ANEW + other)
        living.in_force(["h1"])
    again = ANEW + 'two = { id = 4, vlan = 10, access = [{ at = "h1:c" }] }\n'
    with pytest.raises(NetworkError, match="vlan 10 was one's, and not all switches have forgot"):
        living.propose(again)
    with pytest.raises(NetworkError, match="id 1 was one's"):
        living.propose(again.replace("id = 4", "id = 1").replace("vlan = 10", "vlan = 13"))
    living.in_force(["h1", "s1"])
    write(living, again)
    assert len(living.book.history()) <= KEPT_CHANGES
    assert living.book.network.links["two"].vlan == 10
