"""What of a change waits for a move, and that the rest makes a network with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests import random_sites
from xenflow.model.difference import compare
from xenflow.model.holding import clashes, held_back
from xenflow.model.network import (
    Access,
    Cable,
    Controller,
    End,
    Interface,
    Link,
    Network,
    Router,
    Tree,
)
from xenflow.openflow.flow import Flows
from xenflow.plan.laying import lay
from xenflow.store import network_file
from xenflow.store.held_rows import mixed
from xenflow.store.network_rows import NamedRows, laid, laid_entries
from xenflow.tables.pipeline import Owner, flows_of, of_link, of_router
from xenflow.tables.site import Site

CAMPUS = network_file.load(Path(__file__).parents[2] / "conf" / "campus.toml")
MOVED = "r1"
ITS_LINK, OTHER_LINK = CAMPUS.routers[MOVED].interfaces[0].link, "spare"


def rows_of(network: Network) -> NamedRows:
    return {
        table: {key: {**row, "gone": False} for key, row in found.items()}
        for table, found in laid(network).items()
    }


def but_held(before: Network, after: Network, *moved: str) -> Network:
    held = held_back(before, after, moved)
    rows = mixed(rows_of(before), rows_of(after), held.names)
    return laid_entries(rows, before, alone=True)  # raises NetworkError where they do not fit


def with_(network: Network, **parts: dict[str, Any]) -> Network:
    """Where it lies already it stays; None takes an entry away."""
    made: dict[str, Any] = {}
    for part, entries in parts.items():
        all_of = {**getattr(network, part), **entries}
        made[part] = {name: entry for name, entry in all_of.items() if entry is not None}
    return replace(network, **made)


def without_link(network: Network, name: str) -> Network:
    """It is destroyed, with the interfaces on it."""
    routers = {
        r.name: replace(r, interfaces=tuple(i for i in r.interfaces if i.link != name))
        for r in network.routers.values()
    }
    return with_(replace(network, routers=routers), links={name: None})


def other(network: Network) -> Link:
    tree = next(iter(network.links.values())).tree
    return Link(OTHER_LINK, 99, 1900, 3948, tree=tree)


def test_a_link_that_is_destroyed_waits_with_who_is_on_it() -> None:
    after = with_(without_link(CAMPUS, ITS_LINK), links={OTHER_LINK: other(CAMPUS)})
    held = held_back(CAMPUS, after, [MOVED])
    members = {router.name for router, _ in CAMPUS.members(ITS_LINK)}
    assert held.json() == {
        "names": {"links": [ITS_LINK], "routers": sorted(members)},
        "by": [MOVED],
    }
    assert held.words().startswith(f"links.{ITS_LINK}, routers.")
    assert held.words().endswith(f": held by the move of {MOVED}")
    made = but_held(CAMPUS, after, MOVED)
    assert made == with_(CAMPUS, links={OTHER_LINK: other(CAMPUS)})


def test_a_station_on_its_link_waits_and_one_elsewhere_does_not() -> None:
    far = next(n for n in CAMPUS.links if CAMPUS.routers[MOVED].on(n) is None)
    desks = {
        name: replace(k, access=(*k.access, Access(End(next(iter(k.tree.up)), f"desk-{name}"))))
        for name, k in CAMPUS.links.items()
        if name in (ITS_LINK, far)
    }
    after = with_(CAMPUS, links=desks)
    assert held_back(CAMPUS, after, [MOVED]).names["links"] == {ITS_LINK}
    assert but_held(CAMPUS, after, MOVED) == with_(CAMPUS, links={far: desks[far]})


def comers(**on: str) -> dict[str, Router]:
    """Routers at the moved one's home, each on one link."""
    return {
        name: replace(
            CAMPUS.routers[MOVED],
            name=name,
            id=number,
            control_vif=f"{name}.c",
            interfaces=(Interface("eth0", link, number, f"{name}.0"),),
        )
        for number, (name, link) in enumerate(on.items(), 901)
    }


def test_who_gets_what_it_has_waits_too_with_what_needs_that() -> None:
    """A link that comes, with a port of its link; who is on that; and not who comes elsewhere."""
    link = next(k for n, k in CAMPUS.links.items() if CAMPUS.routers[MOVED].on(n) and k.access)
    new = comers(there=OTHER_LINK, far="third")
    spare = replace(other(CAMPUS), access=link.access)
    third = replace(other(CAMPUS), name="third", id=98, vlan=1901, detour_vlan=3949)
    links = {link.name: replace(link, access=()), OTHER_LINK: spare, "third": third}
    after = with_(CAMPUS, links=links, routers=new)
    names = held_back(CAMPUS, after, [MOVED]).json()["names"]
    assert names == {"links": sorted((link.name, OTHER_LINK)), "routers": ["there"]}
    made = but_held(CAMPUS, after, MOVED)
    assert made == with_(CAMPUS, links={"third": third}, routers={"far": new["far"]})


