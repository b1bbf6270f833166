"""Edits of hosts and of plain switches.

What is not given is as at the others of the kind, where they all are alike.  What hangs on a
switch that is lost goes with it: its cables, and what links have there.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from mgmt.edits import (
    Edit,
    Option,
    Places,
    cabled,
    crossing,
    new,
    refuse_used,
    replaced,
    without,
)
from mgmt.session import UsageError, known
from xenflow.model.network import (
    Controller,
    Datapath,
    DatapathKind,
    Link,
    Network,
    Pipeline,
)
from xenflow.plan.laying import Laying

OPENFLOW = "127.0.0.1:6633"
"""Where a host's switch, which runs beside its controller, connects."""
MANAGE_PORT = 6640
_ALIKE = ("nicira", "pipeline", "hypervisor", "proof", "proof_bound_s", "ovs_rundir", "other")
"""What may be as at the others."""
_WORDS = {DatapathKind.HOST: "host", DatapathKind.PLAIN: "switch"}


def _of_kind(network: Network, kind: DatapathKind) -> dict[str, Datapath]:
    return {name: d for name, d in network.datapaths.items() if d.kind is kind}


def _name(args: Namespace, kind: DatapathKind) -> str:
    return str(getattr(args, _WORDS[kind]))


def _dpid(text: str) -> int:
    """Raises UsageError where it is none."""
    try:
        return int(text.replace(":", ""), 16)
    except ValueError:
        raise UsageError(f"--dpid {text}: expected 16 hex digits") from None


def _given(args: Namespace) -> dict[str, Any]:
    """What the command line says of the datapath."""
    found = {key: value for key in _ALIKE if (value := getattr(args, key, None)) is not None}
    if getattr(args, "maintenance", None):
        found["maintenance"] = args.maintenance == "on"
    if "pipeline" in found:
        found["pipeline"] = Pipeline(found["pipeline"])
    return found


def _controller(name: str, address: str, openflow: str | None) -> Controller:
    """The controller that runs at an address.  Raises UsageError."""
    bracketed = f"[{address}]" if ":" in address else address
    host, _, port = (openflow or OPENFLOW).rpartition(":")
    if not port.isdecimal():
        raise UsageError(f"--openflow {openflow}: expected ADDRESS:PORT")
    return Controller(name, (host.strip("[]"), int(port)), f"tcp://{bracketed}:{MANAGE_PORT}")


def add(network: Network, args: Namespace, _: Places, kind: DatapathKind) -> Network:
    """A host more, or a plain switch, and its cables."""
    name = new("datapath", _name(args, kind), network.datapaths)
    alike = _of_kind(network, kind).values()
    about = {
        key: values.pop() for key in _ALIKE if len(values := {getattr(d, key) for d in alike}) == 1
    }
    controllers = dict(network.controllers)
    if getattr(args, "address", None):
        new("controller", name, controllers)
        controllers[name] = _controller(name, args.address, args.openflow)
        controller = name
    else:
        named = {args.controller} if args.controller else {d.controller for d in alike}
        if len(named) != 1 or (kind is DatapathKind.HOST and not args.controller):
            ways = "--address or --controller" if kind is DatapathKind.HOST else "--controller"
            raise UsageError(f"{name}: whose controller looks after it? ({ways})")
        controller = known("controller", named.pop(), controllers).name
    dpid = _dpid(args.dpid) if args.dpid else _free_dpid(network)
    datapath = Datapath(name, kind, dpid, controller, **about | _given(args))
    grown = replaced(
        network, controllers=controllers, datapaths={**network.datapaths, name: datapath}
    )
    return cabled(grown, name, args.cable)


def _free_dpid(network: Network) -> int:
    number = 1
    while number in network.by_dpid:
        number += 1
    return number


def change(network: Network, args: Namespace, _: Places, kind: DatapathKind) -> Network:
    """Another hypervisor, say.  What cannot change while it forwards the controllers refuse."""
    datapath = known(_WORDS[kind], _name(args, kind), _of_kind(network, kind))
    given = _given(args)
    if not given:
        options = "--hypervisor, --other, --maintenance" if kind is _HOST else "--other"
        raise UsageError(f"{_WORDS[kind]} {datapath.name}: what is another? ({options})")
    changed = replace(datapath, **given)
    return replaced(network, datapaths={**network.datapaths, datapath.name: changed})


