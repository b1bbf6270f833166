"""VLAN ids for links: lowest first, where their cables may use them, and nobody's else there."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from zlib import crc32

import pytest

from xenflow.model.network import (
    Cable,
    Datapath,
    DatapathKind,
    End,
    Interface,
    Link,
    Network,
    NetworkError,
    Router,
    Tree,
)
from xenflow.plan.labels import allowed, ranges
from xenflow.plan.laying import lay, lay_on, unlaid
from xenflow.store import network_file
from xenflow.store.filling import Gone


def text(links: str, *, other: str = "drop", labels: str = "") -> str:
    """h1 - s1 - h2, and h3 - s2 - h4; `labels` of the cable h1-s1."""
    told = f", labels = [{labels}]" if labels else ""
    lines = ['[network]\nname = "two"', "[controllers.c]", 'openflow = "127.0.0.1:6633"']
    lines += ['manage = "tcp://127.0.0.1:6640"']
    for n, name in enumerate(("h1", "h2", "h3", "h4", "s1", "s2"), 1):
        kind = "host" if name[0] == "h" else "plain"
        lines += [f"[datapaths.{name}]", f'kind = "{kind}"', f'dpid = "{n:016x}"']
        lines += ['controller = "c"', f'other = "{other}"']
    lines += ["[cables]", f'h1-s1 = {{ ends = ["h1:s1", "s1:h1"]{told} }}']
    lines += [f'{h}-{s} = ["{h}:{s}", "{s}:{h}"]' for h, s in (("h2", "s1"), ("h3", "s2"))]
    return "\n".join([*lines, 'h4-s2 = ["h4:s2", "s2:h4"]', links])


def link(name: str, *ends: str, more: str = "") -> str:
    access = ", ".join(f'{{ at = "{end}:{name}" }}' for end in ends)
    return f"[links.{name}]\naccess = [{access}]\n{more}"


def pair(name: str) -> tuple[int, int]:
    """What a link gets that may have anything."""
    first = 1 + crc32(name.encode()) % 2047
    return first, first + 2048


def labels_of(network: Network) -> dict[str, tuple[int, int]]:
    return {name: link.labels for name, link in network.links.items()}


def parse(*links: str, **terms: str) -> Network:
    return network_file.parse(text("\n".join(links), **terms), "two.toml")[0]


def mistakes(*links: str, **terms: str) -> str:
    with pytest.raises(NetworkError) as raised:
        parse(*links, **terms)
    return str(raised.value)


def test_two_thousand_and_more_apart_by_the_name() -> None:
    names = [link("one", "h1", "h2"), link("two", "h1", more="vlan = 1"), link("far", "h3")]
    network = parse(*names)
    assert labels_of(network) == {"one": pair("one"), "two": (1, 2049), "far": pair("far")}
    assert labels_of(parse(names[2], names[0])) == {n: pair(n) for n in ("far", "one")}
    taken = parse(names[2], link("two", "h1", more=f"vlan = {pair('far')[0]}"))
    assert taken.links["far"].vlan == pair("far")[0] + 1  # the next one: it is two's elsewhere


def test_what_is_somebodys_elsewhere_only_where_nothing_else_is_left() -> None:
    far = link("far", "h3", more="vlan = 7\ndetour_vlan = 2055")
    network = parse(link("one", "h1"), far, labels="7, 8, 9")
    assert labels_of(network) == {"one": (8, 9), "far": (7, 2055)}
    network = parse(link("one", "h1"), far, labels="7, 8")
    assert labels_of(network) == {"one": (8, 7), "far": (7, 2055)}


def test_beside_a_bridge_of_other_peoples_one_is_one_links() -> None:
    last = pair("one")[0]
    far = link("far", "h3", more=f"vlan = {last}")
    network = parse(link("one", "h1", "h2"), far, other="normal")
    assert labels_of(network) == {"one": (last + 1, last + 2049), "far": (last, last + 2048)}
    assert "links.far.vlan: found 9, used on line" in mistakes(
        link("one", "h1", more="vlan = 9"), link("far", "h3", more="vlan = 9"), other="normal"
    )
    said = mistakes(link("one", "h1", more="vlan = 3000"), other="normal")
    assert "links.one.vlan: found 3000, and none for detours, expected one from 1 to" in said


def test_where_two_links_meet_they_have_not_the_same() -> None:
    both = mistakes(link("one", "h1", more="vlan = 9"), link("two", "h2", more="vlan = 9"))
    assert "links.two.vlan: found 9, expected a VLAN id that is not one's at a switch" in both
    network = parse(link("one", "h1", more="vlan = 9"), link("two", "h2", more="vlan = 2057"))
    (vlan, detour), (other, _) = labels_of(network).values()
    assert (vlan, other) == (9, 2057) and detour not in (9, 2057)
    given = "vlan = 2057\ndetour_vlan = 9"
    other = mistakes(link("one", "h1", more="vlan = 9"), link("two", "h2", more=given))
    assert "links.two.detour_vlan: found 9, expected a VLAN id that is not one's" in other


def test_a_cable_says_which_it_may_use() -> None:
    labels = '7, "100-102", "3000-3001"'
    network = parse(*(link(f"l{n}", "h1") for n in range(3)), labels=labels)
    given = [label for link in network.links.values() for label in link.labels]
    assert sorted(given) == [7, 100, 101, 102, 3000, 3001]
    assert ranges(network.cables["h1-s1"].labels) == "7, 100-102, 3000-3001"
    said = mistakes(*(link(f"l{n}", "h1") for n in range(4)), labels=labels)
    assert "links.l3.vlan: found no VLAN id, expected links that leave one: none is free" in said
    named = mistakes(link("one", "h1", "h2", more="vlan = 8"), labels=labels)
    assert "links.one.vlan: found 8, and no such way to h2, expected one of 7, 100-102" in named


def test_a_link_whose_id_a_cable_may_not_use_lies_beside_it() -> None:
    network = parse(link("one", "h2", more="vlan = 8"), labels="7")
    assert network.links["one"].tree.up.keys() == {"h2", "s1"}
    assert network.links["one"].labels == (8, 2056)


def test_what_was_given_is_kept_and_what_is_buried_is_not_given() -> None:
    before = parse(link("one", "h1", more="vlan = 5\nid = 2"), link("two", "h2"))
    after = text("\n".join((link("new", "h1"), link("two", "h2"), link("one", "h1"))))

    def parsed(gone: Gone | None) -> Link:
        network, _ = network_file.parse(after, "f", before, in_store=True, gone=gone)
        assert (network.links["one"].labels, network.links["one"].id) == ((5, 2053), 2)
        assert network.links["two"] == before.links["two"]
        return network.links["new"]

    free = parsed(None)
    assert free.labels == pair("new")
    gone = Gone(links={"gone": free.id}, labels={"gone": (free.labels, {"s1"})})
    assert (parsed(gone).labels[0], parsed(gone).id) == (free.vlan + 1, free.id + 1)
    again = Gone(links={"new": 9}, labels={"new": ((3, 7), {"s1"})})
    assert (parsed(again).labels, parsed(again).id) == ((3, 7), 9)


def test_allowed() -> None:
    cable = Cable("c", End("a", "p"), End("b", "p"), labels=((1, 1), (4093, 4094)))
    assert allowed(cable) == 1 << 1 | 1 << 4093 | 1 << 4094
    assert allowed(Cable("c", End("a", "p"), End("b", "p"))).bit_count() == 4094


def random_network(dice: Random) -> Network:
    """Hosts in a ring, each with a router; links of two routers over what they need only."""
    names = [f"h{n}" for n in range(dice.randint(3, 7))]
    datapaths = {
        name: Datapath(name, DatapathKind.HOST, n, "c", other="drop")
        for n, name in enumerate(names)
    }
    cables = {
        f"c{n}": Cable(
            f"c{n}",
            End(name, f"c{n}"),
            End(names[n - 1], f"c{n}"),
            labels=dice.choice(((), ((1, 40),), ((20, 60), (100, 120)))),
        )
        for n, name in enumerate(names)
    }
    interfaces: dict[str, list[Interface]] = {name: [] for name in names}
    links = {}
    for n in range(dice.randint(1, 12)):
        links[f"l{n}"] = Link(f"l{n}", n + 1, 0, 0, span=())
        for name in dice.sample(names, 2):
            eth = f"eth{len(interfaces[name])}"
            interfaces[name].append(Interface(eth, f"l{n}", 1, f"{name}.{eth}"))
    routers = {
        name: Router(name, n + 1, name, "", tuple(interfaces[name])) for n, name in enumerate(names)
    }
    return Network("ring", {}, datapaths, cables, links, routers)


def wrong(network: Network) -> Iterator[str]:
    """Two links with one VLAN id at one switch, or one on a cable that may not use it."""
    for name, link in network.links.items():
        for cable in link.tree.up.values():
            if cable is not None and any(not allowed(cable) >> v & 1 for v in link.labels):
                yield f"{name} on {cable.name}"
        for other in network.links.values():
            met = link.tree.up.keys() & other.tree.up.keys()
            if other is not link and met and {*link.labels} & {*other.labels}:
                yield f"{name} and {other.name} at {met}"


@pytest.mark.parametrize("seed", range(60))
def test_whatever_comes_and_goes_nobody_has_anothers(seed: int) -> None:
    dice = Random(seed)
    network = lay(random_network(dice))
    assert not list(wrong(network)) and not list(unlaid(network))
    for _ in range(3):
        wanted = random_network(dice)
        shape = {"datapaths": network.datapaths, "cables": network.cables}
        routers = {n: r for n, r in wanted.routers.items() if n in network.datapaths}
        on = {i.link for r in routers.values() for i in r.interfaces}
        links = {n: k for n, k in wanted.links.items() if n in on}
        after = lay_on(Network("ring", {}, **shape, links=links, routers=routers), network)
        said = {one.link for one in unlaid(after)}
        assert not [words for words in wrong(after) if not said & {*words.split()}]
        for name, link in after.links.items():
            old = network.links.get(name)
            if old is not None and old.tree.up:
                assert link.labels == old.labels and {*old.tree.up} <= {*link.tree.up}
        network = Network("ring", {}, **shape, routers=routers, links=after.links)
        if said:
            break
    assert Tree() == Tree({})
