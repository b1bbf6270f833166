"""Planning a migration: what will be done is made out of facts, or the reason why it cannot be.

What is done in which order is `xenflow.plan.migration`; here the facts for it are gathered, from
the controllers and from the hypervisor, and what is impossible is refused.  Nothing is changed, but
by `recovering` what the hypervisor has left of an interrupted migration.  It believes what it
observes (where the VM really is, which placements the switches really have), not the journal.

Called by the verbs `plan`, `migrate` and `recover`; `mgmt.migrate` carries a plan out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from mgmt import hypervisor
from mgmt.at_once import at_once
from mgmt.client import AskError, Unreachable, parted
from mgmt.health import Digests, other_file
from mgmt.hypervisor import Drivers, Hypervisor, HypervisorError
from mgmt.lease import RouterLease
from mgmt.session import Ask, given, placements, refuse_stopped
from xenflow.model.holding import named
from xenflow.model.network import Network, NetworkError, Router
from xenflow.model.placement import Mode, Placement
from xenflow.plan import effects as fx
from xenflow.plan import migration as mig
from xenflow.plan.migration import Order
from xenflow.tables.sessions import falls
from xenflow.tables.sessions import words as words_of

PAUSE_S = 1.0
"""How long a VM is suspended by a move, where the operator does not say (`--pause`)."""

SYNC_S = 5.0
"""For so long a switch may be busy with other changes before a migration is refused for it."""
SYNC_POLL_S = 0.1


class SilentError(NetworkError):
    """A controller that must be told does not answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a migration will do, a value.  Nothing has been changed to make it."""

    network: Network
    router: Router
    start: Placement
    to: str
    order: Order
    stages: tuple[mig.Stage, ...]
    controllers: tuple[str, ...]
    """Those of the switches concerned."""
    given: Mapping[str, Placement]
    """Where each datapath was told the router is: what it is planned from."""
    recovery: bool = False
    notes: tuple[str, ...] = ()
    """What the operator should know before."""
    pause_s: float = PAUSE_S
    """How long the VM is expected to be suspended."""
    sessions: tuple[dict[str, Any], ...] = ()
    """The router's BFD and BGP sessions, as `status` shows them."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Of the network, as each controller has it."""

    @property
    def new_mode(self) -> str:
        """In words, where the router's mode is another one afterwards; "" where it stays."""
        applied = [e for stage in self.stages for e in stage.effects if isinstance(e, fx.Apply)]
        before = self.start.mode
        after = applied[-1].placement.mode if applied else before
        return "" if after is before else f"its mode becomes {after.value}, it was {before.value}"

    @property
    def source(self) -> str:
        """The host that the VM leaves."""
        return self.start.vm

    @property
    def falling(self) -> list[str]:
        """The sessions that would fall, in words."""
        return [words_of(row) for row in self.sessions if falls(row, self.pause_s)]

    def refuse_falling(self) -> None:
        """No session may fall; NetworkError names those that would."""
        if falling := self.falling:
            raise NetworkError(
                f"{self.router.name}: its VM is expected to be suspended for {self.pause_s:g} s, "
                f"in which would fall: {'; '.join(falling)}: give them longer times, say with "
                "--pause that it is shorter, or move it all the same (--force)"
            )

    def _sessions_text(self) -> list[str]:
        falling = self.falling
        kept = ["OSPF and IS-IS (hellos are repeated)"]
        kept += [w for row in self.sessions if (w := words_of(row)) not in falling]
        lines = [f"kept over a suspension of {self.pause_s:g} s (--pause): {'; '.join(kept)}"]
        if falling:
            lines.append(f"would fall: {'; '.join(falling)}   (refused without --force)")
        return lines

    def text(self) -> str:
        """The plan, for people."""
        mode = f"; {self.new_mode}" if self.new_mode else ""
        way = f"{self.source} -> {self.to} ({self.order.value})"
        if self.recovery:
            way = f"recovery on {self.to}, where its VM is"
        lines = [f"{self.router.name}: {way}{mode}"]
        for number, stage in enumerate(self.stages, 1):
            commit = "   (commit point: before it all is undone, after it all is completed)"
            lines.append(f"{number}. {stage.title}{commit if stage.commits else ''}")
            lines += [f"     {effect.words()}" for effect in stage.effects]
        if not self.recovery:  # no VM is suspended
            lines += self._sessions_text()
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def json(self) -> dict[str, Any]:
        """The plan, for programs."""
        return {
            "router": self.router.name,
            "from": self.source,
            "to": self.to,
            "mode": self.order.value,
            "new_mode": self.new_mode,
            "pause_s": self.pause_s,
            "sessions": [{**row, "falls": falls(row, self.pause_s)} for row in self.sessions],
            "steps": [
                {
                    "name": stage.name,
                    "title": stage.title,
                    "where": list(stage.at),
                    "commits": stage.commits,
                    "effects": [e.words() for e in stage.effects],
                }
                for stage in self.stages
            ],
            "notes": list(self.notes),
        }


