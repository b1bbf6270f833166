"""`xenflow empty-host`, on controllers and an orchestration that are played.

Of the network `campus` r1 and r5 are at home on host-a.  r4's VM is on host-d; of a migration that
was interrupted host-a forwards for it still.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mgmt import cli, growing, hypervisor
from mgmt.client import AskError, Unreachable
from mgmt.hypervisor import Drivers, HypervisorError
from mgmt.session import ManagementSession
from mgmt.verbs import empty_host, migrate, recover
from mgmt.verbs.migrate import ask_before
from xenflow.model.network import NetworkError
from xenflow.model.placement import at_home, to_json
from xenflow.store.network_file import load

CAMPUS = Path(__file__).parents[2] / "conf" / "campus.toml"


class Plan:
    """Of a migration, or of a recovery (`to` is where the VM is already)."""

    def __init__(self, world: World, router: str, to: str, **options: Any) -> None:
        self.world, self.to, self.options = world, to, options
        self.router = SimpleNamespace(name=router)
        self.stages: tuple[Any, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.new_mode = ""
        self.network: Any = None

    def text(self) -> str:
        return f"{self.router.name} to {self.to}"

    def json(self) -> dict[str, Any]:
        return {"router": self.router.name, "to": self.to, **self.options}

    def refuse_falling(self) -> None:
        if self.router.name in self.world.falling:
            raise NetworkError(f"{self.router.name}: BFD would fall")


class Result(SimpleNamespace):
    def text(self) -> str:
        return f"{self.router} is on {self.to}" if self.ok else f"{self.router} stays"

    def json(self) -> dict[str, Any]:
        return {"router": self.router, "to": self.to, "ok": self.ok}


class World:
    """Stands in for the controllers, `mgmt.planning` and `mgmt.migrate`."""

    def __init__(self) -> None:
        routers = load(CAMPUS).routers.values()
        self.places = {router.name: at_home(router.name, router.home) for router in routers}
        self.places["r4"] = self.places["r4"].step(forwarders=("host-d", "host-a"))
        self.no_way: set[tuple[str, str]] = set()
        self.falling: set[str] = set()
        self.failing: set[str] = set()
        self.interrupted_at = ""
        self.recovered_on = ""
        self.unrecoverable: Exception | None = None
        self.silent: Callable[[], bool] = lambda: False
        self.asked = self.opened = 0
        self.did: list[tuple[str, str]] = []
        self.looked_for_left: list[str] = []
        self.confirm: object = None
        self.seen: list[list[str] | Exception] = [[]]

    def ask_all(
        self, session: ManagementSession, verb: str
    ) -> dict[str, dict[str, Any] | AskError]:
        assert verb == "status"
        self.asked += 1
        every = [to_json(place) for place in self.places.values()]
        answers: dict[str, dict[str, Any] | AskError] = {
            name: {"placements": every} for name in session.network.controllers
        }
        if self.silent():
            answers["edge"] = Unreachable("edge", "tcp://x", "no controller answers there")
        return answers

    def driver(self, network: Any, host: str) -> Any:
        """A hypervisor's."""
        self.opened += 1
        return SimpleNamespace(close=self.close, copies=self.copies)

    def copies(self, host: str, routers: Any) -> list[str]:
        """What there is, at one look after the other."""
        assert host == "host-a" and {"r1", "r4", "r5"} <= set(routers)
        found = self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        self.opened -= 1

    def plan(
        self,
        network: Any,
        router: str,
        to: str,
        mode: str,
        ask: Any,
        drivers: Drivers,
        pause_s: float,
        known: Any,
    ) -> Plan:
        drivers.of("host-a")
        if (router, to) in self.no_way:
            raise NetworkError(f"no way for {router} to {to}")
        made = Plan(self, router, to, mode=mode, pause_s=pause_s)
        made.network = network
        return made

    @contextmanager
    def recovering(
        self, network: Any, router: str, ask: Any, say: Any
    ) -> Iterator[tuple[Plan, str] | None]:
        self.looked_for_left.append(router)
        made = self.plan_recovery(network, router, ask)
        yield (made, "its lease") if made else None

    def plan_recovery(self, network: Any, router: str, ask: Any) -> Plan | None:
        if router != "r4":
            return None
        if self.unrecoverable is not None:
            raise self.unrecoverable
        return Plan(self, router, self.recovered_on or self.places[router].vm, recovery=True)

    def run(
        self,
        plan: Plan,
        ask: Any,
        drivers: Drivers,
        report: Any,
        confirm: object = None,
        lease: str | None = None,
    ) -> Result:
        drivers.of("host-a")
        assert self.opened == 1
        name = plan.router.name
        self.did.append((name, plan.to))
        self.confirm = confirm
        ok = name not in self.failing and name != self.interrupted_at
        if ok:
            self.places[name] = at_home(name, plan.to)
        return Result(router=name, to=plan.to, ok=ok, interrupted=name == self.interrupted_at)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World()

    def ask_all(session: ManagementSession, verb: str) -> dict[str, dict[str, Any] | AskError]:
        return world.ask_all(session, verb)

    monkeypatch.setattr(ManagementSession, "ask_all", ask_all)
    for verb in (growing, recover):
        monkeypatch.setattr(verb, "planning", world)
    monkeypatch.setattr(migrate, "migrate", world)
    monkeypatch.setattr(hypervisor, "of", world.driver)
    yield world
    assert world.opened == 0, "a hypervisor was left open"


