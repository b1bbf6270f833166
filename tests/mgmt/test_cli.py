"""The `xenflow` command: arguments, exit statuses and what is printed, against fake controllers."""

from __future__ import annotations

import io
import json
import shutil
import signal
import socket
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import zmq
from fake_controller import FakeController

from lab import cli as lab_cli
from lab import operate
from mgmt import cli, client
from mgmt.verbs import status, trace
from mgmt.verbs.rule import actions_of, fields
from xenflow.model.management import ManagementError, Request
from xenflow.model.network import NetworkError
from xenflow.model.placement import at_home, to_json

ROOT = Path(__file__).parents[2]
PAPER = (ROOT / "conf" / "paper.toml").read_text()
DEAD = "tcp://127.0.0.1:9"

ROUTER = {
    "name": "vr1",
    "epoch": 1,
    "seq": 9,
    "age_s": 0.4,
    "stale": False,
    "routes": 2,
    "nexthops": 2,
    "neighbours": 2,
    "slow": "",
    "feed": "local",
    "phase": "current",
}
PORTS = {
    "host-a": ("to-gen", "to-recv", "vr1.0", "vr1.1"),
    "host-b": ("to-gen", "to-recv"),
    "gen": ("access", "to-a", "to-b"),
    "recv": ("access", "to-a", "to-b"),
}
HOPS = [
    {
        "id": 1,
        "type": "via",
        "interface": "eth1",
        "gateway": "10.0.2.2",
        "resolved": True,
        "mac": "02:00:00:00:02:02",
        "routes": 1,
    },
    {
        "id": 2,
        "type": "connected",
        "interface": "eth0",
        "gateway": None,
        "mac": None,
        "resolved": True,
        "routes": 1,
    },
]
ROUTES = [{"prefix": "10.0.1.0/24", "nexthop": 2}, {"prefix": "10.2.0.1/32", "nexthop": 1}]


def status_of(name: str, *datapaths: str, **more: Any) -> dict[str, Any]:
    return {
        "controller": name,
        "core": "stand-in",
        "pid": 1,
        "uptime_s": 75.0,
        "datapaths": [
            {
                "name": d,
                "dpid": "1",
                "kind": "host",
                "connected": True,
                "pipeline": "proactive",
                "ports": {p: {"number": n, "up": True} for n, p in enumerate(PORTS[d], 1)},
                "flows": 42,
                "pending": 0,
                "in_sync": True,
            }
            for d in datapaths
        ],
        "routers": [],
        "placements": [],
        "migrations": [],
        **more,
    }


def routes_of(request: Request) -> dict[str, Any]:
    start, limit = request.arguments["offset"], request.arguments["limit"]
    found = ROUTES if request.arguments["match"] is None else ROUTES[1:]
    return {"routes": found[start : start + min(limit, 1)], "total": len(found)}


def unknown_router(request: Request) -> dict[str, Any]:
    raise ManagementError("unknown-router", f"{request.arguments['router']}: not here")