def plan(
    network: Network,
    router: str,
    to: str,
    mode: str,
    ask: Ask,
    drivers: Drivers,
    pause_s: float = PAUSE_S,
    *,
    known: Network | None = None,
) -> Plan:
    """The plan of a migration; `pause_s`: how long the VM is expected to be suspended (seconds);
    `known`: the network that controllers have now, where it is to become this one first.

    Raises NetworkError with the reason where it is impossible, and AskError where a controller
    that would be needed does not answer.
    """
    described = network.routers[router]
    mig.check_host(network, to)
    order = Order(mode)
    facts = _facts_in_sync(network, described, ask, (to, order), known or network)
    start = facts.placement
    if len(start.hosts) > 1:
        raise NetworkError(
            f"{router} is between {' and '.join(start.hosts)}: "
            f"a migration was interrupted; run `xenflow recover {router}` first"
        )
    mig.check(network, described, start.vm, to)
    facts.check_cables(network, described, (start.vm, to))
    stages = mig.stages(network, start, to, order, facts.placed)
    if network.datapaths[start.vm].hypervisor:
        _check_vm(drivers, router, start.vm, to)
    notes: list[str] = []
    if order is not Order.NATIVE:
        notes += facts.notes(router, pause_s)
        facts.check_known(router, start.vm)
    return Plan(
        network,
        described,
        start,
        to,
        order,
        tuple(stages),
        facts.controllers,
        facts.given,
        notes=tuple(notes),
        pause_s=pause_s,
        sessions=tuple(facts.row.get("sessions", ())),
        digests=facts.digests,
    )


def plan_recovery(network: Network, router: str, ask: Ask) -> Plan | None:
    """What would finish or undo an interrupted migration, or None where there is nothing to do.
    Raises NetworkError and AskError.

    The VM's host, as the hypervisor sees it, decides: switches follow the VM.
    """
    described = network.routers[router]
    facts = _facts(network, described, ask, everybody=True)
    here = _settled_at(network, described, facts.placement)
    return _recovery(network, described, facts, here)


@contextmanager
def recovering(
    network: Network, router: str, ask: Ask, say: Callable[[str], None]
) -> Iterator[tuple[Plan, RouterLease] | None]:
    """The same, to be carried out with the lease that comes with it.

    What the hypervisor has left of a migration is cleared up first, and said, with the lease held,
    or one that has just begun would be taken for such.
    """
    described = network.routers[router]
    facts = _facts(network, described, ask, everybody=True)
    entry = {"words": f"a recovery of {router}"}
    lease = RouterLease(
        ask, facts.controllers, router, entry, given=facts.given, digests=facts.digests
    )
    with lease:
        here = _settled_at(network, described, facts.placement, lease, say)
        made = _recovery(network, described, facts, here)
        if made is not None:
            lease.extend(made.controllers)
            lease.keep_journal_at(network.datapaths[h].controller for h in (made.source, made.to))
            yield made, lease
            return
        # Of what was left unfinished nothing is to be said any more.
        for problem in lease.give_back():
            say(f"{router}: {': '.join(problem)}")
    yield None


