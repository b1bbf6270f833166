"""Netlink as recorded from a kernel (netlink_samples.txt, by record_netlink.py), without root."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd import rtnetlink as rt
from routerd import telling
from routerd.control_address import ControlAddress
from routerd.kernel_tables import Reason
from routerd.kernel_view import KernelView
from routerd.neighbour_keeper import NeighbourKeeper
from routerd.neighbour_tables import SAID_S, NeighbourTables
from routerd.next_hops import NextHopIds
from xenflow.routes.family import FAMILIES, V6, prefix_text
from xenflow.routes.messages import InterfaceKind, NextHopType, Policy, Remark, VmReason
from xenflow.routes.router_state import Capacity, RouterState

SAMPLES: dict[str, list[bytes]] = {}
for line in Path(__file__).with_name("netlink_samples.txt").read_text().splitlines():
    name, raw = line.split()
    SAMPLES.setdefault(name, []).append(bytes.fromhex(raw))


def bodies(name: str) -> list[bytes]:
    return [
        message.body
        for datagram in SAMPLES[name]
        for message in rt.messages(datagram)
        if message.type > rt.NLMSG_OVERRUN
    ]


@pytest.fixture
def view() -> KernelView:
    made = KernelView("ctl0")
    made.dumped_links(bodies("links"), 0.0)
    made.dumped_netconf(4, bodies("netconf"))
    made.dumped_nexthops(bodies("nexthops"))
    made.dumped_rules(4, bodies("rules"))
    made.begin_main()
    for datagram in SAMPLES["main"]:
        made.dumped_main(rt.AF_INET, datagram, 0.0)
    made.begin_others()
    made.dumped_routes(bodies("local"), 0.0)
    made.dumped_neighbours(bodies("neighbours"), 0.0)
    return made


@pytest.fixture
def both() -> KernelView:
    """With IPv6, too."""
    made = KernelView("ctl0")
    made.dumped_links(bodies("links"), 0.0)
    made.dumped_netconf(4, bodies("netconf"))
    made.dumped_netconf(6, bodies("netconf6"))
    made.dumped_nexthops(bodies("nexthops"))
    made.dumped_rules(4, bodies("rules"))
    made.dumped_rules(6, bodies("rules6"))
    made.begin_main()
    for raw, name in ((rt.AF_INET, "main"), (rt.AF_INET6, "main6")):
        for datagram in SAMPLES[name]:
            made.dumped_main(raw, datagram, 100.0)
    made.begin_others()
    made.dumped_routes(bodies("local6"), 100.0)
    made.dumped_neighbours(bodies("neighbours") + bodies("neighbours6"), 0.0)
    return made


def ifindex(view: KernelView, name: str) -> int:
    return next(link.ifindex for link in view.tables.links.values() if link.name == name)


def told(view: KernelView, state: RouterState) -> dict[str, object]:
    names = {link.ifindex: link.name for link in view.tables.links.values()}

    def target(id_: int) -> object:
        hop = state.nexthops[id_]
        if hop.type is NextHopType.GROUP:
            return {target(leg.leg): leg.weight for leg in state.legs[id_].values()}
        if hop.type is NextHopType.VIA:
            return f"{FAMILIES[hop.family].text(hop.gateway)} {names[hop.ifindex]}"
        if hop.type is NextHopType.CONNECTED:
            return names[hop.ifindex]
        return hop.type.name

    return {prefix_text(key >> 8, key & 255): target(id_) for key, id_ in state.routes.items()}


def test_every_kind_of_route(view: KernelView) -> None:
    assert told(view, view.telling.state()) == {
        "0.0.0.0/0": "10.0.0.2 eth0",
        "10.0.0.0/24": "eth0",
        "10.0.1.0/24": "eth1",
        "10.20.0.0/16": "10.0.1.2 eth1",
        "10.21.0.0/16": {"10.0.0.3 eth0": 1, "10.0.1.2 eth1": 3},
        "10.22.0.0/16": "10.0.0.2 eth0",
        "10.23.0.0/16": {"10.0.0.2 eth0": 2, "10.0.1.3 eth1": 1},
        "10.24.0.0/16": "VM",
        "10.25.0.0/16": "fe80::9 eth0",
        "10.27.0.0/16": "BLACKHOLE",
        "10.28.0.0/16": "UNREACHABLE",
        "10.29.0.0/16": "PROHIBIT",
        "10.30.0.0/16": "VM",
        "10.31.0.0/16": "eth1",
        "10.32.0.0/16": "VM",
        "10.33.0.0/16": "10.77.0.1 eth1",
        "10.34.0.0/16": {"fe80::9 eth0": 1, "10.0.1.2 eth1": 1},
        "10.35.0.0/16": "fe80::5 eth0",
    }


def told6(view: KernelView) -> dict[str, object]:
    return {p: to for p, to in told(view, view.telling.state()).items() if ":" in p}


def test_every_kind_of_ipv6_route(both: KernelView) -> None:
    assert told6(both) == {
        "::/0": "fe80::9 eth0",
        "2001:db8::/64": "eth0",
        "2001:db8:1::/64": "eth1",
        "2001:db8:20::/48": "2001:db8:1::5 eth1",
        "2001:db8:21::/48": {"fe80::5 eth0": 1, "2001:db8:1::5 eth1": 3},
        "2001:db8:22::/48": "BLACKHOLE",
        "2001:db8:23::/48": {"2001:db8::2 eth0": 2, "fe80::9 eth1": 1},
        "2001:db8:24::/48": "VM",
        "2001:db8:25::/48": "fe80::9 eth1",
        "2001:db8:26::/48": "VM",
        "2001:db8:28::/48": "BLACKHOLE",
        "2001:db8:29::/48": "UNREACHABLE",
        "2001:db8:2a::/48": "PROHIBIT",
        "2001:db8:2b::/48": "VM",
        "2001:db8:2c::/48": "eth1",
        "2001:db8:2d::/48": "fe80::9 eth0",
        "2001:db8:2f::/48": "VM",
    }
    reasons = {p: reason_of(both, p) for p in ("2001:db8:24::/48", "2001:db8:26::/48")}
    assert reasons == {"2001:db8:24::/48": VmReason.MTU, "2001:db8:26::/48": VmReason.CHOICE}


def test_an_ipv4_route_by_an_ipv6_gateway(both: KernelView) -> None:
    state = both.telling.state()
    known = told(both, state)
    assert known["10.25.0.0/16"] == "fe80::9 eth0"
    assert known["10.34.0.0/16"] == {"fe80::9 eth0": 1, "10.0.1.2 eth1": 1}
    assert known["10.35.0.0/16"] == "fe80::5 eth0"
    hops = {hop.id: hop for hop in state.nexthops.values() if hop.gateway == 0xFE80 << 112 | 9}
    by_eth0 = [hop for hop in hops.values() if hop.ifindex == ifindex(both, "eth0")]
    assert [(hop.family, hop.mac) for hop in by_eth0] == [(6, 0x02AA00000009)]
    assert by_eth0[0].id == state.routes[V6.shortest]  # the same one as of an IPv6 route


def test_the_rest_of_an_ipv6_state(both: KernelView) -> None:
    eth0 = ifindex(both, "eth0")
    state = both.telling.state()
    own = {V6.text(key[2]) for key, local in state.locals.items() if local.ifindex == eth0}
    assert {"2001:db8::1", "2001:db8::"} < own  # an address, and the routers' anycast one
    assert all(key[0] == 6 and key[2] >> 120 != 0xFF for key in state.locals)
    assert state.policy.slow_of(V6) == "ip -6 rule 32765 is not a default one"
    assert "an IPv6 route depends on the source" in [r.words for r in state.policy.remarks]
    both.tables.rules[6] = {rule for rule in both.tables.rules[6] if rule.table == rt.TABLE_LOCAL}
    missing = "ip -6 rule 32766 (lookup table 254) is missing"
    assert both.telling.policy().slow_of(V6) == missing


def test_when_an_ipv6_route_expires(both: KernelView) -> None:
    """One with 100 s when it was made; another one's second was over."""
    assert both.tables.expiry is not None and 190 < both.tables.expiry < 200
    key = 0x20010DB8002E << 80 << 8 | V6.span(48)
    assert both.tables.routes[key] == (1024, 0)


