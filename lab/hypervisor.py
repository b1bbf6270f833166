"""The lab's emulated hypervisor: moves routers between hosts as Xen moves domains.

One daemon in the lab's own namespace answers JSON requests (`docs/lab.md`) from the management
entity and carries each migration out in a thread.  A router is a namespace, so nothing is copied:
what is emulated is what a live migration does to everyone else, which is when the router runs, when
its interfaces exist on which host, and when packets reach it.  Every reply says `emulated`.

    precopy       the router runs at the source; nothing is interrupted
    suspended     its host's controller is told; its processes are stopped, then its wires cut: a
                  namespace's kernel would forward on.  Meanwhile its ports go from the source's
                  switch and come at the destination's
    moved_paused  plugged in at the destination, still cut and stopped, until `unpause`: up to here
                  `abort` brings it back
    running       wires joined, processes continued, one gratuitous ARP for each address
    failed        it runs at the source as before

What a stopped namespace still does: its clock goes on, and its kernel's timers run.  So its
neighbour entries are made permanent while it is suspended: one that had to be probed would fail
while the wires are cut.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import zmq

from lab import flows, made, switch, vms, wire
from lab.description import FABRIC, PREFIX, Lab, load_lab
from lab.namespace import LabError, inside, ip, processes_in
from lab.state import (
    CHANGING,
    NETWORK_FILE,
    LabOptions,
    read_domains,
    read_state,
    write_domains,
)
from mgmt.client import AskError, Client
from mgmt.hypervisor import HypervisorError
from mgmt.hypervisor import vm as vm_json
from mgmt.hypervisor.vm import RouterVm
from xenflow.model.network import Router

log = logging.getLogger("lab.hypervisor")

PRECOPY, SUSPENDED, MOVED_PAUSED = "precopy", "suspended", "moved_paused"
RUNNING, FAILED, PAUSED = "running", "failed", "paused"
NEXT = {
    PRECOPY: (SUSPENDED, FAILED),
    SUSPENDED: (MOVED_PAUSED, FAILED),
    MOVED_PAUSED: (RUNNING, FAILED),
}
"""Which state of a migration may follow which."""
MAX_REQUEST = 65536
HANDSHAKE_MS = 2000
THAW_S = 0.05
"""A guest's devices are back before its processes are thawed, and its monotonic clock stood still
while it was suspended.  Ours goes on: what has waited for the router must be there first, or its
daemons' timers would run out before they look at their sockets."""
SAY_S = 1.0
"""A controller that does not answer within so long is not waited for."""
LONG_S = 1.0
"""From this on something has waited on every link that has a neighbour with hellos (1 s, mostly),
or comes within as much again: a router that was suspended so long is thawed when it is there."""


class RequestRefusedError(Exception):
    """The request cannot be carried out; nothing was changed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _GaveUpError(Exception):
    """This migration ends at the source."""


@dataclass(slots=True)
class Settings:
    """What `set` changes.  `fail_at`: the state that the next migration fails to reach."""

    pause_s: float = 0.3
    precopy_s: float = 0.2
    resume_after_s: float = 120.0
    """As long as the gate of the `xl` driver."""
    fail_at: str | None = None


@dataclass(slots=True)
class EmulatedJob:
    """One migration.  `events` are (state, CLOCK_MONOTONIC seconds), oldest first; `owner` is who
    began it, where that was said."""

    id: str
    router: str
    source: str
    to: str
    pause_s: float | None
    """None: what is set."""
    owner: str = ""
    state: str = ""
    detail: str = ""
    events: list[tuple[str, float]] = field(default_factory=list)
    order: str = ""
    """What the operator wants of it: "unpause", "abort" or nothing."""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in (RUNNING, FAILED)

    def advance(self, state: str) -> None:
        """Note a new state and when it was reached."""
        if self.state and state not in NEXT[self.state]:
            raise RuntimeError(f"migration {self.id}: {self.state} -> {state}")
        self.state = state
        self.events.append((state, time.monotonic()))

    def suspended_s(self) -> float | None:
        """How long the router has run nowhere."""
        begun = next((at for state, at in self.events if state == SUSPENDED), None)
        if begun is None:
            return None
        return (self.events[-1][1] if self.over else time.monotonic()) - begun

    def as_json(self) -> dict[str, Any]:
        """As replies carry it."""
        return {
            "id": self.id,
            "router": self.router,
            "from": self.source,
            "to": self.to,
            "state": self.state,
            "detail": self.detail,
            "suspended_s": self.suspended_s(),
            "events": [{"state": s, "monotonic_s": at} for s, at in self.events],
        }


FROZEN, THAWED = "98", "kernel"
"""The neighbour entries' protocols: who has made them what they are (NDA_PROTOCOL)."""


