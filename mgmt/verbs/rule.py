"""`xenflow rule add|replace|remove`: change one rule of a host or switch at run time."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

from mgmt.session import ManagementSession, UsageError
from mgmt.text import to_json
from mgmt.verbs import Exit, add_dry_run, add_json, agreed, complain, emit
from mgmt.verbs.rules import show
from xenflow.model.management import MAX_PRIORITY, request
from xenflow.tables.operator_rule import sweep

NAME = "rule"
SUMMARY = "add, replace or remove a rule of a host or switch"


def add_arguments(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="change", metavar="VERB", required=True)
    for change, summary in (
        ("add", "add a rule; refused where one of that id exists"),
        ("replace", "put a rule in the place of the one with the same id"),
        ("remove", "remove a rule"),
    ):
        verb = actions.add_parser(change, help=summary, description=summary)
        verb.add_argument("host", metavar="HOST", help="a host or a plain switch")
        if change == "remove":
            verb.add_argument("rule_id", metavar="ID")
        else:
            verb.add_argument("--id", metavar="ID", help="the rule's name, as you like")
            verb.add_argument(
                "--priority", type=int, metavar="N", help=f"0 (default) to {MAX_PRIORITY}"
            )
            verb.add_argument(
                "--match",
                type=fields,
                metavar="KEY=VALUE,...",
                help="what it is for, else everything: in_port=PORT, dl_src, dl_dst, dl_vlan, "
                "dl_type, nw_src, nw_dst, nw_proto, nw_tos, tp_src, tp_dst",
            )
            verb.add_argument(
                "--actions",
                type=actions_of,
                metavar="ACTION,...",
                help="what is done, else drop: "
                "normal, output:PORT, queue:PORT:QUEUE, vlan:ID, strip-vlan, dl-src:MAC, "
                "dl-dst:MAC",
            )
            verb.add_argument(
                "--file", type=Path, metavar="FILE", help="the rule as JSON instead; - reads it"
            )
            verb.add_argument(
                "--force",
                action="store_true",
                help="also a rule that is for everything, without being asked",
            )
        add_dry_run(verb)
        add_json(verb)


def run(args: Namespace, session: ManagementSession) -> int:
    session.datapath(args.host)
    arguments: dict[str, Any] = {"datapath": args.host}
    if args.change == "remove":
        arguments["rule_id"] = args.rule_id
    else:
        arguments["rule"] = _rule(args)
    verb = f"rule-{args.change}"
    request(verb, "0", **arguments)  # what the controller would refuse is refused here
    text = f"rule {args.rule_id}" if args.change == "remove" else show([arguments["rule"]])
    if not (args.dry_run or args.change == "remove" or args.force):
        takes = sweep(arguments["rule"]["match"])
        if takes and not _wanted(args, arguments["rule"], takes):
            complain("nothing was changed")
            return Exit.FAILED
    if args.dry_run:
        emit(args, {"verb": verb, **arguments}, f"would {args.change} on {args.host}:\n{text}")
        return Exit.OK
    kept = session.ask_datapath(args.host, verb, **arguments).get("rule")
    if isinstance(kept, dict):
        text = show([kept])
    emit(args, {"datapath": args.host, "rule": kept}, f"{args.host}: {_PAST[args.change]}\n{text}")
    return Exit.OK


def _wanted(args: Namespace, rule: dict[str, Any], takes: str) -> bool:
    """Whether the operator wants a rule that decides for everything.  Raises UsageError where
    nobody can be asked."""
    does = ",".join(map(str, rule["actions"])) or "drop"
    words = (
        f"rule {rule['id']} is for {takes}: {args.host} would do only this with it: {does}; "
        "no router or virtual link would get any of it"
    )
    reads_rule = args.file is not None and str(args.file) == "-"
    if reads_rule or not sys.stdin.isatty():
        raise UsageError(f"{words}. Give --match, or --force if that is what you want")
    return agreed(words)


_PAST = {"add": "added", "replace": "replaced", "remove": "removed"}


def _rule(args: Namespace) -> dict[str, Any]:
    given = {key: getattr(args, key) for key in ("id", "priority", "match", "actions")}
    rule = {key: value for key, value in given.items() if value is not None}
    if args.file is not None:
        rule = {**_read(args.file), **rule}
    if "id" not in rule:
        raise UsageError("the rule has no id: give --id, or `id` in the file")
    return {"priority": 0, "match": {}, "actions": [], **rule}


def _read(path: Path) -> dict[str, Any]:
    try:
        text = Path("/dev/stdin" if str(path) == "-" else path).read_text("utf-8-sig")
        rule = json.loads(text)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}") from None
    if not isinstance(rule, dict):
        raise UsageError(f"{path}: expected one rule, an object; found {to_json(rule)[:40]}")
    return rule


def fields(text: str) -> dict[str, str | int]:
    """`dl_type=0x800,nw_dst=10.0.0.0/8` as an object; decimal numbers become numbers."""
    found: dict[str, str | int] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not key or not value:
            raise ArgumentTypeError(f"{item!r}: expected KEY=VALUE")
        if key in found:
            raise ArgumentTypeError(f"{key}: given twice")
        found[key] = int(value) if value.isdecimal() else value
    return found


def actions_of(text: str) -> list[str]:
    """`vlan:101,output:to-gen` as a list; `drop` is no action at all."""
    actions = [action for action in text.split(",") if action]
    return [] if actions == ["drop"] else actions