def test_legs_of_ipv6_routes_come_and_go_one_by_one(both: KernelView) -> None:
    state = both.telling.state()
    seen = []
    for message in [next(rt.messages(datagram)) for datagram in SAMPLES["event6"]]:
        info = rt.route(message.body)
        assert info is not None
        gone = message.type == rt.RTM_DELROUTE
        if both.route_changed(info, message.flags, gone, 0.0):
            seen.append("dump")
            continue
        state.apply(both.telling.sections(state))
        assert state.same(both.telling.state())
        to = told6(both).get("2001:db8:40::/48")
        seen.append(set(to) if isinstance(to, dict) else to)
    one, other, third = "fe80::9 eth0", "fe80::9 eth1", "2001:db8::2 eth0"
    expected = [one, {one, other}, {one, other, third}, {other, third}, {one, other}, None, one]
    assert seen == [*expected, "dump"]  # at last a route beside it that is no leg of it


def test_ipv6_with_an_mtu_of_its_own_is_the_vms(both: KernelView) -> None:
    eth0 = ifindex(both, "eth0")
    both.tables.links[eth0] = replace(both.tables.links[eth0], mtu6=1400)
    both.begin_main()
    both.dumped_routes(bodies("main") + bodies("main6"), 0.0)
    assert reason_of(both, "::/0") is VmReason.MTU
    assert reason_of(both, "0.0.0.0/0") is NextHopType.VIA
    assert reason_of(both, "10.25.0.0/16") is NextHopType.VIA  # its packets are of IPv4


