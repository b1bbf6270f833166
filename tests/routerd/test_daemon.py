"""routerd's loop with a kernel and a Rule Table that a test plays."""

from __future__ import annotations

import errno
import logging
import struct
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from routerd import rtnetlink as rt
from routerd.daemon import Daemon, DaemonOptions, Kernel
from routerd.neighbour_keeper import NeighbourKeeper
from xenflow.routes.messages import (
    Frames,
    Header,
    Policy,
    RouteMessageType,
    SectionKind,
    pack,
    parse,
)
from xenflow.routes.router_state import RouterState

ETH0 = 3
UP = rt.IFF_UP | rt.IFF_LOWER_UP
PREFIX = bytes((10, 20, 0, 0))


def message(type_: int, body: bytes, flags: int = 0) -> rt.NetlinkMessage:
    return rt.NetlinkMessage(type_, flags, 0, body)


def link(flags: int = UP) -> rt.NetlinkMessage:
    body = struct.pack("=BxHiII", 0, rt.ARPHRD_ETHER, ETH0, flags, 0)
    body += rt.attribute(rt.IFLA_IFNAME, b"eth0\0") + rt.attribute(rt.IFLA_ADDRESS, b"\2\0\0\0\0\1")
    return message(rt.RTM_NEWLINK, body + rt.attribute(rt.IFLA_MTU, struct.pack("=I", 1500)))


def route(*, table: int = rt.TABLE_MAIN) -> rt.NetlinkMessage:
    body = struct.pack("=BBBBBBBBI", rt.AF_INET, 16, 0, 0, table, 3, 0, rt.RTN_UNICAST, 0)
    body += rt.attribute(rt.RTA_DST, PREFIX) + rt.attribute(rt.RTA_OIF, struct.pack("=I", ETH0))
    return message(rt.RTM_NEWROUTE, body, rt.NLM_F_CREATE)


ADDRESS = message(rt.RTM_NEWADDR, bytes(8))


class Told:
    """A listener that tells these messages, so many at a time."""

    def __init__(self, *messages: rt.NetlinkMessage) -> None:
        self._left = list(messages)

    def drain(self, datagrams: int) -> tuple[list[rt.NetlinkMessage], bool]:
        found, self._left = self._left[:datagrams], self._left[datagrams:]
        return found, False

    def fileno(self) -> int:
        return 0

    def close(self) -> None:
        pass


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """One that has been dumped: eth0 is up, and there is no route."""
    made = Kernel("ctl0", 1 << 16)
    made._listener.close()
    made.view.dumped_links([link().body], 0.0)
    made.view.begin_main()
    made.dump_all = made.look_beyond = False
    yield made
    made.close()


def test_what_waits_before_a_dump_is_never_taken_for_younger(kernel: Kernel) -> None:
    """A route that was added and went with its link, without a word, while an earlier message had
    everything dumped: the dump knows neither, and nothing but a dump would find out."""
    kernel._listener = Told(ADDRESS, *[link()] * 300, route())  # type: ignore[assignment]
    kernel.read()
    kernel.dump_all = False  # it is made now
    kernel.read()
    assert not kernel.tables.routes


def test_a_flood_before_a_dump_ends(kernel: Kernel) -> None:
    class Flood(Told):
        def drain(self, datagrams: int) -> tuple[list[rt.NetlinkMessage], bool]:
            return [ADDRESS] * datagrams, False

    kernel._listener = Flood()  # type: ignore[assignment]
    kernel.read()
    assert kernel.dump_all


