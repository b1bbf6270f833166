"""Xen, by `xl` in the Domain 0 of each host.

A migration is one `xl migrate` in the source's Domain 0, begun by the agent there
(`mgmt.hypervisor.dom0_agent`); a second agent at the destination watches the domain's vifs.  The
destination's xl reports that it has the whole domain, paused, with its devices; that report is kept
back, and this is the state MOVED_PAUSED.  `unpause` passes it on: the source's xl gives its copy
away, the destination's lets the domain run.  Until then the source's copy is whole, and `abort` has
it run on.  (`xl migrate -p` would leave the domain paused as well, but only after its copy at the
source has been destroyed: then nothing could be undone any more, and one more `xl` would have to be
started while the router stands still.)

The suspension begins when `control/shutdown` in the source's xenstore says "suspend", and ends when
the last of the domain's vifs is connected (backend state 4) at the destination.
"""

from __future__ import annotations

import os
import re
import shlex
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mgmt.at_once import at_once
from mgmt.hypervisor import (
    Claim,
    Domain,
    GivenUp,
    HypervisorError,
    Job,
    JobState,
    LiveMove,
    Unclaimed,
    may_be_left,
    reasons,
    xl_output,
    xl_settle,
)
from mgmt.hypervisor.dom0 import Dom0, ssh
from mgmt.hypervisor.xl_output import INCOMING, Config, Info, Listed, Mark
from mgmt.hypervisor.xl_settle import SettleStep, Settling
from mgmt.hypervisor.xl_vms import XlVms
from xenflow.model.hypervisor_spec import XlSpec

STALL_S = 60.0
"""How long nothing may be sent in a migration before it is given up."""
READY_S = 180.0
"""How long the destination may take with its devices once all has been sent."""
SETTLE_S = 120.0
"""How long xl may take to end after its receiver is gone."""
LOOK_S = 5.0
"""After this time without news of its vifs it is asked whether the domain was left paused: not
earlier, since the question keeps the destination from what it is waited for."""
LEFT_S = 20.0
"""How long the copy that has moved away may take to go."""
VIFS_S = 30.0
"""How long after xl's success the domain's vifs are waited for."""
SCRIPTS = "/etc/xen/scripts"
STATE_FOLDERS = ("/var/lib/xen", "/run", "/tmp")
NEEDED_BYTES = 1 << 20
OVERHEAD_MIB = 8
"""What a domain takes beside its memory, at least: page tables, grant tables."""
CONNECTED = "4"
"""XenbusStateConnected.  Source: xen/include/public/io/xenbus.h."""
SHARED_THERE = "/run/xenflow-ssh-"
"""Where a source's Domain 0 keeps its shared ssh connections."""
RECEIVER_S = 5.0
"""How long a receiver may take to destroy its copy by itself."""


@dataclass(slots=True, kw_only=True)
class _XlMove(LiveMove):
    """As the agents' events tell it."""

    login: str
    memory_mib: int
    given_up: str = ""
    lines: list[str] = field(default_factory=list)
    vifs: dict[str, str] = field(default_factory=dict)
    heard_at: float = 0.0
    succeeded_at: float | None = None
    connected_at: float | None = None
    went: bool = False
    ended: bool = False
    source_lost: bool = False
    looked: bool = False
    sent: bool = False

    def heard(self, event: Mapping[str, Any]) -> None:
        """Take an event of an agent in."""
        at = self.heard_at = max(self.heard_at, event["local_at"])
        match event["event"]:
            case "line":
                self.lines.append(event["text"])
                self._line(event["text"])
            case "copied":
                quarters = (event["bytes"] >> 18) // max(1, self.memory_mib)
                if quarters and self.under_way:  # a line at each, no more
                    copied = "all" if quarters >= 4 else f"{25 * quarters} %"
                    self.detail = f"{copied} of its {self.memory_mib} MiB copied"
            case "sent":
                self.sent = True
            case "suspended" if self.state is JobState.PRECOPY:
                self.detail = "suspended at the source, the rest is copied"
                self.advance(JobState.SUSPENDED, event["local_at"])
            case "received":
                self.detail = "whole at the destination"
                self.advance(JobState.MOVED_PAUSED, at)
            case "vif":
                self._vif(event)
            case "ended":
                self.ended = True
                if event["status"] == 0:
                    self.succeeded_at = self.succeeded_at or at
                elif event["status"] < 0:
                    self.given_up = f"xl was ended by signal {-event['status']}"
            case "lost" if event["host"] == self.source:
                self.source_lost = True
        self._maybe_running(at)

    def _line(self, line: str) -> None:
        found = xl_output.mark(line)
        if found in (Mark.STARTED, Mark.SUCCESS):
            self.succeeded_at = self.succeeded_at or self.heard_at
        if found is not None and self.state is not JobState.RUNNING:
            self.detail = found.value

    def _vif(self, event: Mapping[str, Any]) -> None:
        self.vifs[f"{event['domid']}/{event['vif']}"] = event["state"]
        if self.vifs and all(state == CONNECTED for state in self.vifs.values()):
            self.connected_at = event["local_at"]

    def _maybe_running(self, now: float) -> None:
        """The domain runs when xl says so and its vifs are connected, or do not come."""
        if self.succeeded_at is None or self.state is JobState.RUNNING:
            return
        if self.connected_at is not None:
            self.advance(JobState.RUNNING, self.connected_at)
        elif now > self.succeeded_at + VIFS_S:
            self.detail = f"runs, but its vifs are not connected after {VIFS_S:g} s"
            self.advance(JobState.RUNNING, now)

    def tick(self) -> None:
        """Time goes by."""
        self._maybe_running(time.monotonic())