def test_the_rest_of_the_state(view: KernelView) -> None:
    state = view.telling.state()
    eth0, eth1 = ifindex(view, "eth0"), ifindex(view, "eth1")
    assert {i.name for i in state.interfaces.values()} == {"eth0", "eth1", "p0", "p1"}
    assert state.interfaces[eth0].mac == 0x020000000010
    assert state.interfaces[eth0].flags & 3 == 3
    ten = int(IPv4Address("10.0.0.0"))
    assert {(key[2] - ten, key[1]) for key in state.locals} == {
        (1, 32),
        (255, 32),
        (257, 32),
        (511, 32),
    }
    macs = {h.gateway - ten: h.mac for h in state.nexthops.values() if h.gateway}
    assert macs[2] == 0x02AA00000002
    assert macs[3] == 0x02AA00000003
    assert macs[0x102] == 0
    assert {key[:2] for key in state.neighbours} == {(eth0, 4)}
    assert eth1 in {h.ifindex for h in state.nexthops.values()}
    assert state.policy.slow
    assert state.policy.reason.startswith("ip rule ")


def test_rivals_and_tos(view: KernelView) -> None:
    key = int(IPv4Address("10.22.0.0")) << 8 | 16
    assert [metric for metric, _ in view.tables.rivals[key]] == [20, 32]
    assert view.tables.tos_routes == 1


def test_single_changes_are_told_in_proportion(view: KernelView) -> None:
    state = view.telling.state()
    add, delete = (next(rt.messages(datagram)) for datagram in SAMPLES["event"])
    info = rt.route(add.body)
    assert info is not None
    assert not view.route_changed(info, add.flags, False, 0.0)
    (section,) = view.telling.sections(state)
    assert (section.kind.name, section.op.name, len(section.records)) == ("ROUTE4", "SET", 1)
    state.apply([section])
    assert state.same(view.telling.state())
    gone = rt.route(delete.body)
    assert gone is not None
    assert not view.route_changed(gone, delete.flags, True, 0.0)
    state.apply(view.telling.sections(state))
    assert state.same(view.telling.state())


def test_a_rival_means_another_dump(view: KernelView) -> None:
    view.telling.state()
    for message in (m for d in SAMPLES["main"] for m in rt.messages(d)):
        info = rt.route(message.body) if message.type == rt.RTM_NEWROUTE else None
        if info is not None and info.prefix == int(IPv4Address("10.22.0.0")):
            assert view.route_changed(info, 0, True, 0.0)


def test_the_bulk_path_agrees_with_the_thorough_one(both: KernelView) -> None:
    again = KernelView("ctl0")
    again.dumped_links(bodies("links"), 0.0)
    again.dumped_nexthops(bodies("nexthops"))
    again.begin_main()
    again.dumped_routes(bodies("main") + bodies("main6"), 100.0)
    for name in ("routes", "rivals", "tos_routes", "source_routes", "expiry"):
        assert getattr(again.tables, name) == getattr(both.tables, name)


def test_ids_are_the_same_after_a_restart() -> None:
    specs = [(NextHopType.VIA, 4, 2, gateway) for gateway in range(1000)]
    one, other = NextHopIds(), NextHopIds()
    first = [one.id(spec) for spec in specs]
    assert sorted(other.id(spec) for spec in reversed(specs)) == sorted(first)
    assert len(set(first)) == len(first)
    one.keep(set(first[:5]))
    assert [spec for spec in specs if one.known(spec)] == specs[:5]


DECODERS = (
    *(rt.attributes, rt.link, rt.address, rt.neighbour, rt.route, rt.nexthop, rt.netconf),
    *(rt.rule, rt.qdisc, rt.neighbour_table, rt.chain, rt.spdinfo, rt.first, rt.done),
    lambda data: list(rt.messages(data)),
    lambda data: list(rt.bulk_routes(rt.AF_INET, data)),
    lambda data: list(rt.alike_routes(rt.AF_INET, data) or ()),
    lambda data: list(rt.bulk_routes(rt.AF_INET6, data)),
    lambda data: list(rt.alike_routes(rt.AF_INET6, data) or ()),
)


@given(st.binary(max_size=200) | st.sampled_from([b for name in SAMPLES for b in bodies(name)]))
def test_rubbish_is_a_netlink_error_at_most(data: bytes) -> None:
    for decode in DECODERS:
        try:
            decode(data)
        except rt.NetlinkError:
            pass


def test_who_is_kept_resolved(view: KernelView) -> None:
    eth0 = ifindex(view, "eth0")
    state = view.telling.state()
    keeper = NeighbourKeeper()
    gateways = view.tables.gateways(state)
    asked = dict(keeper.requests(gateways, set(), view.tables.neighbours, 0.0))
    two = (eth0, 4, int(IPv4Address("10.0.0.2")))
    three = (eth0, 4, int(IPv4Address("10.0.0.3")))
    assert two not in asked  # permanent: an operator's
    assert asked[three] is True
    assert not list(keeper.requests(gateways, set(), view.tables.neighbours, 0.5))
    assert dict(keeper.requests(gateways, set(), view.tables.neighbours, 1.5))[three]
    # not needed any more: released, if it is ours
    ours = rt.NeighbourInfo(*three, 5, rt.NUD_REACHABLE, True, rt.OUR_PROTOCOL)
    theirs = rt.NeighbourInfo(*two, 5, rt.NUD_REACHABLE, True, 0)
    assert list(NeighbourKeeper().requests(set(), set(), {three: ours, two: theirs}, 0.0)) == [
        (three, False)
    ]
    # a stale station on a connected link is probed, but not for ever
    stale = rt.NeighbourInfo(*three, 5, rt.NUD_STALE, False, 0)
    failed = rt.NeighbourInfo(*two, 0, rt.NUD_FAILED, False, 0)
    entries = {three: stale, two: failed}
    assert list(NeighbourKeeper().requests(set(), {(eth0, 4)}, entries, 0.0)) == [(three, False)]


