"""The job that reads a switch back: it finds out what is held there, then what differs is written.

Called by `switch` when it connects, and when what it holds is not what is thought.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Protocol

from xenflow.openflow.flow import Flow
from xenflow.switch.aside import Aside
from xenflow.switch.audit import Audit
from xenflow.switch.channel import Channel
from xenflow.switch.installed import Installed
from xenflow.switch.jobs import Job, Jobs, QueuedJob, fence, router_task
from xenflow.switch.reading import FlowReader
from xenflow.switch.routes import RouteWriter
from xenflow.switch.rules import Rules
from xenflow.switch.wanted import Known, WantedFlows
from xenflow.switch.writer import Writer
from xenflow.tables.pipeline import Owner

log = logging.getLogger("xenflow.resync")

LOOK_AGAIN_S = 0.05
"""Pause between two looks whether where the routers are is known."""
LONGEST_REFUSED_S = 10.0
"""Between two tries where the switch refuses flows: it may have room at any time."""
REFUSED = "refused"
"""Cause of a `Problems` entry: the switch refuses flows that are no router's own."""
NAMED = ("link", "rule")
"""Kinds of owners that are left out where the switch does not take a flow of theirs; whatever else
it refuses is in the way of everybody."""
LOST_RULES = "rules"
"""Cause of a `Problems` entry, until the switch's rules are changed: it held some that are not
known here."""


class Placed(Known, Protocol):
    """What the Rule Table knows of the routers, and of where they are."""

    def must_wait(self, holds_flows: bool) -> bool:
        """Whether a switch that holds flows, or none, must not be written to yet, because where
        the routers are is not known."""


@dataclass(eq=False, repr=False)
class Resync:
    """See the module.

    begun      called when the switch is being read: what it holds is not known
    caught_up  called when it gives the VMs their packets again
    """

    _known: Placed
    _channel: Channel
    _reader: FlowReader
    _rules: Rules
    _aside: Aside
    _wanted: WantedFlows
    _installed: Installed
    _routes: RouteWriter
    _writer: Writer
    _jobs: Jobs
    _audit: Audit
    _begun: Callable[[], None]
    _caught_up: Callable[[], None]
    live: bool = False
    """Whether what the switch holds is known."""

    def __post_init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """The switch went away."""
        self.live = False
        self.left_out: Set[Owner] = frozenset()
        """Links and rules of which it has refused a flow, when all was written last or since."""
        self._refuses: set[Owner] = set()
        """Those of whom it has refused a flow since all was written last, or read."""
        self._in_the_way = False
        """Whether it has refused anything else since."""
        self._waits: object = None
        """Is another one for each pause until it is read again; None: there is none."""

    @property
    def but_left_out(self) -> bool:
        """Whether what the switch holds is known, but for flows of those who are left out."""
        return self.live or (bool(self._refuses) and not self._in_the_way)

    def read_back(self, pause_s: float = 0.0) -> Job:
        """Read what the switch holds of ours, after a pause; then write what differs."""
        self.live, self._waits = False, None
        self._refuses, self._in_the_way = set(), False
        if pause_s:
            yield pause_s
        self._begun()
        started = self._channel.clock.now()
        for part in (self._installed, self._routes, self._writer):
            part.clear()
        self._wanted.read_anew()
        self._aside.begin_all()
        if any(map(self._aside.refused, self._aside)):
            self._channel.narrow()
        yield from self._reader.everything(self._take, self._routes.take)
        self._say_lost_rules()
        held, routes = self._installed.flows, sum(map(len, self._routes.found.values()))
        while self._known.must_wait(bool(held or routes)):
            yield LOOK_AGAIN_S
        self.live = True
        log.info(
            "%s: holds %d local flows and %d routes, read in %.3f s",
            self._channel.name,
            len(held),
            routes,
            self._channel.clock.now() - started,
        )
        self._jobs.are_next(self._what_differs())

    def _take(self, flows: list[Flow]) -> None:
        self._audit.found(flows)
        self._installed.found(flows)

    def _say_lost_rules(self) -> None:
        self._rules.found(self._installed.flows.values())
        if lost := len(self._rules.lost):
            words = (
                f"it held an operator's rules that this controller does not know ({lost}): they "
                "are deleted; those that are still wanted have to be added anew (`rule add`)"
            )
            self._channel.problems.begin(LOST_RULES, words)

    def _what_differs(self) -> list[QueuedJob]:
        """What comes before whatever waits to be told that the switch is up to date, and in place
        of what an earlier reading has left to be done."""
        tasks: list[QueuedJob] = []
        for router in self._wanted.network.routers.values():
            if not self._wanted.forwards(router.name):
                if self._routes.found.get(router.name):
                    tasks.append(QueuedJob(self._writer.forget(router)))
            elif self._known.state(router.name) is not None:
                tasks.append(router_task(router.name, self._writer.sync(router.name)))
        tasks.append(QueuedJob(self._writer.small()))

        def gives_to_vms(error: str | None) -> None:
            if not error:
                self._caught_up()

        def took_all(error: str | None) -> None:
            if error:
                return
            self.left_out = frozenset(self._refuses)
            if self.live:
                self._channel.problems.end(REFUSED)

        vms = QueuedJob(fence(self._channel, gives_to_vms))
        if self._writer.write_vm(self._wanted.network.links):  # it need not wait for the routes
            tasks.insert(0, vms)
        else:
            tasks.append(vms)
        return [*tasks, QueuedJob(fence(self._channel, took_all))]

    def refused(self, owner: Owner, text: str, adds: bool) -> None:
        """The switch has refused a flow that is no router's own, or (not `adds`) to give one up:
        what it holds is not what is thought any more, and it is read back after a pause."""
        if not self.live and not self._refuses and not self._in_the_way:
            return  # it is being read
        if adds and owner.kind in NAMED:
            self._refuses.add(owner)
            self.left_out |= {owner}
        else:
            self._in_the_way = True
        if not self.live:
            return
        self.live = False
        words = f"the switch refuses what it shall hold ({owner}: {text}); it is read again"
        self._channel.problems.begin(REFUSED, words)
        self._waits = pause = object()

        def again() -> None:
            if self._waits is pause:
                self._read_again()

        self._channel.clock.later(min(self._jobs.pause_s(), LONGEST_REFUSED_S), again)

    def read_now(self) -> None:
        """Read it back without a pause, where flows of those alone are refused who are named: they
        are in the way of nobody else."""
        if self._waits is not None and self.but_left_out:
            self._read_again()

    def _read_again(self) -> None:
        self._waits = None
        self._jobs.submit(self.read_back())
