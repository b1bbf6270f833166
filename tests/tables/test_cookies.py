"""The cookies: what is in the switches of other releases, and what each says."""

from __future__ import annotations

from random import Random

import pytest

from tests.random_sites import network
from xenflow.tables import cookies, layout
from xenflow.tables.pipeline import ALL, Owner, owner_of


def test_those_of_routes_and_next_hops_are_as_ever() -> None:
    """A switch may hold a million of them, which nobody writes anew."""
    routes = [(0x0A010000, 16, 7), (0xC0000201, 32, 9), (0, 0, 1), (0xFFFFFFFF, 32, 2)]
    made = cookies.of_routes(0xABCD, routes)
    assert made == [0x5846ABCD03000263, 0x5846ABCD03000252, 0x5846ABCD03000000, 0x5846ABCD0300006B]
    assert made == [
        cookies.of(layout.ROUTES, 0xABCD, cookies.route_chunk(net)) for net, _, _ in routes
    ]
    of_hops = [cookies.of(t, 0xABCD) for t in (layout.NEXT_HOPS, layout.LEGS, layout.SIZES)]
    assert of_hops == [0x5846ABCD04000000, 0x5846ABCD05000000, 0x5846ABCD06000000]
    assert cookies.exact(0xABCD, 0x12345678) == 0x5846ABCD80345678


@pytest.mark.parametrize("hop", [0, 1, 0xFFFFFE, 0xFFFFFF, 0x1000000, 0xFFFFFFFF])
def test_what_an_exact_flow_takes_in_is_counted_whatever_the_next_hop_s_number(hop: int) -> None:
    """A VM's kernel chooses them; those of flows that end by themselves are counted by none."""
    assert cookies.taken_in(cookies.exact(7, hop)) == 7
    assert not cookies.taken_in(cookies.of(layout.REACTIVE_KIND, 7, cookies.QUIET_CHUNK))


def test_those_of_owners() -> None:
    assert cookies.of(layout.INGRESS) == 0x5846000000000000
    assert cookies.of_link(layout.LINKS, 0xFFFF) == 0x584600000710FFFF
    assert cookies.of_link(layout.VM, 3, 0xABCD) == 0x5846ABCD08100003
    assert cookies.of_rule("a") == 0x584600000027BE43
    tag, source = (cookies.refusing(3, 5, w) for w in (cookies.REFUSED_TAG, cookies.REFUSED_SOURCE))
    assert (tag, source) == (0x5846000500900003, 0x5846000500D00003)


@pytest.mark.parametrize("link", [1, 0x8000, 0xFFFF])
@pytest.mark.parametrize("router", [0, 1, 0xFFFF])
def test_the_owner_and_whom_it_is_about_are_read_back(link: int, router: int) -> None:
    made = [cookies.of_link(table, link, router) for table in range(len(layout.TABLES))]
    why = (cookies.REFUSED_TAG, cookies.REFUSED_SOURCE)
    refusing = [cookies.refusing(link, router, w) for w in why]
    for cookie in (*made, *refusing):
        assert cookies.ours(cookie) and cookies.router_of(cookie) == router
        assert cookies.owner_of(cookie) == (cookies.LINK, link)
    assert [cookies.kind_of(cookie) for cookie in made] == [*range(len(layout.TABLES))]
    assert [cookies.refused(cookie) for cookie in refusing] == [(router, w) for w in why]
    of_other_kinds = (cookies.of_rule("a rule"), cookies.of(layout.INGRESS, router))
    assert not any(map(cookies.refused, (*made, *of_other_kinds)))


def test_names() -> None:
    net = network(Random(3))
    link, router = next(iter(net.links.values())), next(iter(net.routers.values()))
    rules = ["one", "other"]
    for cookie, owner, words in (
        (cookies.of_link(7, link.id, router.id), Owner("link", link.name), f"link {link.name}"),
        (cookies.of_link(7, 999), Owner("link", "with id 999"), "link with id 999"),
        (cookies.of(2, router.id), Owner("router", router.name), f"router {router.name}"),
        (cookies.of(2, 999), Owner("router", "with id 999"), "router with id 999"),
        (cookies.of_rule("other"), Owner("rule", "other"), "rule other"),
        (cookies.of(1), ALL, "the switch"),
    ):
        found = owner_of(net, cookie, rules)
        assert (found, str(found)) == (owner, words)
    gone = cookies.rule_id("other")
    assert str(owner_of(net, cookies.of_rule("other"))) == f"rule with id {gone}"


def test_two_rules_with_one_id_are_both_named() -> None:
    one, other = "red-keep-red-shape", "green-keep-north-queue"
    assert cookies.rule_id(one) == cookies.rule_id(other)
    found = owner_of(network(Random(3)), cookies.of_rule(one), [one, "r", other])
    assert found.name == f"{one} or {other}"