def test_the_request_that_manages_a_neighbour() -> None:
    _, body = rt.keep_neighbour(3, 4, int(IPv4Address("10.0.0.2")), True)
    assert body.hex() == (
        "02000000"
        "03000000"
        "0000"
        "00"
        "00"  # struct ndmsg
        "08000100"
        "0a000002"  # NDA_DST
        "05000c00"
        "58000000"  # NDA_PROTOCOL
        "08000f00"
        "01000000"  # NDA_FLAGS_EXT: NTF_EXT_MANAGED
    )


def test_broadcast_addresses_are_told_from_its_own(view: KernelView) -> None:
    shown = {
        (str(IPv4Address(local.address)), local.broadcast) for local in view.tables.locals.values()
    }
    assert shown == {
        ("10.0.0.1", False),
        ("10.0.0.255", True),
        ("10.0.1.1", False),
        ("10.0.1.255", True),
    }


def test_so_are_anycast_ones(both: KernelView) -> None:
    """Which a switch must not answer for as it does for others (RFC 4861, section 7.2.7)."""
    shown = {
        (str(IPv6Address(local.address)), local.broadcast)
        for local in both.tables.locals.values()
        if local.family == 6 and local.length == 128
    }
    assert ("2001:db8:1::1", False) in shown
    assert ("2001:db8:1::", True) in shown


def test_a_carrier_lost_is_told_after_the_grace(view: KernelView) -> None:
    def running() -> bool:
        return bool(
            next(i for i in view.tables.interfaces() if i.ifindex == eth0.ifindex).flags & 2
        )

    view.tables.carrier_grace_s = 5.0
    eth0 = view.tables.links[ifindex(view, "eth0")]
    without = replace(eth0, flags=eth0.flags & ~rt.IFF_LOWER_UP)
    assert running()
    assert view.link_changed(without, False, 100.0)
    view.tables.links[eth0.ifindex] = without
    assert running()
    assert view.link_changed(without, False, 104.0) is False  # says nothing new
    assert view.grace.expire(104.9) == 105.0
    assert running()
    view.grace.expire(105.0)
    assert view.tables.dirty_links and not running()
    # Back again, and switched off: that is told at once.
    view.link_changed(eth0, False, 106.0)
    view.tables.links[eth0.ifindex] = eth0
    off = replace(eth0, flags=eth0.flags & ~(rt.IFF_LOWER_UP | rt.IFF_UP))
    view.link_changed(off, False, 107.0)
    view.tables.links[eth0.ifindex] = off
    assert not running()


def test_an_index_that_another_device_gets_has_no_grace(view: KernelView) -> None:
    """Neither of the interface nor of the neighbours that the device before had there."""
    view.tables.carrier_grace_s = 5.0
    eth0 = view.tables.links[ifindex(view, "eth0")]
    near = [entry for entry in view.tables.neighbours.values() if entry.ifindex == eth0.ifindex]
    assert any(entry.mac for entry in near)
    for entry in near:
        view.neighbour_changed(entry, True, 100.0)
    other = replace(eth0, name="new0", mac=eth0.mac + 7, flags=eth0.flags & ~rt.IFF_LOWER_UP)
    assert view.link_changed(eth0, True, 100.1)
    assert view.link_changed(other, False, 100.2)
    assert not view.tables.kept and not view.tables.running
    # The same where the dump alone tells of it.
    view.tables.links[eth0.ifindex] = eth0
    raw = {rt.IFLA_IFNAME: b"new0\0", rt.IFLA_ADDRESS: other.mac.to_bytes(6, "big")}
    body = rt._IFINFO.pack(0, rt.ARPHRD_ETHER, eth0.ifindex, other.flags, 0)
    body += b"".join(rt.attribute(type_, value) for type_, value in raw.items())
    view.dumped_links([body], 100.3)
    assert not view.tables.running


def test_neighbours_that_come_and_go_are_not_remembered_for_ever(view: KernelView) -> None:
    view.tables.carrier_grace_s = 5.0
    eth0 = ifindex(view, "eth0")
    for n in range(1000):
        now = n / 100
        entry = rt.NeighbourInfo(eth0, 6, n, 0x02AA00000000 | n, rt.NUD_REACHABLE, False, 0)
        view.neighbour_changed(entry, False, now)
        view.neighbour_changed(entry, True, now)
    assert len(view.grace._vanished) <= 100
    carrier = view.tables.links[eth0]
    without = replace(carrier, flags=carrier.flags & ~rt.IFF_LOWER_UP)
    view.link_changed(without, False, 10.0)
    assert set(view.tables.kept) == {(eth0, 6, n) for n in range(901, 1000)}


