"""Which routers' vifs take frames now, as Xen says: what is for the others is held (`hold.py`).

A vif has carrier as long as its domain exists, also while that is suspended, and what is put into
it then is lost with it.  The moments are in xenstore:

    /local/domain/ID/control/shutdown = suspend    libxl is about to suspend the domain: from now on
    /local/domain/0/backend/vif/ID/N/state = 4     the domain's front end is connected to this vif
                                                   (io/xenbus.h)

The order is seen in that the node changes, not in what it holds: a guest empties it as soon as it
has read it (Linux: drivers/xen/manage.c, shutdown_handler), often before it can be read here.

Once a vif is connected the guest's own network stack has still to learn that it has carrier; until
it has, it takes requests and drops its answers.  Linux says when it is ready: it sends a gratuitous
ARP from each interface that a migration has connected anew.  So a vif takes frames from the first
frame on that comes out of it (`sent`), or `ANNOUNCED_S` after it was connected.  The first vif to
be ready waits for the others of its domain: what is given to a router by one of them may have to
leave by another.

A domain that was to move and did not is resumed at the source, of which xenstore says nothing: its
router is running again when it says something (`heard`), be it a heartbeat of routerd or an OSPF
hello.  What it said just before it was suspended may arrive after that, so a moment is waited.
That some domain has stopped does not say which: what was taken for running again may stop yet.

Called by `component`; `changed` gets the names of all vifs of `known` that take nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from xenflow.model.network import Datapath
from xenflow.switch.problems import Lines
from xenflow.vm.xenstore import Xenstore

log = logging.getLogger("xenflow.domains")

BACKENDS = "/local/domain/0/backend/vif"
RELEASED = "@releaseDomain"
"""Some domain has been stopped or destroyed (docs/misc/xenstore.txt)."""
CONNECTING, CONNECTED = ("", "1", "2", "3"), "4"
RESUMED_S = 1.0
"""After a domain was stopped: what comes from it later has been said after it was resumed."""
NOT_SUSPENDED_S = 10.0
"""After a domain was asked to suspend: what still speaks then has not done it."""
ANNOUNCED_S = 15.0
"""A guest that has been connected and says nothing takes frames from then on.  A router says
something earlier: if the gratuitous ARP was not sent, because the link was not up yet, a hello."""

Vif = tuple[str, str]
"""Domain id and number, as xenstore's folders are called."""


def on_xen(datapath: Datapath) -> bool:
    """Whether a host's routers are Xen's domains."""
    return datapath.hypervisor.startswith(("xl:", "libvirt:xen"))


@dataclass(slots=True)
class Suspension:
    """A domain that was asked to suspend.  `ended`: it has spoken after it."""

    asked: float
    suspended: float | None = None
    ended: bool = False

    def over(self, at: float) -> bool:
        """Whether who spoke, not before `at`, has spoken after it."""
        if self.suspended is None:
            return at - self.asked >= NOT_SUSPENDED_S
        return at - self.suspended >= RESUMED_S

    def released(self, now: float) -> None:
        """Some domain has stopped, maybe this one."""
        if not self.ended or now - self.asked < NOT_SUSPENDED_S:
            self.suspended, self.ended = now, False


@dataclass(slots=True)
class VifBackend:
    """One vif.

    name           as the switch calls it
    state          of its connection with the domain ("": not read yet)
    spoke          a frame has come out of it before it was known to be connected
    awaited_since  when it was connected, until a frame has come out of it
    """

    name: str = ""
    state: str = ""
    spoke: bool = False
    awaited_since: float | None = None

    @property
    def ready(self) -> bool:
        """Whether the guest at its other end takes frames, unless it is suspended."""
        return self.state in ("", CONNECTED) and self.awaited_since is None


