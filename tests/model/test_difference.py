"""What differs between two networks, whose flows that concerns, and what cannot change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from lab.description import find_file
from xenflow.model.difference import Changed, compare, expected_loss, refusals
from xenflow.model.network import (
    Access,
    Cable,
    Datapath,
    DatapathKind,
    End,
    Interface,
    Link,
    Network,
    Router,
)
from xenflow.plan.laying import lay
from xenflow.store.network_file import load, parse

PATH = load(find_file("path"))


def with_(**parts: dict[str, object]) -> Network:
    """PATH with entries more, or others in place of some; None takes one away."""
    made = {}
    for part, entries in parts.items():
        kept = {**getattr(PATH, part), **entries}
        made[part] = {name: entry for name, entry in kept.items() if entry is not None}
    return lay(replace(PATH, **made))


def one_more_host() -> Network:
    """A host behind s2, by one cable; every link's tree grows by a leaf."""
    host = Datapath("host-z", DatapathKind.HOST, 0xAF, "host-a")
    cable = Cable("z-s2", End("host-z", "to-s2"), End("s2", "to-z"))
    return with_(datapaths={"host-z": host}, cables={"z-s2": cable})


def test_the_same_is_no_difference() -> None:
    again = load(find_file("path"))
    assert not compare(PATH, again)
    assert refusals(PATH, again) == []
    assert PATH.digest == again.digest


def test_a_digest_is_of_what_a_file_means() -> None:
    text = find_file("path").read_text()
    network, _ = parse(f"# a remark\n{text}", "other.toml")
    assert network.digest == PATH.digest
    changed = replace(PATH.links["left"], vlan=77)
    assert with_(links={"left": changed}).digest != PATH.digest
    assert one_more_host().digest != PATH.digest


def test_a_host_that_comes_makes_every_link_dirty_that_reaches_it() -> None:
    new = one_more_host()
    found = compare(PATH, new)
    assert found.datapaths == Changed(added=("host-z",))
    assert found.cables == Changed(added=("z-s2",))
    assert not found.routers
    assert found.dirty_links == {n for n, link in new.links.items() if link.tree.reaches("host-z")}
    assert refusals(PATH, new) == []
    assert refusals(new, PATH) == []
    assert compare(new, PATH).datapaths == Changed(removed=("host-z",))


def test_a_router_that_comes_makes_its_links_and_their_members_dirty() -> None:
    interface = Interface("eth0", "middle", 0x0200000A0001, "vr9.0")
    new = with_(routers={"vr9": Router("vr9", 9, "host-a", "vr9.ctl", (interface,))})
    found = compare(PATH, new)
    assert found.routers == Changed(added=("vr9",))
    assert not found.links
    assert found.dirty_links == {"middle"}
    assert found.dirty_routers == {"vr9", *(r.name for r, _ in PATH.members("middle"))}
    assert refusals(PATH, new) == []


def test_an_access_port_makes_its_link_dirty() -> None:
    left = PATH.links["left"]
    more = replace(left, access=(*left.access, Access(End("s2", "desk"), (0x020000000909,))))
    found = compare(PATH, with_(links={"left": more}))
    assert found.links == Changed(changed=("left",))
    assert found.dirty_links == {"left"}
    assert found.dirty_routers == {r.name for r, _ in PATH.members("left")}


def shortcut() -> Network:
    """A cable past s1: trees would take it."""
    return with_(cables={"new": Cable("new", End("gen", "new"), End("s2", "new"))})


def other_vlan() -> Network:
    return with_(links={"left": replace(PATH.links["left"], vlan=77, detour_vlan=2125)})


def other_dpid() -> Network:
    return with_(datapaths={"host-b": replace(PATH.datapaths["host-b"], dpid=0x77)})


def other_address() -> Network:
    moved = replace(PATH.controllers["host-b"], manage="tcp://10.254.1.99:6640")
    return with_(controllers={"host-b": moved})


def other_id() -> Network:
    return with_(routers={"vr1": replace(PATH.routers["vr1"], id=77)})


def somebody_elses_id() -> Network:
    link = PATH.links["left"]
    new = Link("heir", 99, link.vlan, link.detour_vlan, root="s1")
    return with_(links={"heir": new})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (shortcut, "links.left: at s2 its tree would lie by cable new (gen:new, s2:new)"),
        (other_vlan, "links.left: vlan 101 cannot become 77"),
        (other_dpid, "datapaths.host-b: dpid cannot change while it forwards"),
        (other_address, "controllers.host-b: its addresses cannot change while it runs"),
        (other_id, "routers.vr1: id 1 cannot become 77"),
        (somebody_elses_id, "links.heir: vlan 101 is left's"),
    ],
)
def test_what_cannot_change_is_named(change: Callable[[], Network], words: str) -> None:
    found = refusals(PATH, change())
    assert any(line.startswith(words) for line in found), found
    assert len(found) == 1 or change is shortcut  # each said once, not what follows from it


def test_a_link_that_names_its_root_and_cables_stays_where_it_is() -> None:
    left = PATH.links["left"]
    cables = tuple(c.name for c in left.tree.up.values() if c is not None)
    fixed = with_(links={"left": replace(left, root="gen", cables=cables)})
    assert fixed.links["left"].tree == left.tree
    shorter = replace(
        fixed, cables={**fixed.cables, "new": Cable("new", End("gen", "new"), End("s2", "new"))}
    )
    assert not [line for line in refusals(fixed, lay(shorter)) if "links.left" in line]


def test_what_a_change_may_cost_is_named() -> None:
    def lost(**parts: dict[str, object]) -> list[str]:
        after = with_(**parts)
        return expected_loss(PATH, after, compare(PATH, after))

    router, link = PATH.routers["vr1"], PATH.links["left"]
    first = router.interfaces[0]
    other = replace(first, mac=first.mac + 0x900)
    assert lost(routers={"vr1": replace(router, interfaces=(other, *router.interfaces[1:]))}) == [
        f"router vr1: {first.name} has another MAC address: neighbours send to the one before "
        "until they ask again"
    ]
    other = replace(first, vif="another")
    assert lost(routers={"vr1": replace(router, interfaces=(other, *router.interfaces[1:]))}) == [
        f"router vr1: {first.name} has another vif: it is connected anew"
    ]
    assert lost(routers={"vr1": replace(router, interfaces=router.interfaces[1:])}) == [
        f"router vr1 leaves link {first.link} ({first.name})"
    ]
    assert lost(routers={"vr1": None}) == ["router vr1 goes, with what it forwards"]
    ports = [f"link left loses access port {access.end}" for access in link.access]
    assert ports and lost(links={"left": replace(link, access=())}) == ports
    assert lost(routers={"vr1": replace(router, home="host-b")}) == []
    stopped = replace(router, running=False)
    assert lost(routers={"vr1": stopped}) == ["router vr1 stops, with what it forwards"]
    idle, none = with_(routers={"vr1": stopped}), with_(routers={"vr1": None})
    moved = with_(routers={"vr1": replace(stopped, interfaces=router.interfaces[1:])})
    for after in (none, moved, PATH):  # what does not run loses nothing
        assert expected_loss(idle, after, compare(idle, after)) == []
    grown = one_more_host()
    assert expected_loss(PATH, grown, compare(PATH, grown)) == []
    assert expected_loss(grown, PATH, compare(grown, PATH)) == [
        "switch host-z goes, with what it forwards"
    ]
    fewer = with_(links={"spare": Link("spare", 99, 199, 199 + 2048, root="host-a")})
    assert expected_loss(fewer, PATH, compare(fewer, PATH)) == [
        "link spare goes, with what is on it"
    ]
