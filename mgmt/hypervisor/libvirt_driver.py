"""Any hypervisor that libvirt can migrate with: Xen, QEMU.

Needs libvirt-python, the extra `libvirt`.  The management entity is connected to both hosts'
daemons, and the migration belongs to its connection: when that ends, libvirt has the domain run on
at the source.  libvirt leaves the domain paused at the destination and nothing at the source, so
that giving up there means bringing it back, paused as it is.

The suspension begins with the source's event SUSPENDED and ends with the destination's RESUMED.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import libvirt

from mgmt.hypervisor import (
    Claim,
    Domain,
    GivenUp,
    HypervisorError,
    Job,
    JobState,
    LiveMove,
    Unclaimed,
    libvirt_settle,
    may_be_left,
    reasons,
)
from mgmt.hypervisor.libvirt_settle import Copy
from mgmt.hypervisor.vm import NoVms

ABORT_S = 60.0
"""How long libvirt may take to give a migration up."""
PROGRESS_S = 0.5
KEEPALIVE_S, KEEPALIVES = 5, 3
"""So often libvirt asks a host whether it lives, and so many times in vain.  TCP alone would wait
a quarter of an hour for one that has fallen silent."""

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "suspended",
}
_NO_JOB = (
    libvirt.VIR_ERR_NO_SUPPORT,
    libvirt.VIR_ERR_OPERATION_INVALID,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED,  # of a destination
    libvirt.VIR_ERR_NO_DOMAIN,
)
_At = dict[str, tuple[Copy, Any]]
"""Host -> its copy of a domain, and libvirt's handle of that; or name of a domain -> these."""


@dataclass(slots=True)
class _LibvirtMove(LiveMove):
    thread: threading.Thread | None = None
    looked_at: float = 0.0
    whole_at: str = ""
    """The host that has it whole and alone, as libvirt has told this driver; "": not told."""


