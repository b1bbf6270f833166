"""The command: `xenflow lab VERB ...`, or `python -m lab VERB ...`.

Each verb is a function that takes the parsed arguments and returns an exit status; mistakes are
raised as NetworkError.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import Any

from lab import bring_up, checkpoint, operate, rooms, routing
from lab.namespace import need_root
from lab.state import LabOptions, read_state
from mgmt.session import UsageError
from mgmt.verbs import refusal

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
        dest="controllers",
        action="store_false",
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
        up.add_argument(
            f"--{name}",
            dest=f"{name}_s",
            type=kind,
            metavar="S",
            default=getattr(_DEFAULTS, f"{name}_s"),
            help=f"{text}, in seconds (default %(default)s)",
        )
    for name in ("max-idle", "max-revalidator"):
        field = name.replace("-", "_") + "_ms"
        up.add_argument(
            f"--{name}",
            dest=field,
            type=int,
            metavar="MS",
            default=getattr(_DEFAULTS, field),
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
    execute.add_argument("node", metavar="NODE")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD")
    execute.set_defaults(run=_exec)

    for name, text in (("cut", "take a cable's carrier away"), ("heal", "give it back")):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument(
            "link", help="a cable's name, or that of a virtual link with access ports: these"
        )
        verb.set_defaults(run=_turn, turn=operate.cut if name == "cut" else operate.heal)

    status = verbs.add_parser("status", help="what runs, what routing daemons reported")
    status.add_argument("--json", action="store_true")
    status.set_defaults(run=_status)

    for name, text in (
        ("checkpoint", "keep the state of the lab that is up, by a name"),
        ("reset", "bring the lab back to a checkpoint"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("checkpoint", metavar="NAME")
        verb.set_defaults(run=_checkpoint if name == "checkpoint" else _reset)

    for verb in verbs.choices.values():
        verb.add_argument(
            "--name",
            "--lab",
            dest="lab",
            metavar="NAME",
            default=argparse.SUPPRESS,
            help="of several labs the one of this name (also: $XENFLOW_LAB)",
        )
        verb.set_defaults(run=partial(_in_room, verb.get_default("run")))

    enter = verbs.add_parser("enter", help="a shell, or a program, where a named lab is")
    enter.add_argument("name", metavar="NAME")
    enter.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- CMD", help="default: a shell"
    )
    enter.set_defaults(run=_enter)

    every = verbs.add_parser("list", help="the labs that are up on this machine")
    every.add_argument("--json", action="store_true")
    every.set_defaults(run=_list)


def _checkpoint(args: argparse.Namespace) -> int:
    checkpoint.take(args.checkpoint)
    return 0


def _reset(args: argparse.Namespace) -> int:
    checkpoint.reset(args.checkpoint)
    return 0


def _in_room(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """A verb, in the room of the lab that is named.  Raises LabError where it needs root."""
    if args.lab_verb != "nodes" or args.lab not in ("", rooms.here()):
        need_root()
    status = rooms.carry_out(args.lab, args.lab_verb)
    return run(args) if status is None else status


def _enter(args: argparse.Namespace) -> int:
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    need_root()
    enter(args.name, command or [os.environ.get("SHELL", "sh")])
    return 0


def enter(name: str, argv: Sequence[str]) -> None:
    """Become a program where the lab of a name is; where that is here already, do nothing.

    Raises LabError where there is no such lab.
    """
    if name != rooms.here():
        rooms.become(rooms.find(name), argv)


def _list(args: argparse.Namespace) -> int:
    own = read_state()
    found = [("", asdict(own))] if own else []
    found += [(room.name, state) for room in rooms.rooms() if (state := room.state())]
    if args.json:
        keys = ("phase", "network", "source", "since")
        print(json.dumps([{"name": n, **{k: s[k] for k in keys}} for n, s in found], indent=1))
        return 0
    rows = [("NAME", "NETWORK", "PHASE", "SOURCE")]
    _print_table([*rows, *((n or "-", s["network"], s["phase"], s["source"]) for n, s in found)])
    return 0


def _up(args: argparse.Namespace) -> int:
    asked = {f.name: getattr(args, f.name) for f in fields(LabOptions) if f.name in args}
    bring_up.up(args.network, LabOptions(**asked))
    return 0


def _reload(args: argparse.Namespace) -> int:
    found = bring_up.reload(args.network, dry_run=args.dry_run)
    if args.json:
        value = {
            "source": str(found.source),
            "refused": found.refused,
            "steps": [{"words": str(s), "do": s.do.name, "what": s.what} for s in found.steps],
            "done": not found.refused and not args.dry_run,
        }
        if found.refused:
            value |= refusal("\n".join(found.refused), 1)
        print(json.dumps(value, indent=1))
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
    for n in found:
        host = "stopped" if n.kind == "router" and n.host is None else n.host or ""
        rows.append((n.name, n.kind, n.namespace, " ".join(n.addresses), host))
    _print_table(rows)
    return 0


def _exec(args: argparse.Namespace) -> int:
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise UsageError("no command: `xenflow lab exec NODE -- COMMAND ...`")
    return operate.execute(args.node, command)


def _turn(args: argparse.Namespace) -> int:
    args.turn(args.link)
    return 0


def _status(args: argparse.Namespace) -> int:
    found = operate.status() | {"checkpoints": checkpoint.checkpoints()}
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
