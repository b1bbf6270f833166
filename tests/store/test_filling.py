"""Short network files: what they leave out is found, kept, and never instead of what they say."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from xenflow.model.network import Network, NetworkError
from xenflow.store.filling import fill
from xenflow.store.network_file import parse
from xenflow.store.network_text import to_text

ROOT = Path(__file__).parents[2]
CLASS = (ROOT / "conf" / "class.toml").read_text()
LONG = [
    *(path for path in (ROOT / "conf").glob("*.toml") if path.stem != "class"),
    ROOT / "tests" / "lab" / "shared_host.toml",
    ROOT / "tests" / "store" / "network_file_errors" / "good.toml",
]


def read(text: str, before: Network | None = None) -> tuple[Network, dict[str, Any]]:
    return parse(text, "f", before, in_store=before is not None)


@pytest.mark.parametrize("path", LONG, ids=lambda path: path.stem)
def test_a_file_that_says_everything_stays_as_it_is(path: Path) -> None:
    tables = tomllib.loads(path.read_text())
    assert fill(tables, None) == tables


def test_a_network_for_a_class_has_forty_lines_at_most() -> None:
    assert len(CLASS.splitlines()) <= 40
    network, lab = read(CLASS)
    assert [len(part) for part in (network.routers, network.hosts, lab["machines"])] == [4, 3, 2]
    assert sum(d.kind.value == "plain" for d in network.datapaths.values()) == 2
    # and all four lie between the two machines
    ends = [machine["link"] for machine in lab["machines"].values()]
    row = [[i.link for i in router.interfaces] for router in network.routers.values()]
    assert [ends[0], ends[1]] == [row[0][0], row[-1][1]]
    assert all(one[1] == other[0] for one, other in zip(row, row[1:], strict=False))


def test_what_is_filled_in_can_be_written_down_and_read_again() -> None:
    network, _ = read(CLASS)
    assert read(to_text(network))[0] == network


def numbers(text: str, before: Network | None = None) -> dict[str, Any]:
    """Everything that was chosen, by what it is of."""
    network, lab = read(text, before)
    found: dict[str, Any] = {}
    for name, datapath in network.datapaths.items():
        found[name] = datapath.dpid
    for name, controller in network.controllers.items():
        found[f"controller {name}"] = controller.openflow, controller.manage
    for name, link in network.links.items():
        found[f"link {name}"] = link.id, link.vlan, [a.macs for a in link.access]
    for router in network.routers.values():
        found[f"router {router.name}"] = router.id, router.control_vif
        for interface in router.interfaces:
            found[f"{router.name} {interface.name}"] = interface.mac, interface.vif
    found |= {f"at {name}": address for name, address in lab["management"].items()}
    return found


def test_who_comes_or_goes_changes_no_number_of_the_others() -> None:
    more = (
        CLASS.replace("[routers]\n", '[routers]\nr0 = { home = "h1", interfaces = ["left"] }\n')
        .replace("[links]\n", "[links]\nfirst = {}\n")
        .replace("[datapaths]\n", '[datapaths]\nh0 = "host"\n')
        .replace("[lab.machines]\n", '[lab.machines]\nm0 = { access = "s1", link = "left" }\n')
    )
    less, all_ = numbers(CLASS), numbers(more)
    assert len(all_) > len(less)
    of_left = all_["link left"]
    assert of_left[2][:1] != less["link left"][2]  # the new machine is on it, too
    assert all_ | {"link left": 0} == all_ | less | {"link left": 0}
    assert of_left[:2] == less["link left"][:2]


def test_a_network_in_a_store_keeps_its_numbers() -> None:
    before, _ = read(CLASS)
    long = to_text(before)
    link, router = before.links["one-two"], before.routers["r1"]
    other = long.replace(f"id = {link.id}\nvlan = {link.vlan}", "id = 9\nvlan = 8")
    other = other.replace(f"id = {router.id}", "id = 7")
    mac = router.interfaces[0].mac.to_bytes(6, "big").hex(":")
    other = other.replace(mac, "02:00:00:00:00:77").replace('vif = "r1.0"', 'vif = "odd"')
    kept, _ = read(CLASS, read(other)[0])
    assert (kept.links["one-two"].id, kept.links["one-two"].vlan) == (9, 8)
    assert (kept.routers["r1"].id, kept.routers["r1"].interfaces[0].vif) == (7, "odd")
    assert kept.routers["r1"].interfaces[0].mac == 0x77 | 2 << 40
    # what is somebody's already is given to nobody, even where a file says so
    taken = CLASS.replace("[links]\n", '[links]\nnew = { vlan = 8, root = "h1" }\n')
    with pytest.raises(NetworkError, match=r"links\.one-two\.vlan: found 8, .* not new's"):
        read(taken, read(other)[0])


def test_many_have_numbers_of_their_own() -> None:
    links = "".join(f"link-{n} = {{}}\n" for n in range(2000))
    routers = "".join(f'v{n} = {{ home = "h1", interfaces = ["link-{n}"] }}\n' for n in range(300))
    text = CLASS.replace("[links]\n", f"[links]\n{links}")
    network, _ = read(text.replace("[routers]\n", f"[routers]\n{routers}"))
    assert len({link.vlan for link in network.links.values()}) == len(network.links) == 2005
    assert len({i.mac for r in network.routers.values() for i in r.interfaces}) == 308


def test_long_names_make_short_names_of_interfaces() -> None:
    cable, router = "from-the-first-to-the-second", "a-router-of-16-c"
    text = CLASS.replace("h1-s1", cable).replace("r1 =", f"{router} =")
    network, _ = read(text)
    end = network.cables[cable].a.port
    vifs = [i.vif for i in network.routers[router].interfaces]
    assert all(len(name) <= 15 for name in (end, *vifs, network.routers[router].control_vif))
    assert len({end, *vifs, network.routers[router].control_vif}) == 4


def addresses(links: str, machines: str = "", more: str = "") -> dict[str, Any]:
    """The addresses that the members of link "x" and "y" have."""
    _, lab = read(f"""
