"""Before a move: the router's links lead to the host where it shall go.

A link that wishes for it lies only over what it needs (`span`, docs/store.md), and so may not lead
there yet.  First the move is planned as if it did, which changes nothing.  Then the planner has its
tree grow, a change as `xenflow apply` makes it; a move itself never changes a tree.  Called by the
verbs that move routers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from mgmt import planning
from mgmt.hypervisor import Drivers
from mgmt.planning import PAUSE_S, Plan
from mgmt.session import ManagementSession, learn
from mgmt.verbs import complain
from mgmt.verbs.apply import IN_FORCE_S, ask_planner, await_in_force
from xenflow.model.network import Network, NetworkError
from xenflow.plan.laying import grown
from xenflow.store import network_file
from xenflow.store.network_text import to_text


def as_grown(network: Network, router: str, host: str) -> Network:
    """The network as it would be once a router's links lead to a host; the same one where they do,
    or nothing has them grow.  Raises NetworkError where there is no room on the way."""
    wanted = grown(network, router, host)
    if wanted is network or not network.store:
        return network
    return network_file.parse(to_text(wanted), _name(router, host), network, in_store=True)[0]


def plan(
    session: ManagementSession,
    router: str,
    host: str,
    mode: str,
    drivers: Drivers,
    pause_s: float = PAUSE_S,
) -> Plan:
    """The plan of a move, as if the router's links led to the host; a note of it says where they
    have to grow.  Raises what `planning.plan` and `as_grown` do; nothing is changed."""
    now = session.network
    near = as_grown(now, router, host)
    made = planning.plan(near, router, host, mode, session.ask, drivers, pause_s, known=now)
    if near is now:
        return made
    return replace(made, notes=(*made.notes, f"{_name(router, host)}: they grow first"))


@contextmanager
def reaching(
    session: ManagementSession, made: Plan, drivers: Drivers
) -> Iterator[tuple[ManagementSession, Plan]]:
    """A session whose network's links lead the router where it shall go, if they can, and the move
    as it is planned there.

    Raises NetworkError where the change is not in force in time, or there is no such plan any more,
    and AskError where the planner does not do it.
    """
    before = session.network
    if made.network is before:
        yield session, made
        return
    router, host = made.router.name, made.to
    name = _name(router, host)
    answer = ask_planner(session, "grow", router=router, to=host)
    # Where somebody else had them grow just before that is waited for as well.
    if late := await_in_force(session, answer, IN_FORCE_S):
        raise NetworkError(f"{name}: {late[0]}: move it when that is in force")
    after, change = learn(before, session.timeout_s)
    if answer["change"]:
        complain(f"{name}: change {answer['change']}")
    other = ManagementSession(after, session.timeout_s, change)
    try:
        mode, pause_s = made.order.value, made.pause_s
        yield other, planning.plan(after, router, host, mode, other.ask, drivers, pause_s)
    finally:
        other.close()


def _name(router: str, host: str) -> str:
    return f"links of {router} to {host}"
