"""`xenflow rules`: the operator's rules of a host or switch."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from mgmt.session import ManagementSession
from mgmt.text import table
from mgmt.verbs import Exit, add_json, emit

NAME = "rules"
SUMMARY = "the operator's rules of a host or switch"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("host", metavar="HOST", help="a host or a plain switch")
    add_json(parser)


def run(args: Namespace, session: ManagementSession) -> int:
    session.datapath(args.host)
    answer = session.ask_datapath(args.host, "rules", datapath=args.host)
    rules = answer.get("rules", [])
    text = show(rules) if rules else f"{args.host} has no rules"
    emit(args, {"datapath": args.host, "rules": rules}, text)
    return Exit.OK


def show(rules: list[dict[str, Any]]) -> str:
    """Rules as a table."""
    rows = [
        (
            rule.get("id"),
            rule.get("priority"),
            ",".join(f"{k}={v}" for k, v in (rule.get("match") or {}).items()) or "any",
            ",".join(map(str, rule.get("actions") or ())) or "drop",
        )
        for rule in rules
    ]
    return table(("RULE", "PRIORITY", "MATCH", "ACTIONS"), rows)
