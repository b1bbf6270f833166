"""One run of the `xenflow` command: the network, and the controllers it can ask.

Every verb gets a `ManagementSession`.  It needs nothing but the network file and the controllers'
management addresses, so the command works the same on every node.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mgmt.client import Answers, AskError, Client, Refused, Unreachable, ask_all, parted
from xenflow.model.management import ManagementError
from xenflow.model.network import Datapath, Link, Network, NetworkError, Router
from xenflow.model.placement import Placement, first_place, from_json, newest_each
from xenflow.store import laid_file
from xenflow.store.network_rows import laid_entries

Value = TypeVar("Value")
PLANNER_S = 3.0
"""How long the planner may take to say what the network is."""
NOTE_S = 1.0
"""How long an event may take to be noted."""


class UsageError(NetworkError):
    """The command line is wrong for this network."""


class Ask(Protocol):
    """How a verb or a migration asks one controller; raises `mgmt.client.AskError`."""

    def __call__(
        self, controller: str, verb: str, /, timeout_s: float | None = None, **arguments: Any
    ) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a router is, as far as the controllers that answered know; where none of them knows
    it, its home by the network file."""

    placement: Placement
    silent: dict[str, AskError]
    answers: Answers


class ManagementSession:
    """The network and open connections to its controllers.

    change  of a network that lives in a store the number of the change that it is as of
    file    the network file that this command was given

    `ask` may be called from several threads: each borrows a connection that is idle.
    """

    def __init__(
        self, network: Network, timeout_s: float, change: int = 0, file: Path | None = None
    ) -> None:
        self.network = network
        self.file = file
        self.change = change
        self.timeout_s = timeout_s
        self._idle: dict[str, list[Client]] = {name: [] for name in network.controllers}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections; nobody may be asking any more."""
        with self._lock:
            for idle in self._idle.values():
                while idle:
                    idle.pop().close()

    @contextmanager
    def _borrow(self, controller: str) -> Iterator[Client]:
        with self._lock:
            idle = self._idle[controller]
            client = idle.pop() if idle else None
        if client is None:
            url = self.network.controllers[controller].manage
            client = Client(url, controller, self.timeout_s)
        try:
            yield client
        finally:
            with self._lock:
                idle.append(client)

    def ask(
        self, controller: str, verb: str, /, timeout_s: float | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """One verb of one controller; an `Ask`."""
        with self._borrow(controller) as client:
            return client.request(verb, timeout_s=timeout_s, **arguments)

    def ask_all(
        self, verb: str, of: Iterable[str] | None = None, /, **arguments: Any
    ) -> dict[str, dict[str, Any] | AskError]:
        """The same of every controller, or of some, at once."""
        names = self.network.controllers if of is None else of
        urls = {name: self.network.controllers[name].manage for name in names}
        return ask_all(urls, verb, timeout_s=self.timeout_s, **arguments)

    def ask_datapath(self, datapath: str, verb: str, /, **arguments: Any) -> dict[str, Any]:
        """One verb of the controller that looks after a datapath."""
        return self.ask(self.network.datapaths[datapath].controller, verb, **arguments)

    def note(self, what: str, words: str, outcome: str) -> None:
        """Have the planner note what has happened, where there is one; at best: nobody waits long
        for it, and nothing fails."""
        if self.network.store:
            with suppress(AskError, ManagementError):
                first = next(iter(self.network.controllers))
                self.ask(first, "event", NOTE_S, what=what, words=words, outcome=outcome)

    # --- names on the command line

    def router(self, name: str) -> Router:
        """Raises UsageError with the names there are."""
        return known("router", name, self.network.routers)

    def link(self, name: str) -> Link:
        """Raises UsageError with the names there are."""
        return known("link", name, self.network.links)

    def datapath(self, name: str) -> Datapath:
        """Raises UsageError with the names there are."""
        return known("datapath", name, self.network.datapaths)

    def host(self, name: str) -> Datapath:
        """A datapath that can carry routers.  Raises UsageError with the names there are."""
        found = self.datapath(name)
        if name not in self.network.hosts:
            hosts = ", ".join(self.network.hosts)
            raise UsageError(f"{name} is a plain switch, it carries no routers; hosts: {hosts}")
        return found

    def destination(self, name: str) -> Datapath:
        """A host that a router may come to.  Raises UsageError where it is none."""
        found = self.host(name)
        if found.maintenance:
            free = ", ".join(n for n, host in self.network.hosts.items() if not host.maintenance)
            words = f"no router comes there (`xenflow host set {name} --maintenance off`)"
            raise UsageError(f"{name} is in maintenance, {words}; other hosts: {free or 'none'}")
        return found

    # --- where routers are

    def whereabouts(self, router: str) -> Whereabouts:
        """Raises NetworkError for a router that is stopped, Unreachable where no controller answers
        at all."""
        refuse_stopped(self.router(router))
        answers = self.ask_all("status", router=router)
        answered, silent = parted(answers)
        if not answered:
            raise next(iter(silent.values()))
        known = placements(answers)
        found = known.get(router) or first_place(self.network.routers[router])
        return Whereabouts(found, silent, answers)

    def ask_router(self, router: str, verb: str, /, **arguments: Any) -> dict[str, Any]:
        """One verb, about a router, of a controller that knows it: see `ask_near`."""
        return self.ask_near(self.whereabouts(router).placement, verb, **arguments)

    def ask_near(self, at: Placement, verb: str, /, **arguments: Any) -> dict[str, Any]:
        """One verb, about a router, of the controller of the host where its VM is, else, where
        that one does not know the router or does not answer, of another that forwards for it."""
        reason: AskError | None = None
        for host in dict.fromkeys((at.vm, *at.forwarders)):
            try:
                return self.ask_datapath(host, verb, router=at.router, **arguments)
            except Refused as error:
                if error.code != "unknown-router":
                    raise
                reason = reason or error
            except Unreachable as error:
                reason = reason or error
        assert reason is not None
        raise reason


def learn(network: Network, timeout_s: float) -> tuple[Network, int]:
    """The network as it is now, where it lives in a store, and the number of the change that it is
    as of.  The planner says it, by way of a controller that the file names; where there is none, or
    it does not answer, the controllers' parts are joined.  Where they follow several clusters, as
    after a store was made anew, that which most follow counts, whatever the numbers of the others.
    Where none says it, the file's."""
    if not network.store:
        return network, 0
    urls = {name: c.manage for name, c in network.controllers.items()}
    known, _ = parted(ask_all(urls, "network", timeout_s=timeout_s, rows=False))
    numbers = {name: answer.get("change") for name, answer in known.items()}
    followed = {n: str(known[n].get("cluster")) for n, c in numbers.items() if c and type(c) is int}
    if not followed:
        return network, 0
    (cluster, _), *_ = Counter(followed.values()).most_common(1)
    alike = [name for name, of in followed.items() if of == cluster]
    parts = [*_laid(urls, [n for n in alike if known[n].get("planner")][:1], "laid", PLANNER_S)]
    if not parts or parts[0].cluster != cluster:
        parts = [*_laid(urls, alike, "network", timeout_s)]
    if not parts:
        return network, 0
    laid = laid_file.joined(parts)
    return laid_entries(laid.rows, network, alone=True), laid.change


