"""Waits until packets pass in a lab, and says what may be the reason where they do not."""

from __future__ import annotations

import time
from collections.abc import Iterable

from lab import process, switch
from lab.description import PREFIX, Lab
from lab.namespace import IcmpEcho, LabError
from mgmt.client import TIMEOUT_S, AskError
from mgmt.session import ManagementSession


def await_links(lab: Lab, limit_s: float, links: Iterable[str] | None = None) -> None:
    """Until every speaker on some links (None: on all) answers another there.

    Raises LabError where that does not come about, or a process ends.
    """
    here = {node.name for node in lab.nodes()}
    wanted = []
    for link in lab.network.links if links is None else links:
        for version in (4, 6):
            every = lab.first_addresses(link, version)
            every.sort(key=lambda member: member[0] not in here)
            wanted += [(every[0][0], every[0][2], other) for _, _, other in every[1:]]
    _await(lab, wanted, limit_s)


def await_ends(lab: Lab, limit_s: float) -> None:
    """Until the first and the last machine reach each other, between all their addresses.

    Raises LabError as `await_links`.
    """
    first, *_, last = [*lab.machines.values()] * 2
    wanted = []
    for one, other in ((first, last), (last, first)):
        for ours, theirs in (
            ((one.address, *one.more), (other.address, *other.more)),
            (one.stubs, other.stubs),
        ):
            far = {address.version: address for address in reversed(theirs)}
            own = {address.version: address for address in reversed(ours)}
            wanted += [(one.name, str(own[v].ip), str(far[v].ip)) for v in own.keys() & far.keys()]
    _await(lab, wanted, limit_s)


def await_in_sync(lab: Lab, limit_s: float) -> None:
    """Until every switch is connected to its controller and holds what it shall.

    Raises LabError as `await_links`.
    """
    limit = time.monotonic() + limit_s
    session = ManagementSession(lab.network, TIMEOUT_S)
    try:
        while left := _not_in_sync(session):
            _check_processes()
            if time.monotonic() > limit:
                reason = f"not in sync after {limit_s:.0f} s: {', '.join(left)}"
                raise LabError("\n  ".join([reason, *_complaints(lab)]))
            time.sleep(0.1)
    finally:
        session.close()


def _not_in_sync(session: ManagementSession) -> list[str]:
    answers = session.ask_all("status").values()
    rows = [row for a in answers if not isinstance(a, AskError) for row in a["datapaths"]]
    whole = {row["name"] for row in rows if row["connected"] and row["in_sync"]}
    return [name for name in session.network.datapaths if name not in whole]


def _await(lab: Lab, wanted: list[tuple[str, str, str]], limit_s: float) -> None:
    """Each (node, own address, other address): wait until the other answers."""
    left = {
        (node, source, target): IcmpEcho(PREFIX + node, source) for node, source, target in wanted
    }
    limit = time.monotonic() + limit_s
    try:
        while left:
            _check_processes()
            for (_, _, target), echo in left.items():
                echo.send(target)
            time.sleep(0.05)
            for key, echo in list(left.items()):
                if any(address == key[2] for address, _ in echo.receive()):
                    left.pop(key).close()
            if left and time.monotonic() > limit:
                missing = "; ".join(f"{n} ({s}) did not reach {t}" for n, s, t in left)
                why = [f"not converged after {limit_s:.0f} s: {missing}", *_complaints(lab)]
                raise LabError("\n  ".join(why))
    finally:
        for echo in left.values():
            echo.close()


def _complaints(lab: Lab) -> list[str]:
    """What may be the reason where packets do not pass: who is not connected, what logs say."""
    nodes = [lab.switch_node(datapath.name) for datapath in lab.datapaths]
    found = [
        f"the switch of {node} is not connected to its controller"
        for node in nodes
        if switch.connected(node) is False
    ]
    for path in sorted(process.LOG_DIR.glob("*.log")):
        if said := process.complaint(path.read_text(errors="replace")):
            found.append(f"{path.stem}: {said}")
    return found


def _check_processes() -> None:
    for one in process.recorded():
        if not one.alive:
            last = one.log.read_text(errors="replace").splitlines()[-5:] if one.log.exists() else []
            raise LabError("\n  ".join([f"{one.name} of {one.node} ended ({one.log}):", *last]))