def test_a_message_that_cannot_be_read_has_everything_dumped(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    short = message(rt.RTM_NEWROUTE, bytes(5))
    odd = message(rt.RTM_NEWNEIGH, bytes(12) + b"\2\0\1\0")
    for bad in (short, odd):
        kernel.dump_all = False
        kernel._listener = Told(bad)  # type: ignore[assignment]
        kernel.read()
        assert kernel.dump_all
    assert caplog.text.count("unreadable-message") == 2


class Heard:
    """The Rule Table's end of the link: it keeps what it is sent."""

    address = "here"

    def __init__(self) -> None:
        self.sent: list[Frames] = []

    def send(self, messages: Iterable[Frames]) -> bool:
        self.sent += messages
        return True

    def close(self) -> None:
        pass

    def state(self) -> RouterState:
        """What it would know now, of snapshots and deltas."""
        state = RouterState()
        for frames in self.sent:
            message = parse(frames)
            if message.header.type is RouteMessageType.SNAPSHOT and not message.header.part:
                state = RouterState()
            state.apply(message.sections)
        return state


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    made = Daemon(DaemonOptions("ctl0", "vr1", "ipc://none", dry_run=True, receive_buffer=1 << 16))
    made.options = replace(made.options, dry_run=False)
    made.link = Heard()  # type: ignore[assignment]
    made.kernel.view.dumped_links([link().body], 0.0)
    made.kernel.view.begin_main()
    made.kernel.dump_all = False
    yield made
    made.kernel.close()


def odd_state(daemon: Daemon) -> RouterState:
    """What the kernel said, with a value that no message holds."""
    state = daemon.kernel.telling.state()
    state.interfaces[ETH0] = replace(state.interfaces[ETH0], mtu=1 << 16)
    return state


@pytest.mark.parametrize("connected", ["before", "after"])
def test_what_no_message_holds_sends_everything_through_the_vm(
    daemon: Daemon, connected: str
) -> None:
    """The daemon lives, and its router is served."""
    assert isinstance(daemon.link, Heard)
    link = daemon.link
    if connected == "before":
        daemon.sender.connected(0.0)
        daemon._tell_all(daemon.kernel.telling.state())
    daemon._tell_all(odd_state(daemon))
    if connected == "after":
        daemon.sender.connected(0.0)
        wish = pack(Header(RouteMessageType.RESYNC, daemon.sender.state.epoch, 0, "vr1"))
        daemon._carry_out(link, daemon.sender.receive(wish, 100.0), 100.0)
    said = "routerd cannot tell all"
    assert link.state().policy == Policy(True, said, (), True, said)
    assert link.state().interfaces[ETH0].mtu == 1500
    daemon._tell_all(daemon.kernel.telling.state())
    assert not link.state().policy.reason.startswith("routerd")


def test_a_neighbour_that_the_kernel_does_not_answer_for_ends_nothing(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def silent(*_: object) -> int:
        raise rt.NetlinkError(errno.ETIMEDOUT, "the kernel does not answer")

    monkeypatch.setattr(daemon.kernel, "resolve", silent)
    monkeypatch.setattr(NeighbourKeeper, "requests", lambda *_: [((ETH0, 4, 1), True)])
    daemon._keep(0.0)
    assert "neighbour-failed" in caplog.text
    assert daemon.keeper.managed


def test_while_a_dump_has_to_wait_the_loop_sleeps(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there is nothing to tell before it."""
    kernel = daemon.kernel
    kernel.dump_all = kernel.look_first = True
    daemon._beyond_at = daemon._keep_at = 100.0
    daemon._dump_after, daemon._send_after = 11.0, 9.0
    monkeypatch.setattr("xenflow.routes.sender.HEARTBEAT_S", 50.0)
    assert not daemon.sender.state.nexthops
    assert daemon._next(10.0) == 11.0


def test_a_single_change_is_one_delta(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert isinstance(daemon.link, Heard)
    daemon.sender.connected(0.0)
    daemon._tell_all(daemon.kernel.telling.state())
    sent = len(daemon.link.sent)
    daemon.kernel._listener.close()
    daemon.kernel._listener = Told(route())  # type: ignore[assignment]
    daemon.kernel.read()
    daemon._settle(daemon._send_after)
    (delta,) = [parse(frames) for frames in daemon.link.sent[sent:]]
    assert delta.header.type is RouteMessageType.DELTA
    kinds = [section.kind for section in delta.sections]
    assert SectionKind.ROUTE4 in kinds