def _laid(
    urls: Mapping[str, str], names: Iterable[str], verb: str, timeout_s: float
) -> Iterator[laid_file.LaidRows]:
    """What controllers answer, those that can be read."""
    asked = {name: urls[name] for name in names}
    for answer in parted(ask_all(asked, verb, timeout_s=timeout_s))[0].values() if asked else ():
        with suppress(*laid_file.MISREAD):  # another release's
            yield laid_file.from_json(answer)


def refuse_stopped(router: Router) -> None:
    """Raises NetworkError for a router that is stopped: no controller knows anything of it."""
    if not router.running:
        raise NetworkError(f"{router.name} is stopped: `xenflow router start {router.name}` first")


def placements(answers: Answers) -> dict[str, Placement]:
    """The newest placement of each router in the answers to `status`."""
    return newest_each(p for told in told_of_each(answers).values() for p in told.values())


def told_of_each(answers: Answers) -> dict[str, dict[str, Placement]]:
    """Router -> datapath -> where that datapath was told the router is, in the answers to `status`,
    as far as they can be read."""
    found: dict[str, dict[str, Placement]] = {}
    for answer in parted(answers)[0].values():
        for value in answer.get("placements", ()):
            try:
                placement = from_json(value)
            except NetworkError:
                continue  # another release's: the controller's own log has more to say about it
            found.setdefault(placement.router, {})[str(value.get("datapath"))] = placement
    return found


def given(answers: Answers, router: str) -> dict[str, Placement]:
    """Where each datapath was told a router is, in the answers to `status`.  Raises NetworkError
    where one cannot be read."""
    return {
        value["datapath"]: from_json(value)
        for answer in parted(answers)[0].values()
        for value in answer["placements"]
        if value["router"] == router
    }


def known(kind: str, name: str, values: Mapping[str, Value]) -> Value:
    """What has a name.  Raises UsageError with the names there are."""
    if name not in values:
        close = get_close_matches(name, list(values), n=1)
        meant = f", did you mean {close[0]}?" if close else ""
        names = ", ".join(values) or "none"
        raise UsageError(f"unknown {kind} {name}{meant or f': the network has {names}'}")
    return values[name]
