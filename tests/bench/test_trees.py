"""The measurement of laying, in small."""

from __future__ import annotations

from bench.trees import Laid, lay_large_network, make_network


def test_it_measures_what_it_says() -> None:
    rows = lay_large_network(2, 8, 4, 12, 40).rows
    assert [row.name for row in rows] == ["lay_large_network", "lay_link_in_large_network"]
    assert all(row.value > 0 for row in rows) and rows[1].ratio is not None


def test_a_link_that_goes_and_comes_lies_as_it_did() -> None:
    laid = Laid(make_network(8, 4, 12, 40))
    before = next(iter(laid.network.links.values()))
    for _ in range(3):
        after = laid.relaid()
        assert (after.tree, after.labels) == (before.tree, before.labels)