@pytest.mark.parametrize(
    ("gone", "hop_flags", "again"),
    [
        ((), 0, False),
        ((rt.IFF_LOWER_UP,), 0, True),
        ((rt.IFF_LOWER_UP,), rt.RTNH_F_LINKDOWN, False),
        ((rt.IFF_UP, rt.IFF_LOWER_UP), 0, True),
        ((rt.IFF_UP, rt.IFF_LOWER_UP), rt.RTNH_F_DEAD, False),
    ],
)
def test_a_route_over_a_link_that_is_down_is_older_than_the_dump(
    view: KernelView, gone: tuple[int, ...], hop_flags: int, again: bool
) -> None:
    """It went with the link without a word: what was told before the dump was read after it."""
    eth0 = view.tables.links[ifindex(view, "eth0")]
    view.tables.links[eth0.ifindex] = replace(eth0, flags=eth0.flags & ~sum(gone))
    info = many_hops(view, 1)
    (hop,) = info.hops
    info = replace(info, hops=(replace(hop, flags=hop_flags),))
    assert view.route_changed(info, rt.NLM_F_CREATE, False, 0.0) is again
    assert ((info.prefix << 8 | info.length) in view.tables.routes) is not again


def test_what_an_object_says_is_told_without_its_routes(view: KernelView) -> None:
    state = view.telling.state()
    routes = dict(state.routes)
    group = next(
        id_ for id_ in view.hops.ids.objects() if state.nexthops[id_].type is NextHopType.GROUP
    )
    lost = view.tables.nexthops.pop(4)
    sections, unclear = view.telling.object_sections(state)
    assert not unclear
    assert not {"ROUTE4", "ROUTE6"} & {section.kind.name for section in sections}
    state.apply(sections)
    assert [state.nexthops[leg.leg].gateway for leg in state.legs[group].values()] == [0x0A000102]
    assert state.same(view.telling.state()) and state.routes == routes
    view.tables.nexthops[4] = lost
    state.apply(view.telling.object_sections(state)[0])
    assert len(state.legs[group]) == 2 and state.same(view.telling.state())


def test_an_object_that_is_gone_is_left_as_told_and_asks_for_a_dump(view: KernelView) -> None:
    state = view.telling.state()
    gone = view.tables.nexthops[5]
    assert view.nexthop_changed(gone, True)
    sections, unclear = view.telling.object_sections(state)
    assert unclear
    assert {section.kind.name for section in sections} <= {"LEG", "NEXTHOP"}
    state.apply(sections)
    assert state.routes == view.telling.state().routes


def test_a_repeated_route_is_no_change(view: KernelView) -> None:
    state = view.telling.state()
    for message in (m for d in SAMPLES["main"] for m in rt.messages(d)):
        info = rt.route(message.body) if message.type == rt.RTM_NEWROUTE else None
        if info is not None and info.prefix == int(IPv4Address("10.21.0.0")):
            assert not view.route_changed(info, message.flags, False, 0.0)
    assert not view.tables.dirty and state.same(view.telling.state())


def datagram(*bodies_: bytes) -> bytes:
    """One of a dump, of route messages."""
    kind, flags = rt.RTM_NEWROUTE, rt.NLM_F_MULTI
    return b"".join(
        (16 + len(body)).to_bytes(4, "little")
        + kind.to_bytes(2, "little")
        + flags.to_bytes(2, "little")
        + bytes(8)
        + body
        for body in bodies_
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.sampled_from([16, 24]), st.sampled_from("abc")),
        max_size=30,
    ),
    st.integers(1, 8),
    st.sampled_from([rt.AF_INET, rt.AF_INET6]),
)
def test_datagrams_of_one_kind_are_read_as_any_others(
    routes: list[tuple[int, int, str]], size: int, raw: int
) -> None:
    """Of IPv6 some are link-local, and left out, though nothing but their prefix says so."""
    gateways = {"a": 0x0A000002, "b": 0x0A000003, "c": 0x0A000102}
    octets = rt._OCTETS[raw]
    sent = [
        rt._RTMSG.pack(raw, plen, 0, 0, rt.TABLE_MAIN, 3, 0, rt.RTN_UNICAST, 0)
        + rt.attribute(rt.RTA_TABLE, rt._U32.pack(rt.TABLE_MAIN))
        + rt.attribute(
            rt.RTA_DST,
            (net << 24 if octets == 4 else (net + 0xFE60) << 112).to_bytes(octets, "big"),
        )
        + (rt.attribute(rt.RTA_PRIORITY, rt._U32.pack(7)) if gateway == "c" else b"")
        + rt.attribute(rt.RTA_GATEWAY, gateways[gateway].to_bytes(octets, "big"))
        + rt.attribute(rt.RTA_OIF, rt._U32.pack(3))
        for net, plen, gateway in routes
    ]
    quick, thorough = KernelView("ctl0"), KernelView("ctl0")
    for start in range(0, len(sent), size):
        quick.dumped_main(raw, datagram(*sent[start : start + size]), 0.0)
    for body in sent:
        thorough.dumped_routes([body], 0.0)
    assert (quick.tables.routes, quick.tables.rivals) == (
        thorough.tables.routes,
        thorough.tables.rivals,
    )