def test_who_comes_to_its_link_waits_and_who_is_no_neighbour_does_not() -> None:
    new = comers(near=ITS_LINK, far=OTHER_LINK)
    after = with_(CAMPUS, links={OTHER_LINK: other(CAMPUS)}, routers=new)
    assert held_back(CAMPUS, after, [MOVED]).names["routers"] == {"near"}
    assert but_held(CAMPUS, after, MOVED).routers.keys() == CAMPUS.routers.keys() | {"far"}


def test_what_it_needs_stays_too() -> None:
    """A host goes that its link led to, with the cable there."""
    plain = network_file.parse(
        (Path(__file__).parents[2] / "conf" / "paper.toml").read_text(), "paper.toml"
    )[0]
    gone = "recv"
    left = {n: c for n, c in plain.cables.items() if gone not in (c.a.datapath, c.b.datapath)}
    links = {
        name: replace(k, access=tuple(a for a in k.access if a.end.datapath != gone))
        for name, k in plain.links.items()
    }
    datapaths = {n: d for n, d in plain.datapaths.items() if n != gone}
    after = lay(replace(plain, cables=left, links=links, datapaths=datapaths))
    held = held_back(plain, after, ["vr1"])
    assert held.names["datapaths"] == {gone}
    assert held.names["cables"] == plain.cables.keys() - left.keys()
    made = but_held(plain, after, "vr1")
    assert made == plain


def test_what_another_gets_of_it_is_named() -> None:
    assert list(clashes(CAMPUS)) == []
    link = next(k for k in CAMPUS.links.values() if k.access)
    end, cable = link.access[0].end, next(iter(CAMPUS.cables.values()))
    twice = replace(other(CAMPUS), vlan=link.vlan, access=(Access(end), Access(cable.a)))
    words = "\n".join(clashes(with_(CAMPUS, links={OTHER_LINK: twice})))
    assert f"port {end} is used twice" in words and f"port {cable.a} is used twice" in words
    assert f"have VLAN id {link.vlan}" in words
    assert "two links have" in words and "access_links" in words
    again = replace(other(CAMPUS), id=link.id)
    (line,) = clashes(with_(CAMPUS, links={OTHER_LINK: again}))
    assert line == f"two links have {link.id} (link_names)"


def changed(dice: Random, network: Network) -> Network:
    """Links and routers go, routers lose interfaces, are others, or come; links get stations, or
    those of others; one comes, over a new cable, whose port another had."""
    routers, links, cables = dict(network.routers), dict(network.links), dict(network.cables)
    for name in [n for n in links if dice.random() < 0.3]:
        links[name] = replace(links[name], access=links[name].access[1:])
    for router in list(routers.values()):
        if dice.random() < 0.3:
            kept = tuple(i for i in router.interfaces if dice.random() < 0.5)
            routers[router.name] = replace(router, interfaces=kept, memory=dice.randint(0, 1))
        if dice.random() < 0.2:
            del routers[router.name]
    used = {i.link for r in routers.values() for i in r.interfaces}
    links = {n: k for n, k in links.items() if n in used or dice.random() < 0.7}
    if links and routers and dice.random() < 0.5:
        one = dice.choice([*routers.values()])
        on = Interface("eth9", dice.choice([*links]), 0x0A00DEADBEEF, "new.9")
        if links[on.link].tree.reaches(one.home):
            routers["new"] = replace(one, name="new", id=999, control_vif="new.c", interfaces=(on,))
    if links and dice.random() < 0.5:
        old, to = dice.sample([*links], 1)[0], dice.choice(("fresh", *links))
        if to == "fresh":
            free = (n for n in range(1, 4095) if n not in network.links_by_label)
            numbers = {"id": 998, "vlan": next(free), "detour_vlan": next(free)}
            links[to] = replace(links[old], name=to, access=(), **numbers)
        given = links[old].access[:1]
        tree = links[to].tree.up
        if old != to and all(access.end.datapath in tree for access in given):
            links[old] = replace(links[old], access=links[old].access[1:])
            links[to] = replace(links[to], access=(*links[to].access, *given))
        if "fresh" in links and routers:
            one = dice.choice([*routers.values()])
            on = Interface("eth8", "fresh", 0x0A00DEADBEE0, "newer.8")
            if links["fresh"].tree.reaches(one.home):
                other = replace(one, name="newer", id=997, control_vif="newer.c")
                routers["newer"] = replace(other, interfaces=(on,))
        if given and dice.random() < 0.5 and len(network.datapaths) > 1:
            end = given[0].end
            far = dice.choice([n for n in network.datapaths if n != end.datapath])
            cables["fresh"] = Cable("fresh", end, End(far, f"{far}-fresh"))
            links = {
                name: replace(k, access=tuple(a for a in k.access if a.end != end))
                for name, k in links.items()
            }
            if "fresh" in links:
                up = {end.datapath: None, far: cables["fresh"]}
                links["fresh"] = replace(links["fresh"], access=(), tree=Tree(up))
                routers.pop("newer", None)
    return replace(network, routers=routers, links=links, cables=cables)