[network]
name = "n"
[datapaths]
h = "host"
[links]
{links}
[routers]
a = {{ home = "h", interfaces = ["x"] }}
b = {{ home = "h", interfaces = ["x", "y"] }}
[lab.machines]
m = {{ access = "h", link = "y"{machines} }}
{more}
""")
    found = {
        f"{router} {name}": address
        for router, about in lab["routers"].items()
        for name, address in about["addresses"].items()
    }
    return found | {"m": lab["machines"]["m"]["address"]}


def test_addresses_are_given_once_in_the_link() -> None:
    found = addresses('x = "10.1.0.0/31"\ny = "10.1.1.0/24"')
    assert found == {
        "a eth0": "10.1.0.0/31",
        "b eth0": "10.1.0.1/31",
        "b eth1": "10.1.1.1/24",
        "m": "10.1.1.254/24",
    }


def test_an_address_that_is_said_is_taken_and_given_to_nobody_else() -> None:
    more = '[lab.routers.a]\naddresses = { eth0 = "10.1.0.2" }'
    found = addresses('x = "10.1.0.0/29"\ny = {}', ', address = "10.7.0.1/16"', more)
    assert found == {
        "a eth0": "10.1.0.2/29",
        "b eth0": "10.1.0.1/29",
        "b eth1": "10.7.0.2/16",  # the link's subnet follows from the machine's address
        "m": "10.7.0.1/16",
    }


def test_a_link_has_subnets_of_both_families() -> None:
    found = addresses('x = ["10.1.0.0/31", "2001:db8:1::/127"]\ny = ["10.1.1.0/24", "fd00:1::/64"]')
    assert found == {
        "a eth0": ["10.1.0.0/31", "2001:db8:1::/127"],
        "b eth0": ["10.1.0.1/31", "2001:db8:1::1/127"],
        "b eth1": ["10.1.1.1/24", "fd00:1::1/64"],
        "m": ["10.1.1.254/24", "fd00:1::ffff/64"],
    }


def test_one_of_ipv6_alone_has_an_ipv4_subnet_too() -> None:
    found = addresses('x = "unnumbered"\ny = "2001:db8:2::/64"')
    assert isinstance(found["a eth0"], str) and found["b eth1"][1] == "2001:db8:2::1/64"
    assert found["b eth1"][0].endswith(".1/24") and found["m"][0].endswith(".254/24")


def test_who_has_said_addresses_has_those() -> None:
    """And who has not has one of each of the subnets that these are of."""
    more = '[lab.routers.a]\naddresses = { eth0 = "10.1.0.2" }'
    mine = ', address = ["10.7.0.1/16", "10.8.0.1/16", "2001:db8::ffff/64"]'
    found = addresses('x = ["10.1.0.0/29", "2001:db8:1::/64"]\ny = {}', mine, more)
    assert found == {
        "a eth0": "10.1.0.2/29",
        "b eth0": ["10.1.0.1/29", "2001:db8:1::1/64"],
        "b eth1": ["10.7.0.2/16", "2001:db8::1/64"],
        "m": ["10.7.0.1/16", "10.8.0.1/16", "2001:db8::ffff/64"],
    }


def test_an_ipv6_address_without_a_length_has_the_subnets() -> None:
    mine = ', address = ["10.1.1.9", "2001:db8:2::9"]'
    found = addresses('x = {}\ny = ["10.1.1.0/24", "2001:db8:2::/64"]', mine)
    assert found["m"] == ["10.1.1.9/24", "2001:db8:2::9/64"]


def test_unnumbered_ends_have_one_address_of_their_own() -> None:
    found = addresses('x = "unnumbered"\ny = "unnumbered"', ', stub = "10.9.0.1/32"')
    assert found["b eth0"] == found["b eth1"] != found["a eth0"]
    assert found["m"] == "10.9.0.1/32"
    assert all(address.endswith("/32") for address in found.values())


def test_links_of_which_nothing_is_said_have_subnets_of_their_own() -> None:
    found = addresses("x = {}\ny = {}")
    assert found["a eth0"].rpartition(".")[0] == found["b eth0"].rpartition(".")[0]
    assert found["b eth1"].rpartition(".")[0] == found["m"].rpartition(".")[0]
    assert found["b eth0"].rpartition(".")[0] != found["b eth1"].rpartition(".")[0]


def test_a_controller_is_found_by_its_name_or_is_the_only_one() -> None:
    text = """
[network]
name = "n"
[controllers.h]
openflow = "127.0.0.1:6633"
manage = "tcp://10.0.0.1:6640"
[datapaths]
h = "host"
s = "plain"
"""
    network, _ = read(text)
    assert [d.controller for d in network.datapaths.values()] == ["h", "h"]
    # whoever names controllers says all about the switches; nothing is the lab's choice
    assert network.datapaths["h"].hypervisor == "" and network.datapaths["h"].other == "normal"