def _recovery(network: Network, router: Router, facts: _Facts, here: str) -> Plan | None:
    """The plan that brings the switches to the VM's host; None where they are there."""
    now = facts.placement
    if now.hosts == (here,) and not facts.uneven:
        return None
    others = [h for h in now.hosts if h != here] or [now.vm]
    start = replace(now, vm=others[0])
    stages = mig.recovery_stages(network, start, here, others, facts.placed, facts.given)
    told = (network.datapaths[name].controller for stage in stages for name in stage.at)
    return Plan(
        network,
        router,
        start,
        here,
        Order.OVERLAPPED,
        tuple(stages),
        tuple(dict.fromkeys((*facts.controllers, *told))),
        facts.given,
        recovery=True,
    )


@dataclass(slots=True)
class _Facts:
    """What the controllers answered."""

    placement: Placement
    given: dict[str, Placement]
    """The router's, by the datapath that was told."""
    placed: dict[str, Placement]
    """Where every router is, as far as these know."""
    controllers: tuple[str, ...]
    """Those of the switches concerned, which must agree to whatever is done."""
    uneven: bool
    ports: dict[str, dict[str, Any]]
    row: dict[str, Any]
    """What the controller of the VM's host says of the router; empty where it knows nothing."""
    behind: dict[str, list[str]]
    """Switches concerned that do not hold what they shall, with their problems; there may be none,
    where a switch is only busy."""
    held: list[str]
    """What of the router's, or all, waits at a controller for another move, in words."""
    digests: dict[str, str]
    """Of the network at each controller."""

    def check_cables(self, network: Network, router: Router, hosts: tuple[str, str]) -> None:
        """Every cable that the router's links need from the new place must be up."""
        for interface in router.interfaces:
            tree = network.links[interface.link].tree
            peers = {a.end.datapath for a in network.links[interface.link].access}
            for peer in sorted(peers | {hosts[0]}):
                steps = tree.path(hosts[1], peer)
                for one, other in pairwise(steps):
                    cable = tree.cable_between(one, other)
                    for end in (cable.a, cable.b):
                        port = self.ports.get(end.datapath, {}).get(end.port)
                        if port is None or not port["up"]:
                            state = "is missing" if port is None else "has no carrier"
                            raise NetworkError(
                                f"no path from {hosts[1]} to {peer} for virtual link "
                                f"{interface.link}: cable {cable.name}: port {end} {state}"
                            )

    def check_known(self, router: str, host: str) -> None:
        """The source's controller must know the router's routes."""
        if self.row.get("phase") not in ("current", "behind"):
            raise NetworkError(
                f"the controller of {host} does not know the routes of {router}: "
                "does routerd run in its VM? (`xenflow status`)"
            )

    def notes(self, router: str, pause_s: float) -> Iterator[str]:
        """What a move costs that other moves do not."""
        row, room = self.row, self.row.get("held", {})
        if row.get("slow") and "room_frames" in room and pause_s > 0:
            frames, octets = room["room_frames"], room["room_bytes"]
            yield (
                f"the packets of {router} pass through its VM ({row['slow']}): while it is "
                f"suspended {frames:,} of them are held, {octets / 1e6:g} MB at most, so that over "
                f"{pause_s:g} s nothing is lost up to {frames / pause_s:,.0f} packets/s and "
                f"{octets / pause_s / 1e6:g} MB/s, over a longer suspension less"
            )


