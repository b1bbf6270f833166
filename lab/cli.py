"""The command: `xenflow lab VERB ...`, or `python -m lab VERB ...`.

Each verb is a function that takes the parsed arguments and returns an exit status; mistakes are
raised as NetworkError.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lab import bring_up, operate, routing
from lab.state import LabOptions

_DEFAULTS = LabOptions()


def add_parser(subparsers: Any) -> None:
    """Add `lab` and its verbs to the `xenflow` command; each sets `run`."""
    lab = subparsers.add_parser("lab", help="a network of namespaces on this machine")
    add_verbs(lab.add_subparsers(dest="lab_verb", metavar="VERB", required=True))


def add_verbs(verbs: Any) -> None:
    """The verbs themselves."""
    up = verbs.add_parser("up", help="bring a network up")
    up.add_argument("network", metavar="FILE|NAME", help="a network file, or one in conf/ by name")
    up.add_argument(
        "--static",
        action="store_true",
        help="no controllers: every virtual link flooded along its tree",
    )
    up.add_argument(
        "--store",
        action="store_true",
        help="the network lives in a store: `lab reload` applies the file to it",
    )
    up.add_argument("--daemon", choices=routing.DAEMONS, default=_DEFAULTS.daemon)
    up.add_argument("--keep", action="store_true", help="leave everything when it fails")
    for name, kind, text in (
        ("hello", int, "OSPF's hello interval"),
        ("dead", int, "OSPF's dead interval"),
        ("pause", float, "how long the emulated hypervisor pauses a router that moves"),
        ("precopy", float, "how long it copies before"),
        ("limit", float, "how long routing may take to converge"),
    ):
        default = getattr(_DEFAULTS, f"{name}_s")
        up.add_argument(
            f"--{name}",
            type=kind,
            metavar="S",
            default=default,
            help=f"{text}, in seconds (default %(default)s)",
        )
    for name in ("max-idle", "max-revalidator"):
        limit = getattr(_DEFAULTS, name.replace("-", "_") + "_ms")
        up.add_argument(
            f"--{name}",
            type=int,
            metavar="MS",
            default=limit,
            help=f"Open vSwitch's {name}, in ms (default %(default)s)",
        )
    up.set_defaults(run=_up)

    reload = verbs.add_parser("reload", help="let the lab that is up follow a changed network file")
    reload.add_argument(
        "network",
        metavar="FILE|NAME",
        nargs="?",
        help="default: the one that it was brought up from (`source` of `lab status`)",
    )
    reload.add_argument(
        "-n", "--dry-run", action="store_true", help="print the steps, and change nothing"
    )
    reload.add_argument("--json", action="store_true")
    reload.set_defaults(run=_reload)

    down = verbs.add_parser("down", help="end it, also after a crash")
    down.set_defaults(run=_down)

    nodes = verbs.add_parser("nodes", help="the nodes, their addresses, where routers run")
    nodes.add_argument("--json", action="store_true")
    nodes.set_defaults(run=_nodes)

    execute = verbs.add_parser("exec", help="run a program in a node")
    execute.add_argument("node")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD")
    execute.set_defaults(run=_exec)

    for name, text in (("cut", "take a cable's carrier away"), ("heal", "give it back")):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument(
            "link", help="a cable's name, or that of a virtual link with access ports: these"
        )
        verb.set_defaults(run=_cut if name == "cut" else _heal)

    status = verbs.add_parser("status", help="what runs, what routing daemons reported")
    status.add_argument("--json", action="store_true")
    status.set_defaults(run=_status)


def _up(args: argparse.Namespace) -> int:
    bring_up.up(
        args.network,
        LabOptions(
            controllers=not args.static,
            daemon=args.daemon,
            hello_s=args.hello,
            dead_s=args.dead,
            max_idle_ms=args.max_idle,
            max_revalidator_ms=args.max_revalidator,
            pause_s=args.pause,
            precopy_s=args.precopy,
            limit_s=args.limit,
            keep=args.keep,
            store=args.store,
        ),
    )
    return 0


def _reload(args: argparse.Namespace) -> int:
    found = bring_up.reload(args.network, dry_run=args.dry_run)
    if args.json:
        print(
            json.dumps(
                {
                    "source": str(found.source),
                    "refused": found.refused,
                    "steps": [
                        {"words": str(s), "do": s.do.name, "what": s.what} for s in found.steps
                    ],
                    "done": not found.refused and not args.dry_run,
                },
                indent=1,
            )
        )
    elif found.refused:
        print(f"lab reload: refused, nothing was changed: {found.source}", file=sys.stderr)
        print("\n".join(f"  {line}" for line in found.refused), file=sys.stderr)
    elif not found.steps:
        print(f"nothing to do: the lab is as {found.source} says")
    elif args.dry_run:
        print("\n".join(map(str, found.steps)))
    return 1 if found.refused else 0


def _down(_: argparse.Namespace) -> int:
    bring_up.down()
    return 0


def _nodes(args: argparse.Namespace) -> int:
    found = operate.nodes()
    if args.json:
        print(json.dumps([{**asdict(n), "addresses": list(n.addresses)} for n in found], indent=1))
        return 0
    rows = [("NODE", "KIND", "NAMESPACE", "ADDRESSES", "HOST")]
    rows += [(n.name, n.kind, n.namespace, " ".join(n.addresses), n.host or "") for n in found]
    _print_table(rows)
    return 0


def _exec(args: argparse.Namespace) -> int:
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        print("lab exec: no command: `lab exec NODE -- COMMAND ...`", file=sys.stderr)
        return 2
    return operate.execute(args.node, command)


def _cut(args: argparse.Namespace) -> int:
    operate.cut(args.link)
    return 0


def _heal(args: argparse.Namespace) -> int:
    operate.heal(args.link)
    return 0


def _status(args: argparse.Namespace) -> int:
    found = operate.status()
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    for key, value in found.items():
        print(f"{key:18} {_shown(value)}")
    return 0


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