def freeze_neighbours(namespace: str) -> None:
    """Let no entry of a namespace age that has a MAC address: a suspended guest's clock stands."""
    _turn_neighbours(namespace, "permanent", FROZEN, lambda e: "PERMANENT" not in e["state"])


def thaw_neighbours(namespace: str) -> None:
    """Let the frozen ones age from now on."""
    _turn_neighbours(namespace, "reachable", THAWED, lambda e: e.get("protocol") == FROZEN)


def _turn_neighbours(
    namespace: str, state: str, protocol: str, which: Callable[[dict[str, Any]], bool]
) -> None:
    with inside(namespace):
        shown = subprocess.run(
            ["ip", "-N", "-j", "neigh", "show"], capture_output=True, text=True, check=False
        ).stdout
    entries = [e for e in json.loads(shown or "[]") if e.get("lladdr") and which(e)]
    ip(
        (
            f"neigh change {e['dst']} lladdr {e['lladdr']} dev {e['dev']} "
            f"nud {state} protocol {protocol}"
            for e in entries
        ),
        namespace,
        force=True,  # one may have gone meanwhile
    )


# --- what is done to a router --------------------------------------------------------------------


class RouterNamespaces:
    """The router namespaces of one lab and where they are."""

    def __init__(self, lab: Lab, options: LabOptions) -> None:
        self.lab = lab
        self._options = options
        self.domains = read_domains()
        self._fixed_flows = not options.controllers
        self._lock = threading.Lock()
        self._stopped: dict[str, float] = {}

    def router(self, name: str) -> Router:
        """One router by name."""
        if name not in self.lab.network.routers or name not in self.domains:
            raise RequestRefusedError("unknown-router", f"{name}: no such router")
        return self.lab.network.routers[name]

    def read_anew(self) -> None:
        """The network file has changed: routers that are new run at home, those that are gone are
        forgotten."""
        with self._lock:
            made.erase_all()
            self.lab = load_lab(NETWORK_FILE)
            self.domains = {
                name: self.domains.get(name, {"host": router.home, "state": RUNNING})
                for name, router in self.lab.routers.items()
            }
            write_domains(self.domains)

    def vm(self, name: str) -> RouterVm | None:
        """What a router's VM is made of; None where there is none of that name."""
        if name not in self.lab.network.routers:
            return None
        return self.lab.made.get(name) or made.of_file(self.lab, name)

    def keep(self, name: str, vm: RouterVm | None) -> None:
        """Keep what a router's VM is made of, or that there is none; one that runs gets its
        addresses."""
        with self._lock:
            before, in_file = self.lab, load_lab(NETWORK_FILE)
            kept = {**made.read(), name: vm}
            after = made.with_made(in_file, kept)
            if vm is not None and name in self.domains:
                vms.readdress(before, after, name, self._options)
            if vm is None and name not in in_file.network.routers:
                made.erase(name)
            else:
                made.write(name, vm)
            self.lab = after

    def create(self, name: str, host: str) -> None:
        """Make a router's namespace at a host, and let it run."""
        vms.create(self.lab, name, host, self._options)
        self.note(self.lab.network.routers[name], host, RUNNING)

    def end(self, name: str) -> None:
        """Take a router's namespace away."""
        host = self.domains[name]["host"]
        vms.end(self.lab, name, host, self._options)
        with self._lock:
            del self.domains[name]
            write_domains(self.domains)

    def note(self, router: Router, host: str, state: str) -> None:
        """Write down where a router is; what is written outlives this daemon."""
        with self._lock:
            self.domains[router.name] = {"host": host, "state": state}
            write_domains(self.domains)

    def suspend(self, router: Router, host: str) -> None:
        """Stop a router's processes, then cut its wires; its host's controller knows before, as
        Domain 0 does by xenstore."""
        self._say(router, host, suspended=True)
        stop_all(PREFIX + router.name)
        self._stopped[router.name] = time.monotonic()
        freeze_neighbours(PREFIX + router.name)
        wire.cut(self.lab, router, host)

    def resume(self, router: Router, host: str, *, announce: bool) -> None:
        """Join a router's wires, then let its processes go on."""
        before = wire.heard(router)
        # The controller gives none of its vifs anything until all of its wires are joined.
        told = self._say(router, host, suspended=True)
        # Before anything comes: a station may say its new MAC address.
        thaw_neighbours(PREFIX + router.name)
        wire.join(self.lab, router, host)
        if told:
            self._say(router, host, suspended=False)
        time.sleep(THAW_S)
        if time.monotonic() - self._stopped.pop(router.name, 0.0) > LONG_S:
            self._await_held(router, before)
        continue_all(PREFIX + router.name)
        if announce:
            wire.announce(self.lab, router)

    def _say(self, router: Router, host: str, *, suspended: bool) -> bool:
        """Tell a host's controller; False where it does not answer, and carrier tells it."""
        if self._fixed_flows:
            return False
        network = self.lab.network
        controller = network.controllers[network.datapaths[host].controller]
        try:
            with Client(controller.manage, controller.name, SAY_S) as client:
                client.request("suspending", router=router.name, datapath=host, suspended=suspended)
        except AskError as error:
            log.warning("%s: %s is not told: %s", router.name, host, error)
            return False
        return True

    def _await_held(self, router: Router, before: dict[str, int]) -> None:
        """Wait until each of a router's links has brought something, and all that had waited is
        there (no more comes), LONG_S at most."""
        end = time.monotonic() + LONG_S
        last = before
        while time.monotonic() < end:
            now = wire.heard(router)
            if now == last and all(count > before[name] for name, count in now.items()):
                return
            last = now
            time.sleep(THAW_S)

    def move_ports(self, router: Router, source: str, to: str) -> None:
        """Unplug a router at one host and plug it in at another; both switches are done then."""
        removing = wire.unplug(self.lab, router, source)
        adding = wire.plug(self.lab, router, to)
        switch.finish([removing, adding])
        if self._fixed_flows:
            for host in (source, to):
                flows.install(self.lab, host, self._plugged_at(host))

    def bring_back(self, router: Router, host: str, *, moved: bool) -> None:
        """Let a suspended router run on at a host; `moved` where its ports may be elsewhere, or
        half anywhere.  It can be tried again after it failed."""
        if moved:
            for other in wire.plugged(self.lab, router):
                wire.cut(self.lab, router, other)
                switch.finish([wire.unplug(self.lab, router, other)])
            switch.finish([wire.plug(self.lab, router, host)])
            if self._fixed_flows:
                for datapath in self.lab.hosts:
                    flows.install(self.lab, datapath, self._plugged_at(datapath))
        else:
            wire.cut(self.lab, router, host)
        self.resume(router, host, announce=moved)
        self.note(router, host, RUNNING)

    def _plugged_at(self, host: str) -> list[str]:
        routers = self.lab.network.routers.values()
        return [r.name for r in routers if host in wire.plugged(self.lab, r)]

    def recover(self) -> None:
        """After a restart: believe what is plugged in, finish what was begun.

        A router left at its destination stays paused there until someone decides; one left in the
        middle runs on at the source.
        """
        _await_orphans()
        for name, domain in list(self.domains.items()):
            if domain["state"] in (RUNNING, PAUSED):
                continue
            router, host = self.router(name), domain["host"]
            log.info("%s was %s: it runs on at %s", name, domain["state"], host)
            self.bring_back(router, host, moved=True)


