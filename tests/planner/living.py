"""A living network, small: real servers of a store, real planner processes, and of each controller
of `paper` what follows the store, over a table whose switches prove at once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from mgmt.client import AskError, Client, Refused
from tests.free_ports import free_ports
from tests.store.store_rig import LONG_S, OvsdbSite, Way, joined, served
from xenflow.control.leases import Leases
from xenflow.control.store_follower import StoreFollower
from xenflow.model.difference import NetworkDifference, compare
from xenflow.model.network import Network
from xenflow.model.placement import Placement
from xenflow.store import network_file
from xenflow.store.laid_file import LaidFile
from xenflow.store.ovsdb_store import OvsdbStore
from xenflow.store.schema import Role, StoreWriter
from xenflow.store.server import StoreServer
from xenflow.switch.problems import Problems

PAPER = Path(__file__).parents[2] / "conf" / "paper.toml"
TEXT = PAPER.read_text()
RESOLVED_S = 40.0
"""So long an outcome may stay unknown where nothing is broken any more."""
ANSWER_S = 12.0
"""So long a command waits for the planner; it says itself within 10 s what it knows."""


def more(*ids: int) -> str:
    """The file, with links of these ids more."""
    return TEXT + "".join(
        f'\n[links.l{id}]\nid = {id}\nvlan = {id}\nroot = "host-a"\n' for id in ids
    )


class _Switch:
    """Proves at once."""

    live = True

    def __init__(self) -> None:
        self.placements: dict[str, Placement] = {}
        self.left_out: frozenset[str] = frozenset()
        self.promises = self

    def in_force(self, then: Any, but_left_out: bool) -> None:
        then(None)


class LivingController:
    """One that can be ended, and started again from its disk."""

    def __init__(self, name: str, folder: Path, site: OvsdbSite) -> None:
        self.name = name
        self._folder = folder
        self._site = site
        self._store: OvsdbStore | None = None
        self.ways: tuple[Way, ...] = ()
        """By which it reaches the store; else as everybody does."""
        self.start()

    def start(self) -> None:
        """As after `kill -9`: of what it was only the disk is left."""
        self.stop()
        described = network_file.load(PAPER)
        file = LaidFile(self._folder, "paper")
        kept = file.load()
        self.network = described if kept is None else file.network(kept, described, self.name)
        self.problems = Problems(self.name)
        self.switches = {d.name: _Switch() for d in self.network.datapaths_of(self.name)}
        writer = StoreWriter(Role.CONTROLLER, self.name)
        self._store = store = self._site.store(writer, tuple(way.remote for way in self.ways))
        table: Any = self
        leases = Leases(time.monotonic)
        self.follower = StoreFollower(store, self.name, file, kept, table, self._become, leases)
        self.follower.start()

    def stop(self) -> None:
        """It follows the store no more."""
        if self._store is not None:
            self._store.close()

    def _become(self, network: Network) -> NetworkDifference:
        found, self.network = compare(self.network, network), network
        return found

    def searching(self) -> str:
        """It has lost nothing."""
        return ""

    def told_where(self, source: str, placements: Iterable[Placement], knows: bool) -> None:
        """Nobody asks."""

    def believe(self, source: str, placements: Iterable[Placement]) -> None:
        """Where they are changes nothing here."""

    def has(self, change: int) -> bool:
        """Whether a change is in force on all its switches."""
        return all(at >= change for at in self.follower.status()["in_force"].values())


class LivingNetwork:
    """See the module."""

    def __init__(self, folder: Path, site: OvsdbSite, planners: int) -> None:
        self.site = site
        self._folder = folder
        self.planners: dict[str, subprocess.Popen[bytes] | None] = {
            f"tcp://127.0.0.1:{port}": None for port in free_ports(planners)
        }
        for url in self.planners:
            self.start_planner(url)
        names = network_file.load(PAPER).controllers
        self.controllers = {name: LivingController(name, folder / name, site) for name in names}
        self._ticked = 0.0

    def start_planner(self, url: str, *ways: Way) -> None:
        """Start a planner that does not run; `ways`: by which it reaches the store, else as
        everybody does."""
        command = [sys.executable, "-m", "xenflow.planner", f"--listen={url}"]
        remotes = [each.remote for each in ways or self.site.servers]
        command += [f"--network={PAPER}", *(f"--store={remote}" for remote in remotes)]
        with (self._folder / f"planner-{url.rpartition(':')[2]}.log").open("ab") as log:
            self.planners[url] = subprocess.Popen(command, stderr=log)

    def kill_planner(self, url: str) -> None:
        """`kill -9`."""
        process = self.planners[url]
        assert process is not None
        process.kill()
        process.wait()

    @property
    def planner(self) -> str:
        """Who plans, as the controllers know."""
        known = {controller.follower.planner for controller in self.controllers.values()}
        return next(iter(known - {""}), next(iter(self.planners)))

    def run(self, until: Any, within_s: float = LONG_S) -> None:
        """Let all controllers live until something holds."""

        def held() -> bool:
            now = time.monotonic()
            if now > self._ticked + 0.2:
                self._ticked = now
                for controller in self.controllers.values():
                    controller.follower.tick(now)
            return bool(until())

        self.site.loop.run(held, within_s)

    def ask(self, verb: str, url: str = "", /, **arguments: Any) -> dict[str, Any]:
        """One verb of the planner, or of that one, once; raises AskError."""
        with Client(url or self.planner, "planner", ANSWER_S) as client:
            return client.request(verb, **arguments)

    def answers(self) -> bool:
        """Whether the planner has begun."""
        try:
            return bool(self.ask("history")["changes"])
        except AskError:
            return False

    def applying(self, text: str, for_s: float = ANSWER_S) -> Applying:
        """Begin to apply a file; who does is gone after so long, as after `kill -9`."""
        return Applying(self, text, for_s)

    def apply(self, text: str) -> dict[str, Any]:
        """Apply a file while all live; raises AskError."""
        begun = self.applying(text)
        self.run(lambda: begun.done)
        return begun.result()

    def resolve(self, text: str) -> int:
        """Apply a file until the network is known to be what it says; the number of its change, 0
        where nothing was to be done."""
        end = time.monotonic() + RESOLVED_S
        while True:
            try:
                return int(self.apply(text)["change"])
            except AskError as error:
                if time.monotonic() > end:
                    raise AssertionError(f"it is not resolved: {error}") from None
            self.rest(0.2)

    def rest(self, seconds: float) -> None:
        """Let all controllers live for a while."""
        end = time.monotonic() + seconds
        self.run(lambda: time.monotonic() > end)

    def is_everywhere(self, change: int) -> bool:
        """Whether every controller has a change in force."""
        return all(controller.has(change) for controller in self.controllers.values())

    def close(self) -> None:
        """End the planners."""
        for process in self.planners.values():
            assert process is not None
            process.kill()
            process.wait()


class Applying:
    """A file that is being applied, in a thread as another process would."""

    def __init__(self, living: LivingNetwork, text: str, for_s: float) -> None:
        self._text, self._for_s = text, for_s
        self._result: dict[str, Any] | AskError | None = None
        self._url = living.planner
        self._thread = Thread(target=self._ask, daemon=True)
        self.began = time.monotonic()
        self._thread.start()

    def _ask(self) -> None:
        try:
            with Client(self._url, "planner", self._for_s) as client:
                self._result = client.request("apply", text=self._text, file="paper.toml")
        except AskError as error:
            self._result = error
        self.took_s = time.monotonic() - self.began

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def result(self) -> dict[str, Any]:
        """The answer; raises AskError where it is none."""
        assert self._result is not None
        if isinstance(self._result, AskError):
            raise self._result
        return self._result

    @property
    def refusal(self) -> Refused:
        """Why it was not done."""
        assert isinstance(self._result, Refused), self._result
        return self._result


@contextmanager
def living(folder: Path, members: int = 1, planners: int = 1) -> Iterator[LivingNetwork]:
    """A network that lives, its first change in force everywhere."""
    with served(folder / "store", members) as site:
        made = LivingNetwork(folder, site, planners)
        try:
            made.run(lambda: made.is_everywhere(1))
            yield made
        finally:
            made.close()


def leader_of(site: OvsdbSite) -> StoreServer:
    """The member that leads."""
    end = time.monotonic() + LONG_S
    while time.monotonic() < end:
        for server in site.servers:
            if server.pid() is not None and "Role: leader" in server.shown():
                return server
        time.sleep(0.05)
    raise AssertionError("nobody leads")


def start_again(site: OvsdbSite) -> None:
    """Every member that does not run, and wait until it takes part."""
    for server in site.servers:
        if server.pid() is None:
            server.start()
    for server in site.servers:
        assert joined(server)