def without_a_leaf(dice: Random, network: Network) -> Network:
    """A switch goes where no router is at home and no tree goes on, if there is one."""
    trees = [link.tree.up for link in network.links.values()]
    inner = {c.far(name).datapath for up in trees for name, c in up.items() if c is not None}
    inner |= {name for up in trees for name, cable in up.items() if cable is None}
    inner |= {router.home for router in network.routers.values()}
    if not (leaves := network.datapaths.keys() - inner):
        return network
    leaf = dice.choice(sorted(leaves))
    links = {
        name: replace(
            link,
            access=tuple(a for a in link.access if a.end.datapath != leaf),
            tree=Tree({n: c for n, c in link.tree.up.items() if n != leaf}),
        )
        for name, link in network.links.items()
    }
    ends = {n: (c.a.datapath, c.b.datapath) for n, c in network.cables.items()}
    cables = {n: c for n, c in network.cables.items() if leaf not in ends[n]}
    datapaths = {n: d for n, d in network.datapaths.items() if n != leaf}
    return replace(network, links=links, cables=cables, datapaths=datapaths)


def begun(dice: Random) -> tuple[Network, Network, list[str]]:
    """A network, what it is to become, and whom of it somebody moves."""
    controllers = {"c": Controller("c", ("10.0.0.1", 6633), "tcp://10.0.0.1:6640")}
    before = replace(random_sites.network(dice), controllers=controllers)
    after = changed(dice, before if dice.random() < 0.5 else without_a_leaf(dice, before))
    moved = dice.sample([*before.routers], dice.randint(1, len(before.routers)))
    return before, after, moved


@pytest.mark.parametrize("seed", range(150))
def test_the_mixed_network_fits_and_who_is_moved_does_not_notice(seed: int) -> None:
    """Whoever has flows that are others compiles them anew: a router that is moved, or a link of
    it, has none.  Once the move has ended it is the new network."""
    before, after, moved = begun(Random(seed))
    held = held_back(before, after, moved)
    made = but_held(before, after, *moved)
    assert list(clashes(made)) == []
    found = compare(before, made)
    links = {i.link for name in moved for i in before.routers[name].interfaces}
    assert found.dirty_routers.isdisjoint(moved) and found.dirty_links.isdisjoint(links)
    waits = compare(made, after)
    named = {(part, name) for part, names in held.names.items() for name in names}
    assert {(part, name) for part, each in waits.parts() for name in each.names} == named
    assert but_held(made, after) == after


@pytest.mark.parametrize("seed", range(60))
def test_what_is_held_compiles_as_before_and_all_else_as_after(seed: int) -> None:
    dice = Random(seed)
    before, after, moved = begun(dice)
    made = but_held(before, after, *moved)
    links = {i.link for name in moved for i in before.routers[name].interfaces}
    own = [*map(of_router, moved), *map(of_link, links)]
    waits = compare(made, after)
    others = [of_router(n) for n in made.routers.keys() - waits.dirty_routers]
    others += [of_link(n) for n in made.links.keys() - waits.dirty_links]
    for name in made.datapaths.keys() & after.datapaths.keys():
        site = random_sites.site(dice, before, name)
        placements = {r: p for r, p in site.placements.items() if {*p.hosts} <= {*after.datapaths}}
        site = replace(site, placements=placements)

        def flows(network: Network, owner: Owner, site: Site = site) -> Flows:
            here = {r: p for r, p in site.placements.items() if r in network.routers}
            return flows_of(replace(site, network=network, placements=here), owner)

        assert all(flows(made, owner) == flows(before, owner) for owner in own)
        assert all(flows(made, owner) == flows(after, owner) for owner in others)


def test_such_networks_have_what_waits_and_what_does_not() -> None:
    kinds = set()
    for seed in range(150):
        before, after, moved = begun(Random(seed))
        kinds |= {part for part, names in held_back(before, after, moved).names.items() if names}
        kinds |= {"taken"} if compare(before, but_held(before, after, *moved)) else set()
    assert kinds == {"datapaths", "cables", "links", "routers", "taken"}
