"""What is for a VM that is suspended is held, in order, and given to it when it takes frames."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests import built_packets as built
from tests.written_switch import WrittenSwitch, bound
from xenflow.control.rule_table import RuleTable
from xenflow.model.difference import compare
from xenflow.model.network import NetworkError
from xenflow.model.placement import Mode, Placement, at_home
from xenflow.model.succession import changed_with
from xenflow.openflow import flow as f
from xenflow.openflow import packet as pk
from xenflow.openflow import wire
from xenflow.openflow.nxm import parse_actions
from xenflow.openflow.parse import PacketIn
from xenflow.store.network_file import load
from xenflow.switch.channel import SwitchRequest
from xenflow.switch.jobs import Job
from xenflow.tables import layout, simulate
from xenflow.tables.layout import Reg, Up
from xenflow.tables.sent_up import ForVm
from xenflow.vm import packets as vm_packets
from xenflow.vm.hold import MAX_KINDS

ROOT = Path(__file__).resolve().parents[2]
PORTS = {"to-gen": 1, "to-recv": 2, "vr1.0": 3, "vr1.1": 4}
VIFS = frozenset(("vr1.0", "vr1.1"))
MAC, RIGHT_MAC, MACHINE = 0x020000010101, 0x020000010201, 0x020000000102
LEFT = 1


class Wire(WrittenSwitch):
    """A switch that carries packet-outs out by its tables."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(now)
        self.came: list[tuple[int | str, bytes]] = []
        """(port, frame): what has left by packet-outs, in order."""

    def send(self, data: bytes) -> None:
        super().send(data)
        for message in wire.split(data)[0]:
            if message[1] == wire.MessageType.PACKET_OUT:
                length = int.from_bytes(message[14:16], "big")
                actions, frame = parse_actions(message, 16, length), message[16 + length :]
                self.came += simulate.run_actions(self.tables, frame, f.PORT_NONE, actions).outputs

    def to(self, *ports: str) -> list[bytes]:
        """The frames that have left by some ports."""
        return [frame for port, frame in self.came if port in [PORTS[name] for name in ports]]


class Host:
    """host-a's Rule Table and its switch; the time passes where a test lets it."""

    def __init__(self) -> None:
        network = load(ROOT / "conf" / "paper.toml")
        self.now = 1000.0
        self.wire = Wire(lambda: self.now)
        self.spoke: list[str] = []
        self.migrating = False
        self.table = RuleTable(
            network,
            "host-a",
            None,
            self.wire.clock,
            bound,
            migrating=lambda router: self.migrating,
            spoke=self.spoke.append,
        )
        self.switch = self.table.switches["host-a"]
        self.wire.attach(self.switch, PORTS)
        self.wire.run()

    def suspended(self, vifs: frozenset[str]) -> None:
        self.table.packets.vifs_are_suspended(vifs)
        self.wire.run()

    def held(self) -> list[bytes]:
        return [kept.frame for kept in self.table.packets.held["vr1"].frames]

    def to_vm(self) -> set[str]:
        """What table VM does with frames for the router's left interface: "holds", "delivers" or
        "delivers and copies"."""
        found = set()
        for flow in self.switch.installed.flows.values():
            if flow.table == layout.VM and ("reg3", LEFT) in [(n, v) for n, v, _ in flow.match]:
                kinds = [action[0] for action in flow.actions]
                words = {"output": "delivers", "controller": "holds"}
                said = " and ".join(words[kind] for kind in kinds if kind in words)
                found.add(said.replace("and holds", "and copies"))
        return found

    def comes(self, frame: bytes, link: str = "left", copied: bool = False) -> bytes:
        """A frame for the router, as table VM sends it up; returns it."""
        found = self.table.network.links[link]
        why = Up.COPIED if copied else Up.HELD
        told = {Reg.ROUTER: 1, Reg.LINK_IN: found.id, Reg.SENT_UP: why.value}
        assert self.table.packet_in(self.switch, packet_in(1, frame, told))
        return frame

    def says(self, frame: bytes) -> None:
        """The VM sends a frame on the left link, which comes up."""
        told = {Reg.ROUTER: 1, Reg.LINK_IN: LEFT, Reg.SENT_UP: Up.FROM_VM.value}
        assert self.table.packet_in(self.switch, packet_in(PORTS["vr1.0"], frame, told))

    def ping(self, number: int, link: str = "left", copied: bool = False) -> bytes:
        """A ping to the router."""
        body = pk.ipv4(0x0A000102, 0x0A000101, 1, bytes([8, 0, 0, 0, 0, 0, 0, number]))
        mac = MAC if link == "left" else RIGHT_MAC
        return self.comes(pk.ethernet(mac, MACHINE, pk.ETH_IPV4, body), link, copied)

    def hello(self, source: int = MACHINE) -> bytes:
        """A neighbour's, on the left link."""
        return self.comes(neighbour_hello(source))