class Fakes:
    """The three controllers of conf/paper.toml, and the command run on them."""

    def __init__(
        self,
        directory: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch
        self.file = directory / "network.toml"
        here = to_json(at_home("vr1", "host-a").step())
        old = to_json(at_home("vr1", "host-a"))
        one = {"routers": [ROUTER], "placements": [{"datapath": "host-a", **here}]}
        hosts: dict[str, dict[str, Any]] = {
            "host-a": {
                "status": status_of("host-a", "host-a", **one),
                "routes": routes_of,
                "nexthops": {"nexthops": HOPS},
                "links": {"links": [{"name": "left", "tree": {"host-a": ["vr1.0", "to-gen"]}}]},
                "flows": {
                    "flows": [
                        {
                            "table": 3,
                            "priority": 1024,
                            "packets": 7,
                            "age_s": 2,
                            "owner": "router vr1",
                            "match": "nw_dst=1",
                            "actions": "drop",
                        },
                        {
                            "table": 0,
                            "priority": 5,
                            "packets": 0,
                            "age_s": 2,
                            "match": "",
                            "actions": "",
                        },
                    ],
                    "total": 9,
                },
                "trace": {
                    "datapath": "host-a",
                    "in_port": "to-gen",
                    "steps": [
                        {
                            "table": 3,
                            "name": "routes",
                            "explanation": "10.2.0.1/32",
                            "flow": "table=3 nw_dst=10.2.0.1",
                            "owner": "router vr1",
                        }
                    ],
                    "outputs": [
                        {
                            "kind": "port",
                            "port": "to-recv",
                            "up": True,
                            "frame": "00" * 14,
                            "words": "out by to-recv",
                        }
                    ],
                    "outcome": "out by to-recv",
                },
                "rules": {
                    "rules": [
                        {
                            "id": "r1",
                            "priority": 3,
                            "match": {"nw_proto": 17},
                            "actions": ["output:3"],
                        }
                    ]
                },
                "place": {"in_force_s": 0.1},
                "lock": {},
                "unlock": {},
            },
            "host-b": {
                "status": status_of("host-b", "host-b", placements=[{"datapath": "host-b", **old}]),
                "routes": unknown_router,
                "links": {"links": []},
                "place": {"in_force_s": 0.1},
                "lock": {},
                "unlock": {},
            },
            "edge": {
                "status": status_of("edge", "gen", "recv"),
                "links": {"links": [{"name": "left", "tree": {"gen": ["access", "to-a"]}}]},
                "trace": {
                    "datapath": "recv",
                    "in_port": "to-a",
                    "steps": [],
                    "outputs": [
                        {
                            "kind": "port",
                            "port": "access",
                            "up": True,
                            "frame": "00" * 14,
                            "words": "out by access",
                        }
                    ],
                    "outcome": "out by access",
                },
                "place": {"in_force_s": 0.1},
                "lock": {},
                "unlock": {},
            },
        }
        for change in ("add", "replace", "remove"):
            hosts["host-a"][f"rule-{change}"] = lambda r: {"rule": r.arguments.get("rule")}
        self.controllers = {name: FakeController(verbs) for name, verbs in hosts.items()}
        self._urls = {name: c.url for name, c in self.controllers.items()}
        self._write()

    def __getitem__(self, name: str) -> FakeController:
        return self.controllers[name]

    def _write(self) -> None:
        text = PAPER
        for number, name in ((11, "host-a"), (12, "host-b"), (3, "edge")):
            text = text.replace(f"tcp://10.254.1.{number}:6640", self._urls[name])
        self.file.write_text(text)

    def kill(self, *names: str) -> None:
        self._monkeypatch.setattr(client, "CONNECT_S", 2.0)  # so long each time one is asked
        for name in names:
            self._urls[name] = f"tcp://127.0.0.1:{9 + list(self._urls).index(name)}"
        self._write()

    def run(self, *argv: str) -> tuple[int, str, str]:
        exit = cli.main(["--network", str(self.file), *argv])
        out, err = self._capsys.readouterr()
        return exit, out, err

    def json(self, *argv: str) -> Any:
        exit, out, err = self.run(*argv, "--json")
        assert (exit, err) == (0, "")
        return json.loads(out)

    def close(self) -> None:
        for controller in self.controllers.values():
            controller.__exit__(None, None, None)


@pytest.fixture
def fakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fakes]:
    monkeypatch.setattr(client, "CONNECT_S", 60.0)
    made = Fakes(tmp_path, capsys, monkeypatch)
    yield made
    made.close()


# --- what is shown -------------------------------------------------------------------------------


def test_status(fakes: Fakes) -> None:
    exit, out, err = fakes.run("status")
    assert (exit, err) == (0, "")
    for words in (
        ["host-a", "up", "stand-in", "1m15s"],
        ["recv", "plain", "edge", "in", "sync", "proactive", "42", "0", "-"],
        ["vr1", "host-a", "host-a", "xenflow", "2", "2", "local", "0.40s", "-"],
    ):
        assert any(line.split()[: len(words)] == words for line in out.splitlines()), out
    assert out.splitlines()[0] == "network paper: healthy"
    value = fakes.json("status")
    assert (value["healthy"], value["causes"]) == (True, [])
    assert value["controllers"]["edge"]["datapaths"][1]["name"] == "recv"
    assert value["placements"]["vr1"]["vm"] == "host-a"


def test_status_with_a_dead_controller_shows_the_rest(fakes: Fakes) -> None:
    fakes.kill("host-b")
    exit, out, err = fakes.run("status")
    assert exit == 1
    assert "host-b (tcp://127.0.0.1:10): no controller answers there" in err
    assert "vr1" in out and "unreachable" in out
    exit, out, _ = fakes.run("status", "--json")
    assert exit == 1
    assert json.loads(out)["controllers"]["host-b"]["error"]["code"] == "unreachable"


def status_row(fakes: Fakes, controller: str, datapath: int = 0) -> dict[str, Any]:
    answer: Any = fakes[controller].verbs["status"]
    row: dict[str, Any] = answer["datapaths"][datapath]
    return row


def test_status_says_first_whether_the_network_is_well(fakes: Fakes) -> None:
    status_row(fakes, "host-a")["ports"]["to-recv"]["up"] = False
    status_row(fakes, "host-b")["in_sync"] = False
    exit, out, err = fakes.run("status")
    assert (exit, err) == (4, "")
    assert out.startswith(
        "network paper: NOT HEALTHY: host-b: catching up, 0 changes to be written (and 1 more)\n\n"
        "what is wrong\n"
        "  host-b: catching up, 0 changes to be written\n"
        "  cable recv-a: host-a:to-recv has no carrier\n\n"
    )
    exit, out, _ = fakes.run("status", "--json")
    assert exit == 4
    assert json.loads(out)["causes"][1] == {
        "where": "cable recv-a",
        "what": "host-a:to-recv has no carrier",
    }


