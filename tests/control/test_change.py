"""The network changes while the Rule Table runs: what it has become is what counts, and who has not
changed never notices."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from tests.whole_network import CONF, load
from tests.written_switch import RuleTable, WrittenSwitch, bound
from xenflow.model.network import Access, End, Network, NetworkError, Pipeline
from xenflow.model.placement import Placement
from xenflow.openflow.flow import Flow
from xenflow.plan.laying import lay, lay_on
from xenflow.routes.sender import snapshot_messages
from xenflow.store.network_file import load_with_lab
from xenflow.tables import cookies, layout

CAMPUS = load("campus")
HOST = "host-b"


class Host:
    """host-b of conf/campus.toml, on which all routers' VMs are that its network has."""

    def __init__(self, network: Network, pipeline: Pipeline = Pipeline.PROACTIVE) -> None:
        host = replace(network.datapaths[HOST], pipeline=pipeline)
        network = replace(network, datapaths={**network.datapaths, HOST: host})
        self.wire = WrittenSwitch()
        self.migrating: set[str] = set()
        self.table = RuleTable(
            network, HOST, None, self.wire.clock, bound, self.migrating.__contains__
        )
        cables = [c.near(HOST).port for c in CAMPUS.network.cables_of[HOST]]
        vifs = [i.vif for r in CAMPUS.network.routers.values() for i in r.interfaces]
        self.ports = {name: n for n, name in enumerate((*cables, "m2", "desk", *vifs), 1)}
        self.wire.attach(self.switch, self.ports)
        for name in network.routers:
            self.settle_here(name)

    @property
    def switch(self):  # type: ignore[no-untyped-def]
        return self.table.switches[HOST]

    def settle_here(self, router: str) -> None:
        """A router's VM comes here, and says all it knows."""
        known = self.switch.placements[router]
        here = Placement(router, (HOST,), HOST, HOST, version=known.version + 1)
        self.table.place(here, [HOST], False, lambda error: None)
        for frames in snapshot_messages(CAMPUS.states[router], router):
            assert self.table.heard(router, b"peer", frames, local=True).error is None
        self.wire.run()

    def change(self, network: Network) -> None:
        found = self.table.change(network)
        self.wire.run()
        for name in found.routers.added:
            self.settle_here(name)

    @property
    def flows(self) -> set[Flow]:
        return set(self.wire.tables)


def by_chance(dice: Random) -> Network:
    """Some of the campus's routers, some without one of their interfaces; links that nobody needs
    may be missing, and an access port may be there."""
    whole = CAMPUS.network
    routers = {}
    for name in dice.sample(sorted(whole.routers), dice.randint(1, len(whole.routers))):
        router = whole.routers[name]
        interfaces = router.interfaces[: dice.choice((len(router.interfaces), 1))]
        routers[name] = replace(router, interfaces=interfaces)
    used = {i.link for r in routers.values() for i in r.interfaces}
    links = {n: k for n, k in whole.links.items() if n in used or dice.random() < 0.5}
    if dice.random() < 0.5 and "middle" in links:
        desk = Access(End(HOST, "desk"), (0x020000000909,))
        links["middle"] = replace(links["middle"], access=(*links["middle"].access, desk))
    return lay(replace(whole, routers=routers, links=links))


@pytest.mark.parametrize("seed", range(12))
def test_a_network_that_was_reached_by_changes_is_as_one_made_at_once(seed: int) -> None:
    dice = Random(seed)
    host = Host(CAMPUS.network)
    for _ in range(4):
        network = by_chance(dice)
        host.change(network)
        new = Host(network).flows
        assert host.flows == new, sorted(map(str, host.flows ^ new))
        assert set(host.table.feeds) == set(network.routers) == set(host.table.packets.held)
        assert host.switch.problems.of() == []


@pytest.mark.parametrize("pipeline", list(Pipeline))
def test_a_switch_that_holds_everything_loses_nothing_while_it_is_read_again(
    pipeline: Pipeline,
) -> None:
    """Not what follows from the words of one router while another is written, either."""
    host = Host(CAMPUS.network, pipeline)
    before, lost = host.flows, []
    host.wire.watch = lambda: lost.append(before ^ set(host.wire.tables))
    host.wire.attach(host.switch, host.ports)
    assert host.flows == before and not any(lost)


def test_who_has_not_changed_is_not_written_to() -> None:
    host = Host(CAMPUS.network)
    number = {r.name: r.id for r in CAMPUS.network.routers.values()}
    others = {f for f in host.flows if cookies.router_of(f.cookie) in (number["r1"], number["r2"])}
    assert others
    seen: list[set[Flow]] = []
    host.wire.watch = lambda: seen.append(others - set(host.wire.tables))
    before = len(host.wire.messages)
    routers = {n: r for n, r in CAMPUS.network.routers.items() if n != "r5"}
    host.change(lay(replace(CAMPUS.network, routers=routers)))
    written = host.wire.messages[before:]
    assert written and seen and not any(seen)
    host.change(CAMPUS.network)
    assert not any(seen)


