"""Before a move: the router's links lead to the host where it shall go.

A link that wishes for it lies only over what it needs (`span`, docs/store.md), and so may not lead
there yet.  The planner has its tree grow, a change as `xenflow apply` makes it; a move itself never
changes a tree.  Called by the verbs that move routers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mgmt.session import ManagementSession, learn
from mgmt.verbs import complain
from mgmt.verbs.apply import IN_FORCE_S, ask_planner, await_in_force
from xenflow.model.network import NetworkError
from xenflow.plan.laying import grown
from xenflow.store import network_file
from xenflow.store.network_text import to_text


@contextmanager
def reaching(
    session: ManagementSession, router: str, host: str, *, only_look: bool = False
) -> Iterator[ManagementSession]:
    """A session whose network's links lead a router to a host, if they can; `only_look`: nothing is
    changed, and the network is as it would be.

    Raises NetworkError where there is no room on the way, or the change is not in force in time,
    and AskError where the planner does not do it.
    """
    before = session.network
    wanted = grown(before, router, host)
    if wanted is before or not before.store:
        yield session
        return
    name = f"links of {router} to {host}"
    if only_look:
        after, _ = network_file.parse(to_text(wanted), name, before, in_store=True)
        change = session.change
        complain(f"{name}: they would grow first")
    else:
        answer = ask_planner(session, "grow", router=router, to=host)
        # Where somebody else had them grow just before that is waited for as well.
        if late := await_in_force(session, answer["concerns"], IN_FORCE_S):
            raise NetworkError(f"{name}: {late[0]}: move it when that is in force")
        after, change = learn(before, session.timeout_s)
        if answer["change"]:
            complain(f"{name}: change {answer['change']}")
    other = ManagementSession(after, session.timeout_s, change)
    try:
        yield other
    finally:
        other.close()