def test_status_waits_until_the_network_is_well(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = status_row(fakes, "host-a")
    row["connected"] = False
    assert fakes.run("status", "--wait", "0.1")[0] == 4
    monkeypatch.setattr(status, "ASK_AGAIN_S", 0.01)
    said: list[object] = []

    def connects(message: object) -> None:
        said.append(message)
        row["connected"] = True

    monkeypatch.setattr(status, "complain", connects)
    exit, out, _ = fakes.run("status", "--wait")
    assert exit == 0 and out.startswith("network paper: healthy\n")
    assert said == [
        "waiting: network paper: NOT HEALTHY: host-a: the switch is not connected to host-a"
    ]


def test_status_with_all_dead(fakes: Fakes) -> None:
    fakes.kill("host-a", "host-b", "edge")
    assert fakes.run("status")[0] == 3


def test_status_says_how_far_the_stores_last_change_is(fakes: Fakes) -> None:
    def follow(name: str, change: int, planner: str = "tcp://192.0.2.1:6651", **at: int) -> None:
        store = {"connected": True, "change": change, "planner": planner, "in_force": at}
        store["taken"] = change
        fakes[name].verbs["status"]["store"] = store  # type: ignore[index]

    def said() -> list[str]:
        return [line.strip() for line in fakes.run("status")[1].split("\n\n")[1].splitlines()]

    assert "\nstore\n" not in fakes.run("status")[1], "nobody follows one"
    follow("host-a", 0, planner="")
    empty = "it is empty: controllers follow their network file until one is applied"
    none = ["host-b follows none", "edge follows none"]
    assert said() == ["store", empty, *none, "no planner holds its lease"]
    follow("host-a", 3, **{"host-a": 3})
    follow("host-b", 3, **{"host-b": 2})
    follow("edge", 2, gen=1, recv=2)  # change 3 does not concern it
    assert said() == [
        "store",
        "change 3, not in force yet where it concerns",
        "host-b is at change 2, and change 3 concerns it: its switch has to prove change 3",
        "gen is at change 1, and change 2 concerns it: its switch has to prove change 2",
        "planner tcp://192.0.2.1:6651",
    ]
    follow("host-b", 3, **{"host-b": 2})
    follow("edge", 2, gen=2, recv=2)
    held = {"names": {"links": ["left"]}, "by": ["vr1"]}
    fakes["host-b"].verbs["status"]["store"] |= {  # type: ignore[index]
        **{"taken": 2, "reached": 3, "but_held": {"host-b": 3}, "held": held}
    }
    words = "links.left: held by the move of vr1"
    assert said()[2] == f"host-b is at change 2, and change 3 concerns it: {words}"
    follow("host-b", 3, **{"host-b": 3})
    assert said()[1] == "change 3, in force where it concerns"


def test_status_names_migrations_left_behind(fakes: Fakes) -> None:
    migration = {"migration": {"from": "host-a", "to": "host-b", "mode": "overlapped"}}
    journal = [migration, {"words": "turn the links"}]
    left = {"router": "vr1", "owner": "node-7", "under_way": False, "since_s": 75.0}
    fakes["edge"].verbs["status"]["migrations"] = [{**left, "journal": [migration]}]  # type: ignore[index]
    fakes["host-a"].verbs["status"]["migrations"] = [{**left, "journal": journal}]  # type: ignore[index]
    what = "a migration of vr1 from host-a to host-b (overlapped)"
    more = "by node-7, lock at host-a, edge; last begun: turn the links"
    assert f"{what}: left unfinished, {more}\n" in fakes.run("status")[1]
    left["under_way"] = True
    for name, entries in (("edge", [migration]), ("host-a", journal)):
        fakes[name].verbs["status"]["migrations"] = [{**left, "journal": entries}]  # type: ignore[index]
    assert f"{what}: under way for 1m15s, {more}\n" in fakes.run("status")[1]


def test_routers(fakes: Fakes) -> None:
    assert fakes.run("routers", "--host", "host-a", "--names") == (0, "vr1\n", "")
    assert fakes.run("routers", "--host", "host-b", "--names") == (0, "", "")
    router = fakes.json("routers")["routers"][0]
    assert (router["placement"]["version"], router["table"]["feed"]) == (1, "local")
    assert "gen is a plain switch" in fakes.run("routers", "--host", "gen")[2]


def test_routers_that_need_a_host(fakes: Fakes) -> None:
    """What any switch was told counts: host-b's has another placement, and an older one."""
    old = [{"datapath": "host-b", **to_json(at_home("vr1", "host-b"))}]
    fakes["host-b"].verbs["status"]["placements"] = old  # type: ignore[index]
    assert fakes.run("routers", "--needs", "host-a", "--names") == (0, "vr1\n", "")
    assert fakes.run("routers", "--needs", "host-b", "--names") == (0, "vr1\n", "")
    fakes["host-b"].verbs["status"]["placements"] = []  # type: ignore[index]
    assert fakes.run("routers", "--needs", "host-b", "--names") == (0, "", "")
    between = to_json(at_home("vr1", "host-a").step(forwarders=("host-a", "host-b")))
    rows = [{"datapath": "host-a", **between}]
    fakes["host-a"].verbs["status"]["placements"] = rows  # type: ignore[index]
    assert fakes.run("routers", "--host", "host-b", "--names") == (0, "", "")
    assert fakes.run("routers", "--needs", "host-b", "--names") == (0, "vr1\n", "")


def test_routes_come_page_by_page(fakes: Fakes) -> None:
    exit, out, err = fakes.run("routes", "vr1")
    assert (exit, err) == (0, "")
    assert [line.split() for line in out.splitlines()][1:] == [
        ["10.0.1.0/24", "connected", "on", "eth0"],
        ["10.2.0.1/32", "10.2.0.1"[:0] + "10.0.2.2", "on", "eth1"],
    ]
    assert [r.arguments["offset"] for r in fakes["host-a"].asked_for("routes")] == [0, 1]
    assert len(fakes["host-b"].asked_for("status")) == 1, "where it is is asked once"
    assert fakes.json("routes", "vr1", "10.2.0.1") == {
        "router": "vr1",
        "routes": [{"prefix": "10.2.0.1/32", "nexthop": 1, "via": "10.0.2.2 on eth1"}],
        "total": 1,
    }
    assert "(1 of 2 routes)" in fakes.run("routes", "vr1", "--limit", "1")[1]
    exit, _, err = fakes.run("routes", "vr1", "--limit", "-1")
    assert exit == 2 and "--limit: expected a whole number from 1, found -1" in err


def test_routes_of_a_router_whose_host_is_dead(fakes: Fakes) -> None:
    fakes.kill("host-a")
    there = {"datapath": "host-b", **to_json(at_home("vr1", "host-b"))}
    fakes["host-b"].verbs["status"]["placements"] = [there]  # type: ignore[index]
    exit, _, err = fakes.run("routes", "vr1")
    assert (exit, err) == (1, "xenflow: host-b: vr1: not here\n")


def test_nexthops_links_flows_rules(fakes: Fakes) -> None:
    assert "02:00:00:00:02:02" in fakes.run("nexthops", "vr1")[1]
    assert fakes.json("nexthops", "vr1")["nexthops"] == HOPS
    left = fakes.json("links")["links"][0]
    assert left["tree"] == {"host-a": ["vr1.0", "to-gen"], "gen": ["access", "to-a"]}
    assert left["members"] == ["vr1.eth0", "gen:access"]
    assert "host-a:vr1.0,to-gen  gen:access,to-a" in fakes.run("links")[1]
    out = fakes.run("flows", "host-a", "--table", "routes", "--router", "vr1")[1]
    assert out.index("table 0 ingress") < out.index("table 3 routes")
    assert "(2 of 9 flows" in out
    assert "AGE    OWNER       MATCH" in out and "  router vr1  nw_dst=1" in out
    assert fakes["host-a"].asked_for("flows")[0].arguments["table"] == 3
    assert "nw_proto=17" in fakes.run("rules", "host-a")[1]
    assert fakes.json("rules", "host-a")["rules"][0]["id"] == "r1"


def test_trace(fakes: Fakes) -> None:
    exit, out, _ = fakes.run("trace", "vr1", "src=10.0.1.2,dst=10.2.0.1,ttl=64,proto=udp,link=left")
    assert exit == 0
    assert out.splitlines() == [
        "1. host-a, comes in by to-gen",
        "   table 3 routes: 10.2.0.1/32",
        "       of router vr1: table=3 nw_dst=10.2.0.1",
        "   => out by to-recv",
        "2. recv, comes in by to-a (cable recv-a, from host-a)",
        "   => out by access",
        "outcome: recv: out by access, where link right ends",
    ]
    arguments = fakes["edge"].asked_for("trace")[0].arguments
    assert (arguments["datapath"], arguments["in_port"]) == ("recv", "to-a")
    assert arguments["frame"] == bytes(14)
    arguments = fakes["host-a"].asked_for("trace")[0].arguments
    assert (arguments["router"], arguments["packet"]["nw_proto"]) == ("vr1", 17)
    fakes.run("trace", "host-a:to-gen", "dst=10.2.0.1")
    arguments = fakes["host-a"].asked_for("trace")[1].arguments
    assert (arguments["datapath"], arguments["in_port"]) == ("host-a", "to-gen")
    fakes.run("trace", "vr1", "dst=10.2.0.1", "--on", "host-a")
    arguments = fakes["host-a"].asked_for("trace")[2].arguments
    assert (arguments["router"], arguments["datapath"]) == ("vr1", "host-a")
    value = fakes.json("trace", "vr1", "dst=10.2.0.1")
    assert [hop["datapath"] for hop in value["hops"]] == ["host-a", "recv"]
    assert value["ends"][0]["kind"] == "left"
    assert fakes.run("trace", "vr1", "dst=1.2.3.4,link=middle")[0] == 2
    fakes["edge"].verbs.pop("trace")
    exit, out, _ = fakes.run("trace", "vr1", "dst=10.2.0.1")
    assert exit == 1 and "outcome: recv: not known what becomes of it: edge: trace: not in" in out


def test_topology(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    out = fakes.run("topology")[1]
    assert "└─ router vr1: eth0 on left, eth1 on right" in out
    assert "├─ gen-a ─ host-a  [vr1.eth0]\n│  └─ recv-a ─ recv" in out
    assert fakes.run("topology", "--offline") == (0, out, "")
    assert fakes.run("topology", "--hosts")[1] == "host-a\nhost-b\n"
    value = fakes.json("topology")
    assert value["links"][0]["tree"] == ["recv-a", "gen-a", "gen-b"]
    assert value["routers"][0]["vm"] == "host-a"
    dot = fakes.run("topology", "--dot")[1]
    assert dot.startswith('graph "paper" {') and '"router vr1" -- "host-a"' in dot
    monkeypatch.setattr(shutil, "which", lambda _: None)
    exit, out, err = fakes.run("topology", "--dot")
    assert (exit, out) == (0, dot) and "dot, is not installed here: package graphviz" in err
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/dot")
    assert fakes.run("topology", "--dot") == (0, dot, "")
    fakes.kill("host-a")
    exit, out, err = fakes.run("topology")
    assert exit == 1 and "router vr1" in out and "host-a" in err


# --- what is changed -----------------------------------------------------------------------------


def test_rule(fakes: Fakes) -> None:
    add = (
        "rule",
        "add",
        "host-a",
        "--id",
        "r1",
        "--match",
        "nw_dst=10.0.0.0/8,tp_dst=53",
        "--actions",
        "output:3",
    )
    exit, out, _ = fakes.run(*add, "--dry-run")
    assert exit == 0 and out.startswith("would add on host-a:")
    assert not fakes["host-a"].asked
    assert fakes.run(*add)[0] == 0
    assert fakes["host-a"].asked[0].by.endswith(f"@{socket.gethostname()}")
    assert fakes["host-a"].asked[0].arguments["rule"] == {
        "id": "r1",
        "priority": 0,
        "match": {"nw_dst": "10.0.0.0/8", "tp_dst": 53},
        "actions": ["output:3"],
    }
    assert fakes.json("rule", "remove", "host-a", "r1") == {"datapath": "host-a", "rule": None}
    assert fakes["host-a"].asked[1].arguments["rule_id"] == "r1"


def test_rule_from_a_file(fakes: Fakes, tmp_path: Path) -> None:
    file = tmp_path / "rule.json"
    file.write_text('{"id": "r2", "priority": 7, "match": {"tp_dst": 53}, "actions": []}')
    assert fakes.run("rule", "replace", "host-a", "--file", str(file), "--priority", "8")[0] == 0
    assert fakes["host-a"].asked[0].arguments["rule"]["priority"] == 8
    file.write_text("{")
    exit, _, err = fakes.run("rule", "add", "host-a", "--file", str(file))
    assert exit == 2 and "not JSON" in err
    file.write_text('{"id": "r2", "match": 5}')
    exit, _, err = fakes.run("rule", "add", "host-a", "--file", str(file))
    assert exit == 2 and "match: expected an object, found 5" in err
    assert fakes.run("rule", "add", "host-a")[2] == (
        "xenflow: the rule has no id: give --id, or `id` in the file\n"
    )
    for dry in ((), ("--dry-run",)):
        exit, _, err = fakes.run("rule", "add", "host-a", "--id", "x", "--priority", "9000", *dry)
        assert exit == 2 and "priority: expected a whole number from 0 to 8999, found 9000" in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_rule_for_everything_is_asked_for(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    everything = ("rule", "add", "host-a", "--id", "x")
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))  # no terminal: nobody is asked
    exit, _, err = fakes.run(*everything)
    assert exit == 2 and "rule x is for every frame: host-a would do only this with it: drop" in err
    exit, _, err = fakes.run(*everything, "--match", "dl_type=0x800", "--actions", "normal")
    assert exit == 2 and "this with it: normal;" in err
    file = tmp_path / "rule.json"
    file.write_text('{"id": "y"}')
    assert fakes.run("rule", "replace", "host-a", "--file", str(file))[0] == 2
    monkeypatch.setattr(sys, "stdin", Terminal("maybe\nno\n"))
    exit, _, err = fakes.run(*everything)
    assert exit == 1 and err.endswith("xenflow: nothing was changed\n")
    assert not fakes["host-a"].asked
    assert fakes.run(*everything, "--dry-run")[0] == 0
    monkeypatch.setattr(sys, "stdin", Terminal("yes\n"))
    assert fakes.run(*everything)[0] == 0
    assert fakes.run(*everything, "--force")[0] == 0
    assert len(fakes["host-a"].asked_for("rule-add")) == 2


def test_mode(fakes: Fakes) -> None:
    exit, out, _ = fakes.run("mode", "vr1", "native", "--dry-run")
    assert (exit, out) == (0, "would tell host-a, host-b, edge: vr1 on host-a, mode native\n")
    assert not fakes["edge"].asked_for("place")
    assert fakes.run("mode", "vr1", "native") == (0, "vr1: native\n", "")
    for name in fakes.controllers:
        (request,) = fakes[name].asked_for("place")
        placement = request.arguments["placement"]
        assert (placement.mode.value, placement.vm, placement.version) == ("native", "host-a", 2)
        owners = {
            r.arguments["owner"]
            for v in ("lock", "place", "unlock")
            for r in fakes[name].asked_for(v)
        }
        assert len(owners) == 1, "each is asked in the lease's owner's name"


def test_mode_of_a_router_that_was_moved_meanwhile(fakes: Fakes) -> None:
    fakes["host-b"].verbs["lock"] = {"versions": {"host-b": 3}}
    exit, _, err = fakes.run("mode", "vr1", "native")
    assert exit == 1 and "host-b is at 3: ask again" in err
    assert not any(fakes[name].asked_for("place") for name in fakes.controllers)
    assert all(fakes[name].asked_for("unlock") for name in fakes.controllers)


def test_mode_needs_everybody(fakes: Fakes) -> None:
    fakes.kill("edge")
    assert fakes.run("mode", "vr1", "native")[0] == 3
    assert not fakes["host-a"].asked_for("place")


def test_a_refusal(fakes: Fakes) -> None:
    fakes["edge"].verbs.pop("place")
    exit, _, err = fakes.run("mode", "vr1", "native")
    assert exit == 1
    assert "told before the failure: host-a, host-b" in err
    assert "xenflow: edge: place: not in this test" in err
    assert fakes["host-a"].asked_for("unlock")


# --- usage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["fly"],
        ["routes"],
        ["flows", "host-a", "--table", "nine"],
        ["migrate", "vr1"],
        ["trace", "vr1", "dst=nowhere"],
        ["trace", "vr1", "dst=fe80::1%eth0"],
        ["trace", "vr1", "dst=10.2.0.1,src=2001:db8::1"],
        ["mode", "vr1", "fast"],
        ["--timeout", "0", "status"],
        ["rule", "add"],
        ["migrate", "vr1", "host-b", "--mode", "slow"],
        ["topology", "--dot", "--json"],
    ],
)
def test_usage_errors(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(argv)
    assert raised.value.code == 2
    assert "usage: xenflow" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["statsu"], "argument VERB: unknown: statsu, did you mean status?"),
        (["migrat", "vr1", "host-b"], "did you mean migrate?"),
        (["rule", "ad", "host-a"], "argument VERB: unknown: ad, did you mean add?"),
        (["mode", "vr1", "nativ"], "unknown: nativ, did you mean native?"),
        (["lab", "statu"], "argument VERB: unknown: statu, did you mean status?"),
        (["plan", "vr1", "host-b", "--mode", "reprot"], "did you mean report?"),
        (["xyzzy"], "unknown: xyzzy, there are status, topology, routers"),
    ],
)
def test_a_word_that_is_nearly_right(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(argv)
    assert raised.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ("check /none", 2, "/none: expected a network file: No such file"),
        ("diff /none", 2, "/none: expected a network file: No such file"),
        ("routes vr2", 2, "unknown router vr2"),
        ("migrate vr1 gen", 2, "gen is a plain switch"),
        ("confirm 9", 1, "confirm: not in this test"),
        ("undo 9", 1, "undone: not in this test"),
        ("link create more", 1, "the network lives in its file"),
        ("router stop vr1", 1, "the network lives in its file"),
        ("lab reload /none", 1, "no such lab"),
    ],
)
def test_whatever_is_refused_is_an_object_with_json(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, words: str, status: int, says: str
) -> None:
    def no_lab(*_: Any, **__: Any) -> int:
        raise NetworkError("no such lab")

    monkeypatch.setattr(lab_cli, "_in_room", no_lab)
    exit, out, err = fakes.run(*words.split(), "--json")
    told = json.loads(out)
    assert (exit, told["ok"], told["status"]) == (status, False, status)
    assert says in told["error"] and f"xenflow: {told['error']}\n" == err


