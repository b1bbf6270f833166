"""A lab whose network lives in a store: changed while it forwards, with any part of it killed.

The store is a real `ovsdb-server`, the planner a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lab import process
from lab.description import Lab
from lab.programs import start_controller, start_planner, store_server
from lab.state import NETWORK_FILE
from mgmt.client import Client, Unreachable
from tests.lab.live import (
    LIMIT_S,
    LiveTraffic,
    answered,
    assert_machine_quiet_enough,
    bring_home,
    find_again,
    flows,
    in_sync,
    kill,
    lose,
    settle,
    status,
    xenflow,
)
from tests.lab.needed import needs
from xenflow.store.schema import DATABASE, TABLES, TableKind

PROGRAMS = ("ovs-vswitchd", "ovsdb-server", "ovsdb-client", "ovs-vsctl", "bird", "nft", "tc", "ip")
pytestmark = needs(PROGRAMS)
LINK = """
[links.more]
id = 77
vlan = 177
access = [{ at = "gen:more", macs = ["02:00:00:00:77:02"] }, { at = "recv:more" }]
"""


@pytest.fixture
def paper(lab_up: Callable[..., Lab]) -> Iterator[Lab]:
    """The paper's network in a store, the router at home before and after."""
    lab = lab_up("paper", store=True, pause_s=0.1, precopy_s=0.1)
    settle(lambda: in_sync(lab) and all_connected(), "every switch in sync, with the store")
    yield lab
    bring_home(lab)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "paper.toml"


def applied(file: Path, text: str, *words: str) -> dict[str, Any]:
    file.write_text(text)
    done = xenflow("apply", str(file), "--json", *words)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def rows(lab: Lab, table: str) -> list[dict[str, Any]]:
    """A table of the store, as `ovsdb-client` shows it."""
    command = ["ovsdb-client", "--format=json", "dump", store_server(lab).remote, DATABASE, table]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return [dict(zip(found["headings"], row, strict=True)) for row in found["data"]]


def changes(lab: Lab) -> list[int]:
    return sorted(row["number"] for row in rows(lab, "Change"))


def in_store(controller: str) -> dict[str, Any]:
    found: dict[str, Any] = answered(controller)["controllers"][controller]["store"]
    return found


def start_store(lab: Lab) -> None:
    process.start("lab", "store", store_server(lab).command, "xf-lab")


def test_a_link_comes_and_goes_under_traffic_whoever_is_killed(paper: Lab, file: Path) -> None:
    text = NETWORK_FILE.read_text()
    before = flows(paper)
    first = changes(paper)[-1]
    assert_machine_quiet_enough()
    with LiveTraffic() as traffic:
        dry = applied(file, text + LINK, "--dry-run")
        assert (dry["change"], dry["changed"]) == (0, {"links": {"added": ["more"]}})
        assert flows(paper) == before
        grown = applied(file, text + LINK)
        assert (grown["change"], grown["changed"]) == (first + 1, dry["changed"])
        assert flows(paper) != before
        # The command knows the new network too: only that the link's ports are missing is wrong.
        settle(lambda: {one["where"] for one in status()["causes"]} == {"link more"}, "it is said")

        kept = applied(file, text)  # without --prune nothing goes
        assert (kept["change"], flows(paper) != before) == (0, True)
        kill("lab", "planner")  # its lease is still held by nobody alive
        start_planner(paper)
        shrunk = applied_when_planned(file, text)
        assert shrunk == first + 2
        assert flows(paper) == before
    traffic.assert_nothing_lost()
    assert changes(paper) == list(range(1, first + 3))
    laid = [name for name, table in TABLES.items() if table.kind is TableKind.LAID]
    settle(
        lambda: not any(row["gone"] for table in laid for row in rows(paper, table)),
        "what has gone is forgotten",
    )
    assert {row["name"] for row in rows(paper, "Laid_Link")} == {"left", "right"}
    settle(
        lambda: {row["in_force"] for row in rows(paper, "Switch_State")} == {first + 2},
        "every switch has said that it is at the last change",
    )


def all_connected() -> bool:
    answers = status()["controllers"].values()
    return all(answer.get("store", {}).get("connected") for answer in answers)


