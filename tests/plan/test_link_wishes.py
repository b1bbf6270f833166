"""What links ask for of the cables that they lie on: room, other cables than another's, MTU."""

from __future__ import annotations

from random import Random

import pytest

from xenflow.model.network import Network, NetworkError
from xenflow.plan.laying import cables_of, unlaid
from xenflow.store import network_file

TOP = """
[network]
name = "square"
[controllers.c]
openflow = "127.0.0.1:6633"
manage = "tcp://127.0.0.1:6640"
"""


def text(links: str, cables: dict[str, str] | None = None) -> str:
    """Hosts a and b, with s, t and u between them: the way over s first."""
    lines = [TOP]
    for n, name in enumerate("abstu", 1):
        kind = "host" if name in "ab" else "plain"
        lines += [f"[datapaths.{name}]", f'kind = "{kind}"', f'dpid = "{n:016x}"']
        lines += ['controller = "c"', 'other = "drop"']
    for one, other in ("as", "bs", "at", "bt", "au", "bu"):
        terms = (cables or {}).get(one + other, "mbps = 100")
        ends = f'ends = ["{one}:{other}", "{other}:{one}"]'
        lines += [f"[cables.{one}{other}]", ends, terms]
    return "\n".join([*lines, links])


def link(name: str, wishes: str) -> str:
    access = f'[{{ at = "a:{name}" }}, {{ at = "b:{name}" }}]'
    return f"[links.{name}]\naccess = {access}\n{wishes}\n"


def parse(
    links: str, cables: dict[str, str] | None = None, before: Network | None = None
) -> Network:
    return network_file.parse(
        text(links, cables), "square.toml", before, in_store=before is not None
    )[0]


def mistake(links: str, cables: dict[str, str] | None = None, before: Network | None = None) -> str:
    with pytest.raises(NetworkError) as raised:
        parse(links, cables, before)
    (line,) = str(raised.value).splitlines()
    return line.partition(": ")[2]


def ways(network: Network) -> dict[str, str]:
    return {n: "".join(sorted(k.tree.up.keys() - set("ab"))) for n, k in network.links.items()}


def test_each_where_there_is_room() -> None:
    three = "".join(link(f"l{n}", "mbps = 60") for n in range(3))
    assert ways(parse(three)) == {"l0": "s", "l1": "t", "l2": "u"}
    said = mistake(three + link("more", "mbps = 50"))
    assert said == (
        "links.more.mbps: found 50, and no such way to b, expected at most 40: "
        "cable as has 40 of 100 Mbit/s free (l0 has 60)"
    )
    assert ways(parse(three + link("less", "mbps = 40")))["less"] == "s"


def test_nothing_is_promised_over_a_cable_that_says_no_mbps() -> None:
    unknown = dict.fromkeys(("as", "bs", "at", "bt", "au", "bu"), "cost = 1")
    said = mistake(link("l", "mbps = 1"), unknown)
    assert said.endswith("expected cables whose mbps is known, which that of as is not")
    assert ways(parse(link("l", "mbps = 1"), unknown | {"au": "mbps = 1", "bu": "mbps = 1"})) == {
        "l": "u"
    }


def test_the_cheapest_way() -> None:
    dear = {"as": "cost = 3", "bt": "mbps = 100", "at": "mbps = 100", "bs": "cost = 3"}
    fast = {"au": "mbps = 1000", "bu": "mbps = 1000"}
    assert ways(parse(link("l", "span = []"), dear)) == {"l": "s"}
    assert ways(parse(link("l", "span = []"), dear | fast)) == {"l": "u"}
    assert ways(parse(link("l", 'span = ["t"]'), dear | fast)) == {"l": "tu"}


def test_a_link_without_wishes_lies_over_all_that_cables_reach() -> None:
    assert ways(parse(link("l", ""))) == {"l": "stu"}


def test_no_cable_of_anothers() -> None:
    one = link("one", "span = []")
    two = one + link("two", 'disjoint_from = ["one"]')
    assert ways(parse(two)) == {"one": "s", "two": "t"}
    three = two + link("three", 'disjoint_from = ["one", "two"]')
    assert ways(parse(three)) == {"one": "s", "two": "t", "three": "u"}
    said = mistake(three + link("four", 'disjoint_from = ["one", "two", "three"]'))
    assert said == (
        "links.four.disjoint_from: found no such way, expected another way to b than by as, bs, "
        "where one, three, two lies"
    )
    # The first that is named later is beside it as well.
    first = link("one", 'disjoint_from = ["two"]') + link("two", "span = []")
    assert ways(parse(first)) == {"one": "s", "two": "t"}


