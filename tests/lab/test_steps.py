"""How one lab becomes another, as a list of steps, and what cannot be done while it is up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lab.description import Lab, find_file, load_lab, parse_lab
from lab.steps import Do, Step, refusals, steps
from mgmt.hypervisor.vm import RouterVm
from tests.lab import grown
from tests.lab.grown import changed, ipv4_alone

CAMPUS, GROWN = ipv4_alone(grown.CAMPUS), ipv4_alone(grown.GROWN)
BEFORE, AFTER = parse_lab(CAMPUS, "campus.toml"), parse_lab(GROWN, "grown.toml")
TAKING = (Do.UNPLUG, *(do for do in Do if do.name.startswith("NO_")))


def told(before: Lab | None, after: Lab, *, controllers: bool = True) -> list[str]:
    return [str(step) for step in steps(before, after, controllers=controllers)]


def homes(lab: Lab) -> dict[str, str]:
    return {name: router.home for name, router in lab.routers.items()}


def test_up_is_the_way_from_nothing() -> None:
    paper = parse_lab(ipv4_alone(find_file("paper").read_text()), "paper.toml")
    assert told(None, paper) == [
        *(f"make node {name}" for name in ("lab", "gen", "recv", "host-a", "host-b")),
        *(f"make node {name}" for name in ("gen-sw", "recv-sw", "vr1", "edge")),
        *(f"lay cable {name}" for name in ("gen-a", "gen-b", "recv-a", "recv-b")),
        "cable machine gen to gen:access",
        "cable machine recv to recv:access",
        *(f"wire router vr1: {name}" for name in ("eth0", "eth1", "ctl0")),
        "gen: lo gets address 10.1.0.1/32",
        "recv: lo gets address 10.2.0.1/32",
        "gen: eth0 gets address 10.0.1.2/24",
        "vr1: eth0 gets address 10.0.1.1/24",
        "recv: eth0 gets address 10.0.2.2/24",
        "vr1: eth1 gets address 10.0.2.1/24",
        *(f"{name}: start the routing daemon" for name in ("gen", "recv", "vr1")),
        "replace the network file",
        *(f"start controller {name}" for name in ("host-a", "host-b", "edge")),
        *(f"start the switch of {name}" for name in ("host-a", "host-b", "gen", "recv")),
        *(f"plug router vr1 in: {name}" for name in ("eth0", "eth1", "ctl0")),
        "start the emulated hypervisor",
        "vr1: start routerd",
        "wait until link left passes packets",
        "wait until link right passes packets",
    ]


def test_a_router_without_a_routing_daemon_has_none_that_retires() -> None:
    """`xenflow router create` made r6; the file that is reloaded does not have it."""
    described = AFTER.routers["r6"]
    made = {"r6": RouterVm(described, {}, {}, daemon="")}
    words = told(replace(AFTER, made=made), BEFORE)
    assert [line for line in words if "calls its ways" in line] == [
        "r7: the routing daemon calls its ways the last to be taken"
    ]
    assert "unplug router r6: eth0" in words


def test_without_controllers_switches_get_fixed_flows() -> None:
    words = told(None, load_lab(find_file("paper")), controllers=False)
    assert not [line for line in words if "controller" in line]
    assert words[-6:-2] == [
        f"{name}: the switch gets its fixed flows" for name in ("host-a", "host-b", "gen", "recv")
    ]


def test_a_network_that_grows() -> None:
    """What is new is made beside what is there; then all learn of it."""
    assert told(BEFORE, AFTER) == [
        *(f"make node {name}" for name in ("m4", "host-e", "r6", "r7")),
        "lay cable e-s2",
        "lay cable s1-s2-more",
        "cable machine m4 to host-e:m4",
        "wire router r3: eth3",
        *(f"wire router r6: {name}" for name in ("eth0", "eth1", "ctl0")),
        *(f"wire router r7: {name}" for name in ("eth0", "ctl0")),
        "m4: lo gets address 10.4.0.1/32",
        "r3: eth3 gets address 10.0.8.13/24",
        "r6: eth0 gets address 10.0.8.16/24",
        "m4: eth0 gets address 10.0.9.2/24",
        "r6: eth1 gets address 10.0.9.16/24",
        "r7: eth0 gets address 10.0.9.17/24",
        *(f"{name}: start the routing daemon" for name in ("m4", "r6", "r7")),
        *(f"{name}: the routing daemon reads its configuration anew" for name in ("m2", "r3")),
        "replace the network file",
        "start controller host-e",
        "start the switch of host-e",
        "s2: the switch gets port to-e",
        "s1: the switch gets port to-s2-more",
        "s2: the switch gets port to-s1-more",
        "plug router r3 in: eth3",
        *(f"plug router r6 in: {name}" for name in ("eth0", "eth1", "ctl0")),
        *(f"plug router r7 in: {name}" for name in ("eth0", "ctl0")),
        "the emulated hypervisor reads the network file anew",
        "r6: start routerd",
        "r7: start routerd",
        *(f"controller {name} reads the network file anew" for name in BEFORE.controllers),
        "wait until every switch holds what it shall",
        "host-b: the switch loses port m2",
        "machine m2 is no longer cabled to host-b:m2",
        "cable machine m2 to host-c:m2",
        "host-c: the switch gets port m2",
        "m2: eth0 gets address 10.0.4.22/24",
        *(f"wait until link {n} passes packets" for n in ("middle", "three-six", "six-seven")),
    ]


def test_a_network_that_shrinks() -> None:
    """Packets go other ways, and nobody knows any more of what goes, before it is taken away."""
    assert told(AFTER, BEFORE) == [
        *(f"{name}: the routing daemon reads its configuration anew" for name in ("m2", "r3")),
        *(
            f"{name}: the routing daemon calls its ways the last to be taken"
            for name in ("r6", "r7")
        ),
        *(
            f"wait until no way leads by {address}"
            for address in ("10.0.8.13", "10.0.8.16", "10.0.9.16", "10.0.9.17")
        ),
        "replace the network file",
        "the emulated hypervisor reads the network file anew",
        *(f"controller {name} reads the network file anew" for name in BEFORE.controllers),
        "wait until every switch holds what it shall",
        "host-c: the switch loses port m2",
        "machine m2 is no longer cabled to host-c:m2",
        "cable machine m2 to host-b:m2",
        "host-b: the switch gets port m2",
        "m2: eth0 gets address 10.0.4.2/24",
        "wait until link middle passes packets",
        "unplug router r3: eth3",
        *(f"unplug router r6: {name}" for name in ("eth0", "eth1", "ctl0")),
        *(f"unplug router r7: {name}" for name in ("eth0", "ctl0")),
        "s2: the switch loses port to-e",
        "s1: the switch loses port to-s2-more",
        "s2: the switch loses port to-s1-more",
        "machine m4 is no longer cabled to host-e:m4",
        "take cable e-s2 away",
        "take cable s1-s2-more away",
        "end controller host-e",
        *(f"take node {name} away" for name in ("m4", "host-e", "r6", "r7")),
    ]


@pytest.mark.parametrize(("before", "after"), [(BEFORE, AFTER), (AFTER, BEFORE)])
def test_nothing_is_taken_away_before_everybody_knows(before: Lab, after: Lab) -> None:
    kinds = [step.do for step in steps(before, after, controllers=True)]
    known = kinds.index(Do.IN_SYNC)
    assert not [do for do in kinds[:known] if do in TAKING]
    assert [do for do in kinds[known:] if do in TAKING]


def test_the_same_network_needs_nothing_but_the_file() -> None:
    """Other remarks, for instance: no controller reads it."""
    assert told(BEFORE, parse_lab(f"# a remark\n{CAMPUS}", "campus.toml")) == [
        "replace the network file",
        "the emulated hypervisor reads the network file anew",
    ]


def test_what_only_controllers_have_to_know() -> None:
    text = changed(
        CAMPUS,
        (
            'dpid = "0000000000000011"\ncontroller = "edge"\nproof = "bound"\nproof_bound_s = 0.35',
            'dpid = "0000000000000011"\ncontroller = "edge"\nproof = "bound"\nproof_bound_s = 0.5',
        ),
    )
    kinds = {step.do for step in steps(BEFORE, parse_lab(text, "x"), controllers=True)}
    assert kinds == {Do.FILE, Do.TELL_HYPERVISOR, Do.TELL, Do.IN_SYNC}


def test_an_address_that_changes_is_there_beside_the_old_one_for_a_while() -> None:
    after = parse_lab(changed(CAMPUS, ('eth1 = "10.0.2.11/24"', 'eth1 = "10.0.2.21/24"')), "x")
    assert told(BEFORE, after) == [
        "r1: eth1 gets address 10.0.2.21/24",
        "r1: the routing daemon reads its configuration anew",
        "replace the network file",
        "the emulated hypervisor reads the network file anew",
        "wait until link one-two passes packets",
        "r1: eth1 loses address 10.0.2.11/24",
    ]


def test_the_other_end_of_an_unnumbered_link_has_the_new_address_as_its_peer() -> None:
    def unnumbered(end: str) -> Lab:
        return parse_lab(
            changed(
                CAMPUS,
                ('address = "10.0.1.2/24"', f'address = "{end}/32"'),
                ('eth0 = "10.0.1.11/24"', 'eth0 = "10.0.1.11/32"'),
            ),
            "x",
        )

    way = steps(unnumbered("10.0.1.2"), unnumbered("10.0.1.3"), controllers=True)
    addresses = [step for step in way if step.do in (Do.ADDRESS, Do.NO_ADDRESS)]
    assert [str(step) for step in addresses] == [
        "m1: eth0 gets address 10.0.1.3 peer 10.0.1.11/32",
        "m1: lo gets address 10.0.1.3/32",
        "r1: eth0 gets address 10.0.1.11 peer 10.0.1.3/32",
        "m1: eth0 loses address 10.0.1.2 peer 10.0.1.11/32",
        "m1: lo loses address 10.0.1.2/32",
        "r1: eth0 loses address 10.0.1.11 peer 10.0.1.2/32",
    ]


def test_ipv6_comes_to_a_lab_and_leaves_it() -> None:
    dual = parse_lab(
        changed(
            CAMPUS,
            ('address = "10.0.1.2/24"', 'address = ["10.0.1.2/24", "2001:db8:1::2/64"]'),
            ('eth0 = "10.0.1.11/24"', 'eth0 = ["10.0.1.11/24", "2001:db8:1::11/64"]'),
        ),
        "x",
    )
    nodes = ["m1", "m2", "m3", "r1", "r2", "r3", "r4", "r5"]
    come, go = told(BEFORE, dual), told(dual, BEFORE)
    places = [f"{node}: {interface}" for node, interface in dual.speaking_ipv6]
    daemons = [f"{node}: the routing daemon reads its configuration anew" for node in nodes]
    assert come[: len(places) + 2] == [
        *(f"{place} speaks IPv6" for place in places),
        "m1: eth0 gets address 2001:db8:1::2/64",
        "r1: eth0 gets address 2001:db8:1::11/64",
    ]
    assert [step for step in come if "routing daemon" in step] == daemons
    assert come[-1] == "wait until link left passes packets"
    assert go[-len(places) - 2 :] == [
        "m1: eth0 loses address 2001:db8:1::2/64",
        "r1: eth0 loses address 2001:db8:1::11/64",
        *(f"{place} speaks no IPv6 any more" for place in places),
    ]
    assert [step for step in go if "routing daemon" in step] == daemons
    assert refusals(BEFORE, dual, homes(BEFORE)) == refusals(dual, BEFORE, homes(dual)) == []


def test_what_leaves_a_lab_of_both_families_is_waited_for_in_both() -> None:
    text = changed(CAMPUS, ('stub = "10.1.0.1/32"', 'stub = ["10.1.0.1/32", "2001:db8::1/128"]'))
    lab = parse_lab(text, "x")
    without = replace(lab, network=replace(lab.network, routers={}), addresses={}, more={})
    drained = [
        step.what[0] for step in steps(lab, without, controllers=True) if step.do is Do.DRAIN
    ]
    assert drained[:2] == ["10.0.1.11", "10.0.2.11"]
    assert "fe80::ff:fe01:101" in drained  # of 02:00:00:01:01:01


def test_a_machine_at_another_port_is_waited_for() -> None:
    text = CAMPUS.replace("host-b:m2", "host-b:m2-more")
    assert told(BEFORE, parse_lab(text, "x"))[-7:] == [
        "wait until every switch holds what it shall",
        "host-b: the switch loses port m2",
        "machine m2 is no longer cabled to host-b:m2",
        "cable machine m2 to host-b:m2-more",
        "host-b: the switch gets port m2-more",
        "m2: eth0 gets address 10.0.4.2/24",
        "wait until link middle passes packets",
    ]


def test_hosts_elsewhere_have_the_ends_of_their_cables_and_no_more() -> None:
    way = list(steps(None, load_lab(find_file("xen")), controllers=True))
    assert [str(step) for step in way if "host-a" in step.what] == ["make node host-a"]
    assert {"lay cable gen-a", "start the switch of gen"} <= {str(step) for step in way}
    assert not [step for step in way if step.do in (Do.WIRE, Do.PLUG, Do.LINK, Do.ROUTERD)]


def test_an_interface_that_is_the_same_by_its_name_alone_is_made_anew() -> None:
    text = changed(
        CAMPUS,
        (
            'link = "middle", mac = "02:00:00:03:04:01"',
            'link = "middle", mac = "02:00:00:03:04:99"',
        ),
    )
    way = [s for s in steps(BEFORE, parse_lab(text, "x"), controllers=True) if "r3" in s.what]
    assert way == [
        Step(Do.UNPLUG, ("r3", "eth1")),
        Step(Do.WIRE, ("r3", "eth1")),
        Step(Do.ADDRESS, ("r3", "eth1", "10.0.4.13/24")),
        Step(Do.PLUG, ("r3", "eth1")),
    ]


def test_a_network_without_routers_has_no_hypervisor() -> None:
    text = CAMPUS[: CAMPUS.index("[routers.r1]")] + CAMPUS[CAMPUS.index("[lab]") :]
    bare = parse_lab(text[: text.index("[lab.routers.r1]")], "x")
    assert "start the emulated hypervisor" in told(bare, BEFORE)
    assert "end the emulated hypervisor" in told(BEFORE, bare)
    assert not [line for line in told(None, bare) if "hypervisor" in line]


# --- what is refused -----------------------------------------------------------------------------


def test_these_can_become_one_another() -> None:
    assert refusals(BEFORE, AFTER, homes(BEFORE)) == []
    assert refusals(AFTER, BEFORE, homes(AFTER)) == []


@pytest.mark.parametrize(
    ("before", "changes", "expected"),
    [
        (
            CAMPUS,
            [('hypervisor = "10.254.1.2:6650"\nm', 'hypervisor = "10.254.1.2:6651"\nm')],
            "lab.hypervisor: it cannot change: take the lab down, and bring it up anew",
        ),
        (
            CAMPUS,
            [('operator = "10.254.1.1"', 'operator = "10.254.1.9"')],
            "lab.management.operator: it cannot change: take the lab down, and bring it up anew",
        ),
        (
            CAMPUS,
            [('s1 = "10.254.1.31"', 's1 = "10.254.1.39"')],
            'lab.management.s1: 10.254.1.31 cannot become 10.254.1.39: say s1 = "10.254.1.31" '
            "there, or remove it in one step and add it in the next",
        ),
        (
            CAMPUS,
            [("[lab.machines.m2]", "[lab.machines.m9]"), (', m2 = "', ', m9 = "')],
            "lab.management.m9: 10.254.1.42 is m2's: take another, or remove m2 in one step and "
            "add m9 in the next",
        ),
        (
            CAMPUS,
            [("[lab.machines.m2]", "[lab.machines.m9]"), (', m2 = "10.254.1.42"', "")],
            "lab.machines.m9: host-b:m2 is the port of lab.machines.m2: take another, or remove "
            "lab.machines.m2 in one step and add lab.machines.m9 in the next",
        ),
        (
            CAMPUS,
            [("[lab.machines.m1]", "[lab.machines.s1]"), (', m1 = "10.254.1.41"', "")],
            "s1: a switch cannot become a machine: remove it in one step and add it in the next",
        ),
        (
            CAMPUS,
            [('a-s1 = ["host-a:to-s1", "s1:to-a"]', 'a-s1 = ["host-a:to-s2", "s2:to-a"]')],
            "cables.a-s1: its ends cannot change: remove it in one step and add it in the next",
        ),
        (
            CAMPUS,
            [('b-c = ["host-b:to-c"', 'c-b = ["host-b:to-c"')],
            "cables.c-b: host-b:to-c is the port of cables.b-c: take another, or remove "
            "cables.b-c in one step and add cables.c-b in the next",
        ),
        (
            CAMPUS,
            [('control_vif = "r3.ctl"', 'control_vif = "r3.c"')],
            "routers.r3: control_vif cannot become r3.c: remove it in one step and add it in the "
            "next",
        ),
        (
            GROWN,
            [
                ("[routers.r7]\nid = 7", "[routers.r8]\nid = 8"),
                ("[lab.routers.r7]", "[lab.routers.r8]"),
            ],
            "routers.r8: eth0: vif r7.0 is that of r7 eth0: take another, or remove r7 eth0 in "
            "one step and add eth0 in the next",
        ),
        (
            GROWN,
            [
                ('{ name = "eth3", link = "three-six"', '{ name = "eth4", link = "three-six"'),
                ('vif = "r3.3"', 'vif = "r3.4"'),
                ('eth3 = "10.0.8.13/24"', 'eth4 = "10.0.8.13/24"'),
            ],
            "routers.r3: eth4: eth3 is on link three-six still: remove eth3 in one step and add "
            "eth4 in the next",
        ),
        (
            CAMPUS,
            [("vlan = 101", "vlan = 111")],
            "links.left: vlan 101 cannot become 111",
        ),
    ],
)
def test_what_cannot_change_is_named(
    before: str, changes: list[tuple[str, str]], expected: str
) -> None:
    lab = parse_lab(before, "campus.toml")
    found = refusals(lab, parse_lab(changed(before, *changes), "x"), homes(lab))
    assert [line for line in found if line.startswith(expected)], found


def test_a_host_goes_only_when_no_router_that_stays_runs_there() -> None:
    places = homes(AFTER)
    assert refusals(AFTER, BEFORE, {**places, "r2": "host-e"}) == [
        "datapaths.host-e: r2 runs there: migrate it first (`xenflow migrate r2 HOST`)"
    ]
    assert refusals(AFTER, BEFORE, {**places, "r6": "host-e"}) == []


def test_hosts_elsewhere_cannot_be_told() -> None:
    xen = load_lab(find_file("xen"))
    found = refusals(xen, xen, {})
    assert found == [
        f"datapaths.{name}: it is not the lab's own, and cannot be told: take the lab down"
        for name in ("host-a", "host-b")
    ]


def test_an_address_of_the_management_network_stays_when_others_come() -> None:
    """Also where the file leaves it to the lab."""
    bare = changed(CAMPUS, (', m1 = "10.254.1.41", m2 = "10.254.1.42", m3 = "10.254.1.43"', ""))
    before = parse_lab(bare, "x")
    after = parse_lab(
        GROWN.replace(', m1 = "10.254.1.41", m2 = "10.254.1.42", m3 = "10.254.1.43"', ""), "x"
    )
    assert after.management.items() >= before.management.items()
    assert len(set(after.management.values())) == len(after.management)
