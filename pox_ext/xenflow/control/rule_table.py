"""The Rule Table: what every virtual router knows, where every router is, and the switches.

What happens to it comes through one method each:

    heard       a router (or another controller's mirror) sent a route message
    place       the management entity says where a router is
    heard_from  another controller says where routers are, of which this one has lost it
    rule        an operator's rules on a switch are others
    change      the network file is another
    packet_in   a switch asks, or has a frame for or from a VM (`vm.packets`)
    tick        time passes

The first five end in `Switch`es being told what has changed; they write the difference.  The
switches, for their part, ask it what the routers say (`state`, `view`) and whether they may be
written to (`must_wait`).  Nothing here knows a socket; replies are returned or passed to callbacks.
Called by `component.Component` and the verbs of `management_service`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from xenflow.control.guarded import Guarded
from xenflow.model.difference import NetworkDifference, compare, refusals
from xenflow.model.network import Datapath, Network, NetworkError
from xenflow.model.placement import Mode, Placement, StaleVersionError, first_place, newest_each
from xenflow.openflow.parse import PacketIn
from xenflow.plan.migration import informed
from xenflow.plan.search import Search, newest
from xenflow.routes.feed import Feed, FeedOutcome, Phase
from xenflow.routes.router_state import Changes, RouterState
from xenflow.store.line_file import StateError
from xenflow.store.state_file import StateFile, StoredState
from xenflow.switch.aside import THROUGH_VM
from xenflow.switch.clock import Clock
from xenflow.switch.problems import Problems
from xenflow.switch.proof import Done, Proof
from xenflow.switch.refused import RefusedFrames
from xenflow.switch.resync import LOST_RULES
from xenflow.switch.switch import Switch
from xenflow.switch.wanted import VIEW
from xenflow.tables.pipeline import owners_of
from xenflow.tables.sent_up import Question
from xenflow.tables.site import RouterView, Spans
from xenflow.tables.views import router_view
from xenflow.vm.packets import VmPackets

log = logging.getLogger("xenflow.rule_table")

MANY_WAITING = 16_000
"""Routes of a router that wait for a switch before no more are read: enough that it never waits."""
TOO_MANY_WAITING = 32_000
"""The bound on what a router that changes its routes faster than the switch takes them may keep
here, and on how long other routers' changes wait behind its own."""
PATIENCE_S = 0.5
"""In between: one more message may be what makes room."""

KEPT = "kept"
"""The cause of a `Problems` entry: what was kept may not be on the disk."""
REFUSED = "message"
"""The cause of a `Problems` entry: a router says what cannot be."""