def test_a_wrong_command_line_is_an_object_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("undo nine --json", "xyzzy --json", "rule ad host-a --json"):
        with pytest.raises(SystemExit) as raised:
            cli.main(words.split())
        told = json.loads(capsys.readouterr().out)
        assert raised.value.code == told["status"] == 2 and told["error"]


@pytest.mark.parametrize("verb", ["plan", "migrate"])
@pytest.mark.parametrize("pause", ["-1", "0", "nan", "inf", "long"])
def test_a_pause_that_is_none(verb: str, pause: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main([verb, "vr1", "host-b", "--pause", pause])
    assert raised.value.code == 2
    assert f"--pause: invalid time in seconds value: '{pause}'" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [module.NAME for module in cli.VERBS])
def test_every_verb_has_help_and_a_place_in_the_manual(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main([verb, "--help"])
    assert raised.value.code == 0
    text = capsys.readouterr().out
    assert "--timeout" in text and f"\n`xenflow {verb}" not in text  # described without its name
    assert f"xenflow {verb}" in (ROOT / "docs" / "cli.md").read_text()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["routes", "vr2"], "unknown router vr2, did you mean vr1?"),
        (["flows", "moon"], "unknown datapath moon: the network has host-a, host-b, gen, recv"),
        (["migrate", "vr1", "gen"], "gen is a plain switch, it carries no routers"),
        (["recover", "vr2"], "unknown router vr2, did you mean vr1?"),
        (["trace", "vr1", "dst=10.2.0.1,link=lft"], "unknown link lft, did you mean left?"),
        (["rule", "add", "host-a"], "the rule has no id"),
        (["trace", "gen:access", "dst=10.2.0.1", "--on", "host-a"], "--on is of a ROUTER"),
    ],
)
def test_names_that_do_not_exist(fakes: Fakes, argv: list[str], says: str) -> None:
    exit, out, err = fakes.run(*argv)
    assert (exit, out) == (2, "")
    assert says in err
    assert not any(fakes[name].asked for name in fakes.controllers)