BLACKHOLE = rt.NextHopObject(12, 4, None, (), True)


def route_by(object_: int, **other: int) -> rt.RouteInfo:
    """The route to 10.92.0.0/16 by way of a next hop object, as the kernel tells it."""
    kept = {"table": rt.TABLE_MAIN, "tos": 0, "type": rt.RTN_UNICAST, "mtu": 0, **other}
    return rt.RouteInfo(
        4,
        kept["table"],
        int(IPv4Address("10.92.0.0")),
        16,
        kept["tos"],
        0,
        kept["type"],
        0,
        (),
        object_,
        kept["mtu"],
    )


@pytest.mark.parametrize(
    "info",
    [
        route_by(12, type=rt.RTN_BLACKHOLE),
        route_by(13, tos=8),
        route_by(13, table=rt.TABLE_DEFAULT),
        route_by(13, mtu=1000),
        route_by(13, mtu=9000),
        route_by(9),
        route_by(77),
    ],
    ids=["blackhole", "tos", "default table", "narrow", "wide", "control", "unknown"],
)
def test_what_a_next_hop_object_takes_along_is_dumped_again(
    view: KernelView, info: rt.RouteInfo
) -> None:
    """With an object its routes go without a message each, and what was made of them must go as
    well, whatever that was."""
    view.tables.links[90] = replace(
        view.tables.links[ifindex(view, "eth0")], ifindex=90, name="ctl0"
    )
    view.tables.control_index = 90
    view.tables.nexthops[12] = BLACKHOLE
    view.tables.nexthops[13] = replace(view.tables.nexthops[5], id=13)
    view.tables.nexthops[9] = rt.NextHopObject(
        9, 4, rt.RouteHop(90, 0x0A4D0001, 0, 1, 4), (), False
    )
    view.begin_main()
    view.route_changed(info, 0, False, 0.0)
    gone = view.tables.nexthops.get(info.nexthop) or rt.NextHopObject(77, 4, None, (), False)
    assert view.nexthop_changed(gone, True)


def test_routes_that_follow_their_objects_need_no_dump(view: KernelView) -> None:
    view.begin_main()
    view.route_changed(route_by(5), 0, False, 0.0)
    assert not view.nexthop_changed(view.tables.nexthops[5], False)


def test_a_route_that_is_replaced_by_one_over_the_control_link(view: KernelView) -> None:
    eth0 = ifindex(view, "eth0")
    view.tables.links[90] = replace(view.tables.links[eth0], ifindex=90, name="ctl0")
    view.tables.control_index = 90
    for key in list(view.tables.routes)[:3]:
        over = rt.RouteInfo(
            4,
            rt.TABLE_MAIN,
            key >> 8,
            key & 255,
            0,
            0,
            rt.RTN_UNICAST,
            0,
            (rt.RouteHop(90, 0, 0, 1, 0),),
            0,
            0,
        )
        assert not view.route_changed(over, 0, False, 0.0)
        assert view.route_changed(over, rt.NLM_F_REPLACE, False, 0.0)


def test_a_duplicate_address_is_told_from_others() -> None:
    """Flags of a link-local address whose duplicate address detection has failed, and has not."""
    raw = rt.attribute(rt.IFA_ADDRESS, (0xFE80 << 112 | 7).to_bytes(16, "big"))
    for flags, duplicate in ((0x80, False), (0x40, False), (0x88, True), (0xC8, True)):
        body = bytes((rt.AF_INET6, 64, flags, rt.RT_SCOPE_LINK, 4, 0, 0, 0)) + raw
        assert rt.address(body) == rt.AddressInfo(
            4, 64, 0xFE80 << 112 | 7, rt.RT_SCOPE_LINK, duplicate
        )


def test_when_the_control_link_gets_its_address_back() -> None:
    own = rt.AddressInfo(4, 64, 0xFE80 << 112 | 0x10007, rt.RT_SCOPE_LINK)
    kept = ControlAddress()
    assert not kept.lacks(4, True, [own])
    assert not kept.lacks(4, False, [])
    assert kept.lacks(4, True, []) == [own]
    assert kept.lacks(5, True, []) == [replace(own, ifindex=5)]  # not there yet, or made anew
    assert not kept.lacks(5, True, [replace(own, ifindex=5)])
    # Off and on between two looks; then somebody removes it while the link is on.
    kept.switched(False)
    kept.switched(True)
    assert kept.lacks(5, True, [])
    assert not kept.lacks(5, True, [own])
    assert not kept.lacks(5, True, [])
    kept.switched(False)
    assert not kept.lacks(5, True, [])