def neighbour_hello(source: int) -> bytes:
    ip = pk.ipv4(0x0A000102, 0xE0000005, pk.OSPF, built.ospf_hello(0x0A000102, 10), ttl=1)
    return pk.ethernet(0x01005E000005, source, pk.ETH_IPV4, ip)


NEIGHBOUR_HELLO = neighbour_hello(MACHINE)


def packet_in(in_port: int, frame: bytes, registers: dict[str, int]) -> PacketIn:
    return PacketIn(0, wire.NO_BUFFER, len(frame), in_port, 1, frame, registers)


@pytest.fixture
def host() -> Host:
    return Host()


def test_from_its_suspension_on_packets_are_held(host: Host) -> None:
    assert host.to_vm() == {"delivers"}
    host.suspended(VIFS)
    assert host.to_vm() == {"holds"}
    assert host.switch.ports.takes("to-gen"), "other ports are none of its business"
    frames = [host.ping(n) for n in range(3)]
    assert host.held() == frames
    host.suspended(frozenset())
    assert host.to_vm() == {"delivers"}
    assert host.held() == []
    assert host.table.packets.held["vr1"].delivered == 3


def test_what_was_held_on_a_link_is_there_before_what_comes_on_it_later(host: Host) -> None:
    """Each link's goes with its own vif, or newer frames of the same sender would overtake it."""
    host.suspended(VIFS)
    first, second = host.ping(1), host.ping(2, link="right")
    host.suspended(frozenset(("vr1.1",)))
    assert host.to_vm() == {"delivers"}
    assert host.held() == [second] and host.wire.to(*VIFS) == [first]
    host.suspended(frozenset())
    assert host.held() == [] and host.wire.to(*VIFS) == [first, second]


def test_while_the_switch_is_not_told_yet_what_comes_is_held_in_its_order(host: Host) -> None:
    """What was held must not come round and round, nor a group's be taken for another router's."""
    host.suspended(VIFS)
    came = [host.ping(1), host.hello()]
    host.table.packets.vifs_are_suspended(frozenset())
    came += [host.ping(2), host.hello()]
    assert (host.held(), host.wire.came) == (came, [])
    host.wire.run()
    assert (host.held(), host.wire.to("vr1.0")) == ([], came)
    late = [host.ping(3), host.hello()]
    assert (host.held(), host.wire.to("vr1.0")) == ([], came + late)


def test_a_group_s_frame_is_not_given_to_a_router_that_has_had_it(host: Host) -> None:
    """A host without registers sends it up for another router of the link that is suspended."""
    router, link = host.table.network.routers["vr1"], host.table.network.links["left"]
    stranger = replace(router, name="vr9")
    interface = router.interfaces[0]
    host.suspended(VIFS)
    host.suspended(frozenset())
    host.now += vm_packets.LATE_S
    members = ((router, interface), (stranger, interface))
    host.table.packets.sent_up(host.switch, ForVm(link, members, NEIGHBOUR_HELLO, False))
    assert (host.held(), host.wire.came) == ([], [])
    host.table.packets.sent_up(host.switch, ForVm(link, members[:1], NEIGHBOUR_HELLO, False))
    assert (host.held(), host.wire.to("vr1.0")) == ([], [NEIGHBOUR_HELLO])