def _await_orphans(limit_s: float = 20.0) -> None:
    """Wait for the tools of a daemon that was killed: what it had begun would be carried out in
    the middle of what we do."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        running = [p for n in (PREFIX + "lab", FABRIC) for p in processes_in(n)]
        if not any(_program(pid) in _TOOLS for pid in running):
            return
        time.sleep(0.02)
    log.warning("tools of an earlier daemon still run")


_TOOLS = ("ovs-vsctl", "ovs-ofctl", "ip", "tc")


def _program(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def stop_all(namespace: str) -> None:
    """Stop every process of a namespace, also those started meanwhile."""
    done: set[int] = set()
    while new := set(processes_in(namespace)) - done:
        _signal(new, signal.SIGSTOP)
        done |= new


def continue_all(namespace: str) -> None:
    """Let the processes of a namespace go on; what is stopped cannot start others meanwhile."""
    _signal(processes_in(namespace), signal.SIGCONT)


def _signal(processes: Iterable[int], number: signal.Signals) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


# --- migrations ----------------------------------------------------------------------------------


class EmulatedHypervisor:
    """Answers requests; each migration is a thread that obeys `EmulatedJob.order`."""

    def __init__(self, routers: RouterNamespaces, settings: Settings) -> None:
        self._routers = routers
        self._settings = settings
        self._jobs: dict[str, EmulatedJob] = {}
        self._gave_up: set[str] = set()
        """Owners that gave their migration up: what they asked for before comes too late."""
        self._changed = threading.Condition()
        self._verbs: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "hosts": self._hosts,
            "domains": self._list_domains,
            "migrate": self._migrate,
            "job": self._job,
            "jobs": self._list_jobs,
            "unpause": self._unpause,
            "pause": self._pause,
            "abort": self._abort,
            "set": self._set,
            "reload": self._reload,
            "keep": self._keep,
            "kept": self._kept,
            "addresses": self._addresses,
            "create": self._create,
            "stop": self._stop,
            "forget": self._forget,
        }

    def answer(self, request: bytes) -> dict[str, Any]:
        """One request in, one reply out; never raises."""
        try:
            asked = json.loads(request)
            if not isinstance(asked, dict):
                raise RequestRefusedError("bad-request", "expected a JSON object")
            verb = self._verbs.get(asked.get("verb", ""))
            if verb is None:
                known = ", ".join(self._verbs)
                raise RequestRefusedError(
                    "unknown-verb", f"verb {asked.get('verb')!r}: one of {known}"
                )
            return {"ok": True, "emulated": True, **verb(asked)}
        except RequestRefusedError as error:
            return _refusal(error.code, str(error))
        except ValueError as error:
            return _refusal("bad-request", str(error))
        except Exception as error:  # a reply in every case: the other side waits for it
            log.exception("request %r", request[:200])
            return _refusal("failed", repr(error))

    # verbs

    def _hosts(self, _: dict[str, Any]) -> dict[str, Any]:
        domains = self._routers.domains
        return {
            "hosts": [
                {"host": h, "routers": [r for r, d in domains.items() if d["host"] == h]}
                for h in self._routers.lab.hosts
            ]
        }

    def _list_domains(self, _: dict[str, Any]) -> dict[str, Any]:
        domains = self._routers.domains.items()
        return {"domains": [{"router": r, **d} for r, d in domains]}

    def _list_jobs(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"jobs": [j.as_json() for j in self._jobs.values()]}

    def _job(self, asked: dict[str, Any]) -> dict[str, Any]:
        job = self._jobs.get(str(asked.get("id")))
        if job is None:
            raise RequestRefusedError("unknown-job", f"{asked.get('id')}: no such migration")
        return {"job": job.as_json()}

    def _migrate(self, asked: dict[str, Any]) -> dict[str, Any]:
        router = self._routers.router(str(asked.get("router")))
        to = str(asked.get("to"))
        domain = self._routers.domains[router.name]
        if to not in self._routers.lab.network.hosts:
            raise RequestRefusedError("unknown-host", f"{to}: no such host")
        if self._active(router.name):
            raise RequestRefusedError("busy", f"{router.name} is being migrated already")
        if domain["host"] == to:
            raise RequestRefusedError("already-there", f"{router.name} runs on {to} already")
        if domain["state"] != RUNNING:
            raise RequestRefusedError(
                "not-running", f"{router.name} is {domain['state']}, not running"
            )
        if (state := read_state()) is not None and state.phase == CHANGING:
            raise RequestRefusedError("busy", "the lab is being changed (`xenflow lab reload`)")
        owner = str(asked.get("owner", ""))
        if owner in self._gave_up:
            raise RequestRefusedError("given-up", f"{owner} has given this up")
        pause_s = _seconds(asked, "pause_s", 0.0) if "pause_s" in asked else None
        job = EmulatedJob(str(len(self._jobs) + 1), router.name, domain["host"], to, pause_s, owner)
        job.advance(PRECOPY)
        self._jobs[job.id] = job
        threading.Thread(target=self._carry_out, args=(job, router), daemon=True).start()
        return {"job": job.as_json()}

    def _unpause(self, asked: dict[str, Any]) -> dict[str, Any]:
        router = self._routers.router(str(asked.get("router")))
        job = self._active(router.name)
        if job is None:
            domain = self._routers.domains[router.name]
            if domain["state"] != PAUSED:
                raise RequestRefusedError("not-paused", f"{router.name} is {domain['state']}")
            # a daemon that was killed may have joined the wires already
            wire.cut(self._routers.lab, router, domain["host"])
            self._routers.resume(router, domain["host"], announce=False)
            self._routers.note(router, domain["host"], RUNNING)
            return {}
        self._refuse_others(job, asked)
        if job.state != MOVED_PAUSED:
            raise RequestRefusedError(
                "not-paused", f"{router.name} has not arrived at {job.to} yet: {job.state}"
            )
        if self._settings.fail_at == RUNNING:
            self._settings.fail_at = None
            raise RequestRefusedError(
                "failed", f"{router.name} did not start at {job.to} (fail_at)"
            )
        return self._order(job, "unpause")

    def _abort(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Without an owner everybody's; else that owner's, and it begins none any more."""
        router = self._routers.router(str(asked.get("router")))
        if owner := str(asked.get("owner", "")):
            self._gave_up.add(owner)
        job = self._active(router.name)
        if job is None:
            raise RequestRefusedError("no-migration", f"{router.name} is not being migrated")
        self._refuse_others(job, asked)
        return self._order(job, "abort")

    def _pause(self, asked: dict[str, Any]) -> dict[str, Any]:
        router = self._routers.router(str(asked.get("router")))
        domain = self._routers.domains[router.name]
        if self._active(router.name) or domain["state"] != RUNNING:
            raise RequestRefusedError(
                "busy", f"{router.name} is {domain['state']} or being migrated"
            )
        self._routers.suspend(router, domain["host"])
        self._routers.note(router, domain["host"], PAUSED)
        return {}

    def _set(self, asked: dict[str, Any]) -> dict[str, Any]:
        now = asdict(self._settings)
        times = (key for key in now if key != "fail_at")
        new = Settings(
            **{key: _seconds(asked, key, now[key]) for key in times},
            fail_at=asked.get("fail_at", now["fail_at"]),
        )
        known = (None, *NEXT, RUNNING)
        if new.fail_at not in known:
            raise RequestRefusedError("bad-request", f"fail_at: expected one of {known}")
        with self._changed:
            self._settings = new
            self._changed.notify_all()
        return {"settings": asdict(new)}

    def _reload(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Refused while a router is not simply running; with `dry_run` nothing else happens."""
        for router, domain in self._routers.domains.items():
            if self._active(router) or domain["state"] != RUNNING:
                state = "being migrated" if self._active(router) else domain["state"]
                raise RequestRefusedError("busy", f"{router} is {state}")
        for router in self._routers.lab.routers.keys() - self._routers.domains.keys():
            raise RequestRefusedError("busy", f"{router} is stopped: start or destroy it first")
        if not asked.get("dry_run"):
            self._routers.read_anew()
        return {}

    # routers come and go

    def _keep(self, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            vm = vm_json.from_json(asked.get("vm"))
        except HypervisorError as error:
            raise RequestRefusedError("bad-request", str(error)) from None
        name, before = vm.router.name, self._routers.vm(vm.router.name)
        runs = name in self._routers.domains
        if runs and before is not None and before.router.interfaces != vm.router.interfaces:
            raise RequestRefusedError("running", f"{name} runs, with other interfaces: stop it")
        self._refuse_while_changing(name)
        self._do(f"{name} is not kept", lambda: self._routers.keep(name, vm))
        return {}

    def _kept(self, asked: dict[str, Any]) -> dict[str, Any]:
        vm = self._routers.vm(str(asked.get("router")))
        return {"vm": None if vm is None else vm_json.to_json(vm)}

    def _addresses(self, _: dict[str, Any]) -> dict[str, Any]:
        lab = self._routers.lab
        members = [
            [node, name, link, str(address)]
            for link in lab.network.links
            for node, name, address in lab.everybody(link)
        ]
        return {"members": members, "reserved": {"the management network": str(lab.subnet)}}

    def _create(self, asked: dict[str, Any]) -> dict[str, Any]:
        name, host = str(asked.get("router")), str(asked.get("host"))
        if self._routers.vm(name) is None:
            raise RequestRefusedError("unknown-router", f"{name}: nothing is kept of it")
        if host not in self._routers.lab.network.hosts:
            raise RequestRefusedError("unknown-host", f"{host}: no such host")
        if domain := self._routers.domains.get(name):
            where = f"{name} is on {domain['host']} already, {domain['state']}"
            raise RequestRefusedError("already-there", where)
        self._refuse_while_changing(name)
        self._do(f"{name} is not made", lambda: self._routers.create(name, host))
        return {}

    def _stop(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = str(asked.get("router"))
        if name in self._routers.domains:
            self._refuse_while_changing(name)
            self._do(f"{name} is not ended", lambda: self._routers.end(name))
        return {}

    def _forget(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = str(asked.get("router"))
        if name in self._routers.domains:
            raise RequestRefusedError("running", f"{name} runs: stop it first")
        if self._routers.vm(name) is not None:
            self._refuse_while_changing(name)
            self._do(f"{name} is not forgotten", lambda: self._routers.keep(name, None))
        return {}

    def _refuse_while_changing(self, router: str) -> None:
        if self._active(router):
            raise RequestRefusedError("busy", f"{router} is being migrated")
        if (state := read_state()) is not None and state.phase == CHANGING:
            raise RequestRefusedError("busy", "the lab is being changed (`xenflow lab reload`)")

    def _do(self, not_done: str, do: Callable[[], None]) -> None:
        try:
            do()
        except (LabError, OSError, subprocess.SubprocessError) as error:
            raise RequestRefusedError("failed", f"{not_done}: {error}") from None

    # one migration

    def _active(self, router: str) -> EmulatedJob | None:
        jobs = self._jobs.values()
        return next((j for j in jobs if j.router == router and not j.over), None)

    def _refuse_others(self, job: EmulatedJob, asked: dict[str, Any]) -> None:
        """A job that was begun in somebody's name is not for another, who names itself."""
        owner = asked.get("owner", "")
        if owner and job.owner and owner != job.owner:
            raise RequestRefusedError("not-yours", f"{job.router} is being migrated by {job.owner}")

    def _order(self, job: EmulatedJob, order: str) -> dict[str, Any]:
        """Tell a migration what is wanted and wait until it has happened."""
        with self._changed:
            job.order = order
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: job.over, timeout=8):
                raise RequestRefusedError(
                    "late", f"{job.router}: {order} is still being carried out"
                )
        if order == "unpause" and job.state != RUNNING:
            raise RequestRefusedError("failed", f"{job.router}: {job.detail}")
        if order == "abort" and job.state != FAILED:
            raise RequestRefusedError("too-late", f"{job.router} runs at {job.to} already")
        return {"job": job.as_json()}

    def _await(self, job: EmulatedJob, wait_s: Callable[[], float], order: str = "") -> None:
        """Wait so long after the job's last event, or for an order; "abort" always counts.  What is
        set meanwhile holds for it, too."""
        begun = job.events[-1][1]
        with self._changed:
            while (left_s := begun + wait_s() - time.monotonic()) > 0:
                if job.order in ("abort", order or "abort"):
                    break
                self._changed.wait(left_s)
        if job.order == "abort":
            raise _GaveUpError("aborted")

    def _reach(self, job: EmulatedJob, state: str, do: Callable[[], None]) -> None:
        """Do what leads to a state, then note it."""
        self._fail_at(state)
        do()
        self._advance(job, state)

    def _fail_at(self, state: str) -> None:
        if self._settings.fail_at == state:
            self._settings.fail_at = None
            raise _GaveUpError(f"made to fail at {state}")

    def _advance(self, job: EmulatedJob, state: str) -> None:
        with self._changed:
            job.advance(state)
            self._changed.notify_all()
        log.info("migration %s: %s: %s", job.id, job.router, state)

    def _carry_out(self, job: EmulatedJob, router: Router) -> None:
        routers = self._routers
        stopped = moved = False
        try:
            self._fail_at(PRECOPY)
            self._await(job, lambda: self._settings.precopy_s)
            routers.note(router, job.source, SUSPENDED)
            stopped = True
            self._reach(job, SUSPENDED, lambda: routers.suspend(router, job.source))
            moved = True
            routers.move_ports(router, job.source, job.to)
            self._await(job, lambda: self._settings.pause_s if job.pause_s is None else job.pause_s)
            self._reach(job, MOVED_PAUSED, lambda: routers.note(router, job.to, PAUSED))
            self._await(job, lambda: self._settings.resume_after_s, "unpause")
            # From here on there is no way back: the router runs at the destination.
            routers.resume(router, job.to, announce=True)
            routers.note(router, job.to, RUNNING)
            self._advance(job, RUNNING)
        except (_GaveUpError, LabError, OSError) as error:
            log.warning("migration %s: %s: %s", job.id, job.router, error)
            if stopped:
                self._go_back(job, router, moved=moved)
            job.detail = str(error)
            self._advance(job, FAILED)

    def _go_back(self, job: EmulatedJob, router: Router, *, moved: bool) -> None:
        """Undo what a migration has done so far; the router runs on at the source.  It is tried
        until it succeeds: what is in the way (no descriptor left, a switch that is restarted) may
        go, and nobody else lets a suspended router run."""
        for again_s in chain((0.1, 0.2, 0.5, 1.0), repeat(2.0)):
            try:
                self._routers.bring_back(router, job.source, moved=moved)
                return
            except (LabError, OSError) as error:
                reason = f"not brought back to {job.source} yet: {error}"
            if not job.detail.endswith(reason):
                job.detail = f"{router.name} is suspended, {reason}"
                log.error("migration %s: %s", job.id, job.detail)
            time.sleep(again_s)