@pytest.fixture
def empty(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*words: str) -> tuple[int, str, str]:
        status = cli.main(["--network", str(CAMPUS), "empty-host", *words])
        out, err = capsys.readouterr()
        return status, out, err

    return run


Empty = Callable[..., tuple[int, str, str]]


def test_what_was_left_is_recovered_and_everybody_is_moved(world: World, empty: Empty) -> None:
    world.no_way = {("r1", "host-b")}
    status, out, err = empty("host-a")
    assert (status, out) == (0, "")
    assert world.looked_for_left == ["r1", "r4", "r5"]
    assert world.did == [("r4", "host-d"), ("r1", "host-c"), ("r5", "host-b")]
    assert err.splitlines() == [
        "xenflow: r4 is on host-d",
        "xenflow: no way for r1 to host-b",
        "xenflow: r1 is on host-c",
        "xenflow: r5 is on host-b",
        "xenflow: host-a is empty",
    ]


def test_as_json(world: World, empty: Empty) -> None:
    world.no_way = {("r1", "host-b")}
    world.failing = {"r5"}
    status, out, err = empty("host-a", "--json")
    assert json.loads(out) == {
        "host": "host-a",
        "empty": False,
        "left": ["r5"],
        "copies": [],
        "recovered": [{"router": "r4", "to": "host-d", "ok": True}],
        "hypervisor": [],
        "moved": [
            {"router": "r1", "to": "host-c", "ok": True},
            {"router": "r5", "to": "host-b", "ok": False},
        ],
        "refused": [{"router": "r1", "to": "host-b", "error": "no way for r1 to host-b"}],
    }
    assert (status, err.splitlines()[-1]) == (1, "xenflow: left on host-a: r5")


def test_who_cannot_be_moved_is_left_and_the_others_go(world: World, empty: Empty) -> None:
    world.no_way = {("r1", "host-c")}
    status, _, err = empty("host-a", "--to", "host-c")
    assert status == 1
    assert world.did[1:] == [("r5", "host-c")]
    assert err.endswith("xenflow: left on host-a: r1\n")


def test_what_a_migration_takes_is_passed_on(world: World, empty: Empty) -> None:
    world.falling = {"r1", "r5"}
    words = ("--mode", "report", "--pause", "0.2", "--step", "--force", "--to", "host-c", "host-a")
    assert empty(*words)[0] == 0
    assert world.confirm is ask_before
    assert world.did[1:] == [("r1", "host-c"), ("r5", "host-c")]
    world.places["r1"] = at_home("r1", "host-a")
    planned = json.loads(empty("-n", "--json", *words)[1])["moved"]
    assert planned == [{"router": "r1", "to": "host-c", "mode": "report", "pause_s": 0.2}]


def test_a_move_in_which_a_session_falls_is_refused_without_force(
    world: World, empty: Empty
) -> None:
    world.falling = {"r1"}
    for words in (("host-a", "--dry-run"), ("host-a",)):
        status, _, err = empty(*words)
        assert status == 1
        assert err.count("r1: BFD would fall") == 1  # one host is like the other
        assert err.endswith("xenflow: left on host-a: r1\n")
    assert ("r1", "host-b") not in world.did and ("r5", "host-b") in world.did


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_dry_run_goes_by_where_a_recovery_would_find_the_vm(
    world: World, empty: Empty, comes_back: bool
) -> None:
    host, other = ("host-d", "host-a") if comes_back else ("host-a", "host-d")
    world.places["r4"] = at_home("r4", host).step(forwarders=("host-d", "host-a"))
    world.recovered_on = other
    world.no_way = {("r4", f"host-{x}") for x in "bcd"}
    status, _, err = empty("host-a", "--dry-run")
    ending = "left on host-a: r4" if comes_back else "host-a could be emptied"
    assert (status, err.splitlines()[-1]) == (int(comes_back), f"xenflow: {ending}")


def test_a_dry_run_changes_nothing(world: World, empty: Empty) -> None:
    world.no_way = {("r1", "host-b")}
    status, out, err = empty("host-a", "--dry-run")
    assert (status, out) == (0, "r4 to host-d\nr1 to host-c\nr5 to host-b\n")
    assert err.endswith("xenflow: host-a could be emptied\n")
    assert world.did == world.looked_for_left == []
    world.no_way = {("r1", to) for to in ("host-b", "host-c", "host-d")}
    status, _, err = empty("host-a", "-n")
    assert (status, err.splitlines()[-1]) == (1, "xenflow: left on host-a: r1")