def remove(network: Network, args: Namespace, places: Places, kind: DatapathKind) -> Network:
    """A host less, or a plain switch, with its cables.  Raises UsageError where it is in use."""
    datapath = known(_WORDS[kind], _name(args, kind), _of_kind(network, kind))
    if getattr(args, "lost", False):
        return lost(network, datapath.name, places)
    uses = [*_routers_at(network, datapath.name, places), *_uses(network, datapath.name, places)]
    refuse_used(f"{_WORDS[kind]} {datapath.name}", uses)
    return _cut_back(network, _less(network, datapath.name, places))


def _cut_back(before: Network, left: Network) -> Network:
    """What is left of the network without some switches, its links without what they led to by
    those alone: nothing is joined anew while they forward still, so that nothing goes round."""
    laying, links = Laying(left), dict(left.links)
    gone = before.datapaths.keys() - left.datapaths.keys()
    for link in before.links.values():
        rest = laying.rest(link.tree).up
        if rest and not link.tree.up.keys() <= {*rest, *gone}:
            links[link.name] = replace(left.links[link.name], span=tuple(rest))
    return replaced(left, links=links)


def removed(network: Network, args: Namespace, places: Places, kind: DatapathKind) -> Network:
    """What comes after `remove`: links lead again to all that they led to."""
    datapath = known(_WORDS[kind], _name(args, kind), _of_kind(network, kind))
    if getattr(args, "lost", False):
        return lost(network, datapath.name, places)
    return _less(network, datapath.name, places)


def lost(network: Network, name: str, places: Places) -> Network:
    """The network without a plain switch that is dead, or a host, its controller and all that this
    looks after.

    Raises UsageError where a router is there.
    """
    datapath, gone = network.datapaths[name], [name]
    if datapath.kind is DatapathKind.HOST:
        gone = [other.name for other in network.datapaths_of(datapath.controller)]
    refuse_used(f"host {name}", (w for one in gone for w in _routers_at(network, one, places)))
    left = network
    for one in gone:
        cables = {cable.name for cable in left.cables_of[one]}
        links = {n: _link_without(link, one, cables) for n, link in left.links.items()}
        left = _less(replaced(left, links=links), one, places)
    return left


def _link_without(link: Link, datapath: str, cables: set[str]) -> Link:
    return replace(
        link,
        access=tuple(a for a in link.access if a.end.datapath != datapath),
        root="" if link.root == datapath else link.root,
        cables=tuple(cable for cable in link.cables if cable not in cables),
    )


def _routers_at(network: Network, host: str, places: Places) -> Iterator[str]:
    for router in network.routers.values():
        if host in places.get(router.name, {router.home}):
            yield (
                f"router {router.name} is there (`xenflow empty-host {host}`; where the host is "
                f"dead, `xenflow router start {router.name} --on HOST --lost {host}`)"
            )


def _uses(network: Network, name: str, places: Places) -> Iterator[str]:
    """What of links is at a switch, or leads over it."""
    for link in network.links.values():
        ports = [str(access.end) for access in link.access if access.end.datapath == name]
        if ports:
            yield f"link {link.name} has access port {', '.join(ports)} (`xenflow link set`)"
        if link.root == name:
            yield f"link {link.name} has its root there (`xenflow link set`)"
    yield from crossing(network, places, {cable.name for cable in network.cables_of[name]})


def _less(network: Network, name: str, places: Places) -> Network:
    """Without a switch and its cables, and without its controller where that has no other.  A
    router whose home it was has its home where it is."""
    controller = network.datapaths[name].controller
    alone = len(network.datapaths_of(controller)) == 1
    routers = {
        n: replace(r, home=min(places[n])) if r.home == name else r
        for n, r in network.routers.items()
    }
    cables = without(network.cables, *(cable.name for cable in network.cables_of[name]))
    return replaced(
        network,
        controllers=without(network.controllers, *([controller] if alone else [])),
        datapaths=without(network.datapaths, name),
        cables=cables,
        routers=routers,
    )