def _seconds(asked: dict[str, Any], key: str, default: float) -> float:
    value = asked.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 600:
        raise RequestRefusedError(
            "bad-request", f"{key}: found {value!r}, expected seconds, 0 to 600"
        )
    return float(value)


def _refusal(code: str, message: str) -> dict[str, Any]:
    return {"ok": False, "emulated": True, "error": {"code": code, "message": message}}


def main() -> None:
    """Serve requests until ended."""
    parser = argparse.ArgumentParser(prog="python -m lab.hypervisor", description=__doc__)
    parser.add_argument("--pause", type=float, default=0.3, metavar="S")
    parser.add_argument("--precopy", type=float, default=0.2, metavar="S")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    state = read_state()
    lab = made.with_made(load_lab(NETWORK_FILE), made.read())
    routers = RouterNamespaces(lab, state.options if state is not None else LabOptions())
    routers.recover()
    hypervisor = EmulatedHypervisor(routers, Settings(args.pause, args.precopy))
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REP)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST)
    # A connection that says nothing, or no ZeroMQ, must not keep a descriptor: moving takes some.
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    address, port = lab.hypervisor
    socket.bind(f"tcp://{address}:{port}")
    log.info("emulated hypervisor at %s:%d", address, port)
    while True:
        request = socket.recv_multipart()
        socket.send(json.dumps(hypervisor.answer(request[0])).encode())


if __name__ == "__main__":
    main()
