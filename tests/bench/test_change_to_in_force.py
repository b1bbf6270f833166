"""The measurement of a change of a network that lives in a store, in a small one."""

from __future__ import annotations

from pathlib import Path

from bench import change_to_in_force as bench
from bench.store_network import ring
from tests.store.store_rig import needs_server
from xenflow.store.laid_checks import misfits


def test_a_link_lies_where_it_is_needed_and_nowhere_else() -> None:
    network = ring(6, 3, 30, 90)
    assert list(misfits(network)) == []
    assert {len(link.tree.up) for link in network.links.values()} == {1, 4}


@needs_server
def test_only_those_concerned_hear_of_a_change(tmp_path: Path) -> None:
    found = bench.change_to_in_force(tmp_path, 5, (6, 3, 30, 90))
    assert found.rows[0].name == "change_to_in_force_p99"
    seen = found.sweep["change_to_in_force"]
    assert (seen["hosts"], seen["others_that_heard"]) == (6, 0)
    assert all(row.value > 0 for row in found.rows)