def test_what_kind_of_device_an_interface_is(view: KernelView) -> None:
    eth0 = view.tables.links[ifindex(view, "eth0")]
    made = {
        90: replace(eth0, ifindex=90, name="eth0.5", kind="vlan", parent=eth0.ifindex),
        91: replace(eth0, ifindex=91, name="vrrp4", kind="macvlan", parent=eth0.ifindex),
        92: replace(eth0, ifindex=92, name="br0.5", kind="vlan", parent=93),
        93: replace(eth0, ifindex=93, name="br0", kind="bridge"),
        94: replace(eth0, ifindex=94, name="net1", kind="macvlan", parent_elsewhere=True),
    }
    view.tables.links.update(made)
    kinds = {i.name: i.kind for i in view.tables.interfaces() if i.ifindex in {*made, eth0.ifindex}}
    assert kinds == {
        "eth0": InterfaceKind.CARD,
        "eth0.5": InterfaceKind.VLAN,
        "vrrp4": InterfaceKind.MACVLAN,
        "br0.5": InterfaceKind.OTHER,
        "br0": InterfaceKind.OTHER,
        "net1": InterfaceKind.CARD,
    }


def reason_of(view: KernelView, prefix: str) -> object:
    state = view.telling.state()
    net = ip_network(prefix)
    span = FAMILIES[net.version].span(net.prefixlen)
    hop = state.nexthops[state.routes[int(net.network_address) << 8 | span]]
    return VmReason(hop.gateway) if hop.type is NextHopType.VM else hop.type


def test_why_a_route_goes_through_the_vm(view: KernelView) -> None:
    found = {
        prefix: reason_of(view, prefix)
        for prefix, to in told(view, view.telling.state()).items()
        if to == "VM"
    }
    assert found == {
        "10.24.0.0/16": VmReason.MTU,
        "10.30.0.0/16": VmReason.TYPE,
        "10.32.0.0/16": VmReason.ENCAPSULATION,
    }


def test_legs_that_are_chosen_by_ports_are_left_to_the_kernel(view: KernelView) -> None:
    view.tables.hash_policy = {4: 1, 6: 0}
    view.begin_main()
    view.dumped_routes(bodies("main"), 0.0)
    groups = {p: reason_of(view, p) for p in ("10.21.0.0/16", "10.23.0.0/16", "10.20.0.0/16")}
    assert groups == {
        "10.21.0.0/16": VmReason.SPREAD,
        "10.23.0.0/16": VmReason.SPREAD,
        "10.20.0.0/16": NextHopType.VIA,
    }


def test_all_reasons_are_told_and_faults_make_nothing_slow(view: KernelView) -> None:
    view.tables.rules[4] = {rt.RuleInfo(p, t, True) for p, t in telling.DEFAULT_RULES[4]}
    view.tables.tos_routes, view.tables.default_table, view.tables.outside = 0, False, ()
    confs = view.tables.netconf[4]
    for n, conf in confs.items():
        confs[n] = replace(conf, forwarding=1, rp_filter=0)
    view.tables.faults = ("IPv4 neighbours overflow",)
    policy = view.telling.policy()
    assert (policy.slow, [r.fault for r in policy.remarks]) == (False, [True])
    view.tables.outside = tuple(
        map(Reason, ("queueing discipline tbf on eth1", "tcx ingress program on eth0"))
    )
    policy = view.telling.policy()
    assert policy.slow and policy.reason == "queueing discipline tbf on eth1"
    assert [(r.fault, r.words) for r in policy.remarks] == [
        (True, "IPv4 neighbours overflow"),
        (False, "tcx ingress program on eth0"),
    ]


def forwards6(view: KernelView) -> set[str]:
    return {i.name for i in view.tables.interfaces() if i.flags & 8}


def test_ipv6_is_forwarded_where_all_says_so_and_the_link_has_it(view: KernelView) -> None:
    eth0 = ifindex(view, "eth0")
    everywhere = {link.name for link in view.tables.data_links()}
    view.tables.netconf[6] = {}
    view.netconf_changed(6, rt.NetconfInfo(eth0, 1, None, None), False)
    assert not forwards6(view)
    view.tables.dirty_policy = False
    assert not view.netconf_changed(6, rt.NetconfInfo(-1, 1, None, None), False)
    assert view.tables.dirty_policy
    assert forwards6(view) == everywhere
    view.netconf_changed(6, rt.NetconfInfo(eth0, 0, None, None), False)
    assert forwards6(view) == everywhere  # as the kernel: a device's own setting is another matter
    view.tables.links[eth0] = replace(view.tables.links[eth0], mtu6=0)
    assert forwards6(view) == everywhere - {"eth0"}