def test_another_router_s_long_job_delays_nothing(host: Host) -> None:
    """A full table takes seconds to be written."""

    def long() -> Job:
        yield SwitchRequest(1, b"")  # which is never answered

    host.switch.jobs.submit(long())
    host.suspended(VIFS)
    assert host.to_vm() == {"holds"}
    held = host.ping(1)
    host.suspended(frozenset())
    assert host.to_vm() == {"delivers"}
    assert (host.held(), host.wire.to("vr1.0")) == ([], [held])


def test_what_was_held_is_given_to_a_vif_that_came_while_the_switch_was_away(host: Host) -> None:
    host.suspended(VIFS)
    held = host.ping(1)
    host.switch.disconnect()
    host.table.packets.vifs_are_suspended(frozenset())
    assert host.held() == [held]
    host.wire.attach(host.switch, PORTS)
    assert (host.held(), host.wire.to("vr1.0")) == ([], [held])


def test_what_comes_up_while_a_switch_is_read_back_does_not_go_round(host: Host) -> None:
    """It holds still what the vif, which has come meanwhile, could take."""
    host.suspended(VIFS)
    host.switch.disconnect()
    host.table.packets.vifs_are_suspended(frozenset())
    host.switch.connect(host.wire, [(name, number, True) for name, number in PORTS.items()])
    came = [host.ping(1), host.hello(), host.ping(2)]
    assert (host.held(), host.wire.came) == (came, [])
    host.wire.run()
    assert (host.held(), host.wire.to("vr1.0")) == ([], came)


def test_vifs_get_their_packets_before_the_routes_are_written(host: Host) -> None:
    """A full table takes seconds."""
    host.suspended(VIFS)
    held = host.ping(1)
    host.switch.disconnect()
    host.table.packets.vifs_are_suspended(frozenset())

    def long() -> Job:
        yield SwitchRequest(1, b"")  # which is never answered

    host.switch.writer.small = long  # type: ignore[method-assign]
    host.wire.attach(host.switch, PORTS)
    assert (host.held(), host.wire.to("vr1.0")) == ([], [held])


def test_a_vm_is_not_given_what_was_said_in_its_own_name(host: Host) -> None:
    """Its repeated hello comes back from the link."""
    host.suspended(VIFS)
    host.hello(source=MAC)
    neighbours = host.hello()
    assert host.held() == [neighbours]


def test_what_was_held_follows_a_vm_that_is_elsewhere(host: Host) -> None:
    """Whoever says so, `migrate` or `recover`: no host keeps it for a VM that is not there."""
    both = ("host-a", "host-b")
    host.table.place(
        at_home("vr1", "host-a").step(reaches=both), host.table.switches, False, lambda error: None
    )
    host.suspended(VIFS)
    held = host.ping(1)
    host.table.place(
        Placement("vr1", both, "host-b", "host-a", version=5, reaches=both),
        host.table.switches,
        False,
        lambda error: None,
    )
    host.wire.run()
    assert host.held() == []
    assert [held[14:] in frame for frame in host.wire.to("to-gen", "to-recv")] == [True]


def test_what_cannot_be_sent_on_is_held_still(host: Host) -> None:
    host.suspended(VIFS)
    held = host.ping(1)
    del host.switch.ports["to-gen"]
    with pytest.raises(NetworkError, match="no way to host-b"):
        host.table.packets.deliver(host.switch, host.table.network.routers["vr1"], "host-b")
    assert host.held() == [held] and host.table.packets.held["vr1"].delivered == 0


def test_carrier_alone_does_not_do(host: Host) -> None:
    host.suspended(VIFS)
    for port in VIFS:
        host.switch.port_changed(port, PORTS[port], True, False)
    host.wire.run()
    assert host.to_vm() == {"holds"}