class Xl:
    """The driver.  `hosts`: every host of the network that has Xen, by its name."""

    name = "xl"
    emulated = False

    def __init__(self, hosts: Mapping[str, XlSpec]) -> None:
        self._specs = dict(hosts)
        self._dom0s: dict[str, Dom0] = {}
        self._lock = threading.RLock()
        self._moves: dict[str, _XlMove] = {}
        self._silent: dict[str, HypervisorError] = {}
        self.claim: Claim = Unclaimed()
        self.vms = XlVms(self._specs, self._dom0, self.domain, self._may)

    # --- the interface ------------------------------------------------------------------------

    def domain(self, router: str) -> Domain | None:
        """A host that does not answer is passed over where the router is found without it."""
        seen, silent = self._look()
        if not silent and not any(c.is_of(router) for listed in seen.values() for c in listed):
            return None
        with reasons(silent):
            host, copy = xl_settle.whereabouts(router, seen, silent)
        return Domain(router, host, copy.state)

    def copies(self, host: str, routers: Collection[str]) -> list[str]:
        return [copy.name for copy in self._list(host) if any(map(copy.is_of, routers))]

    def check(self, router: str, to: str) -> None:
        """The destination must have what the domain needs."""
        source = self._refuse_leftovers(router)
        try:
            wanted = xl_output.config(self._dom0(source).output("xl", "list", "-l", router))
            bridges = {name for full in wanted.bridges for name in (full, _switch(full))}
            paths = [f"/sys/class/net/{bridge}" for bridge in sorted(bridges)]
            paths += [os.path.join(SCRIPTS, script) for script in wanted.scripts]
            facts = at_once(partial(self._facts, paths=paths), (source, to))
        except xl_output.OutputError as error:
            raise HypervisorError(str(error)) from None
        for problem in _problems(source, to, wanted, facts[source], facts[to]):
            raise HypervisorError(problem, "refused")
        self._check_way(source, to)

    def migrate(self, router: str, to: str) -> Job:
        source, domain = _running(router, *self._find(router))
        if source == to:
            raise HypervisorError(f"{router} is on {to} already", "already-there")
        dom0 = self._dom0(source)
        login, memory_mib = self._specs[to].login, domain.memory_mib
        move = _XlMove(router, source, to, login=login, memory_mib=memory_mib)
        move.advance(JobState.PRECOPY)
        move.heard_at = time.monotonic()
        with self._lock:
            self._moves[router] = move
        self._dom0(to).ask("watch", domain=router)
        receiver = self._receiver(source, to, "xl migrate-receive")
        self.claim.check()
        dom0.ask("migrate", domain=router, domid=domain.domid, receiver=receiver)
        return self.job(router)

    def job(self, id: str) -> Job:
        move = self._moves[id]
        with self._lock:
            move.tick()
        # Without the lock: an answer could not come while an event waits for it.
        self._notice_end(move)
        self._notice_paused(move)
        limit_s = READY_S if move.sent else STALL_S
        if move.under_way and time.monotonic() > move.heard_at + limit_s:
            move.given_up = f"nothing got to {move.to} for {limit_s:g} s"
            self._dom0(move.source).ask("end", SETTLE_S)
        return move.job()

    def unpause(self, router: str) -> None:
        move = self._moves.get(router)
        if move is not None and move.state is JobState.MOVED_PAUSED:
            if not move.went:
                self._go(move)
            return
        host, copy = self._find(router)
        if copy.state == "paused":
            self.claim.check()
            self._dom0(host).output("xl", "unpause", str(copy.domid))
        elif copy.state != "running":
            raise HypervisorError(f"{router} on {host} is {copy.state}, not paused")

    def abort(self, router: str, own: bool = False) -> GivenUp:
        move = self._moves.get(router)
        if own and move is None:
            raise HypervisorError(f"{router} is not being migrated from here", "no-migration")
        if move is not None and move.state is JobState.RUNNING:
            raise HypervisorError(f"{router} runs on {move.to} already", "too-late")
        did = self._end_migrations(router, move)
        settled = self._settle(router)
        if move is not None:
            with self._lock:
                if move.state is not JobState.FAILED:
                    move.detail = "given up"
                    move.advance(JobState.FAILED)
            if settled.host == move.to and move.went:
                raise HypervisorError(f"{router} runs on {move.to} already", "too-late")
        elif not did and not settled.steps:
            raise HypervisorError(f"{router} is not being migrated", "no-migration")
        return GivenUp((*did, *map(str, settled.steps)), settled.left)

    def close(self) -> None:
        at_once(self._forget, self._dom0s, most=len(self._dom0s))

    def _may(self) -> None:
        self.claim.check()

    # --- Domain 0s ----------------------------------------------------------------------------

    def _dom0(self, host: str) -> Dom0:
        if host not in self._specs:
            raise HypervisorError(
                f"{host} has no hypervisor of the kind xl: a VM cannot move between kinds"
            )
        with self._lock:
            found = self._dom0s.get(host)
            if found is None or found.lost:
                found = self._dom0s[host] = Dom0(host, self._specs[host], self._heard)
            return found

    def _list(self, host: str) -> list[Listed]:
        try:
            return xl_output.domains(self._dom0(host).output("xl", "list"))
        except xl_output.OutputError as error:
            raise HypervisorError(f"{host}: {error}") from None

    def _look(
        self, anew: bool = False
    ) -> tuple[dict[str, list[Listed]], dict[str, HypervisorError]]:
        """What each host lists, and why others list nothing.

        A host that was silent before is not waited for again, but `anew`.
        """

        def ask(host: str) -> list[Listed] | HypervisorError:
            if host in self._silent and not anew:
                return self._silent[host]
            try:
                return self._list(host)
            except HypervisorError as error:
                self._forget(host)
                return error

        answers = at_once(ask, self._specs, most=len(self._specs))
        silent = {h: a for h, a in answers.items() if isinstance(a, HypervisorError)}
        self._silent = silent
        return {h: a for h, a in answers.items() if not isinstance(a, HypervisorError)}, silent

    def _forget(self, host: str) -> None:
        with self._lock:
            lost = self._dom0s.pop(host, None)
        if lost is not None:
            lost.close()

    def _find(self, router: str) -> tuple[str, Listed]:
        return xl_settle.whereabouts(router, *self._look())

    # --- before a migration -------------------------------------------------------------------

    def _refuse_leftovers(self, router: str) -> str:
        """The host where the router runs; of its last migration nothing may be left.  That one's
        copy at its source goes a moment after the router runs."""
        deadline = time.monotonic() + LEFT_S
        while True:
            seen, silent = self._look()
            source, _ = _running(router, *xl_settle.whereabouts(router, seen, silent))
            left = [
                (host, copy.name)
                for host, listed in seen.items()
                for copy in listed
                if copy.is_of(router) and copy.name != router
            ]
            if not left:
                return source
            if time.monotonic() > deadline:
                host, name = left[0]
                raise HypervisorError(
                    f"{host} has {name} from a migration that was interrupted: "
                    f"run `xenflow recover {router}` first",
                    "refused",
                )
            time.sleep(0.5)

    def _facts(self, host: str, paths: list[str]) -> _HostFacts:
        dom0 = self._dom0(host)
        info = xl_output.info(dom0.output("xl", "info"))
        found = dom0.ask("look", paths=paths, folders=list(STATE_FOLDERS))
        return _HostFacts(info, frozenset(found["there"]), dict(found["free"]))

    def _receiver(self, source: str, to: str, command: str) -> str:
        """The shell command that runs another at the destination, from the source."""
        spec = self._specs[to]
        if not spec.host:
            raise HypervisorError(
                f"{source} cannot reach {to}: its hypervisor is named xl:, which is only this "
                "machine's own; name it xl:ssh://HOST",
                "refused",
            )
        if spec.transport:
            return f"{spec.transport} {shlex.quote(spec.host)} {command}"
        words = [*ssh(SHARED_THERE), "-T", "-p", str(spec.port), spec.login]
        return f"{shlex.join(words)} {command}"

    def _check_way(self, source: str, to: str) -> None:
        """From the source's Domain 0 to the destination's; a transport of one's own is not tried,
        since it may lead to nothing but a receiver."""
        command = self._receiver(source, to, "true")
        if self._specs[to].transport:
            return
        done = self._dom0(source).run("sh", "-c", command)
        if done["status"]:
            login = self._specs[to].login
            said = done["err"].strip()
            why = xl_output.ssh_problem(said, login) or said or f"status {done['status']}"
            raise HypervisorError(
                f"Domain 0 of {source} cannot log in to {login} ({to}): {why}", "refused"
            )

    # --- events -------------------------------------------------------------------------------

    def _heard(self, event: dict[str, Any]) -> None:
        with self._lock:
            for move in self._moves.values():
                if move.state is not JobState.FAILED and event["host"] in (move.source, move.to):
                    move.heard(event)

    def _notice_end(self, move: _XlMove) -> None:
        """Whether it has failed; after `go` only a look can tell."""
        if move.state in (JobState.RUNNING, JobState.FAILED) or move.succeeded_at is not None:
            return
        if move.source_lost:
            move.given_up = f"the connection to Domain 0 of {move.source} was lost"
        elif not move.ended:
            return
        move.detail = move.given_up or xl_output.reason(move.lines, move.login)
        if not move.went:
            move.advance(JobState.FAILED)
            return
        if move.source_lost:
            self._end_migrations(move.router, move)  # what is seen after it stays so
        self._look_who_has_it(move)

    def _look_who_has_it(self, move: _XlMove) -> None:
        """No xl at the source tells what came of it.  Its copy there is left alone where the
        destination has the domain: should that one fail to start, `recover` still has it."""
        seen, silent = self._look(anew=True)
        host, copy = xl_settle.whereabouts(move.router, seen, silent)
        if host == move.to and copy.name == move.router:
            if copy.state == "paused":
                self.claim.check()
                self._dom0(host).output("xl", "unpause", str(copy.domid))
            move.left = _left(move.router, copy, seen, silent)
        elif self._settle(move.router).host != move.to:
            with self._lock:
                move.advance(JobState.FAILED)
            return
        with self._lock:
            move.went = True
            move.succeeded_at = time.monotonic()

    def _notice_paused(self, move: _XlMove) -> None:
        """A transport may have its receivers leave domains paused (`xl migrate-receive -p`)."""
        if move.succeeded_at is None or move.looked or move.state is JobState.RUNNING:
            return
        if time.monotonic() > move.heard_at + LOOK_S:
            move.looked = True
            for copy in self._list(move.to):
                if copy.name == move.router and copy.state == "paused":
                    self.claim.check()
                    self._dom0(move.to).output("xl", "unpause", str(copy.domid))

    def _go(self, move: _XlMove) -> None:
        """Let the destination have the domain; where that is too late, the source keeps it.  Where
        the answer is lost, it may have been heard."""
        self.claim.check()
        try:
            self._dom0(move.source).ask("go")
            move.went = True
        except HypervisorError as error:
            self._end_migrations(move.router, move)
            move.detail = move.given_up or str(error)
            self._look_who_has_it(move)

    # --- putting back -------------------------------------------------------------------------

    def _end_migrations(self, router: str, move: _XlMove | None) -> list[str]:
        """End every migration of a domain, wherever it was begun; returns which there were."""
        if move is not None and not move.ended and not move.source_lost:
            self._dom0(move.source).ask("end", SETTLE_S)
        found = []
        for host in self._specs:
            self.claim.check()
            try:
                if self._dom0(host).ask("sweep", SETTLE_S, domain=router)["ended"]:
                    found.append(f"ended an xl migrate of {router} on {host}")
            except HypervisorError:
                self._forget(host)  # it is silent: what that means is decided by `settle`
        return found

    def _settle(self, router: str) -> xl_settle.XlSettlement:
        """Have the domain run at exactly one host, and nothing of it elsewhere."""
        settled = xl_settle.settle(router, *self._look(anew=True))
        for step in settled.steps:
            self._take(step)
        return settled

    def _take(self, step: SettleStep) -> None:
        self.claim.check()
        dom0, domid = self._dom0(step.host), step.copy.domid
        match step.do:
            case Settling.DESTROY:
                self._destroy(step.host, step.copy)
            case Settling.RENAME:
                dom0.output("xl", "rename", str(domid), step.domain)
            case Settling.RESUME:
                dom0.ask("resume", domid=domid)
            case Settling.UNPAUSE:
                dom0.output("xl", "unpause", str(domid))

    def _destroy(self, host: str, copy: Listed) -> None:
        """A receiver whose sender is gone destroys its copy by itself, if it lives and hears of
        it; where it is the only one there, and no other domain has begun to arrive while it was
        waited for, it is this copy's.  A copy that has another name by now
        is another's business: it may have become the router."""
        dom0 = self._dom0(host)
        incoming = [d for d in self._list(host) if d.name.endswith(INCOMING)]
        if [d.domid for d in incoming] == [copy.domid]:
            dom0.ask("sweep_receivers", SETTLE_S, domid=copy.domid, patience_s=RECEIVER_S)
        names = [d.name for d in self._list(host) if d.domid == copy.domid]
        if not names:
            return
        if names != [copy.name]:
            raise HypervisorError(
                f"{host}: {copy.name} has become {names[0]}: it is being moved; look again later",
                "unclear",
            )
        done = dom0.run("xl", "destroy", str(copy.domid))
        if any(d.domid == copy.domid and d.state != "dying" for d in self._list(host)):
            raise HypervisorError(f"{host}: xl destroy {copy.name}: {done['err'].strip()}")