def _facts(
    network: Network,
    router: Router,
    ask: Ask,
    goes: tuple[str, Order] | None = None,
    everybody: bool = False,
    known: Network | None = None,
) -> _Facts:
    """What the controllers of the switches concerned answer; `goes`: to which host, how.  Raises
    NetworkError, with the reason, where nothing can be planned, also as somebody migrates it.

    Who is concerned is found by asking: whoever was told of a router knows where it went from
    there.  With `everybody` all are asked, for a migration may have been interrupted anywhere; only
    those concerned must answer.
    """
    refuse_stopped(router)
    answers: dict[str, dict[str, Any] | AskError] = {}
    wanted = set(network.controllers) if everybody else {network.datapaths[router.home].controller}
    while more := sorted(wanted - answers.keys()):
        answers |= at_once(lambda controller: _answer(ask, controller, router), more)
        placed = placements(answers)
        mine = placed.get(router.name)
        if mine is None:  # its home is silent, or was told nothing
            wanted = set(network.controllers)
            datapaths: tuple[str, ...] = ()
            continue
        mode, hosts = mine.mode, {*mine.hosts, *mig.left_over(given(answers, router.name))}
        if goes is not None:
            hosts.add(goes[0])
            mode = Mode.NATIVE if goes[1] is Order.NATIVE else mode
        datapaths = mig.informed(network, router, mode, hosts, placed)
        wanted = {network.datapaths[name].controller for name in datapaths}
    told, silent = parted(answers)
    for controller, error in silent.items():
        if controller in wanted:
            raise SilentError(
                f"{error}\nEvery switch that {router.name}'s links lie on must be told of a move"
            )
    return _judge(network, router, datapaths, told, placed, known or network)


def _answer(ask: Ask, controller: str, router: Router) -> dict[str, Any] | AskError:
    try:
        return ask(controller, "status", router=router.name)
    except Unreachable as error:
        return error


def _judge(
    network: Network,
    router: Router,
    datapaths: tuple[str, ...],
    answers: Mapping[str, dict[str, Any]],
    placed: dict[str, Placement],
    known: Network,
) -> _Facts:
    ports: dict[str, dict[str, Any]] = {}
    had = given(answers, router.name)
    told = {name: had[name] for name in datapaths if name in had}
    busy: list[dict[str, Any]] = []
    behind: dict[str, list[str]] = {}
    noted: list[str] = []
    held: list[str] = []
    digests = Digests(known)
    for controller, answer in answers.items():
        held += (f"controller {controller}: {words}" for words in _held(answer, router))
        if words := other_file(digests, controller, answer):
            raise NetworkError(f"controller {controller}: {words}")
        for row in answer["datapaths"]:
            if row["name"] in datapaths and not row["connected"]:
                raise NetworkError(
                    f"{row['name']}: the switch is not connected to controller {controller}"
                )
            # What other routers go on changing says nothing about this one.
            changing = row.get("changing") or [router.name]
            late = not row.get("in_sync", True) and router.name in changing
            if row["name"] in datapaths and late:
                behind[row["name"]] = list(row.get("problems", ()))
            ports[row["name"]] = row["ports"]
        for row in answer["migrations"]:
            if row["router"] == router.name:
                noted.append(controller)
                if row["under_way"]:
                    busy.append(row)
    if not told:
        raise NetworkError(
            f"no controller knows {router.name}: do all have this network file, and were they "
            "restarted since it has the router?"
        )
    if busy:
        raise NetworkError(mig.under_way(max(busy, key=lambda row: row.get("ends_s", 0.0))))
    newest = max(told.values(), key=lambda p: p.version)
    others = [
        p for p in mig.unfinished(told).values() if replace(p, version=newest.version) != newest
    ]
    uneven = bool(others or mig.astray(network, router, newest, told))
    if others:
        hosts = sorted({h for p in (newest, *others) for h in p.hosts})
        newest = replace(newest, reaches=tuple(hosts))
    rows = answers.get(network.datapaths[newest.vm].controller, {}).get("routers", ())
    row = next((row for row in rows if row["name"] == router.name), {})
    controllers = dict.fromkeys(network.datapaths[name].controller for name in datapaths)
    controllers |= dict.fromkeys(noted)  # where a lease was left, it is to be given back
    has = {name: answer["digest"] for name, answer in answers.items() if "digest" in answer}
    return _Facts(newest, had, placed, tuple(controllers), uneven, ports, row, behind, held, has)