def test_names_that_only_a_controller_or_the_lab_knows(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_port(_: object) -> None:
        raise ManagementError("bad-argument", "host-a has no port nope: it has to-gen")

    fakes["host-a"].verbs["trace"] = no_port
    says = "xenflow: host-a: host-a has no port nope: it has to-gen\n"
    assert fakes.run("trace", "host-a:nope", "dst=10.2.0.1") == (2, "", says)
    monkeypatch.setattr(operate, "nodes", list)
    exit, _, err = fakes.run("lab", "exec", "nope", "--", "true")
    assert exit == 2 and "nope: no such node" in err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["--version"])
    assert raised.value.code == 0
    assert capsys.readouterr().out == f"xenflow {metadata.version('xenflow')}\n"


def test_the_lab_is_a_part_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["lab", "--help"])
    assert raised.value.code == 0
    assert "up" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "lab.cli", None)
    assert cli.main(["lab", "up", "paper"]) == 1
    assert capsys.readouterr().err.startswith("xenflow: lab: not installed here: ")


def test_an_argument_no_controller_would_take(fakes: Fakes) -> None:
    exit, _, err = fakes.run("routes", "vr1", "10.0.0.1/8")
    assert exit == 2 and "without host bits" in err
    assert not fakes["host-a"].asked_for("routes")


