"""The declaration of the tables: every flow obeys it, and it allows no more than flows do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests import random_sites
from tests.obeyed import does, faults, is_one_table, obeyed
from tests.whole_network import load, router_flows
from xenflow.model.network import Pipeline
from xenflow.model.placement import at_home
from xenflow.openflow import flow as f
from xenflow.openflow import packet as pk
from xenflow.openflow import parse, wire
from xenflow.openflow.flow import Flow, match
from xenflow.openflow.nxm import parse_actions, parse_match10
from xenflow.routes.family import V6
from xenflow.switch.reactive import PlainReactive, Reactive
from xenflow.switch.rules import Rules
from xenflow.tables import cookies, layout
from xenflow.tables.ingress import quiet
from xenflow.tables.layout import ONE_TABLE, TABLES, Table
from xenflow.tables.next_hops import next_hop_flows
from xenflow.tables.pipeline import local_flows
from xenflow.tables.routes import route_flow
from xenflow.tables.sent_up import FromVm, Question
from xenflow.tables.site import Site


def flows_of(seed: int) -> Iterator[tuple[Flow, Table]]:
    """All flows of a random network's switches, each with its table."""
    dice = Random(seed)
    net = random_sites.network(dice)
    rules = Rules()
    rules.restore([{"id": str(n), "priority": 0, **r} for n, r in enumerate(random_sites.RULES)])
    bfd = {"nw_proto": 17, "tp_dst": 3784}
    sessions = (
        {"dl_type": f.IPV4, "nw_src": 1, "nw_dst": 2, **bfd},
        {"dl_type": f.IPV6, "ipv6_src": 1, "ipv6_dst": 2, **bfd},
    )
    for name, datapath in net.datapaths.items():
        site = random_sites.site(dice, net, name)
        flows = [*local_flows(site).values(), *rules.flows(site)[0].values()]
        if not is_one_table(datapath):
            flows += [
                quiet(site, FromVm(router, interface, b""), session, 10)
                for router in site.network.routers.values()
                for interface in router.interfaces
                for session in sessions
                if interface.vif in site.ports
            ]
        for flow in flows:
            yield flow, ONE_TABLE if is_one_table(datapath) else TABLES[flow.table]
    for router in net.routers.values():
        for hop in random_sites.next_hops(dice, router):
            for flow in next_hop_flows(net, router, hop):
                yield flow, TABLES[flow.table]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_every_flow_obeys_its_table(seed: int) -> None:
    for flow, table in flows_of(seed):
        assert not faults(flow, table), f.text(flow)


def others() -> Iterator[tuple[Flow, Table]]:
    """Flows that only a router with routes makes: its routes, and exact flows."""
    plan = load("paper")
    for flow in router_flows(plan.network, plan.network.routers["vr1"], plan.states["vr1"]):
        yield flow, TABLES[flow.table]
    yield (
        route_flow(1, 0x20010DB8 << 96, V6.span(32), 5, cookies.of(layout.ROUTES, 1)),
        TABLES[layout.ROUTES],
    )
    for made, nicira in ((Reactive, True), (PlainReactive, False)):
        here = plan.network.datapaths["host-a"]
        here = replace(here, pipeline=Pipeline.REACTIVE, nicira=nicira)
        ports = {"to-gen": 1, "to-recv": 2, "vr1.0": 3, "vr1.1": 4}
        site = Site(plan.network, here, ports, {"vr1": at_home("vr1", "host-a")}, {})
        gen = plan.machines["gen"]
        packet = pk.ipv4(int(gen.address.ip), plan.machines["recv"].stub, 17, pk.udp(1, 2, 3, 4))
        router, left = plan.network.routers["vr1"], plan.network.links["left"]
        frame = pk.ethernet(router.interfaces[0].mac, gen.mac, pk.ETH_IPV4, packet)
        answer = made(site, plan.states).answer(Question(router, left, 1, frame))
        assert answer is not None
        exact = wire.split(answer)[0][0]
        if nicira:
            yield parse.flow_mod(exact), TABLES[layout.INGRESS]
        else:
            actions = parse_actions(exact, 72, len(exact) - 72)
            what = parse_match10(exact, 8)
            cookie = int.from_bytes(exact[48:56], "big")
            yield Flow(0, int.from_bytes(exact[62:64], "big"), what, actions, cookie), ONE_TABLE


def test_nothing_is_declared_that_no_flow_does() -> None:
    """So that a reader learns nothing false.  Only the probe of a full table is not made here."""
    flows: dict[str, list[Flow]] = {}
    tables = {}
    for flow, table in [*others(), *(pair for seed in range(60) for pair in flows_of(seed))]:
        key = "one table" if table is ONE_TABLE else table.name
        tables[key] = table
        flows.setdefault(key, []).append(obeyed(flow, table is ONE_TABLE))
    assert len(tables) == len(TABLES) + 1
    for key, table in tables.items():
        done: dict[str, set[Any]] = {}
        for flow in flows[key]:
            for part, values in does(flow).items():
                done.setdefault(part, set()).update(values)
        if table.number == layout.ROUTES:
            done["kinds"].add(0)
            done["priorities"] = {layout.Routes.PROBE, layout.Routes.PREFIX}
        done.setdefault("priorities", set()).update(flow.priority for flow in flows[key])
        assert not {*table.priorities} - done.pop("priorities"), key
        assert done == {part: {*getattr(table, part)} for part in done}, key


def test_the_declaration_is_whole() -> None:
    assert [table.number for table in TABLES] == list(range(len(TABLES)))
    written = {register for table in TABLES for register in table.writes}
    read = {register for table in TABLES for register in table.reads}
    assert written == read | {layout.Reg.SENT_UP} == {*layout.HOLDS}
    reached = {number for table in TABLES for number in table.leads_to}
    assert reached | {layout.INGRESS} == set(range(len(TABLES)))


def test_what_disobeys_is_found() -> None:
    own = cookies.of(layout.VM)
    good = Flow(layout.VM, layout.ToVm.VM, match(reg1=1, reg3=1), (f.output(1),), own)
    assert not faults(good, TABLES[layout.VM])
    for bad, why in (
        (replace(good, priority=101), "priority: 101"),
        (replace(good, match=match(reg2=1)), "reads: reg2"),
        (replace(good, actions=(f.load("reg0", 1),)), "writes: reg0"),
        (replace(good, actions=(f.dec_ttl(),)), "rewrites: nw_ttl"),
        (replace(good, actions=(f.move("reg0", "reg1"),)), "reads: reg0"),
        (replace(good, actions=(f.resubmit(0),)), "leads_to: 0"),
        (replace(good, actions=(f.normal(),)), "leaves_by: the bridge"),
        (replace(good, cookie=cookies.of(layout.LINKS)), "kinds: 7"),
        (replace(good, cookie=5), "kinds: None"),
    ):
        assert why in faults(bad, TABLES[layout.VM])