@pytest.mark.parametrize(
    "error", [NetworkError("it is held"), HypervisorError("xl: it is held")], ids=str
)
def test_a_host_is_not_empty_while_anybody_needs_it(
    world: World, empty: Empty, error: Exception
) -> None:
    """r4's VM is elsewhere; nobody could say that host-a is to forward for it no more."""
    world.unrecoverable = error
    status, _, err = empty("host-a")
    assert status == 1
    assert f"xenflow: {error}\n" in err
    assert err.endswith("xenflow: left on host-a: r4\n")
    assert world.did == [("r1", "host-b"), ("r5", "host-b")]


def test_a_host_is_not_empty_while_its_hypervisor_has_anything_of_a_router(
    world: World, empty: Empty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(empty_host.time, "sleep", lambda _: None)
    world.seen = [["r1--migratedaway"], []]  # it goes a moment later
    assert empty("host-a")[0] == 0
    monkeypatch.setattr(empty_host, "COPY_GOES_S", 0.0)
    world.seen = [["r1--migratedaway", "r7"]]
    status, out, err = empty("host-a", "--json")
    found = json.loads(out)
    assert (status, found["empty"], found["left"]) == (1, False, [])
    assert found["copies"] == ["r1--migratedaway", "r7"]
    said = "left on host-a, by its hypervisor: r1--migratedaway, r7: run `xenflow recover`"
    assert err == f"xenflow: {said}\n"
    world.seen = [HypervisorError("host-a: no answer", "unreachable")]
    status, out, err = empty("host-a", "--json")
    assert (status, json.loads(out)["copies"], json.loads(out)["empty"]) == (1, None, False)
    assert err.endswith("host-a: no answer\nxenflow: what is left on host-a is not known\n")


def test_what_is_left_is_not_known_where_a_controller_is_silent(world: World, empty: Empty) -> None:
    world.silent = lambda: ("r5", "host-b") in world.did
    status, out, err = empty("host-a", "--json")
    assert (status, json.loads(out)["left"], json.loads(out)["empty"]) == (1, None, False)
    assert err.endswith("xenflow: what is left on host-a is not known\n")
    assert "edge (tcp://x): no controller answers there" in err


@pytest.mark.parametrize("words", [("host-a",), ("host-a", "--dry-run")], ids=" ".join)
def test_nothing_is_moved_where_a_controller_falls_silent_before(
    world: World, empty: Empty, words: tuple[str, ...]
) -> None:
    world.silent = lambda: world.asked > 1
    status, _, err = empty(*words)
    assert status == 1
    assert [name for name, _ in world.did if name != "r4"] == []
    assert err.endswith("xenflow: what is left on host-a is not known\n")


def test_nothing_begins_unless_every_controller_answers(world: World, empty: Empty) -> None:
    world.silent = lambda: True
    status, out, err = empty("host-a", "--json")
    assert (status, world.asked, world.looked_for_left) == (3, 1, [])
    assert json.loads(out) == {
        "host": "host-a",
        "ok": False,
        "refused": True,
        "error": "edge (tcp://x): no controller answers there",
        "status": 3,
    }
    assert err == "xenflow: edge (tcp://x): no controller answers there\n"


@pytest.mark.parametrize(("at", "did"), [("r4", ["r4"]), ("r1", ["r4", "r1"])])
def test_an_interrupt_ends_it_with_the_router_that_it_is_at(
    world: World, empty: Empty, at: str, did: list[str]
) -> None:
    world.interrupted_at = at
    status, _, err = empty("host-a")
    assert status == 130
    assert [name for name, _ in world.did] == did
    left = [name for name in ("r1", "r4", "r5") if "host-a" in world.places[name].hosts]
    assert err.endswith(f"xenflow: left on host-a: {', '.join(left)}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("host-a", "--mode", "nonsense"), "--mode: unknown: nonsense"),
        (("host-a", "--pause", "long"), "invalid time in seconds value: 'long'"),
        (("host-a", "--to", "nosuch"), "unknown datapath nosuch"),
        (("host-a", "--to", "host-a"), "--to host-a: that is the host to be emptied"),
        (("host-a", "--to", "s1"), "s1 is a plain switch"),
        (("nosuch",), "unknown datapath nosuch"),
        (("",), "unknown datapath "),
        ((), "the following arguments are required: HOST"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_asked(
    world: World,
    empty: Empty,
    words: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        status, out, err = empty(*words)
    except SystemExit as ended:
        status, (out, err) = int(str(ended.code)), capsys.readouterr()
    assert (status, out, world.asked) == (2, "", 0)
    assert said in err
