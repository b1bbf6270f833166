"""Edits of virtual links."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace

from mgmt.edits import Edit, Option, Places, access_of, new, replaced, without
from mgmt.session import UsageError, known
from xenflow.model.network import Link, Network


def create(network: Network, args: Namespace, _: Places) -> Network:
    """A link more; what is not given is taken as it comes."""
    link = Link(
        new("link", args.link, network.links),
        args.id or 0,  # 0: the planner gives it one
        args.vlan or 0,
        0,
        tuple(map(access_of, args.access)),
        args.root or "",
        tuple(args.cable),
        mbps=args.mbps or 0,
        mtu=args.mtu or 0,
        disjoint_from=tuple(args.disjoint_from),
        span=tuple(args.span) if args.span else None,
    )
    return replaced(network, links={**network.links, link.name: link})


def change(network: Network, args: Namespace, _: Places) -> Network:
    """Another root, other cables or wishes of them, access ports more, less, or with other
    stations."""
    link = known("link", args.link, network.links)
    words = {name: getattr(args, name.removeprefix("--").replace("-", "_")) for name in _OF_SET}
    given = [name for name, value in words.items() if value not in (None, False, [])]
    if not given:
        raise UsageError(f"link {link.name}: what is another? ({', '.join(_OF_SET)})")
    for pair in (("--root", "--no-root"), ("--cable", "--any-cable")):
        if {*pair} <= {*given}:
            raise UsageError(f"link {link.name}: {' and '.join(pair)} contradict each other")
    ports = {str(access.end): access for access in link.access}
    for text in args.no_access:
        del ports[str(known(f"access port of {link.name}", text, ports).end)]
    there = {str(access.end): access for access in map(access_of, args.access)}
    if both := sorted(there.keys() & {*args.no_access}):
        raise UsageError(f"link {link.name}: {both[0]} is named by --access and by --no-access")
    ports |= there
    changed = replace(
        link,
        access=tuple(ports.values()),
        root="" if args.no_root else args.root or link.root,
        cables=() if args.any_cable else tuple(args.cable) or link.cables,
        mbps=link.mbps if args.mbps is None else args.mbps,
        mtu=link.mtu if args.mtu is None else args.mtu,
        disjoint_from=tuple(dict.fromkeys((*link.disjoint_from, *args.disjoint_from))),
        span=tuple(dict.fromkeys((*(link.span or ()), *args.span))) if args.span else link.span,
    )
    return replaced(network, links={**network.links, link.name: changed})


def destroy(network: Network, args: Namespace, _: Places) -> Network:
    """A link less.  Raises UsageError where a router has an interface on it."""
    link = known("link", args.link, network.links)
    if members := [router.name for router, _ in network.members(link.name)]:
        who = ", ".join(members)
        raise UsageError(f"link {link.name}: {who} has an interface on it: take that away first")
    return replaced(network, links=without(network.links, link.name))


_ROOT: Option = ("--root", {"metavar": "DATAPATH", "help": "where its tree grows from"})
_CABLE: Option = (
    "--cable",
    {
        "action": "append",
        "default": [],
        "metavar": "CABLE",
        "help": "the only cables its tree may use (default: all; may be repeated)",
    },
)
_ACCESS: Option = (
    "--access",
    {
        "action": "append",
        "default": [],
        "metavar": "DATAPATH:PORT[,MAC]...",
        "help": "an untagged port, with the stations behind it (may be repeated)",
    },
)
_ID: Option = (
    "--id",
    {"type": int, "metavar": "N", "help": "its number (default: a free one)"},
)
_VLAN: Option = ("--vlan", {"type": int, "metavar": "ID", "help": "the same of its VLAN id"})
_NO_ROOT: Option = ("--no-root", {"action": "store_true", "help": "its tree grows as it comes"})
_ANY: Option = ("--any-cable", {"action": "store_true", "help": "its tree may use all cables"})
_NO_ACCESS: Option = (
    "--no-access",
    {
        "action": "append",
        "default": [],
        "metavar": "DATAPATH:PORT",
        "help": "a port that is the link's no more (may be repeated)",
    },
)
_WISHES: tuple[Option, ...] = (
    ("--mbps", {"type": int, "metavar": "N", "help": "Mbit/s promised to it (0: none)"}),
    ("--mtu", {"type": int, "metavar": "N", "help": "octets its cables shall carry (0: any)"}),
    (
        "--disjoint-from",
        {
            "action": "append",
            "default": [],
            "metavar": "LINK",
            "help": "a link with which it shares no cable (may be repeated)",
        },
    ),
    (
        "--span",
        {
            "action": "append",
            "default": [],
            "metavar": "DATAPATH",
            "help": "it leads only where it must, and there (may be repeated)",
        },
    ),
)

_SET = (_ROOT, _NO_ROOT, _CABLE, _ANY, _ACCESS, _NO_ACCESS, *_WISHES)
_OF_SET = tuple(name for name, _ in _SET)
EDITS = (
    Edit("create", "a virtual link more", create, (_ID, _VLAN, _ROOT, _CABLE, _ACCESS, *_WISHES)),
    Edit(
        "set",
        "another root or other cables; access ports more, less, or with other stations",
        change,
        _SET,
    ),
    Edit("destroy", "a virtual link less; refused where a router has an interface on it", destroy),
)