def test_the_flows_are_there_before_what_was_held_is_sent(host: Host) -> None:
    host.suspended(VIFS)
    host.ping(1)
    seen: list[set[str]] = []
    send = host.wire.send

    def watched(data: bytes) -> None:
        if any(m[1] == wire.MessageType.PACKET_OUT for m in wire.split(data)[0]):
            seen.append(host.to_vm())
        send(data)

    host.wire.send = watched  # type: ignore[method-assign]
    host.suspended(frozenset())
    assert seen == [{"delivers"}]


def test_the_first_frame_that_leaves_a_still_vif_is_told(host: Host) -> None:
    """The switch sends it up and on; from a vif that takes frames, hellos alone."""
    arp = pk.ethernet(pk.BROADCAST, MAC, 0x0806, pk.arp(1, MAC, 0x0A000101, 0, 0x0A000101))

    def leaves() -> set[int | str]:
        verdict = simulate.run(host.wire.tables, arp, PORTS["vr1.0"])
        return {port for port, _ in verdict.outputs}

    assert leaves() == {PORTS["to-gen"]}
    host.suspended(VIFS)
    assert leaves() == {PORTS["to-gen"], "controller"}
    host.says(arp)
    assert host.spoke == ["vr1.0"]


def ospf_hello(*neighbours: int) -> bytes:
    """The VM's, on the left link."""
    body = built.ospf_hello(0x0A000101, 10, neighbours=neighbours)
    ip = pk.ipv4(0x0A000101, 0xE0000005, pk.OSPF, body, ttl=1)
    return pk.ethernet(0x01005E000005, MAC, pk.ETH_IPV4, ip)


def ospf6_hello(*neighbours: int, instance: int = 0) -> bytes:
    """OSPFv3's."""
    packet = built.ospf6_hello(0xFE80 << 112 | 1, 10, neighbours, instance)
    return pk.ethernet(0x333300000005, MAC, pk.ETH_IPV6, packet)


def isis_hello(neighbours: bytes = b"") -> bytes:
    """Of level 1 on a LAN, to be heard again within 30 s (ISO/IEC 10589, 9.5)."""
    tlv = bytes((6, len(neighbours))) + neighbours
    pdu = (
        struct.pack(
            "!BBBBBBBBB6sHHB7s",
            0x83,
            27,
            1,
            0,
            15,
            1,
            0,
            0,
            1,
            b"source",
            30,
            27 + len(tlv),
            64,
            b"lan",
        )
        + tlv
    )
    return pk.ethernet(pk.ISIS_GROUPS[0], MAC, 3 + len(pdu), b"\xfe\xfe\x03" + pdu)


def sends_up(host: Host, frame: bytes) -> bool:
    """Whether the switch sends a frame of the VM to the controller, and on."""
    ports = {port for port, _ in simulate.run(host.wire.tables, frame, PORTS["vr1.0"]).outputs}
    return ports == {"controller", PORTS["to-gen"]}


@pytest.mark.parametrize(
    ("hello", "lonely"),
    [
        (ospf_hello(0x0A000102), ospf_hello()),
        (ospf6_hello(0x0A000102), ospf6_hello()),
        (isis_hello(b"sixmac"), isis_hello()),
    ],
    ids=["OSPFv2", "OSPFv3", "IS-IS"],
)
def test_hellos_are_repeated_until_the_links_are_turned(
    host: Host, monkeypatch: pytest.MonkeyPatch, hello: bytes, lonely: bytes
) -> None:
    assert sends_up(host, hello)
    both = ("host-a", "host-b")
    prepared = at_home("vr1", "host-a").step(forwarders=both, reaches=both)
    host.migrating = True
    host.says(hello)
    sent: list[bytes] = []
    monkeypatch.setattr(host.wire, "send", sent.append)

    def repeated(placement: Placement, now: float) -> int:
        host.switch.placements["vr1"] = placement
        sent.clear()
        host.table.tick(now)
        return sum(hello[:14] in data for data in sent)

    assert repeated(prepared, 1011.0) == 0, "the VM runs"
    host.switch.ports.suspended_are(VIFS)
    assert repeated(prepared, 1011.0) == 1
    assert repeated(prepared, 1012.0) == 0, "not due yet"
    moved = prepared.step(vm="host-b")
    assert repeated(moved, 1022.0) == 1, "it may not be connected there yet"
    assert repeated(moved.step(leads_to="host-b"), 1033.0) == 0
    assert repeated(moved.step(mode=Mode.NATIVE), 1033.0) == 0, "the VM alone speaks"
    assert repeated(moved, 1033.0) == 1, "or nothing above says anything"
    assert repeated(moved, 1131.0) == 1, "as long as a graceful restart may take (RFC 3623)"
    assert repeated(moved, 1142.0) == 0, "who does not come back is missed"

    host.says(hello)
    assert repeated(moved, 1142.0) == 1, "it has been heard"
    host.says(lonely)
    assert repeated(moved, 1154.0) == 0, "this would end the adjacency"