def test_cables_that_carry_it() -> None:
    small = {"as": "mtu = 1500", "bs": "mtu = 9000", "at": "mtu = 9000"}
    assert ways(parse(link("l", "mtu = 9000\nspan = []"), small)) == {"l": "t"}
    assert ways(parse(link("l", "mtu = 1500\nspan = []"), small)) == {"l": "s"}
    short = small | {"at": "mtu = 4000", "au": "mtu = 1400"}
    said = mistake(link("l", "mtu = 9000\nspan = []"), short)
    assert said == (
        "links.l.mtu: found 9000, and no such way to b, expected at most 1500, which cable as "
        "carries"
    )


def test_where_it_lies_it_stays_and_what_does_not_fit_there_is_refused() -> None:
    before = parse(link("old", "mbps = 60"))
    assert ways(before) == {"old": "s"}
    beside = parse(link("new", "mbps = 60") + link("old", "mbps = 60"), None, before)
    assert ways(beside) == {"new": "t", "old": "s"}
    assert beside.links["old"].tree is before.links["old"].tree
    assert ways(parse(link("old", "mbps = 100"), None, before)) == {"old": "s"}
    said = mistake(link("old", "mbps = 101"), None, before)
    assert said.startswith("links.old.mbps: found 101, expected at most 100: cable as has 100 of")
    said = mistake(link("old", "mbps = 60\nmtu = 2000"), {"as": "mbps = 100\nmtu = 1500"}, before)
    assert said == (
        "links.old.mtu: found 2000, expected at most 1500, which cable as carries, where it lies"
    )
    less = mistake(link("old", "mbps = 60"), {"as": "mbps = 50"}, before)
    assert less.startswith("links.old.mbps: found 60, expected at most 50: cable as has 50 of 50")
    two = parse(link("old", "mbps = 60") + link("two", "mbps = 40"), None, before)
    assert ways(two)["two"] == "s"
    said = mistake(
        link("old", "mbps = 60") + link("two", 'disjoint_from = ["old"]\nmbps = 40'), None, two
    )
    assert said.startswith(
        'links.two.disjoint_from: found "old", expected a link that does not lie'
    )


@pytest.mark.parametrize("wishes", ["mbps = 50", 'disjoint_from = ["old"]'])
def test_who_does_not_fit_is_in_nobodys_way(wishes: str) -> None:
    before = parse(link("old", "mbps = 60"))
    new = link("new", f'{wishes}\ncables = ["as", "bs"]')
    with pytest.raises(NetworkError) as raised:
        parse(link("old", "mbps = 101") + new, None, before)
    full, unreached = str(raised.value).splitlines()
    assert "links.old.mbps: found 101, expected at most 100: cable as has 100 of" in full
    assert 'links.new.access[1].at: found "b:new", expected a datapath that' in unreached


def test_a_cable_of_which_other_things_are_said_is_the_same_cable() -> None:
    before = parse(link("l", "span = []"))
    after = parse(link("l", "span = []"), {"as": "mbps = 1\ncost = 9"}, before)
    assert after.links["l"].tree == before.links["l"].tree and ways(after) == {"l": "s"}
    assert after.links["l"].tree.up["s"] is after.cables["as"]


def test_it_grows_to_where_a_router_is_and_to_what_is_asked_for() -> None:
    router = """
[routers.r]
home = "a"
control_vif = "r.ctl"
interfaces = [{ name = "eth0", link = "l", mac = "02:00:00:00:00:01", vif = "r.0" }]
"""
    own = '[links.l]\nspan = []\naccess = [{ at = "s:l" }]\n' + router
    before = parse(own)
    assert before.links["l"].tree.up.keys() == {"a", "s"}
    grown = parse(own.replace("[]", '["b"]', 1), None, before)
    assert grown.links["l"].tree.up.keys() == {"a", "s", "b"}
    back = parse(own, None, grown)  # what was there once may be where a router is
    assert back.links["l"].tree is grown.links["l"].tree
    placed = {"r": ("a", "b")}
    now, _ = network_file.parse(text(own), "f", before, in_store=True, placed=placed)
    assert now.links["l"].tree.up.keys() == {"a", "s", "b"}


@pytest.mark.parametrize("seed", range(30))
def test_no_more_is_promised_than_there_is(seed: int) -> None:
    """Whatever comes: what is laid keeps what it was promised, what has no room is named."""
    dice = Random(seed)
    links, network = "", None
    for n in range(8):
        wishes = dice.choice(("mbps = 30", "mbps = 60", "span = []", "mtu = 2000\nspan = []"))
        if n and dice.random() < 0.3:
            wishes += f'\ndisjoint_from = ["l{dice.randrange(n)}"]'
        more = links + link(f"l{n}", wishes)
        try:
            network = parse(more, None, network)
        except NetworkError as error:
            assert f"links.l{n}." in str(error)
            break
        links = more
        assert not list(unlaid(network))
        for cable in network.cables.values():
            on = [k for k in network.links.values() if cable.name in cables_of(k)]
            assert sum(k.mbps for k in on) <= cable.mbps
            assert not any(k.name in other.disjoint_from for k in on for other in on)