def _left(
    router: str, own: Listed, seen: Mapping[str, list[Listed]], silent: Iterable[str]
) -> tuple[str, ...]:
    """What there is, or may be, of a domain beside its own copy."""
    copies = [(h, copy) for h, listed in seen.items() for copy in listed if copy.is_of(router)]
    return (
        *(f"{host} still has {copy.name}" for host, copy in copies if copy is not own),
        *may_be_left(silent),
    )


@dataclass(frozen=True, slots=True)
class _HostFacts:
    """Of one host."""

    info: Info
    there: frozenset[str]
    free: dict[str, int]


def _running(router: str, host: str, copy: Listed) -> tuple[str, Listed]:
    """A router's copy that may be moved."""
    if copy.name != router or copy.state != "running":
        raise HypervisorError(
            f"{copy.name} on {host} is {copy.state}, not running; if a migration was "
            f"interrupted, run `xenflow recover {router}`",
            "refused",
        )
    return host, copy


def _switch(bridge: str) -> str:
    """Of a vif's `bridge` BRIDGE.VLAN or BRIDGE:TRUNK, as Open vSwitch's scripts take it."""
    return re.split("[.:]", bridge)[0]


def _problems(
    source: str, to: str, wanted: Config, here: _HostFacts, there: _HostFacts
) -> list[str]:
    """Why a destination cannot take a domain."""
    found = []
    if there.info.version < here.info.version:
        found.append(
            f"{to} runs Xen {there.info.release}, older than {source}'s {here.info.release}: "
            "a domain moves to the same or a newer Xen only"
        )
    need = wanted.memory_mib + OVERHEAD_MIB
    if not there.info.balloons and there.info.free_mib < need:
        found.append(
            f"{to} has too little memory: {there.info.free_mib} MiB free, {need} MiB needed"
        )
    for path in sorted(here.there - there.there):
        folder, _, name = path.rpartition("/")
        kind = "hotplug script" if folder == SCRIPTS else "bridge"
        found.append(f"{to} has no {kind} {name}, which the domain uses on {source}")
    found += [
        f"{to}: {folder} is full: {free // 1024} KiB free"
        for folder, free in there.free.items()
        if free < NEEDED_BYTES
    ]
    return found