class RuleTable:
    """See the module.

    clock             the time
    proofs            how it is proven that a switch's changes are in force
    on_local_message  called with a router and the frames of each message that it sent itself
    migrating, spoke  see `VmPackets`
    asks              whether the other controllers are asked where routers are, should that be lost
    """

    def __init__(
        self,
        network: Network,
        controller: str,
        state_dir: Path | None,
        clock: Clock,
        proofs: Callable[[Datapath], Proof],
        migrating: Callable[[str], bool] = lambda router: False,
        on_local_message: Callable[[str, list[bytes]], None] = lambda router, frames: None,
        spoke: Callable[[str], None] = lambda vif: None,
        asks: bool = False,
    ) -> None:
        self.network = network
        self.controller = controller
        self.clock = clock
        self.on_local_message = on_local_message
        self._proofs = proofs
        self._migrating = migrating
        self.feeds: dict[str, Feed] = {name: Feed(name) for name in network.routers}
        self.last_source: dict[str, str] = {}
        """Of each router that was heard, where it was last: "local" or "mirror"."""
        self.problems = Problems(controller, clock.now)
        """What concerns a router, or all, and no single switch."""
        self._views: dict[str, RouterView] = {}
        self._file = StateFile(state_dir)
        kept = self._file.load(network)
        self._trees = kept.trees or network.trees_digest
        """How the trees lay of which all is known."""
        self._search = self._begin_search(kept) if asks else None
        self._say_search()
        self.switches: dict[str, Switch] = {}
        far = _newest(kept.placements.values())
        otherwise = self._trees != network.trees_digest
        for datapath in network.datapaths_of(controller):
            known = kept.placements.get(datapath.name)
            switch = self._make_switch(datapath, far if known is None or otherwise else known)
            switch.rules.restore(kept.rules.get(datapath.name, []))
            self.switches[datapath.name] = switch
        self.packets = VmPackets(network, self.switches, migrating, spoke, clock.now)
        self._refused = RefusedFrames(network, self.switches)
        self._guarded = Guarded(clock.now)

    def _begin_search(self, kept: StoredState) -> Search | None:
        """What is not known, is asked of the other controllers."""
        others, now = set(self.others), self.clock.now()
        if kept.trouble:
            return Search(kept.trouble, others, now, self._concerned)
        if self._trees != self.network.trees_digest:
            words = "the links' trees lie otherwise than at the last start"
            return Search(words, others, now, self._concerned, whole=True)
        return None

    def _concerned(self) -> Iterator[set[str]]:
        """The controllers that were told, of each router, where it is as far as is known here."""
        placed = _newest(switch.placements for switch in self.switches.values())
        for name, at in placed.items():
            names = informed(self.network, self.network.routers[name], at.mode, at.hosts, placed)
            yield {self.network.datapaths[each].controller for each in names}

    @property
    def others(self) -> dict[str, str]:
        """The management addresses of the other controllers that have switches, by name."""
        have_switches = {datapath.controller for datapath in self.network.datapaths.values()}
        return {
            name: described.manage
            for name, described in self.network.controllers.items()
            if name != self.controller and name in have_switches
        }

    def _make_switch(self, datapath: Datapath, known: Mapping[str, Placement]) -> Switch:
        homes = {r.name: first_place(r) for r in self.network.routers.values()}
        proof = self._proofs(datapath)
        return Switch(self.network, datapath, self, self.clock, {**homes, **known}, proof)

    # --- the network changes ----------------------------------------------------------------------

    def change(self, network: Network, only_look: bool = False) -> NetworkDifference:
        """Let the network be another one; returns what has changed, or would (`only_look`).

        Who has not changed forwards on as before.  Raises NetworkError with each reason on a line,
        nothing being changed, where that is not possible.
        """
        found = compare(self.network, network)
        mistakes = [*refusals(self.network, network, found), *self._in_use(network, found)]
        if mistakes:
            raise NetworkError("\n".join(mistakes))
        if found and not only_look:
            self._follow(network, found)
        return found

    def _in_use(self, network: Network, found: NetworkDifference) -> Iterator[str]:
        if self.controller not in network.controllers:
            yield f"controllers.{self.controller}: it runs: stop it, and it may go"
        for router in sorted(found.dirty_routers):  # also one that comes: its VM may be ended yet
            if self._migrating(router):
                yield (
                    f"routers.{router}: it, or a link of its, has changed, and it is being "
                    "migrated, or was left half way: wait, or `xenflow recover`"
                )
        for host in found.datapaths.removed:
            for router in sorted(self._believed_at(host) & network.routers.keys()):
                yield f"datapaths.{host}: {router} is there: migrate it first"
        for switch in self.switches.values():
            for router in switch.believed_at(found.datapaths.removed):
                described = network.routers.get(router)
                if described is not None and described.home == switch.name:
                    yield (
                        f"routers.{router}: {switch.name} would take it for its own, where it is "
                        "not: let its home be where it is"
                    )

    def _believed_at(self, host: str) -> set[str]:
        """The routers at a host, by the switches here that are told when they move.  What any other
        believes may be old; where no switch but the host's is told, every one is believed."""
        there = set()
        for switch in self.switches.values():
            for router, at in switch.believed_at((host,)).items():
                described = self.network.routers[router]
                told = informed(self.network, described, at.mode, at.hosts, switch.placements)
                if switch.name in told or set(told) <= {host}:
                    there.add(router)
        return there

    def _follow(self, network: Network, found: NetworkDifference) -> None:
        before, self.network = self.network, network
        if self._search is not None:
            self._search.awaits &= self.others.keys()
        for router in found.routers.removed:
            del self.feeds[router]
            self.last_source.pop(router, None)
            self.packets.unheard(router)
            self.problems.forget(router)
        self.feeds |= {router: Feed(router) for router in found.routers.added}
        for router in found.dirty_routers:
            self._views.pop(router, None)
        for name in found.datapaths.removed:
            if (switch := self.switches.pop(name, None)) is not None:
                switch.disconnect()
        self.packets.network_is(network, found.routers)
        self._refused.network_is(network)
        spans = Spans()
        for switch in self.switches.values():
            switch.network_is(network, found, spans)
        for name in found.datapaths.added:
            datapath = network.datapaths[name]
            if datapath.controller == self.controller:
                far = _newest(switch.placements for switch in self.switches.values())
                self.switches[name] = self._make_switch(datapath, far)
        try:
            self._keep(before, found)
        except StateError as error:  # what is kept is read by the new file's names, and is as good
            log.error("%s", error)

    def _keep(self, before: Network, found: NetworkDifference) -> None:
        """Of a network that has become another one it is kept which datapaths there are, where the
        routers have their homes, and how the trees lie; of a controller, whether all are heard."""
        old, new = before.routers, self.network.routers
        moved = any(old[name].home != new[name].home for name in found.routers.changed)
        lie_otherwise = self._trees != self.network.trees_digest
        whole = found.controllers or found.datapaths or moved or lie_otherwise or self._file.doubt
        homes: dict[str, str | None] = {name: new[name].home for name in found.routers.added}
        homes |= dict.fromkeys(found.routers.removed)
        if whole or (homes and not self._file.add_homes(homes)):
            self._save()

    # --- what switches ask ----------------------------------------------------------------------

    def state(self, router: str) -> RouterState | None:
        """What is known of a router, or None before its first snapshot is complete."""
        feed = self.feeds.get(router)
        return feed.state if feed is not None and feed.complete else None

    def view(self, router: str) -> RouterView | None:
        """What decides which of its packets the switches may route; None as for `state`."""
        state = self.state(router)
        if state is None:
            return None
        if router not in self._views:
            self._views[router] = self._view_of(router, state)
        return self._views[router]

    def _view_of(self, router: str, state: RouterState) -> RouterView:
        """Every switch asks for all views at once: what one router says must raise for no other."""
        try:
            view = router_view(self.network.routers[router], state)
        except Exception as error:
            words = f"{THROUGH_VM}: {type(error).__name__}: {error}"
            if self.problems.begin(VIEW, words, router) and self.problems.lines.take(
                router, "traceback"
            ):
                log.error("%s: no view of it", router, exc_info=error)
            return RouterView().through_vm(words)
        self.problems.end(VIEW, router)
        return view

    def problems_of(self, router: str) -> list[str]:
        """What is not as it should be with a router, here and on each switch."""
        found = self.problems.of(router)
        for switch in self.switches.values():
            found += [f"{switch.name}: {words}" for words in switch.problems.of(router)]
        return found

    # --- routes -----------------------------------------------------------------------------------

    def heard(self, router: str, source: Hashable, frames: list[bytes], local: bool) -> FeedOutcome:
        """A route message came, from the router's own link (`local`) or from a mirror.

        Where dealing with it raises, a snapshot will be asked for, and what the switches hold of
        this router is read and compared: its state may be half changed, and they half told.
        """
        try:
            return self._heard(router, source, frames, local)
        except Exception as error:
            self.feeds[router].doubt()
            self._views.pop(router, None)
            for switch in self.switches.values():
                switch.doubt(router, error)
            raise

    def _heard(
        self, router: str, source: Hashable, frames: list[bytes], local: bool
    ) -> FeedOutcome:
        feed = self.feeds[router]
        outcome = feed.receive(frames, self.clock.now(), source)
        if outcome.error is not None:
            if local:  # else it is the asker's mistake, who is told
                self.problems.begin(REFUSED, f"its message was refused: {outcome.error}", router)
            return outcome
        self.last_source[router] = "local" if local else "mirror"
        if feed.phase is Phase.CURRENT:  # it is known whole, whatever was refused before
            self.problems.end(REFUSED, router)
        if outcome.changes is not None:
            self._apply(router, outcome.changes, outcome.ended)
        if local:
            self.on_local_message(router, frames)
        return outcome

    def _apply(self, router: str, changes: Changes, ended: bool) -> None:
        feed = self.feeds[router]
        if ended or changes.locals or changes.interfaces or changes.policy:
            self._views.pop(router, None)
        if ended and self.problems.lines.take(router, "snapshot"):
            log.info("%s: %s", router, feed.state)
        for switch in self.switches.values():
            written = switch.changed(router, changes, feed.complete, len(feed.state.routes))
            if ended and not written and switch.concerned_by(router):
                switch.refresh({router}, owners_of(self.network, router))

    def patience_s(self, router: str) -> float:
        """How long the next message of a router should wait, should nothing change (seconds; 0:
        there is room)."""
        backlog = self.backlog(router)
        if backlog <= MANY_WAITING:
            return 0.0
        return PATIENCE_S if backlog <= TOO_MANY_WAITING else float("inf")

    def backlog(self, router: str) -> int:
        """How many routes of a router the slowest of its switches has still to take."""
        behind = [s for s in self.switches.values() if s.live and s.forwards(router)]
        return max((switch.jobs.waiting(router) for switch in behind), default=0)

    # --- placements -----------------------------------------------------------------------------

    def place(
        self, placement: Placement, datapaths: Iterable[str], proven: bool, then: Done
    ) -> None:
        """Give switches of this controller's a placement of a known router; `then(None)` once it is
        in force on all of them (confirmed, where `proven` is false), else with the reason.

        Raises NetworkError (StaleVersionError where another one is known that is not older), or
        StateError where it cannot be kept, having changed nothing.
        """
        names = list(dict.fromkeys(datapaths))
        self._check(placement, names)
        # On the disk first, in memory second, in the switch third.
        if not self._file.add_placement(placement, names):
            self._save(placed=dict.fromkeys(names, placement))
        self._place(placement, names)
        waiting = set(names)
        problems: list[str] = []

        def settle(name: str, error: str | None) -> None:
            waiting.discard(name)
            if error:
                problems.append(error)
            if not waiting:
                then("; ".join(problems) or None)

        for name in names:
            promises = self.switches[name].promises
            (promises.in_force if proven else promises.confirmed)(partial(settle, name))

    def _place(self, placement: Placement, names: Iterable[str]) -> None:
        left = [n for n in names if self.switches[n].vm_of(placement.router) == n != placement.vm]
        for name in names:
            self.switches[name].placements[placement.router] = placement
        for name in left:  # what is held there follows the VM, before what its flows send after it
            self.packets.moved(self.switches[name], placement.router, placement.vm)
        concerned = {placement.vm, placement.leads_to}
        if placement.mode is Mode.NATIVE or not concerned & self.switches.keys():
            self.packets.unheard(placement.router)
        for name in names:
            self.switches[name].placed(placement.router)

    def _check(self, placement: Placement, names: list[str]) -> None:
        if self._search is not None and not self._search.settled(self.clock.now()):
            raise NetworkError(self.searching())
        for host in placement.hosts:
            if host not in self.network.hosts:
                hosts = ", ".join(sorted(self.network.hosts)) or "none"
                words = f"{host} is not a host of the network: it has {hosts}"
                raise NetworkError(f"{placement.router}: {words}")
        for name in names:
            known = self.switches[name].placements.get(placement.router, placement)
            if known.version >= placement.version and known != placement:
                raise StaleVersionError(
                    f"{name}: the placement of {placement.router} is at version {known.version}, "
                    f"not older than {placement.version}: ask for its status and plan again"
                )

    def rule(self, switch: Switch, rows: list[dict[str, Any]]) -> None:
        """Let a switch have these rules.  Raises StateError, nothing being changed, where they
        cannot be kept."""
        if not self._file.add_rules(switch.name, rows):
            self._save(rules={switch.name: rows})
        switch.rules.restore(rows)
        switch.problems.end(LOST_RULES)
        switch.refresh()

    def _save(
        self,
        placed: Mapping[str, Placement] | None = None,
        rules: Mapping[str, list[dict[str, Any]]] | None = None,
    ) -> None:
        """Write all placements and rules anew: those there are, and in place of them what is about
        to be changed, by datapath."""
        asked = self._search if self.searching() else None
        if asked is None:
            self._trees = self.network.trees_digest
        changed = {name: {p.router: p} for name, p in (placed or {}).items()}
        self._file.save(
            self.network,
            {name: {**s.placements, **changed.get(name, {})} for name, s in self.switches.items()},
            {name: s.rules.rows() for name, s in self.switches.items()} | dict(rules or {}),
            complete=asked is None or asked.whole,
            trees=self._trees,
        )
        if self._file.doubt:
            self.problems.begin(KEPT, self._file.doubt)
        else:
            self.problems.end(KEPT)

    # --- where routers are, where that was lost ---------------------------------------------------

    def searching(self) -> str:
        """Why other controllers are asked where routers are, and which; "" where they are not."""
        return self._search.words() if self._search is not None else ""

    def _say_search(self) -> None:
        if words := self.searching():
            self.problems.begin("placements", words)
        else:
            self.problems.end("placements")

    def must_wait(self, holds_flows: bool) -> bool:
        """Whether a switch that holds flows, or none, must not be written to yet."""
        search = self._search
        return search is not None and search.must_wait(holds_flows, self.clock.now())

    def heard_from(self, controller: str, answer: Mapping[str, Any]) -> None:
        """Another controller has said where routers are."""
        told = newest(self.network, answer.get("placements", ())).values()
        self.told_where(controller, told, not answer.get("searching"))

    def told_where(self, source: str, placements: Iterable[Placement], knows: bool) -> None:
        """Somebody has said where routers are, of which this one has lost it: what is newer than
        what is known here holds here, too.  `knows`: it does not search itself."""
        search = self._search
        if search is None:
            return
        self._take_newer(source, placements)
        search.answered(source, knows)
        self._say_search()
        self._save_told()

    def believe(self, source: str, placements: Iterable[Placement]) -> None:
        """The same of routers that have come to this network just now, and may be elsewhere than at
        home."""
        if self._take_newer(source, placements):
            self._save_told()

    def _take_newer(self, source: str, placements: Iterable[Placement]) -> bool:
        taken = False
        for placement in placements:
            names = [
                name
                for name, switch in self.switches.items()
                if switch.placements[placement.router].version < placement.version
            ]
            if names:
                log.info("%s: %s says that it is at %s", placement.router, source, placement.vm)
                self._place(placement, names)
                taken = True
        return taken

    def _save_told(self) -> None:
        try:
            self._save()
        except StateError as error:
            log.error("%s", error)

    # --- packets ----------------------------------------------------------------------------------

    def packet_in(self, switch: Switch, packet: PacketIn) -> bool:
        """A switch sent a frame up: the reactive pipeline's question, or something about a VM.
        False where it is neither."""
        what = switch.kind.sent_up(self.network, switch.name, switch.ports, packet)
        if isinstance(what, Question):
            return switch.decisions.answer(what)
        if what is not None:
            self.packets.sent_up(switch, what)
        return what is not None

    def read_anew(self, switch: Switch) -> None:
        """A switch is being read back: what it holds is not known."""
        self.packets.read_anew(switch)

    def caught_up(self, switch: Switch) -> None:
        """A switch that was read back gives the VMs their packets again."""
        self.packets.caught_up(switch)

    def tick(self, now: float) -> list[tuple[str, list[tuple[Hashable, list[bytes]]]]]:
        """What time asks for: heartbeats and acknowledgements to routers, repeated hellos.

        Returns of each router what is to be sent: (source, frames).
        """
        replies = [(name, feed.tick(now).replies) for name, feed in self.feeds.items()]
        self._guarded.call("repeating hellos", self.packets.repeat_hellos, now)
        self._guarded.call("looking at what is refused", self._refused.tick, now)
        for name, switch in self.switches.items():
            self._guarded.call(f"{name}: the audit", switch.audit.tick, now)
            self._guarded.call(f"{name}: packet-ins", switch.packet_ins.tick, now)
        self._say_search()
        return replies


def _newest(known: Iterable[Mapping[str, Placement]]) -> dict[str, Placement]:
    """The newest placement of each router that any datapath has."""
    return newest_each(placement for placements in known for placement in placements.values())
