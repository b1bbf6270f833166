"""`xenflow flows`: a switch's flows, read from the switch itself."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from itertools import groupby
from typing import Any

from mgmt.session import Session
from mgmt.text import duration, table
from mgmt.verbs import Exit, add_json, emit

NAME = "flows"
SUMMARY = "the flows of a host or switch, read from it"

TABLES = {0: "admission", 1: "routes", 2: "next hops", 3: "links"}
"""The names of docs/data-plane.md."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("host", metavar="HOST", help="a host or a plain switch")
    parser.add_argument("--router", help="only this router's flows")
    parser.add_argument("--table", type=_table, metavar="N", help="only this table's, 0 to 3")
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="at most N (1000)")
    add_json(parser)


def run(args: Namespace, session: Session) -> int:
    session.datapath(args.host)
    if args.router:
        session.router(args.router)
    answer = session.ask_datapath(
        args.host,
        "flows",
        datapath=args.host,
        router=args.router,
        table=args.table,
        limit=args.limit,
    )
    flows = answer.get("flows", [])
    text = "\n\n".join(
        f"table {number} {TABLES.get(number, '')}".rstrip() + "\n" + _flows(list(group))
        for number, group in groupby(_in_order(flows), key=lambda flow: flow.get("table", 0))
    )
    if len(flows) >= args.limit:
        text += f"\n(the first {len(flows)}; more with --limit)"
    emit(args, {"datapath": args.host, "flows": flows}, text or "no flows")
    return Exit.OK


def _in_order(flows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(flows, key=lambda f: (f.get("table", 0), -int(f.get("priority") or 0)))


def _flows(flows: list[dict[str, Any]]) -> str:
    rows = [
        (
            flow.get("priority"),
            flow.get("packets"),
            duration(flow.get("age_s")),
            _brief(flow.get("match")),
            _brief(flow.get("actions")),
            flow.get("text"),
        )
        for flow in flows
    ]
    return table(("PRIORITY", "PACKETS", "AGE", "MATCH", "ACTIONS", "WHY"), rows, indent="  ")


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items()) or "any"
    if isinstance(value, list):
        return ",".join(map(str, value)) or "drop"
    return "" if value is None else str(value)


def _table(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 254:
        raise ValueError
    return number