def renewed(network: Network, args: Namespace, _: Places) -> Network:
    """The network with another machine in a host's place: its datapath id, or its addresses, are
    others.  Raises UsageError."""
    host = known("host", args.host, network.hosts)
    old = network.controllers[host.controller]
    controller = old
    if args.address:
        controller = _controller(old.name, args.address, args.openflow or old.openflow_text)
    changed = replace(host, dpid=_dpid(args.dpid) if args.dpid else host.dpid, **_given(args))
    if (changed, controller) == (host, old):
        raise UsageError(f"host {host.name}: what is another? (--dpid, --address)")
    return replaced(
        network,
        controllers={**network.controllers, old.name: controller},
        datapaths={**network.datapaths, host.name: changed},
    )


def _replace(network: Network, args: Namespace, places: Places) -> Network:
    """What comes before `renewed`: the network without the host that was there."""
    renewed(network, args, places)  # what is wrong is found before anything is changed
    return _cut_back(network, lost(network, args.host, places))


_ADDRESS: Option = (
    "--address",
    {"metavar": "ADDRESS", "help": f"where its controller is reached, at port {MANAGE_PORT}"},
)
_OPENFLOW: Option = (
    "--openflow",
    {
        "metavar": "ADDRESS:PORT",
        "help": f"where its switch reaches that controller ({OPENFLOW})",
    },
)
_CONTROLLER: Option = (
    "--controller",
    {"metavar": "CONTROLLER", "help": "one that there is looks after it"},
)
_DPID: Option = ("--dpid", {"metavar": "DPID", "help": "its datapath id (default: a free one)"})
_NEW_DPID: Option = ("--dpid", {"metavar": "DPID", "help": "the new machine's datapath id"})
_CABLE: Option = (
    "--cable",
    {
        "action": "append",
        "default": [],
        "metavar": "[PORT=]SWITCH[:PORT]",
        "help": "a cable to another switch (port: to-OTHER, where none is named; may be repeated)",
    },
)
_HYPERVISOR: Option = ("--hypervisor", {"metavar": "SPEC", "help": "who moves its VMs"})
_OTHER: Option = (
    "--other",
    {"choices": ("normal", "drop"), "help": "what happens to traffic of no link"},
)
_PROOF: Option = (
    "--proof",
    {"choices": ("revalidator", "bound"), "help": "how a change is known to be in force"},
)
_PIPELINE: Option = (
    "--pipeline",
    {"choices": ("proactive", "reactive"), "help": "how it learns routes"},
)
_MAINTENANCE: Option = (
    "--maintenance",
    {
        "choices": ("on", "off"),
        "help": "on: no router comes there (`empty-host` empties it)",
    },
)
_LOST: Option = (
    "--lost",
    {
        "action": "store_true",
        "help": "it is dead: what hangs on it goes with it; a host's controller is not asked",
    },
)
_HOST, _PLAIN = DatapathKind.HOST, DatapathKind.PLAIN

OF_HOSTS = (
    Edit(
        "add",
        "a host more",
        partial(add, kind=_HOST),
        (_ADDRESS, _OPENFLOW, _CONTROLLER, _DPID, _CABLE, _HYPERVISOR, _OTHER, _PROOF, _PIPELINE),
    ),
    Edit(
        "set",
        "a host is another in some way",
        partial(change, kind=_HOST),
        (_HYPERVISOR, _OTHER, _MAINTENANCE),
    ),
    Edit(
        "replace",
        "another machine in a host's place: without it in a first step, with it in a second",
        _replace,
        (_ADDRESS, _OPENFLOW, _NEW_DPID, _HYPERVISOR),
        places=True,
        then=renewed,
    ),
    Edit(
        "remove",
        "a host less, with its cables; refused where it is in use",
        partial(remove, kind=_HOST),
        (_LOST,),
        places=True,
        then=partial(removed, kind=_HOST),
    ),
)
OF_SWITCHES = (
    Edit(
        "add",
        "a plain switch more",
        partial(add, kind=_PLAIN),
        (_CONTROLLER, _DPID, _CABLE, _OTHER, _PROOF),
    ),
    Edit("set", "a plain switch is another in some way", partial(change, kind=_PLAIN), (_OTHER,)),
    Edit(
        "remove",
        "a plain switch less, with its cables; refused where it is in use",
        partial(remove, kind=_PLAIN),
        (_LOST,),
        places=True,
        then=partial(removed, kind=_PLAIN),
    ),
)
