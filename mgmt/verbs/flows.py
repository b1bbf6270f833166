"""`xenflow flows`: a switch's flows, read from the switch itself."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from itertools import groupby
from typing import Any

from mgmt.session import ManagementSession
from mgmt.text import duration, table
from mgmt.verbs import Exit, add_json, emit
from xenflow.tables.layout import TABLE_NAMES

NAME = "flows"
SUMMARY = "the flows of a host or switch, read from it"


_TABLE_HELP = "only this table's flows: " + ", ".join(
    f"{number} {name}" for number, name in enumerate(TABLE_NAMES)
)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("host", metavar="HOST", help="a host or a plain switch")
    parser.add_argument("--router", help="only this router's flows")
    parser.add_argument("--table", type=_table, metavar="TABLE", help=_TABLE_HELP)
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="at most N (1000)")
    add_json(parser)


def run(args: Namespace, session: ManagementSession) -> int:
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
        f"table {number} {_name(number)}".rstrip() + "\n" + _flows(list(group))
        for number, group in groupby(_in_order(flows), key=lambda flow: flow.get("table", 0))
    )
    total = answer.get("total", len(flows))
    if len(flows) < total:
        text += f"\n({len(flows)} of {total} flows; more with --limit)"
    emit(args, {"datapath": args.host, "flows": flows, "total": total}, text or "no flows")
    return Exit.OK


def _in_order(flows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(flows, key=lambda f: (f.get("table", 0), -int(f.get("priority") or 0)))


def _flows(flows: list[dict[str, Any]]) -> str:
    rows = [
        (
            flow.get("priority"),
            flow.get("packets"),
            duration(flow.get("age_s")),
            flow.get("owner"),
            flow.get("match"),
            flow.get("actions") or "drop",
        )
        for flow in flows
    ]
    return table(("PRIORITY", "PACKETS", "AGE", "OWNER", "MATCH", "ACTIONS"), rows, indent="  ")


def _name(table: int) -> str:
    return TABLE_NAMES[table] if table < len(TABLE_NAMES) else ""


def _table(text: str) -> int:
    """A table by its number or name."""
    if text in TABLE_NAMES:
        return TABLE_NAMES.index(text)
    number = int(text)
    if not 0 <= number < len(TABLE_NAMES):
        raise ValueError
    return number


_table.__name__ = "table"