def test_the_neighbour_tables_fault_is_said_while_it_overflows() -> None:
    def counted(full: int) -> list[rt.NeighbourTable]:
        return [rt.NeighbourTable("arp_cache", 1024, full), rt.NeighbourTable("xxx", 1, full)]

    kept = NeighbourTables()
    assert kept.faults(counted(7), 0.0) == ()  # before this routerd's time
    assert kept.faults(counted(7), 5.0) == ()
    assert kept.faults(counted(9), 10.0) == ("IPv4 neighbours overflow: gc_thresh3 is 1024",)
    assert kept.faults(counted(9), 10.0 + SAID_S - 1) != ()
    assert kept.faults(counted(9), 10.0 + SAID_S) == ()


def test_a_neighbour_table_as_the_kernel_tells_it() -> None:
    stats = rt.attribute(7, rt._NDT_STATS.pack(*range(10), 42))
    name, most = rt.attribute(1, b"arp_cache\0"), rt.attribute(4, rt._U32.pack(1024))
    table = rt.neighbour_table(bytes((rt.AF_INET, 0, 0, 0)) + name + most + stats)
    assert table == rt.NeighbourTable("arp_cache", 1024, 42)
    assert rt.neighbour_table(bytes((rt.AF_INET, 0, 0, 0)) + name) is None


@pytest.fixture
def plain(view: KernelView) -> KernelView:
    """The same without what sends everything through the VM."""
    for family, default in telling.DEFAULT_RULES.items():
        view.tables.rules[family] = {rt.RuleInfo(p, t, True) for p, t in default}
    view.tables.tos_routes, view.tables.default_table = 0, False
    view.tables.links = {
        n: replace(link, master=0, xdp=False) for n, link in view.tables.links.items()
    }
    for family in view.tables.netconf:
        confs = {n: rt.NetconfInfo(n, 1, 0, 0) for n in (-1, *view.tables.links)}
        view.tables.netconf[family] = confs
    assert view.telling.policy() == Policy(False, "", (), False)
    return view


def many_hops(view: KernelView, count: int) -> rt.RouteInfo:
    """A route of table main with so many next hops, as a notification tells it."""
    template = rt.route(bodies("main")[0]) if "main" in SAMPLES else None
    assert template is not None
    first = ifindex(view, "eth0")
    hops = tuple(rt.RouteHop(first, 0x0A000100 + n, 0, 1, 4) for n in range(count))
    return replace(
        template,
        family=4,
        table=rt.TABLE_MAIN,
        type=rt.RTN_UNICAST,
        nexthop=0,
        mtu=0,
        tos=0,
        metric=0,
        prefix=0x0A580000,
        length=16,
        hops=hops,
    )


def test_a_group_that_is_too_large_is_left_to_the_vm(plain: KernelView) -> None:
    """The kernel takes more members than 256."""
    known = plain.telling.state()
    for count, kind in ((256, NextHopType.GROUP), (257, NextHopType.VM)):
        plain.tables.routes.pop(0x0A580000 << 8 | 16, None)
        plain.route_changed(many_hops(plain, count), 0, False, 0.0)
        known.apply(plain.telling.sections(known))
        known.apply(plain.telling.sections(known))
        hop = known.nexthops[known.routes[0x0A580000 << 8 | 16]]
        assert hop.type is kind
        assert not known.policy.slow
    assert hop.gateway == VmReason.SIZE
    assert known.same(plain.telling.state())
    assert not plain.telling.state().excess()


def test_more_interfaces_than_may_be_told(plain: KernelView) -> None:
    link = plain.tables.links[ifindex(plain, "eth0")]
    for n in range(1000, 1264):
        plain.tables.links[n] = replace(link, ifindex=n, name=f"dummy{n}")
    state = plain.telling.state()
    assert len(state.interfaces) == 256
    assert not state.excess()
    assert ifindex(plain, "eth0") in state.interfaces and ifindex(plain, "eth1") in state.interfaces
    assert not state.policy.slow
    assert state.policy.remarks == (Remark(False, "interfaces over 256"),)
    assert told(plain, state) == told(plain, replace_links(plain, 1000).telling.state())


def replace_links(plain: KernelView, below: int) -> KernelView:
    plain.tables.links = {n: link for n, link in plain.tables.links.items() if n < below}
    return plain


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Capacity(locals=2), "more than 2 local prefixes"),
        (Capacity(routes=3), "more than 3 routes"),
        (Capacity(nexthops=2), "more than 2 next hops"),
        (Capacity(all_legs=1), "more than 1 legs of all groups"),
    ],
)
def test_what_would_be_a_silent_difference_sends_everything_through_the_vm(
    view: KernelView, limits: Capacity, words: str
) -> None:
    view.tables.capacity = limits
    state = view.telling.state()
    assert (state.policy.slow, state.policy.reason) == (True, words)
    assert not state.routes and state.interfaces
    view.tables.capacity = Capacity()
    assert view.telling.state().routes


def test_more_neighbours_than_may_be_told(plain: KernelView) -> None:
    plain.tables.capacity = Capacity(neighbours=1)
    assert len(plain.telling.state().neighbours) == 1
    assert plain.telling.policy().remarks == (Remark(False, "neighbours over 1"),)