def test_hellos_of_each_kind_are_repeated_up_to_a_bound(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside IPv4's those of IPv6, of each of its instances."""
    host.migrating = True
    said = [ospf_hello(5), *(ospf6_hello(5, instance=number) for number in range(20))]
    for hello in said:
        host.says(hello)
    host.switch.ports.suspended_are(VIFS)
    sent: list[bytes] = []
    monkeypatch.setattr(host.wire, "send", sent.append)
    host.table.tick(host.now + 11)
    repeated = [hello for hello in said if any(hello in data for data in sent)]
    assert repeated == said[:MAX_KINDS]


def test_what_is_of_a_link_that_the_router_has_left_is_forgotten(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload takes its left interface away: neither is its hello said there any more, nor is a
    frame of that link held for it, of which nobody knew where it should go."""
    host.migrating = True
    hello = ospf_hello(0x0A000102)
    host.says(hello)
    host.switch.ports.suspended_are(VIFS)
    host.comes(NEIGHBOUR_HELLO)
    assert host.held() == [NEIGHBOUR_HELLO]
    sent: list[bytes] = []
    monkeypatch.setattr(host.wire, "send", sent.append)
    before = host.table.network
    router = before.routers["vr1"]
    after = changed_with(before, routers={"vr1": replace(router, interfaces=router.interfaces[1:])})
    host.table.packets.network_is(after, compare(before, after).routers)
    host.table.tick(host.now + 11)
    assert not any(hello in data for data in sent)
    assert host.held() == []


def test_what_was_said_before_native_mode_is_not_repeated_after_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The VM has said something else meanwhile, which was not heard here."""
    sent: list[bytes] = []
    host.migrating = True
    hello = ospf_hello(0x0A000102)

    def repeated(*, native_between: bool) -> bool:
        host.says(hello)
        home = host.switch.placements["vr1"]
        for mode in (Mode.NATIVE, Mode.XENFLOW) if native_between else ():
            home = home.step(mode=mode)
            host.table.place(home, host.table.switches, False, lambda error: None)
            host.wire.run()
        host.switch.ports.suspended_are(VIFS)
        sent.clear()
        with monkeypatch.context() as patch:
            patch.setattr(host.wire, "send", sent.append)
            host.table.tick(host.now + 11)
        return any(hello in data for data in sent)

    assert repeated(native_between=False)
    assert not repeated(native_between=True)


def test_what_is_sent_up_late_follows_what_was_held(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the moment that the source is told where the VM is and the one that its flows say so,
    packets still come up; and some are on their way to the controller then."""
    sent: list[bytes] = []
    host.suspended(VIFS)
    host.ping(1)
    away = Placement("vr1", ("host-a", "host-b"), "host-b", "host-a", version=5)
    host.switch.placements["vr1"] = away
    monkeypatch.setattr(host.wire, "send", sent.append)
    late = host.ping(2)
    outs = [m for data in sent for m in wire.split(data)[0] if m[1] == wire.MessageType.PACKET_OUT]
    assert [late in m for m in outs] == [False, True], "both, in order"
    assert host.held() == []
    host.switch.placements["vr1"] = at_home("vr1", "host-b")
    host.ping(3)
    assert host.held() == [], "nothing is held for a router that is elsewhere"
    assert (
        len([m for d in sent for m in wire.split(d)[0] if m[1] == wire.MessageType.PACKET_OUT]) == 2
    )


def test_during_a_migration_what_a_vif_has_just_got_is_held_too(host: Host) -> None:
    """It may be in the ring of a VM that has been suspended meanwhile."""
    both = Placement("vr1", ("host-a", "host-b"), "host-a", "host-a", version=5)
    host.switch.placements["vr1"] = both
    host.switch.placed("vr1")
    host.wire.run()
    assert host.to_vm() == {"delivers", "delivers and copies"}, "copies what is for the VM itself"
    got = host.ping(1, copied=True)
    assert host.held() == []
    host.suspended(VIFS)
    assert host.to_vm() == {"holds"}
    late = host.ping(2, copied=True)  # it was put into the vif before the switch knew
    last = host.ping(3)
    assert host.held() == [got, late, last]
    assert host.table.packets.held["vr1"].repeated == 2, "the late one, too"


def test_what_a_vm_was_given_before_an_announced_suspension_it_has_read(host: Host) -> None:
    """No copy of it is delivered; who suspends waits until the switch gives the vifs nothing."""
    router = host.table.network.routers["vr1"]
    said: list[tuple[str | None, set[str]]] = []

    def told(error: str | None) -> None:
        said.append((error, host.to_vm()))

    both = Placement("vr1", ("host-a", "host-b"), "host-a", "host-a", version=5)
    host.switch.placements["vr1"] = both
    host.switch.placed("vr1")
    host.wire.run()
    host.ping(1, copied=True)
    host.table.packets.announced(host.switch, router, True, told)
    assert said == []
    host.ping(2, copied=True)
    host.wire.run()
    assert said == [(None, {"holds"})]
    held = host.ping(3)
    assert host.held() == [held]
    host.table.packets.announced(host.switch, router, True, told)
    assert said[1:] == [(None, {"holds"})], "at once, where nothing is given to it anyway"
    host.table.packets.announced(host.switch, router, False, told)
    host.wire.run()
    assert [error for error, _ in said[2:]] == [None]
    assert host.to_vm() == {"delivers", "delivers and copies"}
    assert (host.held(), host.wire.to("vr1.0")) == ([], [held])


def test_an_announced_suspension_ends_with_its_router(host: Host) -> None:
    """One that was moved away, then stopped, and is started here."""
    before = host.table.network
    host.table.packets.announced(host.switch, before.routers["vr1"], True, lambda error: None)
    assert not host.switch.ports.takes("vr1.0")
    host.table.change(changed_with(before, routers={"vr1": None}))
    host.table.tick(host.now)
    host.table.change(before)
    assert host.switch.ports.takes("vr1.0")


def test_an_announced_suspension_ends_with_the_interface(host: Host) -> None:
    """The router has lost it when it is said to run, and gets it back."""
    before = host.table.network
    router = before.routers["vr1"]
    host.table.packets.announced(host.switch, router, True, lambda error: None)
    alone = replace(router, interfaces=router.interfaces[:1])
    host.table.change(changed_with(before, routers={"vr1": alone}))
    host.table.packets.announced(host.switch, alone, False, lambda error: None)
    host.table.tick(host.now)
    host.table.change(before)
    assert host.switch.ports.takes("vr1.0") and host.switch.ports.takes("vr1.1")


def test_an_announced_suspension_that_nobody_ends_is_over_in_the_end(host: Host) -> None:
    router = host.table.network.routers["vr1"]
    host.table.packets.announced(host.switch, router, True, lambda error: None)
    host.wire.run()
    host.table.tick(host.now + vm_packets.ANNOUNCED_S)
    assert host.to_vm() == {"holds"}
    host.table.tick(host.now + vm_packets.ANNOUNCED_S + 1.0)
    host.wire.run()
    assert host.to_vm() == {"delivers"}
