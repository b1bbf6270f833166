"""The lab's part of a network file: what follows from it, and every mistake by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab import made, operate, routing, switch
from lab.description import Lab, check, find_file, load_lab, parse_lab
from lab.namespace import LabError
from lab.operate import ends_of
from lab.steps import refusals, steps
from mgmt.hypervisor.vm import addresses_of
from tests.lab.grown import ipv4_alone
from xenflow.model.network import NetworkError

PAPER, CLASS = (ipv4_alone(find_file(name).read_text()) for name in ("paper", "class"))


def write(tmp_path: Path, old: str, new: str) -> Path:
    assert old in PAPER
    path = tmp_path / "paper.toml"
    path.write_text(PAPER.replace(old, new))
    return path


@pytest.mark.parametrize("name", ["paper", "path"])
def test_shipped_networks_are_sound(name: str) -> None:
    lab = load_lab(find_file(name))
    kinds = {n.name: n.kind for n in lab.nodes()}
    assert kinds["gen"] == "machine"
    assert kinds["gen-sw"] == "switch"
    assert kinds["host-a"] == "host"
    assert kinds["vr1"] == "router"
    assert kinds["edge"] == "controller"
    namespaces = [n.namespace for n in lab.nodes()]
    assert len(set(namespaces)) == len(namespaces)
    assert all(n.startswith("xf-") for n in namespaces)
    everyone = {n.name for n in lab.nodes() if n.kind != "router"}
    assert set(lab.management) == everyone
    assert len(set(lab.management.values())) == len(everyone)


def test_first_address_is_the_routed_one() -> None:
    nodes = {n.name: n for n in load_lab(find_file("paper")).nodes({"vr1": "host-b"})}
    own = ("10.0.1.2", "10.1.0.1", "2001:db8:1::2", "2001:db8:f1::1")
    assert nodes["gen"].addresses == own
    assert nodes["vr1"].host == "host-b"
    assert nodes["gen"].host is None
    stopped = {n.name: n for n in load_lab(find_file("paper")).nodes({})}
    assert stopped["vr1"].host is None


def test_path_has_a_transit_host_and_two_plain_switches() -> None:
    network = load_lab(find_file("path")).network
    assert network.links["left"].tree.path("gen", "host-b") == [
        "gen",
        "s1",
        "host-c",
        "s2",
        "host-b",
    ]
    neighbours = {
        h: {c.far(h).datapath for c in network.cables_of[h]} for h in ("host-a", "host-b")
    }
    assert not neighbours["host-a"] & neighbours["host-b"]
    assert network.routers["vr2"].home == "host-c"


@pytest.mark.parametrize(
    ("old", "new", "key", "expected"),
    [
        ('address = "10.0.1.2/24"', 'address = "10.0.1"', "lab.machines.gen.address", "prefix"),
        ('address = "10.0.1.2/24"', 'address = "10.9.1.2/24"', "eth0", "an address in"),
        ('access = "gen:access"', 'access = "gen:nowhere"', "lab.machines.gen.access", "access"),
        (
            'mac = "02:00:00:00:01:02"\naddress',
            'mac = "02:00:00:00:09:09"\naddress',
            "lab.machines.gen.mac",
            "one of the macs",
        ),
        ('eth1 = "10.0.2.1/24" }', 'eth7 = "10.0.2.1/24" }', "eth7", "an unknown key"),
        ('stub = "10.1.0.1/32"', 'stob = "10.1.0.1/32"', "lab.machines.gen.stob", "unknown key"),
        ('edge = "10.254.1.3"', 'edge = "10.254.1.4"', "lab.management.edge", "manage"),
        ('host-a = "10.254.1.11"', 'host-a = "10.254.2.11"', "lab.management.host-a", "10.254.1"),
        ('gen = "10.254.1.21"', 'gen = "10.254.1.22"', "lab.management", "of its own"),
        ('hypervisor = "10.254.1.2:6650"\nm', 'hypervisor = "here"\nm', "lab.hypervisor", "PORT"),
        ("[lab.routers.vr1]", "[lab.routers.vr9]", "lab.routers.vr9", "one of vr1"),
    ],
)
def test_mistakes_name_file_line_and_key(
    tmp_path: Path, old: str, new: str, key: str, expected: str
) -> None:
    path = write(tmp_path, old, new)
    with pytest.raises(NetworkError) as raised:
        load_lab(path)
    lines = [line for line in str(raised.value).splitlines() if key in line]
    assert lines, str(raised.value)
    assert any(expected in line for line in lines), lines
    number = int(lines[0].removeprefix(f"{path}:").partition(":")[0])
    assert 1 <= number <= len(path.read_text().splitlines())


def test_unnumbered_links(tmp_path: Path) -> None:
    """A /32 at each end; a router may have one address on all of them."""
    path = tmp_path / "unnumbered.toml"
    text = re.sub(r'address = "(10.0.[12].2)/24"', r'address = "\1/32"', PAPER)
    old = 'eth0 = "10.0.1.1/24", eth1 = "10.0.2.1/24"'
    path.write_text(text.replace(old, 'eth0 = "10.0.0.1/32", eth1 = "10.0.0.1/32"'))
    lab = load_lab(path)
    assert {
        (node, interface): lab.assigned(link, address)
        for link in lab.network.links
        for node, interface, address in lab.members(link)
    } == {
        ("gen", "eth0"): "10.0.1.2 peer 10.0.0.1/32",
        ("recv", "eth0"): "10.0.2.2 peer 10.0.0.1/32",
        ("vr1", "eth0"): "10.0.0.1 peer 10.0.1.2/32",
        ("vr1", "eth1"): "10.0.0.1 peer 10.0.2.2/32",
    }
    for new, expected in (
        ('eth0 = "10.0.0.1/32", eth1 = "10.0.1.2/32"', "an address of its own"),
        ('eth0 = "10.0.0.1/32", eth1 = "10.0.0.1/24"', "as others on link right"),
        ('eth0 = "10.0.1.2/32", eth1 = "10.0.0.1/32"', "an address of its own"),
    ):
        path.write_text(text.replace(old, new))
        with pytest.raises(NetworkError, match=expected):
            load_lab(path)


def test_an_unnumbered_link_has_two_ends(tmp_path: Path) -> None:
    path = tmp_path / "path.toml"
    text = ipv4_alone(find_file("path").read_text())
    text = text.replace('{ name = "eth0", link = "middle"', '{ name = "eth0", link = "left"')
    path.write_text(text.replace('address = "10.0.1.2/24"', 'address = "10.0.1.2/32"'))
    with pytest.raises(NetworkError, match="link left has not two ends"):
        load_lab(path)


def test_no_lab_table(tmp_path: Path) -> None:
    path = tmp_path / "bare.toml"
    path.write_text(PAPER[: PAPER.index("[lab]")])
    with pytest.raises(NetworkError, match=r"no table \[lab\]"):
        load_lab(path)


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(NetworkError, match="paper, path"):
        find_file("nosuch")


def test_hosts_of_another_hypervisor_are_elsewhere() -> None:
    lab = load_lab(find_file("xen"))
    kinds = {n.name: n.kind for n in lab.nodes()}
    assert lab.elsewhere == ["host-a", "host-b"]
    assert kinds["host-a"] == "elsewhere"
    assert "vr1" not in kinds and not lab.routers
    assert [d.name for d in lab.datapaths] == ["gen", "recv"]
    assert list(lab.controllers) == ["edge"]


def test_with_a_host_of_its_own_the_lab_needs_its_hypervisor(tmp_path: Path) -> None:
    text = find_file("xen").read_text()
    path = tmp_path / "mixed.toml"
    path.write_text(
        text.replace(
            "xl:ssh://root@10.254.1.12?transport=bed-transport", "lab:tcp://10.254.1.2:6650"
        )
    )
    with pytest.raises(NetworkError, match="lab.hypervisor"):
        load_lab(path)


def test_a_link_is_cut_at_its_access_ports_and_refused_where_it_has_none() -> None:
    lab = load_lab(find_file("path"))
    assert [str(end) for end in ends_of(lab, "s1-c", {})] == ["s1:to-c", "host-c:to-s1"]
    assert [str(end) for end in ends_of(lab, "left", {})] == ["gen:access"]
    with pytest.raises(LabError, match="middle has no access ports .*; it lies on a-s1, s1-c now:"):
        ends_of(lab, "middle", {})
    with pytest.raises(LabError, match="it lies on c-s2, b-s2 now: cut one of these"):
        ends_of(lab, "middle", {"vr1": "host-b"})
    with pytest.raises(LabError, match="it lies on no cable now"):
        ends_of(lab, "middle", {"vr1": "host-c"})
    with pytest.raises(LabError, match="nosuch: no such cable or link; there are gen-s1"):
        ends_of(lab, "nosuch", {})


@pytest.mark.parametrize("dead", ["ovsdb-server", "ovs-vswitchd"])
def test_a_switch_whose_daemon_is_dead_is_not_called_connected(
    dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What ovs-vsctl says of a dead switch is what it said last.
    monkeypatch.setattr(switch, "connected", {"host-a": True, "gen-sw": False, "lone": None}.get)
    assert operate.switch_state("host-a", [("host-b", dead)]) == "connected"
    assert operate.switch_state("host-a", [("host-a", dead)]) == f"dead ({dead})"
    assert operate.switch_state("gen-sw", []) == "not connected"
    assert operate.switch_state("lone", [("lone", "bird")]) == "no controller"


def test_mistakes_of_the_network_and_of_the_lab_are_told_together() -> None:
    """And none that only follows from another."""
    text = CLASS
    for old, new in (
        ('["left", "one-two"]', '["lefd", "one-two"]'),
        ('s2 = "plain"', 's2 = "plane"'),
        ('right = "10.0.5.0/24"', 'right = "10.0.5.1/24"'),
        ('m1 = { access = "s1", link', 'm1 = { access = "s1", stob = 1, link'),
        ('m2 = { access = "s2", link = "right" }', 'm2 = { access = "s9", link = "rihgt" }'),
        ("[lab.machines]", '[lab]\nhypervisor = "here"\n[lab.routers.r9]\n[lab.machines]'),
    ):
        assert old in text
        text = text.replace(old, new)
    assert told(text) == [
        'f:14: datapaths.s2.kind: found "plane", expected "host" or "plain"',
        'f:27: links.right.subnet: found "10.0.5.1/24", expected a subnet such as "10.0.1.0/24", '
        'or "unnumbered", or several: ["10.0.1.0/24", "2001:db8:1::/64"]',
        'f:30: routers.r1.interfaces[0].link: found "lefd", expected the name of a link (did you '
        'mean "left"?)',
        'f:36: lab.hypervisor: found "here", expected "ADDRESS:PORT"',
        "f:37: lab.routers.r9: found a router that is not in [routers], expected one of r1, r2, "
        "r3, r4",
        "f:39: lab.machines.m1.stob: found an unknown key, expected one of access, link, mac, "
        "address, stub, gateway, config, snippet",
        'f:40: lab.machines.m2.link: found "rihgt", expected the name of a link, one of left, '
        "one-two, two-three, three-four, right",
        'f:40: lab.machines.m2.access: found "s9:m2", expected the name of a datapath, and a port '
        "after a colon",
    ]


@pytest.mark.parametrize("place", ['access = "s9"', 'access = "s1", link = "lefd"'])
def test_all_mistakes_of_one_machine_are_told(place: str) -> None:
    wrong = 'address = "x", stub = "y", mac = "z", config = "/none"'
    text = CLASS.replace('access = "s1", link = "left"', f"{place}, {wrong}")
    found = [line.split(": ")[1] for line in told(text)]
    keys = [f"lab.machines.m1.{key}" for key in ("config", "stub", "mac", "address")]
    assert [key for key in found if key in keys] == keys and len(found) == 5


def test_what_is_no_table_is_shown() -> None:
    text = CLASS.replace("[lab.machines]", "[lab.machines]\nm9 = 5")
    assert told(text + "[lab.routers]\nr1 = { addresses = 6 }\n") == [
        "f:36: lab.machines.m9: found 5, expected a table",
        'f:40: lab.routers.r1.addresses: found 6, expected { interface = "address/length", ... }',
    ]


def grown(*lines: str, m1: str = "") -> str:
    text = CLASS.replace('link = "left" }', f'link = "left"{m1} }}')
    return "\n".join((text, "[lab.routers]", *lines))


@pytest.mark.parametrize("gateway", ["r1", "10.0.1.1"])
def test_a_machine_with_a_gateway_speaks_no_routing_protocol(gateway: str) -> None:
    _, lab = check(grown(m1=f', gateway = "{gateway}"'), "f")
    assert lab and [*map(str, lab.machines["m1"].gateways)] == ["10.0.1.1"]
    assert "m1" not in [s.node for s in routing.speakers(lab)]
    assert [m[0] for m in lab.members("left")] == ["m1", "r1"]
    assert [m[0] for m in lab.speaking("left")] == ["r1"]
    way = [str(step) for step in steps(None, lab, controllers=True)]
    assert "m1: the default route leads by 10.0.1.1" in way
    plain = parse_lab(CLASS, "f")
    (refused,) = refusals(plain, lab, {})
    assert refused.startswith("lab.machines.m1: gateway: it cannot come or go")


@pytest.mark.parametrize("gateway", ["r2", "10.0.1.7", "m1", "r9"])
def test_a_gateway_is_a_router_on_the_machines_link(gateway: str) -> None:
    assert told(grown(m1=f', gateway = "{gateway}"')) == [
        f'f:36: lab.machines.m1.gateway: found "{gateway}", expected a router on link left, or its '
        "address in 10.0.1.0/24"
    ]


def test_a_nodes_own_configuration_is_read_and_looked_for(tmp_path: Path) -> None:
    file = tmp_path / "net.toml"
    (tmp_path / "more").mkdir()
    (tmp_path / "whole.conf").write_text("whole")
    (tmp_path / "more" / "some.conf").write_text("some")
    file.write_text(grown('r1 = { config = "whole.conf" }', 'r2 = { snippet = "more/some.conf" }'))
    lab = load_lab(file)
    speakers = {s.node: s for s in routing.speakers(lab)}
    texts = {n: routing.bird_configuration(s, routing.Timers(), "x") for n, s in speakers.items()}
    assert texts["r1"] == "log x all;\ntimeformat log iso long us;\nwhole"
    assert texts["r2"].endswith("\nsome") and "protocol ospf" in texts["r2"]
    (tmp_path / "whole.conf").write_text("other")
    assert [str(s) for s in steps(lab, load_lab(file), controllers=True)][:1] == [
        "r1: the routing daemon reads its configuration anew"
    ]
    (tmp_path / "whole.conf").write_bytes(b"\xff")
    file.write_text(
        grown(
            'r1 = { config = "whole.conf" }',
            'r2 = { snippet = "none.conf" }',
            'r3 = { config = "more" }',
            'r4 = { config = "more/some.conf", snippet = "more/some.conf" }',
        )
    )
    with pytest.raises(NetworkError) as raised:
        load_lab(file)
    reasons = [line.partition(": ")[2] for line in str(raised.value).splitlines()]
    assert reasons == [
        'lab.routers.r1.config: found "whole.conf", expected a file beside this one that can be '
        "read: no UTF-8 text is in it",
        'lab.routers.r2.snippet: found "none.conf", expected a file beside this one that can be '
        "read: No such file or directory",
        'lab.routers.r3.config: found "more", expected a file beside this one that can be read: '
        "Is a directory",
        "lab.routers.r4.snippet: found both, expected one of config, in place of the lab's own, "
        "and snippet, beside it",
    ]


def told(text: str) -> list[str]:
    with pytest.raises(NetworkError) as raised:
        check(text, "f")
    return str(raised.value).splitlines()


def test_what_does_not_fit_together_in_a_lab() -> None:
    text = CLASS
    for old, new in (
        ('left = "10.0.1.0/24"', 'left = "10.0.1.0/31"'),
        ('two-three = "10.0.3.0/31"', 'two-three = "10.254.0.0/16"'),
        ('r4 = { home = "h3"', 'r5 = { home = "h3", interfaces = ["left"] }\nr4 = { home = "h3"'),
        ('access = "s2", link = "right"', 'access = "s9", link = "right"'),
        ("[lab.machines]", '[lab.routers.r4]\naddresses = { eth1 = "10.0.5.0" }\n[lab.machines]'),
    ):
        assert old in text
        text = text.replace(old, new)
    assert told(text) == [
        'f:36: lab.routers.r2.addresses.eth1: found "10.254.0.0/16", expected a subnet that the '
        "management network (10.254.1.0/24) has no part of",
        'f:37: lab.routers.r4.addresses.eth1: found "10.0.5.0/24", expected an address in '
        "10.0.5.0/24 that is not its own",
        "f:39: lab.machines.m1.address: found nothing, expected an address: the subnet of link "
        "left has none left",
        'f:40: lab.machines.m2.access: found "s9:m2", expected the name of a datapath, and a port '
        "after a colon",
    ]


# --- both families -------------------------------------------------------------------------------

DUAL = CLASS.replace('"10.0.1.0/24"', '["10.0.1.0/24", "2001:db8:1::/64"]').replace(
    '"10.0.2.0/31"', '["10.0.2.0/31", "2001:db8:2::/127"]'
)


def dual(text: str = DUAL) -> Lab:
    _, lab = check(text, "f")
    assert lab
    return lab


def test_a_link_has_addresses_of_both_families() -> None:
    lab = dual()
    assert lab.ipv6 and not load_lab(find_file("xen")).ipv6
    assert [(n, str(address)) for n, _, address in lab.everybody("left")] == [
        ("m1", "10.0.1.254/24"),
        ("m1", "2001:db8:1::ffff/64"),
        ("r1", "10.0.1.1/24"),
        ("r1", "2001:db8:1::1/64"),
    ]
    assert lab.first_addresses("left", 6) == [
        ("m1", "eth0", "2001:db8:1::ffff"),
        ("r1", "eth0", "2001:db8:1::1"),
    ]
    assert lab.first_addresses("right", 6) == []
    nodes = {node.name: node.addresses for node in lab.nodes()}
    assert nodes["m1"] == ("10.0.1.254", "2001:db8:1::ffff")
    assert nodes["r1"] == ("10.0.1.1", "10.0.2.0", "2001:db8:1::1", "2001:db8:2::")
    assert ("r1", "eth0", "2001:db8:1::1/64") in lab.assignments
    # also on links without an IPv6 subnet: OSPFv3 needs no other address than a link-local one
    assert ("r4", "eth0") in lab.speaking_ipv6 and ("m2", "eth0") in lab.speaking_ipv6


def test_a_machine_says_its_addresses() -> None:
    mine = (
        'address = ["2001:db8:1::9", "10.0.1.9", "10.7.0.9/16"], '
        'stub = ["10.1.0.1/32", "2001:db8:f1::1/128"]'
    )
    lab = dual(DUAL.replace('access = "s1", link', f'access = "s1", {mine}, link'))
    m1 = lab.machines["m1"]
    assert str(m1.address) == "10.0.1.9/24"
    assert [*map(str, m1.more)] == ["10.7.0.9/16", "2001:db8:1::9/64"]
    assert [*map(str, m1.stubs)] == ["10.1.0.1/32", "2001:db8:f1::1/128"]
    assert str(m1.stub) == "10.1.0.1/32"


def test_a_router_made_of_the_file_has_all_its_addresses() -> None:
    lab = dual()
    vm = made.of_file(lab, "r1")
    assert vm.addresses["eth0"] == "10.0.1.1/24,2001:db8:1::1/64"
    again = made.with_made(lab, {"r1": vm})
    assert again.everybody("left") == lab.everybody("left")
    assert [str(who.address) for who in addresses_of(vm)][:2] == ["10.0.1.1/24", "2001:db8:1::1/64"]


@pytest.mark.parametrize(
    ("gateway", "found"),
    [
        ('"r1"', ["10.0.1.1", "2001:db8:1::1"]),
        ('"10.0.1.1"', ["10.0.1.1"]),
        ('["2001:DB8:1:0::1"]', ["2001:db8:1::1"]),
        ('["2001:db8:1::1", "10.0.1.1"]', ["10.0.1.1", "2001:db8:1::1"]),
    ],
)
def test_a_machine_has_a_gateway_of_each_family(gateway: str, found: list[str]) -> None:
    lab = dual(DUAL.replace('link = "left" }', f'link = "left", gateway = {gateway} }}'))
    assert [*map(str, lab.machines["m1"].gateways)] == found
    way = [str(step) for step in steps(None, lab, controllers=True)]
    assert [step for step in way if "default route" in step] == [
        f"m1: the default route leads by {address}" for address in found
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            '"2001:db8:1::/64"]',
            '"2001:db8:1::1/64"]',
            'f:23: links.left.subnet: found ["10.0.1.0/24", "2001:db8:1::1/64"], expected a subnet '
            'such as "10.0.1.0/24"',
        ),
        ('"2001:db8:1::/64"]', '"unnumbered"]', "f:23: links.left.subnet: found"),
        ('"2001:db8:1::/64"]', '"2001:db8:1::1/128"]', "f:23: links.left.subnet: found"),
        (
            '"2001:db8:2::/127"]',
            '"2001:db8::/32"]',
            'f:35: lab.routers.r1.addresses.eth1: found "2001:db8::/32", expected a subnet that '
            "link left (2001:db8:1::/64) has no part of",
        ),
        (
            'link = "left" }',
            'link = "left", address = "2001:db8:1::9/64" }',
            'f:36: lab.machines.m1.address: found "2001:db8:1::9/64", expected an IPv4 address and '
            "prefix length",
        ),
        (
            'link = "left" }',
            'link = "left", address = ["10.0.1.9", "2001:db8:7::9/64"] }',
            'f:35: lab.routers.r1.addresses.eth0: found "2001:db8:1::1/64", expected an address in '
            "2001:db8:7::/64, as others on link left",
        ),
        (
            'link = "left" }',
            'link = "left", address = ["10.0.1.9", "fe80::9/64"] }',
            'f:36: lab.machines.m1.address: found "fe80::9/64", expected a global address',
        ),
        (
            'link = "left" }',
            'link = "left", stub = ["2001:db8:f1::1/128", "2001:db8:f1::2/128"] }',
            "f:36: lab.machines.m1.stub: found",
        ),
        (
            'link = "left" }',
            'link = "left", gateway = ["r1", "10.0.1.1"] }',
            'f:36: lab.machines.m1.gateway: found ["r1", "10.0.1.1"], expected a router on link '
            "left, or its address in 10.0.1.0/24 or 2001:db8:1::/64",
        ),
        (
            'link = "left" }',
            'link = "left", gateway = "2001:db8:1::7" }',
            'f:36: lab.machines.m1.gateway: found "2001:db8:1::7", expected a router on link left',
        ),
    ],
)
def test_mistakes_of_ipv6_are_found(old: str, new: str, said: str) -> None:
    assert old in DUAL
    assert any(line.startswith(said) for line in told(DUAL.replace(old, new))), told(
        DUAL.replace(old, new)
    )


def test_a_link_with_no_ipv4_address_left_says_so_whatever_ipv6_has_left() -> None:
    text = DUAL.replace('"10.0.1.0/24", ', '"10.0.1.0/31", ')
    assert told(text + 'm3 = { access = "s2", link = "left" }\n') == [
        "f:38: lab.machines.m3.address: found nothing, expected an address: the subnet of link "
        "left has none left"
    ]