def _held(answer: Mapping[str, Any], router: Router) -> Iterator[str]:
    """What of a router, or of its links, waits at a controller for a move to end; or that all does:
    there it is not yet as this command knows it."""
    store = answer.get("store") or {}
    if not (held := store.get("held")):
        return
    mine = {"routers": [router.name], "links": [i.link for i in router.interfaces]}
    names = {part: {*held["names"].get(part, ())} & {*own} for part, own in mine.items()}
    if store["reached"] < store["change"]:
        names = held["names"]
    elif router.name in held["by"]:  # its own move was left, and says so better
        return
    if any(names.values()):
        yield f"{named(names)}: held by the move of {', '.join(held['by'])}"


def _facts_in_sync(
    network: Network, router: Router, ask: Ask, goes: tuple[str, Order], known: Network
) -> _Facts:
    """The same once every switch concerned holds what it shall: one that does not carries out
    nothing that it is told.  Raises NetworkError, with the reason, where one stays behind."""
    deadline = time.monotonic() + SYNC_S
    while True:
        facts = _facts(network, router, ask, goes, known=known)
        if not facts.behind and not facts.held:
            return facts
        if time.monotonic() > deadline:  # problems end it no sooner: they need not be the reason
            break
        time.sleep(SYNC_POLL_S)
    words = [
        f"{name}: the switch is not in sync: it is still catching up"
        + (f" (its problems: {'; '.join(why)})" if why else "")
        for name, why in facts.behind.items()
    ]
    words += [f"{held}: move {router.name} when that has ended" for held in facts.held]
    raise NetworkError("\n".join(words))


def _check_vm(drivers: Drivers, router: str, host: str, to: str) -> None:
    """The router's VM must be on a host, as the hypervisor sees it, and can move to another."""
    driver = drivers.of(host)
    with _as_network_error(host):
        found = _where_is(driver, router)
        if found != host:
            raise NetworkError(
                f"the hypervisor says that {router} is on {found}, the switches were told {host}: "
                f"run `xenflow recover {router}` first"
            )
        driver.check(router, to)


def _settled_at(
    network: Network,
    router: Router,
    now: Placement,
    lease: RouterLease | None = None,
    say: Callable[[str], None] | None = None,
) -> str:
    """The host where the hypervisor has the router's VM, or where the switches think it is, where
    there is none.

    With the lease, what an interrupted migration of the VM left is cleared up first, and said.
    """
    host = now.vm
    if not network.datapaths[host].hypervisor:
        return host
    with closing(hypervisor.of(network, host)) as driver, _as_network_error(host):
        found = _where_is(driver, router.name)
        if lease is not None and say is not None:
            driver.claim = lease
            # It may be under way still, though the VM runs: the hypervisor knows no lease.
            try:
                for words in driver.abort(router.name).words:
                    say(f"{router.name}: {words}")
            except HypervisorError as error:
                if error.code not in ("no-migration", "too-late"):
                    raise
            found = _where_is(driver, router.name)
        return found


def _where_is(driver: Hypervisor, router: str) -> str:
    found = driver.domain(router)
    if found is None:
        raise NetworkError(
            f"no host of that kind of hypervisor has a VM of the name {router}: start it on one of "
            f"them (Xen: `xl create`), then run `xenflow recover {router}`"
        )
    return found.host


@contextmanager
def _as_network_error(host: str) -> Iterator[None]:
    try:
        yield
    except HypervisorError as error:
        raise NetworkError(f"hypervisor of {host}: {error}") from None
