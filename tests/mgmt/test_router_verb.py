"""`xenflow router ...` beside controllers and a hypervisor that only answer: what is done, in which
order, and how it goes on where it was broken off."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mgmt.client import Refused, Unreachable
from mgmt.edits import routers
from mgmt.hypervisor import Domain, Drivers, HypervisorError, Unclaimed
from mgmt.hypervisor.vm import OnLinks, RouterVm, addresses_of
from mgmt.session import UsageError
from mgmt.verbs import router as verb
from tests.mgmt.test_apply_verbs import CONTROLLERS, TEXT, Answering, answering, run  # noqa: F401
from xenflow.control.leases import Leases, LockedError
from xenflow.model.network import Network
from xenflow.model.placement import at_home, to_json
from xenflow.store import network_file
from xenflow.store.network_keys import MAX_ROUTER_NAME
from xenflow.store.network_rows import laid

CREATE = (
    *("router", "create", "vr9", "--on", "host-b"),
    *("--interface", "eth0:left,10.0.1.9/24", "--interface", "eth1:right,10.0.2.9/24"),
)
VR1 = {"eth0": "10.0.1.1/24", "eth1": "10.0.2.1/24"}
Run = Callable[..., tuple[int, str, str]]


class World(Answering):
    """Controllers that follow what is applied, and the hypervisor of both hosts."""

    changes_live = True
    emulated = True

    def __init__(self, text: str) -> None:
        super().__init__()
        self.network: Network = network_file.parse(text, "FILE")[0]
        self.change = 1
        self.domains: dict[str, str] = {}
        self.files: dict[str, RouterVm] = {}
        self.did: list[str] = []
        self.fails = ""
        self.dead: set[str] = set()
        self.moving: list[str] = []
        self.vms = self
        self.claim: Any = None
        self.leases = {name: Leases() for name in CONTROLLERS}
        self.meanwhile: Callable[[], None] = lambda: None
        """What happens once between a change and the lease."""

    # controllers

    def ask(self, controller: str, verb: str, /, **arguments: Any) -> dict[str, Any]:
        if controller in self.dead:
            raise Unreachable(controller, "tcp://x:1", "accepts no connection")
        if verb in ("lock", "unlock", "journal"):
            return self._lease(self.leases[controller], verb, arguments)
        if verb == "network":
            rows = {
                table: [{**row, "at": [], "change": 1, "gone": False} for row in found.values()]
                for table, found in laid(self.network).items()
            }
            known = {"cluster": "c", "change": self.change}
            return known | ({"rows": rows} if arguments.get("rows", True) else {})
        if verb == "apply" and not arguments["dry_run"]:
            self.network, _ = network_file.parse(
                arguments["text"], "FILE", self.network, in_store=True
            )
            self.change += 1
            self.did.append(f"change {self.change}")
            self.in_force = dict.fromkeys(self.in_force, self.change)
        answer = super().ask(controller, verb, **arguments)
        if verb == "status":
            heard = {"phase": "current", "stale": False}
            answer["routers"] = [
                {"name": n, "feed": "local" if at == controller else "none", **heard}
                for n, at in {**dict.fromkeys(self.network.active.routers), **self.domains}.items()
            ]
            answer["migrations"] = [{"router": name} for name in self.moving]
            answer["placements"] = [
                {"datapath": controller, **to_json(at_home(r.name, r.home))}
                for r in self.network.active.routers.values()
            ]
        return answer

    @staticmethod
    def _lease(leases: Leases, verb: str, asked: dict[str, Any]) -> dict[str, Any]:
        router = asked.pop("router")
        try:
            if verb == "lock":
                return {**leases.take(router, **{"entry": None, **asked}), "versions": {}}
            if verb == "journal":
                return leases.note(router, **{"lease_s": None, "entry": None, **asked})
            leases.give_back(router, **asked)
            return {}
        except LockedError as error:
            raise Refused("locked", str(error)) from None

    def held(self) -> list[str]:
        """What every lease that somebody has is for, and where."""
        return [
            f"{name}: {row['journal'][0]['words']}"
            for name, leases in self.leases.items()
            for row in leases.rows()
        ]

    # the hypervisor

    def domain(self, router: str) -> Domain | None:
        host = self.domains.get(router)
        return None if host is None else Domain(router, host, "running")

    def copies(self, host: str, routers: Any) -> list[str]:
        return [name for name in routers if self.domains.get(name) == host]

    def may_make(self, vm: RouterVm, host: str) -> None:
        self._may("look")

    def keep(self, vm: RouterVm) -> None:
        self._may("keep")
        self.files[vm.router.name] = vm

    def kept(self, router: str) -> RouterVm | None:
        return self.files.get(router)

    def on_links(self, routers: Any) -> OnLinks:
        kept = [*addresses_of(RouterVm(self.network.routers["vr1"], {}, VR1))]
        kept += [
            one for name in routers if name in self.files for one in addresses_of(self.files[name])
        ]
        return OnLinks(tuple(kept))

    def create(self, router: str, host: str) -> None:
        self._may(f"create {router} {host}")
        self.domains[router] = host

    def stop(self, router: str) -> None:
        self._may(f"stop {router}")
        del self.domains[router]

    def forget(self, router: str) -> None:
        self._may(f"forget {router}")
        self.files.pop(router, None)

    def abort(self, router: str) -> None:
        raise HypervisorError("it is not moved", "no-migration")

    def _may(self, what: str) -> None:
        if what.startswith(("create", "stop")):
            self.claim.check()
            self.held_at = self.held()
        if self.fails and what.startswith(self.fails):
            raise HypervisorError(f"it cannot {what}")
        self.did.append(what)


@pytest.fixture
def world(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> World:  # noqa: F811
    made = World(TEXT)
    made.domains["vr1"] = "host-a"
    monkeypatch.setattr(answering, "ask", made.ask)
    monkeypatch.setattr(answering, "ask_all", made.ask_all)
    monkeypatch.setattr(Drivers, "of", lambda _, host: made)
    monkeypatch.setattr(verb, "HEARD_S", 0.0)

    def learn(network: Network, _: float) -> tuple[Network, int]:
        return replace(made.network, store=network.store), made.change

    def learn_anew(network: Network, timeout_s: float) -> tuple[Network, int]:
        made.meanwhile()
        return learn(network, timeout_s)

    monkeypatch.setattr("mgmt.cli.learn", learn)
    monkeypatch.setattr(verb, "learn", learn_anew)
    return made


@pytest.fixture
def done(run: Run, world: World) -> Callable[..., tuple[int, str, str]]:  # noqa: F811
    def call(*words: str) -> tuple[int, str, str]:
        world.did.clear()
        return run(*words, store=True)

    return call


def test_the_network_first_then_the_vm_then_its_routerd(world: World, done: Run) -> None:
    status, out, err = done(*CREATE)
    assert status == 0, err
    assert world.did == ["look", "change 2", "keep", "create vr9 host-b"]
    assert out.splitlines()[-2:] == ["its VM is made on host-b", "its routerd is heard on host-b"]
    made = world.network.routers["vr9"]
    assert (made.id, made.home, made.control_vif) == (2, "host-b", "vr9.ctl")
    assert world.files["vr9"].addresses == {"eth0": "10.0.1.9/24", "eth1": "10.0.2.9/24"}
    assert world.files["vr9"].router == made


def test_a_dry_run_does_nothing(world: World, done: Run) -> None:
    status, out, _ = done(*CREATE, "-n")
    assert (status, world.did, world.change) == (0, ["look"], 1)
    assert "router vr9: number 2, at host-b" in out


def test_what_was_broken_off_goes_on(world: World, done: Run) -> None:
    world.fails = "create"
    status, _, err = done(*CREATE)
    assert status == 1
    assert "it cannot create vr9 host-b" in err and "say it again to go on" in err
    assert world.did == ["look", "change 2", "keep"]
    world.fails = ""
    assert done(*CREATE)[0] == 0
    assert world.did == ["look", "keep", "create vr9 host-b"], "no change more"
    assert done(*CREATE)[0] == 0
    assert world.did == ["look"], "all is done"


def test_another_of_the_name_is_refused(world: World, done: Run) -> None:
    assert done(*CREATE)[0] == 0
    status, _, err = done(*CREATE, "--memory", "512")
    assert status == 2 and "there is a router vr9 already, another one" in err
    assert world.did == []


def test_a_vm_that_cannot_be_made_changes_nothing(world: World, done: Run) -> None:
    world.fails = "look"
    assert done(*CREATE)[0] == 1
    assert (world.did, world.change) == ([], 1)


def test_stop_start_rename_and_destroy(world: World, done: Run) -> None:
    assert done(*CREATE)[0] == 0
    assert "vr9 runs" in done("router", "rename", "vr9", "vr10")[2]
    assert done("router", "stop", "vr9")[0] == 0
    assert world.did == ["change 3", "stop vr9"]
    assert not world.network.routers["vr9"].running
    assert done("router", "stop", "vr9")[0] == 0
    assert world.did == [], "it is stopped"
    assert done("router", "rename", "vr9", "vr10")[0] == 0
    assert world.did == ["change 4", "keep", "forget vr9"]
    renamed = world.network.routers["vr10"]
    assert (renamed.id, renamed.control_vif, renamed.running) == (3, "vr10.ctl", False)
    assert done("router", "start", "vr10", "--on", "host-a")[0] == 0
    assert world.did == ["change 5", "keep", "create vr10 host-a"]
    assert done("router", "destroy", "vr10")[0] == 0
    assert world.did == ["change 6", "stop vr10", "forget vr10"]
    assert [*world.network.routers] == ["vr1"]


@pytest.mark.parametrize("step", ["keep", "forget"])
def test_a_rename_that_was_broken_off_goes_on(world: World, done: Run, step: str) -> None:
    assert done(*CREATE)[0] == done("router", "stop", "vr9")[0] == 0
    world.fails = step
    assert done("router", "rename", "vr9", "vr10")[0] == 1
    assert "vr10" in world.network.routers and "vr9" in world.files
    world.fails = ""
    assert done("router", "rename", "vr9", "vr10")[0] == 0
    assert world.did == ["keep", "forget vr9"]
    assert (world.files["vr10"].router.name, "vr9" in world.files) == ("vr10", False)
    assert "vr9" in done("router", "rename", "vr9", "vr10")[2], "there is no such router"


def test_a_destruction_that_was_broken_off_goes_on(world: World, done: Run) -> None:
    assert done(*CREATE)[0] == 0
    world.fails = "forget"
    assert done("router", "destroy", "vr9")[0] == 1
    assert "vr9" not in world.network.routers and "vr9" in world.files
    world.fails = ""
    assert done("router", "destroy", "vr9", "-n")[0] == 0 and world.did == []
    assert done("router", "destroy", "vr9")[0] == 0
    assert (world.did, world.files) == (["forget vr9"], {})
    assert done("router", "destroy", "vr9")[0] == 2


def test_one_that_runs_with_other_addresses_is_not_what_is_asked_for(
    world: World, done: Run, tmp_path: Path
) -> None:
    assert done(*CREATE)[0] == 0
    for other in (
        ("--interface", "eth0:left,10.0.1.7/24", *CREATE[7:]),
        (*CREATE[5:], "--config", str(tmp_path / "bird.conf")),
    ):
        (tmp_path / "bird.conf").write_text("words")
        status, _, err = done(*CREATE[:5], *other)
        assert status == 2 and "vr9 runs already, with other addresses" in err
    assert (world.did, world.change) == (["look"], 2)


def test_one_that_has_a_long_name_now_leaves_its_vifs_to_the_next(world: World, done: Run) -> None:
    long = "a" * MAX_ROUTER_NAME
    assert done(*CREATE)[0] == done("router", "stop", "vr9")[0] == 0
    assert done("router", "rename", "vr9", long)[0] == 0
    renamed = world.network.routers[long]
    vifs = [renamed.control_vif, *(i.vif for i in renamed.interfaces)]
    assert not any("vr9" in vif for vif in vifs) and vifs[0].endswith(".ctl")
    assert len({*vifs}) == 3
    assert done(*(word.replace(".9/24", ".8/24") for word in CREATE))[0] == 0


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.1.1/24", "an address of its own: vr1 has it on link left"),
        ("10.0.7.9/24", "an address in 10.0.1.0/24, as others on link left"),
        ("10.0.1.255/24", "an address in 10.0.1.0/24 that is not its own"),
    ],
)
def test_an_address_that_cannot_be_changes_nothing(
    world: World, done: Run, address: str, expected: str
) -> None:
    status, _, err = done(*CREATE[:5], "--interface", f"eth0:left,{address}", *CREATE[7:])
    found = f"eth0 on left: found {address}, expected {expected}"
    assert (status, err, world.change) == (2, f"xenflow: --interface {found}\n", 1)
    assert done(*CREATE)[0] == 0
    files = dict(world.files)
    status, _, err = done("router", "set", "vr9", "--address", f"eth0={address}", "--memory", "99")
    assert (status, err, world.change) == (2, f"xenflow: --address {found}\n", 2)
    assert world.files == files
    assert done("router", "set", "vr9", "--address", "eth0=10.0.1.8/24")[0] == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a" * 63, ()),
        ("râ", ()),
        ("../vr9", ()),
        ("vr9\n", ()),
        ("", ()),
        ("vr9", ("--id", "0")),
        ("vr9", ("--id", "-1")),
        ("vr9", ("--id", "70000")),
        ("vr9", ("--memory", "-1")),
        ("vr9", ("--image", "a\x1b[2J")),
        ("vr9", ("--interface", "eth0:left,10.0.1.8/24")),
        ("vr9", ("--interface", "eth2:nowhere,10.0.1.8/24")),
        ("vr9", ("--interface", "eth2:left,10.0.1.8/24")),
        ("vr9", ("--config", "/dev/bird")),
        ("vr9", ("--config", "/proc/bird.conf")),
    ],
)
def test_what_makes_no_sense_changes_nothing(
    world: World, done: Run, name: str, words: tuple[str, ...]
) -> None:
    status, _, err = done(*CREATE[:2], name, *CREATE[3:], *words)
    assert (status, world.change, world.files, world.domains["vr1"]) == (2, 1, {}, "host-a"), err
    assert "vr9" not in world.domains and err.startswith("xenflow: ")


def test_while_it_is_moved_its_vm_is_not_ended(world: World, done: Run) -> None:
    assert done(*CREATE)[0] == 0
    world.moving = ["vr9"]
    status, _, err = done("router", "destroy", "vr9")
    assert status == 1 and "it is being migrated" in err
    assert world.did == []


def test_where_its_host_is_dead_it_is_started_elsewhere(world: World, done: Run) -> None:
    assert done(*CREATE)[0] == 0
    lost = ("router", "start", "vr9", "--on", "host-a", "--lost", "host-b")
    assert "host-b is not lost: controller host-b answers" in done(*lost)[2]
    world.dead.add("host-b")
    world.domains["vr9"] = "host-a"  # it is said to be at host-b
    assert "controller host-a hears the routerd of vr9" in done(*lost)[2]
    world.emulated = False
    assert "its hypervisor answers" in done(*lost)[2]
    world.emulated = True
    world.hears = {"edge": "refuses connections"}
    assert "from edge, its machine refuses connections" in done(*lost)[2]
    world.hears = {}
    elsewhere = world.domains.pop("vr9") and ("router", "start", "vr1", *lost[3:])
    world.domains.pop("vr1")
    assert "vr1 is at host-a, as far as any controller knows, not at host-b" in done(*elsewhere)[2]
    assert world.did == [] and world.change == 2
    status, _, err = done(*lost)  # of that host nothing is asked
    assert status == 0, err
    # It was stopped in between: what host-b believes of its place is older than the new one.
    assert world.did == ["change 3", "change 4", "keep", "create vr9 host-a"]
    assert world.network.routers["vr9"].home == "host-a"


def test_set_says_what_comes_at_the_next_start(world: World, done: Run) -> None:
    assert done(*CREATE)[0] == 0
    status, out, _ = done("router", "set", "vr9", "--address", "eth0=10.0.1.8/24", "--image", "x")
    assert status == 0 and world.did == ["change 3", "keep"]
    assert out.splitlines()[-1].endswith("from its next start on: image")
    assert world.files["vr9"].addresses["eth0"] == "10.0.1.8/24"
    assert "stop it first" in done("router", "set", "vr9", "--mac", "eth0=02:00:00:09:09:09")[2]
    assert "no such" not in done("router", "set", "vr1", "--home", "host-b")[2]
    assert world.network.routers["vr1"].home == "host-b"


def test_what_another_release_keeps_of_numbers_ends_nothing(
    world: World, done: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert done(*CREATE)[0] == 0
    assert done("router", "stop", "vr9")[0] == 0
    ask = world.ask

    def other(controller: str, verb: str, **words: Any) -> dict[str, Any]:
        answer = ask(controller, verb, **words)
        return {"rows": 7} if (controller, verb) == ("edge", "network") else answer

    monkeypatch.setattr(world, "ask", other)
    assert done("router", "rename", "vr9", "vr10")[0] == 0


def test_numbers_of_those_that_are_not_forgotten_are_given_to_nobody() -> None:
    network = network_file.parse(TEXT, "FILE")[0]
    no = dict.fromkeys(("image", "memory", "id"))
    asked: Any = type(
        "Args", (), {"router": "vr9", "on": "host-b", "interface": ["eth0:left"], **no}
    )
    assert routers.created(network, asked, ()).routers["vr9"].id == 2
    made = routers.created(network, asked, {2, 7}).routers["vr9"]
    assert made.id == 8
    assert made.interfaces == routers.created(network, asked, ()).routers["vr9"].interfaces
    stopped = routers.changed(routers.created(network, asked, ()), "vr9", running=False)
    assert routers.renamed(stopped, "vr9", "vr10", {9}).routers["vr10"].id == 10


def test_an_interface_has_addresses_of_both_families() -> None:
    said = routers.interface("eth0:left,10.0.1.9/24,2001:DB8:1::9/64,02:00:00:00:00:09")
    assert (said.address, said.mac) == ("10.0.1.9/24,2001:db8:1::9/64", "02:00:00:00:00:09")


@pytest.mark.parametrize(
    "text",
    [
        "eth0",
        "eth0:",
        "eth0:left,x",
        "eth0:left,10.0.1.9/40",
        "eth0:left,2001:db8:1::9/64",
        "eth0:left,10.0.1.9/24,2001:db8:1::9",
        "eth0:left,10.0.1.9/24,2001:db8:1::9/129",
    ],
)
def test_an_interface_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="eth0"):
        routers.interface(text)


def test_whose_configuration_a_file_is_its_name_says(tmp_path: Path) -> None:
    for name, daemon in (("bird.conf", "bird"), ("r1-frr.conf", "frr")):
        (tmp_path / name).write_text("words")
        assert routers.daemon(str(tmp_path / name)) == (daemon, "words")
    with pytest.raises(UsageError, match=r"bird.conf or frr.conf"):
        routers.daemon(str(tmp_path / "zebra.conf"))
    with pytest.raises(UsageError, match="No such file"):
        routers.daemon(str(tmp_path / "other-bird.conf"))


def test_json_says_what_was_done(world: World, done: Run) -> None:
    status, out, _ = done(*CREATE, "--json")
    value = json.loads(out)
    assert (status, value["ok"], value["change"], value["router"]) == (0, True, 2, "vr9")
    assert value["did"][-1] == "its routerd is heard on host-b"
    assert replace(world.files["vr9"], config="") == world.files["vr9"]
    assert set(CONTROLLERS) == set(world.network.controllers)


# --- two at once ---------------------------------------------------------------------------------


def test_a_vm_is_made_and_ended_under_the_lease(world: World, done: Run) -> None:
    assert done(*CREATE)[0] == 0
    assert world.held_at == ["host-b: a start of vr9"], "of where it runs"
    assert done("router", "stop", "vr9")[0] == 0
    assert world.held_at == [f"{name}: an end of vr9" for name in CONTROLLERS], "it is nowhere"
    assert world.held() == [] and isinstance(world.claim, Unclaimed)


def test_while_somebody_moves_it_no_vm_is_made_or_ended(world: World, done: Run) -> None:
    assert done(*CREATE)[0] == 0
    del world.domains["vr9"]
    for name in ("host-a", "host-b"):
        world.leases[name].take("vr9", "ada:1", 10.0, {"words": "a move"})
    for words in (("start", "vr9"), ("stop", "vr9"), ("destroy", "vr9")):
        world.domains |= {"vr9": "host-b"} if words[0] != "start" else {}
        status, _, err = done("router", *words)
        assert status == 1 and "a move is under way" in err and "by ada:1" in err
        assert not any(one.startswith(("create", "stop vr9")) for one in world.did)
    assert {*world.held()} == {"host-a: a move", "host-b: a move"}


def test_what_was_left_of_a_move_is_recovered_first(world: World, done: Run) -> None:
    assert done(*CREATE)[0] == 0
    del world.domains["vr9"]
    world.leases["host-b"].take("vr9", "ada:1", 10.0, {"words": "a move"})
    world.leases["host-b"].give_back("vr9", "ada:1", unfinished=True)
    status, _, err = done("router", "start", "vr9")
    assert status == 1 and "a move was left unfinished: `xenflow recover` first" in err
    assert world.held() == ["host-b: a move"], "it is there still"


def test_of_two_at_once_the_later_change_counts(world: World, done: Run) -> None:
    assert done(*CREATE)[0] == 0

    def started_again() -> None:
        world.network = routers.changed(world.network, "vr9", running=True)

    world.meanwhile = started_again
    status, _, err = done("router", "stop", "vr9")
    assert status == 1 and "somebody else has changed vr9 meanwhile" in err
    assert world.domains["vr9"] == "host-b" and world.held() == []


def test_a_vm_that_is_said_to_be_made_and_is_not_there_is_no_success(
    world: World, done: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "create", lambda router, host: None)
    status, _, err = done(*CREATE)
    assert status == 1 and "vr9 is not on host-b, though its VM was made" in err

    def late(router: str, host: str) -> None:
        world.domains[router] = host
        raise HypervisorError("no answer", "silent")

    monkeypatch.setattr(world, "create", late)
    assert done(*CREATE)[0] == 0, "it was made, and the answer lost"
