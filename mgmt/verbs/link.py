"""`xenflow link create|destroy`: one virtual link more, or less, by way of the store.

What nobody needs to choose is taken as it comes: the next number, and the next VLAN id.  It is a
change as `xenflow apply` makes it, and `xenflow undo` takes it back.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Collection
from dataclasses import replace

from mgmt.session import ManagementSession, UsageError
from mgmt.verbs import Exit, add_dry_run, add_json, complain
from mgmt.verbs.apply import carry_out
from xenflow.model.network import Access, End, Link, Network, NetworkError
from xenflow.store import network_file
from xenflow.store.network_text import to_text

NAME = "link"
SUMMARY = "create or destroy a virtual link, by way of the store"


def add_arguments(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="change", metavar="CHANGE", required=True)
    for change, summary in (
        ("create", "a virtual link more"),
        ("destroy", "a virtual link less; refused where a router has an interface on it"),
    ):
        verb = actions.add_parser(change, help=summary, description=summary)
        verb.add_argument("link", metavar="LINK", help="its name")
        if change == "create":
            verb.add_argument("--id", type=int, metavar="N", help="its number (default: the next)")
            verb.add_argument("--vlan", type=int, metavar="ID", help="the same of its VLAN id")
            verb.add_argument("--root", metavar="DATAPATH", help="where its tree grows from")
            verb.add_argument(
                "--cable",
                action="append",
                default=[],
                metavar="CABLE",
                help="the only cables its tree may use (default: all; may be repeated)",
            )
            verb.add_argument(
                "--access",
                action="append",
                default=[],
                metavar="DATAPATH:PORT[,MAC]...",
                help="an untagged port, with the stations behind it (may be repeated)",
            )
        add_dry_run(verb)
        add_json(verb)


def run(args: Namespace, session: ManagementSession) -> int:
    if not session.network.store:
        complain("the network lives in its file: change that, then `xenflow reload`")
        return Exit.FAILED
    wanted = _with(args, session.network) if args.change == "create" else _without(args, session)
    text, file = to_text(wanted), f"link {args.change} {args.link}"
    try:
        after, _ = network_file.parse(text, file, session.network, in_store=True)
    except NetworkError as error:
        raise UsageError(str(error)) from None
    return carry_out(args, session, text, file, after, session.change)


def _with(args: Namespace, network: Network) -> Network:
    if args.link in network.links:
        raise UsageError(f"there is a link {args.link} already")
    there = network.links.values()
    link = Link(
        args.link,
        args.id or _next({link.id for link in there}, network_file.MAX_ID),
        args.vlan or _next({link.vlan for link in there}, network_file.MAX_VLAN),
        0,
        tuple(map(_access, args.access)),
        args.root or "",
        tuple(args.cable),
    )
    return replace(network, links={**network.links, link.name: link})


def _without(args: Namespace, session: ManagementSession) -> Network:
    network = session.network
    link = session.link(args.link)
    if members := [router.name for router, _ in network.members(link.name)]:
        who = ", ".join(members)
        raise UsageError(f"link {link.name}: {who} has an interface on it: take that away first")
    return replace(network, links={n: k for n, k in network.links.items() if n != link.name})


def _next(taken: Collection[int], highest: int) -> int:
    """One more than the highest there is; where there is none, the lowest that is free."""
    number = max(taken, default=0) + 1
    if number > highest:
        number = next((n for n in range(1, highest) if n not in taken), highest)
    return number


def _access(text: str) -> Access:
    """DATAPATH:PORT[,MAC]...  Whether that is right the reader of files says."""
    end, *macs = text.split(",")
    datapath, _, port = end.partition(":")
    try:
        return Access(End(datapath, port), tuple(int(mac.replace(":", ""), 16) for mac in macs))
    except ValueError:
        raise UsageError(f"--access {text}: expected DATAPATH:PORT[,MAC]...") from None
