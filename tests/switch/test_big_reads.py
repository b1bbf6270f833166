"""`Switch.show`: of a large table only what is asked for is read, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.whole_network import load
from tests.written_switch import Switch, bound
from xenflow.openflow import wire as of
from xenflow.openflow.flow import Flow
from xenflow.tables import cookies, layout


class Asked(Switch):
    """A switch of `routes` routes, ten in each chunk, that answers at once."""

    routes = 0

    def prepare(self) -> None:
        self.asked: list[bytes] = []

    def _ask(self, request: Any, then: Callable[[list[Any]], None]) -> None:
        message = request.message
        self.asked.append(message)
        subtype, cookie = int.from_bytes(message[16:20], "big"), _cookie(message)
        if subtype == 1:
            then([SimpleNamespace(flows=self.routes)])
        elif cookie == cookies.of(layout.CLASSES):
            then([])
        elif cookie >> 24 & 0xFF == layout.ROUTES:
            then([SimpleNamespace(flow=Flow(layout.ROUTES, 1000, (), (), cookie))] * 10)
        else:
            then([])


def _cookie(message: bytes) -> int:
    # nx_stats_request: header 24, out_port and match_len 4, table 1, padding 3; cookie and mask
    # are fields of the match (NXM_NX_COOKIE_W: 4 octets of header, 8 of value, 8 of mask).
    return int.from_bytes(message[36:44], "big") if len(message) >= 44 else 0


@pytest.fixture
def switch() -> Asked:
    network = load("paper").network
    datapath = network.datapaths[network.routers["vr1"].home]
    made = Asked(
        network, datapath, SimpleNamespace(), lambda _, then, *a: then(*a), {}, bound(datapath)
    )
    made.prepare()
    hop = Flow(layout.NEXT_HOPS, 100, (), (), cookies.of(layout.NEXT_HOPS, 1))
    made.installed[hop.key] = hop
    return made


def show(switch: Asked, table: int, limit: int) -> tuple[int, int]:
    found: list[tuple[int, int]] = []
    switch.show(
        table,
        cookies.MAGIC,
        cookies.MAGIC_MASK,
        limit,
        lambda some, total: found.append((len(some), total)),
    )
    return found[0]


def test_a_small_table_is_read_at_once(switch: Asked) -> None:
    switch.routes = 50
    show(switch, of.ALL_TABLES, 1000)
    assert len(switch.asked) == 2


def test_of_a_large_table_only_as_much_as_is_shown(switch: Asked) -> None:
    switch.routes = 1_000_000
    some, total = show(switch, layout.ROUTES, 25)
    assert (some, total) == (50, 1_000_000)
    assert len(switch.asked) == 2 + 1 + 4


def test_the_other_tables_of_a_large_one_are_read_whole(switch: Asked) -> None:
    switch.routes = 1_000_000
    some, total = show(switch, of.ALL_TABLES, 5)
    assert (some, total) == (10, 1_000_000)
    assert len(switch.asked) == 2 + layout.VM + 1