def test_the_network_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["--network", str(tmp_path / "no.toml"), "status"]) == 2
    assert "expected a network file: " in capsys.readouterr().err
    monkeypatch.setattr(cli, "NETWORK_FILES", (tmp_path / "a.toml", tmp_path / "b.toml"))
    monkeypatch.delenv("XENFLOW_NETWORK", raising=False)
    assert cli.main(["topology"]) == 2
    assert "name one with --network or $XENFLOW_NETWORK" in capsys.readouterr().err
    (tmp_path / "b.toml").write_text(PAPER)
    assert cli.main(["topology", "--offline"]) == 0
    monkeypatch.setenv("XENFLOW_NETWORK", str(tmp_path / "c.toml"))
    assert cli.main(["topology", "--offline"]) == 2
    assert cli.main(["topology", "--offline", "--network", str(tmp_path / "b.toml")]) == 0


def test_an_installed_network_goes_before_a_lab_that_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed, lab = tmp_path / "etc.toml", tmp_path / "run.toml"
    monkeypatch.setattr(cli, "NETWORK_FILES", (installed, lab))
    monkeypatch.delenv("XENFLOW_NETWORK", raising=False)
    monkeypatch.delenv("XENFLOW_ISOLATED", raising=False)
    lab.touch()
    assert cli.find_network_file(None) == lab
    installed.touch()
    assert cli.find_network_file(None) == installed
    monkeypatch.setenv("XENFLOW_ISOLATED", "lab:a")  # as it is in a lab's room
    assert cli.find_network_file(None) == lab
    entered: list[str] = []
    monkeypatch.setattr("lab.cli.enter", lambda name, argv: entered.append(name))
    lab.write_text(PAPER)
    assert cli.main(["--lab", "a", "topology", "--offline"]) == 0
    assert entered == ["a"]


