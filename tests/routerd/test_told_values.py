"""Whatever the kernel says, what is told fits a message, and the Rule Table can read it."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from routerd import rtnetlink as rt
from routerd.kernel_view import KernelView
from xenflow.routes.messages import NextHopType, parse
from xenflow.routes.router_state import RouterState
from xenflow.routes.sender import snapshot_messages

ETH0, CARD = 3, b"\x02\0\0\0\0\x10"
NAMES = st.binary(min_size=1, max_size=15).filter(lambda name: b"\0" not in name)
OCTETS = st.binary(max_size=20)
U32 = st.integers(1, 0xFFFFFFFF).map(lambda n: struct.pack("=I", n))


def link(name: bytes, mac: bytes = CARD, mtu: bytes = b"\xdc\x05\0\0") -> bytes:
    flags = rt.IFF_UP | rt.IFF_LOWER_UP
    body = struct.pack("=BxHiII", 0, rt.ARPHRD_ETHER, ETH0, flags, 0)
    named = ((rt.IFLA_IFNAME, name + b"\0"), (rt.IFLA_ADDRESS, mac), (rt.IFLA_MTU, mtu))
    return body + b"".join(rt.attribute(type_, value) for type_, value in named)


def route(*found: tuple[int, bytes], table: int = rt.TABLE_MAIN, type_: int = 1) -> bytes:
    length = 24 if any(kind == rt.RTA_DST for kind, _ in found) else 0
    body = struct.pack("=BBBBBBBBI", rt.AF_INET, length, 0, 0, table, 3, 0, type_, 0)
    return body + b"".join(rt.attribute(kind, value) for kind, value in found)


def neighbour(address: bytes, mac: bytes) -> bytes:
    body = struct.pack("=BxxxiHBB", rt.AF_INET, ETH0, rt.NUD_REACHABLE, 0, 0)
    return body + rt.attribute(rt.NDA_DST, address) + rt.attribute(rt.NDA_LLADDR, mac)


def heard(state: RouterState) -> RouterState:
    """The state as the Rule Table has it after a snapshot."""
    fresh = RouterState()
    for frames in snapshot_messages(state, "vr1"):
        fresh.apply(parse(frames).sections)
    return fresh


@given(NAMES, OCTETS, U32, OCTETS, OCTETS, OCTETS, U32, st.sampled_from([1, 4, 5, 9]))
def test_odd_values_are_told_in_some_way(
    name: bytes,
    mac: bytes,
    mtu: bytes,
    gateway: bytes,
    address: bytes,
    object_gateway: bytes,
    ifindex: bytes,
    kind: int,
) -> None:
    view = KernelView("ctl0")
    view.dumped_links([link(name, mac, mtu)], 0.0)
    hop = struct.pack("=HBBI", 8 + 4 + len(gateway) + -len(gateway) % 4, 0, 255, ETH0)
    hop += rt.attribute(rt.RTA_GATEWAY, gateway)
    object_ = struct.pack("=BBBxI", rt.AF_INET, 0, 0, 0) + rt.attribute(rt.NHA_ID, b"\1\0\0\0")
    object_ += rt.attribute(rt.NHA_OIF, struct.pack("=I", ETH0))
    view.dumped_nexthops([object_ + rt.attribute(rt.NHA_GATEWAY, object_gateway)])
    view.begin_main()
    view.dumped_routes(
        [
            route((rt.RTA_OIF, ifindex), (rt.RTA_GATEWAY, gateway)),
            route((rt.RTA_DST, bytes((10, 0, 1, 0))), (rt.RTA_MULTIPATH, hop * 3)),
            route((rt.RTA_DST, bytes((10, 0, 2, 0))), (rt.RTA_NH_ID, b"\1\0\0\0")),
            route(
                (rt.RTA_DST, bytes((10, 0, 3, 0))),
                (rt.RTA_OIF, ifindex),
                table=rt.TABLE_LOCAL,
                type_=kind,
            ),
        ],
        0.0,
    )
    view.dumped_neighbours([neighbour(address, mac), neighbour(gateway, mac)], 0.0)
    state = view.telling.state()
    assert len(state.routes) == 3
    assert heard(state).same(state)


def test_a_gateway_of_no_ipv4_address_is_the_vms() -> None:
    view = KernelView("ctl0")
    view.dumped_links([link(b"eth0")], 0.0)
    view.begin_main()
    oif = (rt.RTA_OIF, struct.pack("=I", ETH0))
    view.dumped_routes([route(oif, (rt.RTA_GATEWAY, bytes(15) + b"\1"))], 0.0)
    (hop,) = view.telling.state().nexthops.values()
    assert hop.type is NextHopType.VM


def test_a_name_of_any_octets_is_shown() -> None:
    for name, shown in (
        (b"eth\x01\x02", "eth??"),
        (b"\xff" * 15, "\ufffd" * 5),
        (b"a\xc3\xa9", "a\xe9"),
    ):
        view = KernelView("ctl0")
        view.dumped_links([link(name)], 0.0)
        state = view.telling.state()
        assert [i.name for i in heard(state).interfaces.values()] == [shown]
