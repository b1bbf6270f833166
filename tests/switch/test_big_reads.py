"""`Switch.show`: of a large table only what is asked for is read, chunk by chunk."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.whole_network import load
from tests.written_switch import Switch, bound
from xenflow.openflow import wire
from xenflow.openflow.flow import Flow
from xenflow.openflow.statistics import StatsReply
from xenflow.switch.clock import Clock
from xenflow.tables import cookies, layout


class Asked:
    """The connection of a switch of `routes` routes, ten in each chunk, that answers at once."""

    def __init__(self) -> None:
        network = load("paper").network
        datapath = network.datapaths[network.routers["vr1"].home]
        clock = Clock(lambda seconds, then, *a: then(*a) if seconds < 1 else None)
        self.switch = Switch(network, datapath, SimpleNamespace(), clock, {}, bound(datapath))
        self.switch.channel.open(self, b"")
        hop = Flow(layout.NEXT_HOPS, 100, (), (), cookies.of(layout.NEXT_HOPS, 1))
        self.switch.installed.flows[hop.key] = hop
        self.routes = 0
        self.asked: list[bytes] = []

    def send(self, message: bytes) -> None:
        if not message:
            return
        self.asked.append(message)
        xid = int.from_bytes(message[4:8], "big")
        self.switch.channel.on_stats(StatsReply(xid, False, self._answer(message)))

    def _answer(self, message: bytes) -> Any:
        subtype, cookie = int.from_bytes(message[16:20], "big"), _cookie(message)
        if subtype == 1:
            return [SimpleNamespace(flows=self.routes)]
        if cookie != cookies.of(layout.CLASSES) and cookie >> 24 & 0xFF == layout.ROUTES:
            return [SimpleNamespace(flow=Flow(layout.ROUTES, 1000, (), (), cookie))] * 10
        return []

    def show(self, table: int, limit: int) -> tuple[int, int]:
        """How many flows are shown, and how many there are."""
        found: list[tuple[int, int]] = []
        self.switch.reader.show(
            table,
            cookies.MAGIC,
            cookies.MAGIC_MASK,
            limit,
            lambda some, total: found.append((len(some), total)),
        )
        return found[0]


def _cookie(message: bytes) -> int:
    # nx_stats_request: header 24, out_port and match_len 4, table 1, padding 3; cookie and mask
    # are fields of the match (NXM_NX_COOKIE_W: 4 octets of header, 8 of value, 8 of mask).
    return int.from_bytes(message[36:44], "big") if len(message) >= 44 else 0


@pytest.fixture
def switch() -> Asked:
    return Asked()


def test_a_small_table_is_read_at_once(switch: Asked) -> None:
    switch.routes = 50
    switch.show(wire.ALL_TABLES, 1000)
    assert len(switch.asked) == 2


def test_of_a_large_table_only_as_much_as_is_shown(switch: Asked) -> None:
    switch.routes = 1_000_000
    some, total = switch.show(layout.ROUTES, 25)
    assert (some, total) == (50, 1_000_000)
    assert len(switch.asked) == 2 + 1 + 4


def test_the_other_tables_of_a_large_one_are_read_whole(switch: Asked) -> None:
    switch.routes = 1_000_000
    some, total = switch.show(wire.ALL_TABLES, 5)
    assert (some, total) == (10, 1_000_000)
    assert len(switch.asked) == 2 + len(layout.TABLES)