def test_interrupted(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.status, "run", interrupt)
    assert fakes.run("status") == (130, "", "xenflow: interrupted\n")


def test_interrupted_while_it_imports(tmp_path: Path) -> None:
    (tmp_path / "netaddr.py").write_text("import os; os.kill(os.getpid(), 2)")
    done = command_line("status", PYTHONPATH=f"{tmp_path}:{ROOT}:{ROOT}/pox_ext")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "xenflow: interrupted\n")


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    file = tmp_path / "network.toml"
    file.write_text(PAPER)
    command = f"{sys.executable} -m mgmt topology --offline --network {file} | true"
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT}/pox_ext"},
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("topology --offline --network {} >/dev/full", "standard output: No space left on device"),
        ("topology --offline --json --network {} >/dev/full", "standard output: No space left"),
        ("--version >/dev/full", "standard output: No space left on device"),
    ],
)
def test_a_full_disk(tmp_path: Path, command: str, says: str) -> None:
    file = tmp_path / "network.toml"
    file.write_text(PAPER)
    done = command_line(command.format(file))
    assert done.returncode == 1
    assert done.stderr.startswith(f"xenflow: {says}") and done.stderr.count("\n") == 1


def test_no_standard_output(tmp_path: Path) -> None:
    file = tmp_path / "network.toml"
    file.write_text(PAPER)
    done = command_line(f"topology --offline --network {file} >&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ("rule add host-a --id x <&-", 2, "xenflow: rule x is for every frame: host-a would do"),
        ("links --json 2>&-", 3, ""),
        ("status --timeout 0.1 2>&-", 3, ""),
    ],
)
def test_no_standard_input_or_error(fakes: Fakes, words: str, status: int, says: str) -> None:
    """What is said then stays out of the output."""
    fakes.kill("host-a", "host-b", "edge")
    done = command_line(f"--network {fakes.file} {words}")
    assert done.returncode == status
    assert done.stderr.startswith(says) and bool(done.stderr) == bool(says)
    assert "xenflow:" not in done.stdout