def test_a_router_with_few_routes_goes_at_once() -> None:
    """What it has said is known no more by then; how many routes it had the switch still knows."""
    host, gone = Host(CAMPUS.network), CAMPUS.network.routers["r5"]
    kept = {f for f in host.flows if cookies.router_of(f.cookie) != gone.id}
    assert len([f for f in host.flows - kept if f.table == layout.ROUTES]) > 1
    host.wire.messages.clear()
    routers = {n: r for n, r in CAMPUS.network.routers.items() if n != gone.name}
    host.change(lay(replace(CAMPUS.network, routers=routers)))
    assert not [f for f in host.flows if cookies.router_of(f.cookie) == gone.id]
    own, mask = cookies.of(layout.ROUTES, gone.id), cookies.TABLE_MASK | cookies.ROUTER_MASK
    deletes = [words for words in host.wire.messages if words.startswith("DELETE table")]
    assert deletes == [f"DELETE table {layout.ROUTES}, cookie {own:#x}/{mask:#x}"]


def test_only_looked_at_nothing_changes() -> None:
    host = Host(CAMPUS.network)
    flows, before = host.flows, len(host.wire.messages)
    before_network = host.table.network
    routers = {n: r for n, r in CAMPUS.network.routers.items() if n != "r5"}
    found = host.table.change(lay(replace(CAMPUS.network, routers=routers)), only_look=True)
    host.wire.run()
    assert found.routers.removed == ("r5",)
    assert (host.flows, len(host.wire.messages)) == (flows, before)
    assert host.table.network is before_network


def test_what_is_in_use_is_not_taken_away() -> None:
    """Nor is anything else of that change made."""
    host = Host(CAMPUS.network)
    flows = host.flows
    host.migrating.add("r5")
    whole = CAMPUS.network
    routers = {n: r for n, r in whole.routers.items() if n != "r5"}
    with pytest.raises(NetworkError, match=r"routers.r5: it, or a link of its, has changed, and"):
        host.table.change(lay(replace(whole, routers=routers)))
    host.migrating.clear()
    host.change(lay(replace(whole, routers=routers)))
    host.migrating.add("r5")  # of one that has gone the VM is ended yet: its name has a lease
    with pytest.raises(NetworkError, match=r"routers.r5: it, or a link of its, has changed, and"):
        host.table.change(whole)
    host.migrating.clear()
    host.change(whole)
    cables = {n: c for n, c in whole.cables.items() if HOST not in (c.a.datapath, c.b.datapath)}
    links = {n: replace(k, access=(), root="s1") for n, k in whole.links.items()}
    moved = {n: replace(r, home="host-a") for n, r in whole.routers.items()}
    datapaths = {n: d for n, d in whole.datapaths.items() if n != HOST}
    without = replace(whole, cables=cables, links=links, routers=moved, datapaths=datapaths)
    with pytest.raises(NetworkError, match=f"datapaths.{HOST}: r1 is there: migrate it first"):
        host.table.change(lay(without))
    controllers = {n: c for n, c in whole.controllers.items() if n != HOST}
    with pytest.raises(NetworkError, match=f"controllers.{HOST}: it runs: stop it"):
        host.table.change(replace(whole, controllers=controllers))
    assert host.flows == flows and host.table.network == whole


def test_a_switch_that_was_not_told_of_a_move_holds_up_no_host() -> None:
    """Of conf/class.toml r1 has moved from h1 to h2, and s2 is not concerned: it goes by r1's home
    once h1 has gone.  While s1, which is told, believes it at h1, that stays."""
    network, tables = load_with_lab(CONF / "class.toml")[0], {}
    for name in ("edge", "h3"):
        tables[name] = RuleTable(network, name, None, WrittenSwitch().clock, bound)
    cables = {n: c for n, c in network.cables.items() if "h1" not in (c.a.datapath, c.b.datapath)}
    datapaths = {n: d for n, d in network.datapaths.items() if n != "h1"}
    controllers = {n: c for n, c in network.controllers.items() if n != "h1"}

    def without_h1(home: str) -> Network:
        routers = {**network.routers, "r1": replace(network.routers["r1"], home=home)}
        parts = {"cables": cables, "datapaths": datapaths, "controllers": controllers}
        return lay_on(replace(network, **parts, routers=routers), network)

    with pytest.raises(NetworkError, match=r"datapaths\.h1: r1 is there: migrate it first"):
        tables["edge"].change(without_h1("h2"))
    known = tables["edge"].switches["s1"].placements["r1"]
    moved = Placement("r1", ("h2",), "h2", "h2", version=known.version + 1)
    tables["edge"].place(moved, ["s1"], False, lambda error: None)
    with pytest.raises(NetworkError, match=r"routers\.r1: h3 would take it for its own"):
        tables["h3"].change(without_h1("h3"))
    for table in tables.values():
        table.change(without_h1("h2"))
        for switch in table.switches.values():
            assert switch.placements["r1"].hosts == ("h2",)
