"""The job that reads a switch back: it finds out what is held there, then what differs is written.

Called by `switch` when it connects, and when what it holds is not what is thought.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from xenflow.openflow.flow import Flow, Flows
from xenflow.switch.jobs import Job, QueuedJob, fence, router_task
from xenflow.tables import cookies, layout

if TYPE_CHECKING:
    from xenflow.switch.switch import Switch

log = logging.getLogger("xenflow.resync")

LOOK_AGAIN_S = 0.05
"""Pause between two looks whether where the routers are is known."""
LONGEST_REFUSED_S = 10.0
"""Between two tries where the switch refuses flows: it may have room at any time."""
REFUSED = "refused"
"""Cause of a `Problems` entry: the switch refuses flows that are no router's own."""
LOST_RULES = "rules"
"""Cause of a `Problems` entry, until the switch's rules are changed: it held some that are not
known here."""


def resync(switch: Switch, pause_s: float = 0.0) -> Job:
    """Read what a switch holds of ours, after a pause; then write what differs."""
    switch.live = False
    if pause_s:
        yield pause_s
    switch.routers.read_anew(switch)
    started = switch.clock.now()
    switch.installed.clear()
    switch.wanted.read_anew()
    switch.routes.read_anew()
    switch.writer.clear()
    switch.aside.begin_all()
    if any(switch.aside.refused(router) for router in switch.aside):
        switch.channel.narrow()

    def take(flows: list[Flow]) -> None:
        switch.audit.found(flows)
        switch.installed.found(flows)

    yield from switch.reader.everything(take, switch.routes.take)
    if not switch.was_read:  # later they may be those that an operator has just removed
        switch.was_read = True
        if lost := _unknown_rules(switch.installed.flows, switch.rules):
            words = (
                f"it held an operator's rules that this controller does not know ({lost}): they "
                "are deleted; those that are still wanted have to be added anew (`rule add`)"
            )
            switch.problems.begin(LOST_RULES, words)
    routes = sum(map(len, switch.routes.found.values()))
    while switch.routers.must_wait(bool(switch.installed.flows or routes)):
        yield LOOK_AGAIN_S
    switch.live = True
    log.info(
        "%s: holds %d local flows and %d routes, read in %.3f s",
        switch.name,
        len(switch.installed.flows),
        routes,
        switch.clock.now() - started,
    )
    switch.jobs.are_next(_what_differs(switch))


def _unknown_rules(installed: Flows, rules: Iterable[str]) -> int:
    """How many flows are an operator's rules that are none of these."""
    known = {cookies.rule_id(name) for name in rules}
    owners = (cookies.owner_of(f.cookie) for f in installed.values() if f.table == layout.INGRESS)
    return sum(kind == cookies.RULE and number not in known for kind, number in owners)


def _what_differs(switch: Switch) -> list[QueuedJob]:
    """What comes before whatever waits to be told that the switch is up to date, and in place of
    what an earlier reading has left to be done."""
    tasks: list[QueuedJob] = []
    for router in switch.network.routers.values():
        if not switch.forwards(router.name):
            if switch.routes.found.get(router.name):
                tasks.append(QueuedJob(switch.writer.forget(router)))
        elif switch.routers.state(router.name) is not None:
            tasks.append(router_task(router.name, switch.sync(router.name)))
    tasks.append(QueuedJob(switch.writer.small()))

    def gives_to_vms(error: str | None) -> None:
        if not error:
            switch.routers.caught_up(switch)

    def took_all(error: str | None) -> None:
        if switch.live and not error:
            switch.problems.end(REFUSED)

    vms = QueuedJob(fence(switch.channel, gives_to_vms))
    if switch.writer.write_vm(switch.network.links):  # it need not wait for the routes
        tasks.insert(0, vms)
    else:
        tasks.append(vms)
    return [*tasks, QueuedJob(fence(switch.channel, took_all))]


def refused(switch: Switch, text: str) -> None:
    """A switch has refused a flow that is no router's own: what it holds is not what is thought any
    more, and it is read back after a pause."""
    if not switch.live:
        return
    switch.live = False
    words = f"the switch refuses what it shall hold ({text}); it is read again"
    switch.problems.begin(REFUSED, words)
    generation = switch.channel.generation

    def again() -> None:
        if generation == switch.channel.generation and not switch.live:
            switch.jobs.submit(resync(switch))

    switch.clock.later(min(switch.jobs.pause_s(), LONGEST_REFUSED_S), again)
