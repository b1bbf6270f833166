"""Waits until packets pass in a lab, and says what may be the reason where they do not."""

from __future__ import annotations

import time

from lab import process, switch
from lab.description import PREFIX, Lab
from lab.namespace import Echo, LabError


def await_links(lab: Lab, limit_s: float) -> None:
    """Until every speaker on a link answers another there.

    Raises LabError where that does not come about, or a process ends.
    """
    here = {node.name for node in lab.nodes()}
    pairs = []
    for link in lab.network.links:
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


def _await(lab: Lab, wanted: list[tuple[str, str, str]], limit_s: float) -> None:
    """Each (node, own address, other address): wait until the other answers."""
    left = {(node, source, target): Echo(PREFIX + node, source) for node, source, target in wanted}
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