def test_ctrl_c_is_not_kept_by_who_does_not_answer(fakes: Fakes) -> None:
    with zmq.Context.instance().socket(zmq.ROUTER) as silent:
        fakes._urls["host-b"] = f"tcp://127.0.0.1:{silent.bind_to_random_port('tcp://127.0.0.1')}"
        fakes._write()
        heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        program = f"{heeding}; import sys; from mgmt.__main__ import main; sys.exit(main())"
        words = f"--network {fakes.file} --timeout 600 status"
        with subprocess.Popen(
            [sys.executable, "-c", program, *words.split()],
            cwd=ROOT,
            env={"PYTHONPATH": f"{ROOT}:{ROOT}/pox_ext"},
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert silent.poll(60_000), "it has asked"
                process.send_signal(signal.SIGINT)
                assert process.communicate(timeout=20.0)[1] == "xenflow: interrupted\n"
                assert process.returncode == 130
            finally:
                process.kill()


def test_an_ascii_terminal(tmp_path: Path) -> None:
    file = tmp_path / "network.toml"
    file.write_text(PAPER.replace('name = "paper"', 'name = "pap\u00e9r"'))
    done = command_line(
        f"topology --offline --network {file}", PYTHONUTF8="0", PYTHONIOENCODING="ascii"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(r"pap\xe9r: 2 hosts")


def test_a_package_that_is_missing(tmp_path: Path) -> None:
    """Under a Python that has none but its own, as `scripts/xenflow` may find one."""
    done = command_line(
        "status",
        options=f"-S -E -c 'import sys; sys.path.insert(0, sys.argv[1]); import mgmt.cli' {ROOT}",
    )
    assert done.returncode == 1
    assert "apt-get install python3-zmq python3-netaddr" in done.stderr
    assert "Traceback" not in done.stderr


def command_line(
    words: str, options: str = "-m mgmt", **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command as a shell runs it."""
    return subprocess.run(
        ["sh", "-c", f"{sys.executable} {options} {words}"],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT}/pox_ext", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# --- what the command line's texts mean ----------------------------------------------------------


def test_packet() -> None:
    assert trace.packet("src=10.0.1.2,dst=10.0.2.2,ttl=64,proto=udp,sport=5,dport=0x35,link=l") == {
        "nw_src": "10.0.1.2",
        "nw_dst": "10.0.2.2",
        "nw_ttl": 64,
        "nw_proto": 17,
        "tp_src": 5,
        "tp_dst": 53,
        "link": "l",
    }
    assert trace.packet("dst=10.0.0.1,smac=2-0-0-1-1-1,fragment=yes") == {
        "nw_dst": "10.0.0.1",
        "dl_src": "02:00:00:01:01:01",
        "fragment": True,
    }


@pytest.mark.parametrize(
    ("read", "text", "says"),
    [
        (trace.packet, "", "dst=ADDRESS is missing"),
        (trace.packet, "dst", "expected KEY=VALUE"),
        (trace.packet, "speed=1", "KEY one of src, dst"),
        (trace.packet, "dst=10.0.0", "dst: expected an IPv4 or IPv6 address, found '10.0.0'"),
        (trace.packet, "dst=fd00::g", "dst: expected an IPv4 or IPv6 address"),
        (trace.packet, "dst=1.1.1.1,dst=1.1.1.2", "dst: given twice"),
        (trace.packet, "dst=1.1.1.1,ttl=256", "ttl: expected 0 to 255"),
        (trace.packet, "dst=1.1.1.1,dmac=00:00:00:00:00:00", "dmac: expected a station's MAC"),
        (trace.packet, "dst=1.1.1.1,smac=0", "smac: expected a station's MAC address"),
        (trace.packet, "dst=1.1.1.1,fragment=maybe", "fragment: expected yes or no"),
        (fields, "nw_dst", "expected KEY=VALUE"),
        (fields, "a=1,a=2", "given twice"),
    ],
)
def test_texts_that_mean_nothing(read: Callable[[str], Any], text: str, says: str) -> None:
    with pytest.raises(ArgumentTypeError, match=says):
        read(text)


def test_actions() -> None:
    assert actions_of("drop") == []
    assert actions_of("vlan:101,output:to-gen") == ["vlan:101", "output:to-gen"]
