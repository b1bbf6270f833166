"""docs/pipeline.md shows what `tables/layout.py` declares.

After a change of the declaration `python -m tests.tables.test_document` writes the document anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from tests.conftest import ROOT
from xenflow.tables.layout import HOLDS, ONE_TABLE, TABLES, Table

DOCUMENT = ROOT / "docs" / "pipeline.md"


def shown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def priorities(table: Table) -> str:
    """The bands of a table, the highest first."""
    up_to = dict(table.up_to)
    named = [
        (int(band), name.lower().replace("_", " "))
        for name, band in table.priorities.__members__.items()
    ]
    words = []
    for low, of_it in groupby(sorted(named, key=lambda one: -one[0]), key=lambda one: one[0]):
        span = f"{low} to {up_to[low]}" if low in up_to else str(low)
        words.append(f"{span} {' or '.join(name for _, name in of_it)}")
    return ", ".join(words)


def declared(table: Table, title: str) -> list[str]:
    """One line of what the flows of a table may do."""
    leads = [TABLES[number].name for number in table.leads_to] + [*table.leaves_by]
    return [
        title,
        ", ".join([*table.matches, *table.reads]),
        ", ".join([*table.writes, *table.rewrites]),
        ", ".join(leads),
        priorities(table),
    ]


def parts() -> dict[str, str]:
    """What stands between the marks of each name."""
    titles = [f"{table.number} {table.name}" for table in TABLES]
    rows = [declared(table, title) for table, title in zip(TABLES, titles, strict=True)]
    rows.append(declared(ONE_TABLE, "OpenFlow 1.0 alone"))
    return {
        "tables": shown(
            ["table", "asks", "does"],
            [[title, table.asks, table.does] for title, table in zip(titles, TABLES, strict=True)],
        ),
        "declared": shown(["table", "matches", "changes", "leads to", "priorities"], rows),
        "registers": shown(["register", "holds"], HOLDS.items()),
    }


def written(text: str) -> str:
    """The document with what is declared now."""
    for name, part in parts().items():
        text, count = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda found, part=part: f"{found[1]}{part}\n{found[2]}",  # type: ignore[misc]
            text,
            flags=re.S,
        )
        assert count == 1, f"{DOCUMENT} has no place for the {name}"
    return text


def test_the_document_shows_what_is_declared() -> None:
    assert DOCUMENT.read_text() == written(DOCUMENT.read_text()), __doc__


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
