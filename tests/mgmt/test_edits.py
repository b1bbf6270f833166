"""What the verbs that change one thing make of a network, in memory: `mgmt.edits`."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import pytest

from mgmt.edits import Places
from mgmt.session import ManagementSession, UsageError
from mgmt.verbs import edit
from xenflow.model.difference import compare, refusals, rejoined
from xenflow.model.network import Network, NetworkError
from xenflow.store import network_file
from xenflow.store.network_text import to_text

PAPER = Path(__file__).parents[2] / "conf" / "paper.toml"
NETWORK = network_file.load(PAPER)
AT_A = {"vr1": frozenset({"host-a"})}
AT_B = {"vr1": frozenset({"host-b"})}


def edited(
    words: str, network: Network = NETWORK, places: Places = AT_A, then: bool = False
) -> Network:
    """The network that a verb makes, read as a file is; `then`: its second step."""
    kind, change, *rest = words.split()
    verb = next(verb for verb in edit.VERBS if kind == verb.NAME)
    parser = ArgumentParser(exit_on_error=False)
    verb.add_arguments(parser)
    args = parser.parse_args([change, *rest])
    one = verb._edits[change]
    if then:
        assert one.then is not None
        made = one.then(network, args, places)
    else:
        made = one.makes(network, args, places)
    return network_file.parse(to_text(made), words, network, in_store=True)[0]


def changed(words: str, network: Network = NETWORK, places: Places = AT_A) -> dict[str, object]:
    """What differs then, and that nothing of it is refused."""
    after = edited(words, network, places)
    found = compare(network, after)
    assert refusals(network, after, found) == []
    return found.json()


def test_a_host_comes_with_its_controller_and_cables() -> None:
    words = "host add host-c --address 10.0.0.3 --cable host-a --cable up=gen:down"
    after = edited(words)
    host = after.datapaths["host-c"]
    assert (host.controller, host.dpid) == ("host-c", 3)
    assert (host.hypervisor, host.proof, host.other) == (
        "lab:tcp://10.254.1.2:6650",
        "revalidator",
        "drop",
    )
    controller = after.controllers["host-c"]
    assert (controller.manage, controller.openflow) == ("tcp://10.0.0.3:6640", ("127.0.0.1", 6633))
    cables = {n: (str(c.a), str(c.b)) for n, c in after.cables.items() if n not in NETWORK.cables}
    assert cables == {
        "host-c-host-a": ("host-c:to-host-a", "host-a:to-host-c"),
        "host-c-gen": ("host-c:up", "gen:down"),
    }
    assert changed(words)["controllers"] == {"added": ["host-c"]}


def test_a_host_may_have_a_controller_that_there_is() -> None:
    after = edited(
        "host add host-c --controller host-a --dpid 00:00:00:00:00:00:00:c1 --other normal"
    )
    host = after.datapaths["host-c"]
    assert (host.controller, host.dpid, host.other) == ("host-a", 0xC1, "normal")
    assert after.controllers == NETWORK.controllers


def test_a_plain_switch_is_looked_after_as_the_others_are() -> None:
    after = edited("switch add core --cable host-a --cable host-b")
    core = after.datapaths["core"]
    assert (core.controller, core.dpid, core.proof_bound_s) == ("edge", 3, 0.35)
    assert changed("switch remove core", after) == {
        "datapaths": {"removed": ["core"]},
        "cables": {"removed": ["core-host-a", "core-host-b"]},
        "links": {"changed": ["left", "right"]},
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("host add host-a --address 10.0.0.3", "there is a datapath host-a already"),
        ("host add host-c", "whose controller looks after it? (--address or --controller)"),
        ("host add host-c --controller edg", "did you mean edge?"),
        ("host add host-c --address 1.2.3.4 --dpid x", "--dpid x: expected 16 hex digits"),
        ("host add host-c --address 1.2.3.4 --openflow 1.2.3.4", "expected ADDRESS:PORT"),
        ("host add host-c --address 1.2.3.4 --cable hots-a", "did you mean host-a?"),
        ("host set gen --other drop", "unknown host gen"),
        ("host replace host-a", "what is another?"),
        ("switch set host-a --other drop", "unknown switch host-a"),
        ("switch set gen", "switch gen: what is another? (--other)"),
        ("host set host-a", "host host-a: what is another? (--hypervisor, --other, --maint"),
        ("link set left", "link left: what is another? (--root, --no-root, --cable, "),
        ("link set left --root gen --no-root", "link left: --root and --no-root contradict"),
        ("link set left --cable gen-a --any-cable", "--cable and --any-cable contradict"),
        ("link set left --access gen:access --no-access gen:access", "is named by --access and by"),
        ("cable add gen-a gen host-b", "there is a cable gen-a already"),
        (
            "cable add ab gen host-b --labels 9-5",
            "expected VLAN ids and ranges such as 100,200-299",
        ),
        ("cable set gen-a", "what is another? (its ends, --mbps, --cost, --mtu, --labels)"),
        ("cable set gen-a gen", "expected two ends"),
        ("cable remove gen-c", "unknown cable gen-c, did you mean gen-"),
        ("link set left --no-access gen:nothing", "unknown access port of left gen:nothing"),
    ],
)
def test_what_cannot_be_is_said(words: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        edited(words)


@pytest.mark.parametrize(
    ("words", "places", "said"),
    [
        ("host remove host-a", AT_A, "host host-a is in use: router vr1 is there"),
        ("host remove host-b", AT_B, "host host-b is in use: router vr1 is there"),
        ("host remove host-a --lost", AT_A, "xenflow router start vr1 --on HOST --lost host-a"),
        ("switch remove gen", AT_A, "link left has access port gen:"),
        ("cable remove gen-a", AT_A, "cable gen-a is in use: link left lies on cable gen-a"),
        ("cable set gen-a gen:x host-a:y", AT_A, "link left lies on cable gen-a"),
    ],
)
def test_what_is_in_use_stays(words: str, places: Places, said: str) -> None:
    """A router counts where it is now."""
    with pytest.raises(UsageError, match=re.escape(said)):
        edited(words, places=places)


def test_what_links_name_is_in_use() -> None:
    left = replace(NETWORK.links["left"], root="host-b", cables=tuple(NETWORK.cables))
    named = replace(NETWORK, links={**NETWORK.links, "left": left})
    with pytest.raises(UsageError, match=r"link left has its root there \(`xenflow link set`\)"):
        edited("host remove host-b", named)
    with pytest.raises(UsageError, match="link left names cable recv-b"):
        edited("cable remove recv-b", named)


def test_a_host_that_nobody_needs_goes_with_its_cables_and_controller() -> None:
    assert changed("host remove host-b") == {
        "controllers": {"removed": ["host-b"]},
        "datapaths": {"removed": ["host-b"]},
        "cables": {"removed": ["gen-b", "recv-b"]},
        "links": {"changed": ["left", "right"]},
    }


def test_a_host_in_a_ring_goes_in_two_steps_so_that_nothing_goes_round() -> None:
    """Left leads to recv by host-a alone: it does so by host-b once host-a is out of the way."""
    assert rejoined(NETWORK, edited("host remove host-a", places=AT_B, then=True)) != []
    first = edited("host remove host-a", places=AT_B)
    assert rejoined(NETWORK, first) == refusals(NETWORK, first) == []
    assert not first.links["left"].tree.reaches("recv")
    text = to_text(edited("host remove host-a", places=AT_B, then=True))
    second = network_file.parse(text, "second", first, in_store=True)[0]
    assert refusals(first, second) == [] and second.hosts.keys() == {"host-b"}
    assert all(link.span is None for link in second.links.values())
    assert all(link.tree.up.keys() == second.datapaths.keys() for link in second.links.values())


def test_a_router_has_its_home_where_it_is_when_its_home_goes() -> None:
    after = edited("host remove host-a --lost", places=AT_B)
    assert after.routers["vr1"].home == "host-b"
    assert after.hosts.keys() == {"host-b"} and after.cables.keys() == {"gen-b", "recv-b"}


def test_a_lost_switch_goes_with_its_cables_and_what_links_have_there() -> None:
    after = edited("switch remove gen --lost")
    assert after.datapaths.keys() == NETWORK.datapaths.keys() - {"gen"}
    assert after.controllers == NETWORK.controllers
    assert {cable for cable in NETWORK.cables if "gen" in cable}.isdisjoint(after.cables)
    assert after.links["left"].access == ()


def test_with_a_lost_controller_go_its_switches_and_what_links_have_there() -> None:
    both = edited("host add host-c --controller edge --cable host-a")
    after = edited("host remove host-c --lost", both)
    assert after.datapaths.keys() == {"host-a", "host-b"}
    assert all(not link.access for link in after.links.values())


def test_another_machine_takes_a_hosts_place_in_two_steps() -> None:
    words = "host replace host-b --dpid c1 --address 10.0.0.9"
    assert "host-b" not in edited(words).datapaths
    after = edited(words, then=True)
    assert after.datapaths["host-b"].dpid == 0xC1
    assert after.controllers["host-b"].manage == "tcp://10.0.0.9:6640"
    assert after.controllers["host-b"].openflow == NETWORK.controllers["host-b"].openflow
    assert (after.cables, after.routers) == (NETWORK.cables, NETWORK.routers)


def test_a_cable_comes_is_changed_and_goes() -> None:
    terms = "--mbps 1000 --cost 3 --mtu 9000 --labels 101-102,2149-2150"
    carrying = edited(f"cable set gen-a {terms}").cables["gen-a"]
    assert (carrying.mbps, carrying.cost, carrying.mtu) == (1000, 3, 9000)
    assert carrying.labels == ((101, 102), (2149, 2150))
    assert carrying.joins_as(NETWORK.cables["gen-a"])
    assert edited(f"cable add ab host-a host-b {terms}").cables["ab"].labels == carrying.labels
    after = edited("cable add ab host-a host-b:left")
    assert str(after.cables["ab"].a) == "host-a:to-host-b" and str(after.cables["ab"].b) == (
        "host-b:left"
    )
    other = edited("cable set ab host-b:left gen", after)
    assert str(other.cables["ab"].b) == "gen:to-host-b"
    assert edited("cable remove ab", after) == NETWORK


def test_a_link_has_other_ports_and_stations() -> None:
    more = edited("link set left --access gen:more,02:00:00:00:77:02 --access host-b:x")
    ports = {str(a.end): a.macs for a in more.links["left"].access}
    assert ports["gen:more"] == (0x020000007702,) and ports["host-b:x"] == ()
    less = edited("link set left --no-access host-b:x --no-access gen:more", more)
    assert less == NETWORK
    rooted = edited("link set left --root host-b --cable gen-a --cable gen-b")
    link = rooted.links["left"]
    assert (link.root, link.cables) == ("host-b", ("gen-a", "gen-b"))
    assert edited("link set left --no-root --any-cable", rooted).links["left"].cables == ()


def test_what_the_reader_of_files_refuses_is_refused() -> None:
    with pytest.raises(NetworkError, match="a port that nothing else uses"):
        edited("cable add ab gen:to-a host-b:left")


def test_a_link_has_wishes_of_its_cables() -> None:
    known = replace(NETWORK.cables["gen-b"], mbps=100)
    network = replace(NETWORK, cables={**NETWORK.cables, "gen-b": known})
    words = "link create gold --access gen:g --span host-b --mbps 60 --mtu 1500"
    after = edited(words, network)
    gold = after.links["gold"]
    assert (gold.mbps, gold.mtu, gold.span) == (60, 1500, ("host-b",))
    assert gold.tree.up.keys() == {"gen", "host-b"}
    more = edited("link set gold --mbps 70 --disjoint-from right --span host-b", after)
    assert more.links["gold"].mbps == 70


def test_no_router_comes_to_a_host_in_maintenance() -> None:
    resting = edited("host set host-b --maintenance on")
    assert resting.datapaths["host-b"].maintenance
    assert refusals(NETWORK, resting) == []  # it forwards as before
    assert parsed(to_text(resting)) == resting
    session = ManagementSession(resting, 1.0)
    assert session.destination("host-a").name == "host-a"
    with pytest.raises(UsageError, match=r"host-b is in maintenance.*other hosts: host-a$"):
        session.destination("host-b")
    assert edited("host set host-b --maintenance off", resting) == NETWORK


def parsed(text: str) -> Network:
    return network_file.parse(text, "a.toml")[0]