def applied_when_planned(file: Path, text: str) -> int:
    """The number of a change, which is tried until a planner has the lease: one that was killed
    holds it for some seconds."""
    file.write_text(text)
    end = time.monotonic() + LIMIT_S
    while True:
        done = xenflow("apply", str(file), "--prune", "--json")
        answer = json.loads(done.stdout) if done.stdout else {}
        if number := answer.get("change"):
            assert done.returncode == 0, done.stderr
            return int(number)
        assert time.monotonic() < end, f"no planner makes the change: {done.stdout}{done.stderr}"


def test_a_change_is_taken_back(paper: Lab, file: Path) -> None:
    """A link created by verb is undone; one that is not confirmed goes by itself."""
    text, before = NETWORK_FILE.read_text(), flows(paper)
    ports = ("--access", "gen:more,02:00:00:00:77:02", "--access", "recv:more")
    made = xenflow("link", "create", "more", *ports, "--json")
    assert made.returncode == 0, made.stderr
    number = json.loads(made.stdout)["change"]
    assert flows(paper) != before
    undone = xenflow("undo", str(number))
    assert undone.returncode == 0, undone.stderr
    assert flows(paper) == before
    applied(file, text + LINK, "--confirm", "2")
    settle(lambda: flows(paper) == before, "what is not confirmed is put back")
    said = json.loads(xenflow("history", "--json").stdout)["changes"]
    back, unconfirmed, undo, create = said[:4]
    assert (unconfirmed["state"], back["changed"]) == ("put back", {"links": {"removed": ["more"]}})
    assert (create["number"], undo["changed"]) == (number, {"links": {"removed": ["more"]}})


def told(lab: Lab) -> list[bool]:
    """Whether the router is being moved, of each host that knows it."""
    return [row["under_way"] for row in rows(lab, "Migration")]


def laid_at(lab: Lab) -> str | None:
    """The host where the one router is, as all may read in the store; None: it has never moved."""
    (row,) = rows(lab, "Laid_Element")
    return json.loads(row["placement"])["vm"] if row["placement"] else None


def test_what_does_not_fit_is_refused_before_anything(paper: Lab, file: Path) -> None:
    text = NETWORK_FILE.read_text()
    known = changes(paper)
    before = flows(paper)
    file.write_text(text.replace("vlan = 101", "vlan = 111"))
    done = xenflow("apply", str(file))
    assert done.returncode == 1
    assert "links.left: vlan 101 cannot become 111" in done.stderr
    file.write_text(text.replace("vlan = 101", 'vlan = "x"'))
    done = xenflow("apply", str(file))
    assert done.returncode == 2 and f"{file}:" in done.stderr
    done = xenflow("reload")
    assert done.returncode == 1 and "use `xenflow apply FILE`" in done.stderr
    assert (changes(paper), flows(paper)) == (known, before)


def test_a_lost_host_is_fenced_and_comes_again(paper: Lab) -> None:
    """Nobody waits for it; back from the dead it is of no network, until it is taken in again.
    Nobody loses a packet by it."""
    before = flows(paper)
    assert_machine_quiet_enough()
    with LiveTraffic() as traffic:
        a_host_goes_and_comes(paper, before)
    traffic.assert_nothing_lost()


def a_host_goes_and_comes(paper: Lab, before: dict[str, list[str]]) -> None:
    manage = paper.network.controllers["host-b"].manage

    def said(*words: str) -> str:
        done = xenflow(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    lose("host-b")
    assert "datapaths: - host-b" in said("host", "remove", "host-b", "--lost")
    assert said("host", "set", "host-a", "--other", "drop").startswith("nothing is to be done")
    find_again("host-b")
    start_controller(paper, "host-b")
    # what the network has no more, `xenflow` does not ask
    with Client(manage, "host-b", LIMIT_S) as own:

        def is_fenced() -> bool:
            with suppress(Unreachable):  # it has not begun to listen
                return "not in the network" in " ".join(own.request("status")["problems"])
            return False

        settle(is_fenced, "host-b says that it is in no network")
        assert own.request("links")["links"] == []
    cables = ("--cable", "to-gen=gen:to-b", "--cable", "to-recv=recv:to-b")
    again = ("--address", paper.management["host-b"].compressed, "--dpid", "b1", *cables)
    said("host", "add", "host-b", *again)
    settle(lambda: flows(paper) == before, "host-b forwards again")
    settle(lambda: in_sync(paper), "every switch in sync")
    said("migrate", "vr1", "host-b")
    for line in ("host remove host-b", "host add host-b", "migration: vr1 is at host-b: ended"):
        settle(lambda line=line: line in said("events"), f"the events tell: {line}")