class Domains:
    """See the module.  `now`: a monotonic clock."""

    def __init__(
        self,
        path: str,
        known: Collection[str],
        changed: Callable[[frozenset[str]], None],
        now: Callable[[], float],
    ) -> None:
        self._known = known
        self._changed = changed
        self._now = now
        self._vifs: dict[Vif, VifBackend] = {}
        self._watched: set[str] = set()
        self._orders: dict[str, str] = {}
        """What control/shutdown held when it was last read, by domain."""
        self._suspended: dict[str, Suspension] = {}
        self._told: frozenset[str] = frozenset()
        self._lines = Lines(now)
        self._store = Xenstore(path, self._begin, self._forget)

    def known_are(self, known: Collection[str]) -> None:
        """These are the routers' vifs now; others are nobody's."""
        self._known = known
        for vif in [vif for vif, backend in self._vifs.items() if backend.name not in known]:
            self._named(vif, None)
        self._look_at("")

    def start(self) -> None:
        """Begin to look."""
        self._store.start()

    def close(self) -> None:
        """End the connection."""
        self._store.close()

    def heard(self, vifs: Collection[str], at: float) -> None:
        """The router with these vifs has said something, not before `at` (by `now`)."""
        if not self._suspended:
            return
        for domain in {d for (d, _), backend in self._vifs.items() if backend.name in vifs}:
            if self._is_suspended(domain) and self._suspended[domain].over(at):
                log.info("domain %s runs on", domain)
                self._suspended[domain].ended = True
        self._tell()

    def sent(self, vif: str) -> None:
        """A frame has come out of a vif: its router has said something."""
        self.heard((vif,), self._now())
        for backend in self._vifs.values():
            if backend.name == vif and backend.state in CONNECTING:
                backend.spoke = True  # that it is connected has not been read yet
        self._end_waiting(self._now(), lambda backend, _: backend.name == vif)

    def tick(self, now: float) -> None:
        """A guest that has been connected for long enough need not announce itself."""
        self._end_waiting(now, lambda _, waited_s: waited_s >= ANNOUNCED_S)

    def _end_waiting(self, now: float, over: Callable[[VifBackend, float], bool]) -> None:
        changed = False
        for backend in self._vifs.values():
            if backend.awaited_since is None:
                continue
            waited_s = now - backend.awaited_since
            if over(backend, waited_s):
                if self._lines.take(backend.name, "takes frames"):
                    log.info(
                        "%s: takes frames %.1f s after it was connected", backend.name, waited_s
                    )
                backend.awaited_since = None
                changed = True
        if changed:
            self._tell()

    # --- what xenstore says ---------------------------------------------------------------------

    def _begin(self) -> None:
        self._store.watch(BACKENDS, self._backend_changed)
        self._store.watch(RELEASED, self._released)

    def _forget(self) -> None:
        self._vifs.clear()
        self._watched.clear()
        self._orders.clear()
        self._suspended.clear()
        self._tell()

    def _backend_changed(self, path: str) -> None:
        below = path.removeprefix(BACKENDS).strip("/").split("/")
        if len(below) < 2:
            self._look_at(below[0])
        elif len(below) == 2 or below[2] in ("vifname", "state"):
            self._read((below[0], below[1]))

    def _look_at(self, domain: str) -> None:
        """A domain's folder, or all of them, came or went."""
        if not domain:
            self._store.list(BACKENDS, lambda found: self._domains_are(set(found)))
            return
        self._store.list(f"{BACKENDS}/{domain}", lambda found: self._numbers_are(domain, found))

    def _domains_are(self, found: set[str]) -> None:
        for domain in found | {d for d, _ in self._vifs}:
            self._look_at(domain)

    def _numbers_are(self, domain: str, found: list[str]) -> None:
        for vif in {(domain, number) for number in found} | set(self._vifs):
            if vif[0] == domain:
                self._read(vif)

    def _read(self, vif: Vif) -> None:
        folder = f"{BACKENDS}/{vif[0]}/{vif[1]}"
        self._store.read(f"{folder}/vifname", lambda name: self._named(vif, name))
        self._store.read(f"{folder}/state", lambda state: self._stands(vif, state))

    def _named(self, vif: Vif, name: str | None) -> None:
        if name is None:
            self._vifs.pop(vif, None)
            if not any(domain == vif[0] for domain, _ in self._vifs):
                self._suspended.pop(vif[0], None)
                self._orders.pop(vif[0], None)
                self._store.unwatch(_shutdown(vif[0]))
                self._watched.discard(vif[0])
        elif name in self._known:
            self._vifs.setdefault(vif, VifBackend()).name = name
            self._watch(vif[0])
        self._tell()

    def _stands(self, vif: Vif, state: str | None) -> None:
        backend = self._vifs.get(vif)
        if backend is None or state is None:
            return
        if backend.state not in ("", CONNECTED) and state == CONNECTED:
            if self._lines.take(backend.name, "connected"):
                log.info("%s: domain %s has connected to it", backend.name, vif[0])
            # A domain that connects anew runs, whatever was asked of it before.
            self._suspended.pop(vif[0], None)
            backend.awaited_since = None if backend.spoke else self._now()
        backend.spoke = backend.spoke and state != CONNECTED
        backend.state = state
        self._tell()

    def _watch(self, domain: str) -> None:
        if domain not in self._watched:
            self._watched.add(domain)
            path = _shutdown(domain)
            ordered = partial(self._ordered, domain)
            self._store.watch(path, lambda _: self._store.read(path, ordered))

    def _ordered(self, domain: str, order: str | None) -> None:
        """The node was read, as it is after each of its changes and when it is first watched."""
        if order is None or domain not in self._watched:
            return
        before = self._orders.get(domain)
        self._orders[domain] = order
        missed = order == before == "" and not self._is_suspended(domain)
        if (order == "suspend" and before != order) or missed:
            log.info("domain %s is being suspended", domain)
            self._suspended[domain] = Suspension(self._now())
            self._tell()

    def _released(self, _: str) -> None:
        now = self._now()
        for suspension in self._suspended.values():
            suspension.released(now)
        self._tell()

    def _is_suspended(self, domain: str) -> bool:
        found = self._suspended.get(domain)
        return found is not None and not found.ended

    def _tell(self) -> None:
        busy = {domain for (domain, _), backend in self._vifs.items() if not backend.ready}
        busy |= set(filter(self._is_suspended, self._suspended))
        suspended = frozenset(b.name for (domain, _), b in self._vifs.items() if domain in busy)
        if suspended != self._told:
            self._told = suspended
            self._changed(suspended)


def _shutdown(domain: str) -> str:
    return f"/local/domain/{domain}/control/shutdown"
