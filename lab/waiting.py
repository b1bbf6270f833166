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
    pairs = []
    for link in lab.network.links if links is None else links:
        first, *others = sorted(lab.members(link), key=lambda m: m[0] not in here)
        pairs += [(first, other) for other in others]
    _await(lab, [(a[0], str(a[2].ip), str(b[2].ip)) for a, b in pairs], limit_s)


def await_ends(lab: Lab, limit_s: float) -> None:
    """Until the first and the last machine reach each other, between all their addresses.

    Raises LabError as `await_links`.
    """
    first, *_, last = [*lab.machines.values()] * 2
    wanted = []
    for one, other in ((first, last), (last, first)):
        wanted.append((one.name, str(one.address.ip), str(other.address.ip)))
        if one.stub and other.stub:
            wanted.append((one.name, str(one.stub.ip), str(other.stub.ip)))
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
