"""Makes and ends routers' namespaces, one at a time, while a lab is up: as a hypervisor its VMs.

The steps are those of `lab up` and `lab reload`, for one router.  Called by the emulated
hypervisor.
"""

from __future__ import annotations

from collections.abc import Iterator

from lab import routing
from lab.changing import Change
from lab.description import LABS_OWN, PREFIX, Lab
from lab.namespace import exists
from lab.state import LabOptions
from lab.steps import Do, Step
from xenflow.model import control_link


def create(lab: Lab, name: str, host: str, options: LabOptions) -> None:
    """Make a router's namespace, plugged in at a host, with its daemons.

    Raises LabError, nothing of it being left.
    """
    if exists(PREFIX + name):  # who made it before was killed
        end(lab, name, host, options)
    try:
        _carry_out(Change(None, lab, "", options, {name: host}), [*_making(lab, name)])
        vm = lab.made.get(name)
        if vm is not None and vm.daemon in routing.DAEMONS:
            routing.start(lab, {name}, vm.daemon, routing.Timers(), bgp=False)
    except BaseException:
        end(lab, name, host, options)
        raise


def end(lab: Lab, name: str, host: str, options: LabOptions) -> None:
    """Take a router's namespace away, with all that runs in it; also one that is there in part.

    Raises LabError.
    """
    change = Change(lab, lab, "", options, {name: host})
    wires = [Step(Do.UNPLUG, (name, wire)) for wire in _wires(lab, name)]
    _carry_out(change, [*wires, Step(Do.NO_NODE, (name,))] if exists(PREFIX + name) else wires)


def readdress(before: Lab, after: Lab, name: str, options: LabOptions) -> None:
    """Give a router that runs other addresses.  Raises LabError."""
    old, new = ([a for a in lab.assignments if a[0] == name] for lab in (before, after))
    speaks = [place for place in before.speaking_ipv6 if place[0] == name]
    come = [p for p in after.speaking_ipv6 if p[0] == name and p not in speaks]
    steps = [Step(Do.IPV6, place) for place in come]
    steps += [Step(Do.ADDRESS, a) for a in new if a not in old]
    steps += [Step(Do.NO_ADDRESS, a) for a in old if a not in new]
    _carry_out(Change(before, after, "", options), steps)


def _making(lab: Lab, name: str) -> Iterator[Step]:
    yield Step(Do.NODE, (name,))
    yield from (Step(Do.WIRE, (name, wire)) for wire in _wires(lab, name))
    yield from (Step(Do.IPV6, place) for place in lab.speaking_ipv6 if place[0] == name)
    yield from (Step(Do.ADDRESS, a) for a in lab.assignments if a[0] == name)
    own = lab.made.get(name)
    if own is None or own.daemon == LABS_OWN:
        yield Step(Do.START_ROUTING, (name,))
    yield from (Step(Do.PLUG, (name, wire)) for wire in _wires(lab, name))
    yield Step(Do.ROUTERD, (name,))


def _wires(lab: Lab, name: str) -> list[str]:
    return [*(i.name for i in lab.routers[name].interfaces), control_link.INTERFACE]


def _carry_out(change: Change, steps: list[Step]) -> None:
    change.carry_out(steps, lambda _, __: None)