class Libvirt:
    """The driver.  `hosts`: the connection URI of every host of the network that has libvirt."""

    name = "libvirt"
    emulated = False

    def __init__(self, hosts: Mapping[str, str]) -> None:
        _run_event_loop()
        self._uris = dict(hosts)
        self._connections: dict[str, Any] = {}
        self._lock = threading.RLock()
        self._moves: dict[str, _LibvirtMove] = {}
        self.claim: Claim = Unclaimed()
        self.vms = NoVms(self.name)

    # --- the interface ------------------------------------------------------------------------

    def domain(self, router: str) -> Domain | None:
        """A host that does not answer is passed over where the router runs on another."""
        at, silent = self._copies(router)
        if not at and not silent:
            return None
        host = _host_of(router, at, silent)
        return Domain(router, host, at[host][0].state)

    def copies(self, host: str, routers: Collection[str]) -> list[str]:
        return sorted(name for name in self._domains(host) if name in routers)

    def check(self, router: str, to: str) -> None:
        """Same kind of hypervisor, no other domain of that name, and, where memory is not
        overcommitted (Xen), enough of it."""
        source, domain = self._find(router)
        here, there = self._connection(source), self._connection(to)
        with _errors(to):
            if here.getType() != there.getType():
                raise HypervisorError(
                    f"{to} has {there.getType()}, {source} {here.getType()}: "
                    "a domain moves between hypervisors of one kind only"
                )
            if any(d.name() == router for d in there.listAllDomains()):
                raise HypervisorError(f"{to} has a domain {router} of its own: undefine it there")
            need = domain.maxMemory() // 1024
            free = there.getFreeMemory() >> 20 if there.getType() == "Xen" else need
        if free < need:
            raise HypervisorError(f"{to} has too little memory: {free} MiB free, {need} MiB needed")

    def migrate(self, router: str, to: str) -> Job:
        source, domain = self._find(router)
        if source == to:
            raise HypervisorError(f"{router} is on {to} already", "already-there")
        if _state(domain) != "running":
            raise HypervisorError(f"{router} on {source} is {_state(domain)}, not running")
        move = _LibvirtMove(router, source, to)
        move.advance(JobState.PRECOPY)
        with self._lock:
            self._moves[router] = move
        self.claim.check()
        move.thread = threading.Thread(
            target=self._carry_out, args=(move, domain, self._connection(to)), daemon=True
        )
        move.thread.start()
        return self.job(router)

    def job(self, id: str) -> Job:
        move = self._moves[id]
        now = time.monotonic()
        if move.under_way and now > move.looked_at + PROGRESS_S:
            move.looked_at = now
            move.detail = self._progress(move) or move.detail
        with self._lock:
            return move.job()

    def unpause(self, router: str) -> None:
        host, domain = self._find(router)
        if _state(domain) != "running":
            self.claim.check()
            with _errors(host):
                domain.resume()
        move = self._moves.get(router)
        if move is not None and host == move.to:
            with self._lock:
                move.advance(JobState.RUNNING)

    def abort(self, router: str, own: bool = False) -> GivenUp:
        move = self._moves.get(router)
        if own and move is None:
            raise HypervisorError(f"{router} is not being migrated from here", "no-migration")
        if move is not None and move.state is JobState.RUNNING:
            raise HypervisorError(f"{router} runs on {move.to} already", "too-late")
        did = [f"the migration of {router} was ended"] if self._abort_job(router) else []
        if move is not None and move.thread is not None:
            move.thread.join(ABORT_S)
            if move.thread.is_alive():
                raise HypervisorError(f"{router}: libvirt does not end the migration")
            if move.state is JobState.MOVED_PAUSED:
                self._bring_back(move)
                did.append(f"{router} was brought back to {move.source}")
        if did:
            self._await_one_copy(router)
        settled, left = self._settle(router)
        did += settled
        if move is None and not did:
            raise HypervisorError(f"{router} is not being migrated", "no-migration")
        return GivenUp(tuple(did), left)

    def close(self) -> None:
        for connection in self._connections.values():
            with suppress(libvirt.libvirtError):  # it was lost before
                connection.close()
        self._connections.clear()

    # --- connections --------------------------------------------------------------------------

    def _connection(self, host: str) -> Any:
        if host not in self._uris:
            raise HypervisorError(
                f"{host} has no hypervisor of the kind libvirt: a VM cannot move between kinds"
            )
        with self._lock:
            found = self._connections.get(host)
            if found is None or not found.isAlive():
                with _errors(host):
                    found = libvirt.open(self._uris[host])
                    with suppress(libvirt.libvirtError):  # to this machine: nothing is between
                        found.setKeepAlive(KEEPALIVE_S, KEEPALIVES)
                    found.domainEventRegisterAny(
                        None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._happened, host
                    )
                self._connections[host] = found
            return found

    def _look(self) -> tuple[dict[str, _At], dict[str, HypervisorError]]:
        """Router -> who has a copy, of the domains that exist; and silent hosts."""
        seen: dict[str, _At] = {}
        silent = {}
        for host in self._uris:
            try:
                for name, found in self._domains(host).items():
                    seen.setdefault(name, {})[host] = found
            except HypervisorError as error:
                silent[host] = error
        return seen, silent

    def _domains(self, host: str) -> _At:
        """A host's domains that are not shut off, by their names."""
        with _errors(host):
            active = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
            found = self._connection(host).listAllDomains(active)
            return {domain.name(): (_copy(domain), domain) for domain in found}

    def _copies(self, router: str) -> tuple[_At, dict[str, HypervisorError]]:
        """Who has a copy of a domain, and which silent hosts may have it: of a migration from here
        its two, until libvirt has told which of them has it."""
        seen, silent = self._look()
        at, move = seen.get(router, {}), self._moves.get(router)
        if move is not None:
            hosts = () if move.whole_at in at else (move.source, move.to)
            silent = {host: error for host, error in silent.items() if host in hosts}
        return at, silent

    def _find(self, router: str) -> tuple[str, Any]:
        at, silent = self._copies(router)
        host = _host_of(router, at, silent)
        return host, at[host][1]

    # --- a migration --------------------------------------------------------------------------

    def _carry_out(self, move: _LibvirtMove, domain: Any, to: Any) -> None:
        try:
            domain.migrate3(to, self._parameters(move.to), _flags(domain, live=True))
        except libvirt.libvirtError as error:
            with self._lock:
                move.detail = f"libvirt: {error.get_error_message() or error}"
                move.advance(JobState.FAILED)
            return
        with self._lock:
            move.detail, move.whole_at = "whole at the destination", move.to
            move.advance(JobState.MOVED_PAUSED)

    def _parameters(self, to: str) -> dict[str, str]:
        """Where the destination receives: as its own URI says, not as it calls itself."""
        host = urlsplit(self._uris[to]).hostname
        if not host:
            return {}
        shown = f"[{host}]" if ":" in host else host
        return {libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{shown}"}

    def _happened(self, _: Any, domain: Any, event: int, detail: int, host: str) -> None:
        with self._lock:
            move = self._moves.get(domain.name())
            if move is None or not move.under_way or host != move.source:
                return
            if event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED:
                move.detail = "suspended at the source, the rest is copied"
                move.advance(JobState.SUSPENDED)

    def _progress(self, move: _LibvirtMove) -> str:
        try:
            stats = self._connection(move.source).lookupByName(move.router).jobStats()
        except (libvirt.libvirtError, HypervisorError):
            return ""
        total = stats.get("memory_total", stats.get("data_total", 0))
        done = stats.get("memory_processed", stats.get("data_processed", 0))
        return f"{done >> 20} MiB of {total >> 20} MiB and more copied" if total else ""

    # --- putting back -------------------------------------------------------------------------

    def _abort_job(self, router: str) -> bool:
        """End a migration that is under way at any host; whether there was one."""
        ended = False
        for host, (_, domain) in self._look()[0].get(router, {}).items():
            try:
                if domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
                    self.claim.check()
                    domain.abortJob()
                    ended = True
            except libvirt.libvirtError as error:
                if error.get_error_code() not in _NO_JOB:
                    raise _wrapped(host, error) from None
        return ended

    def _await_one_copy(self, router: str) -> None:
        """The destination's copy of a migration that was ended goes a moment later."""
        deadline = time.monotonic() + ABORT_S
        while len(self._look()[0].get(router, {})) > 1 and time.monotonic() < deadline:
            time.sleep(0.1)

    def _bring_back(self, move: _LibvirtMove) -> None:
        """A paused domain is migrated as it is."""
        self.claim.check()
        domain = self._connection(move.to).lookupByName(move.router)
        with _errors(move.to):
            domain.migrate3(
                self._connection(move.source),
                self._parameters(move.source),
                _flags(domain, live=False),
            )
        with self._lock:
            move.detail, move.whole_at = "brought back", move.source
            move.advance(JobState.FAILED)

    def _settle(self, router: str) -> tuple[list[str], tuple[str, ...]]:
        """Have the domain run at exactly one host; returns what had to be done for that, and what
        may be left elsewhere."""
        at, silent = self._copies(router)
        with reasons(silent):
            settled = libvirt_settle.settle(
                router, {h: copy for h, (copy, _) in at.items()}, silent
            )
        did = []
        self.claim.check()
        for other in settled.destroy:
            with _errors(other):
                at[other][1].destroy()
            did.append(f"destroyed the copy of {router} on {other}")
        if settled.resume:
            with _errors(settled.host):
                at[settled.host][1].resume()
            did.append(f"{router} runs on, on {settled.host}")
        return did, may_be_left(silent)


def _host_of(router: str, at: _At, silent: Mapping[str, HypervisorError]) -> str:
    with reasons(silent):
        return libvirt_settle.whereabouts(router, {h: copy for h, (copy, _) in at.items()}, silent)


def _copy(domain: Any) -> Copy:
    leaving = domain.state()[1] == libvirt.VIR_DOMAIN_PAUSED_MIGRATION
    state = _state(domain)
    return Copy(state, leaving and state == "paused")


def _state(domain: Any) -> str:
    return _STATES.get(domain.state()[0], "shut down")


def _flags(domain: Any, *, live: bool) -> int:
    """A domain that is defined stays defined where it is, and there only."""
    flags: int = libvirt.VIR_MIGRATE_PAUSED
    if live:
        flags |= libvirt.VIR_MIGRATE_LIVE
    if domain.isPersistent():
        flags |= libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    return flags


@contextmanager
def _errors(host: str) -> Iterator[None]:
    """libvirt's errors as the interface's."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise _wrapped(host, error) from None


def _wrapped(host: str, error: Any) -> HypervisorError:
    unreachable = error.get_error_code() in (
        libvirt.VIR_ERR_SYSTEM_ERROR,
        libvirt.VIR_ERR_RPC,
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_AUTH_FAILED,
    )
    code = "unreachable" if unreachable else "failed"
    return HypervisorError(f"{host}: libvirt: {error.get_error_message() or error}", code)


@cache
def _run_event_loop() -> None:
    """Once a process, before the first connection: events come only then."""
    libvirt.registerErrorHandler(lambda *_: None, None)  # they are raised; no copy on stderr
    libvirt.virEventRegisterDefaultImpl()

    def loop() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=loop, daemon=True).start()
