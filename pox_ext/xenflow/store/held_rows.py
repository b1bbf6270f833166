"""Laid rows, with those of before in the places of what is held (`model.holding`).  Called by
`control.store_follower`, which keeps these until the move has ended."""

from __future__ import annotations

from xenflow.model.holding import Names
from xenflow.model.network import PARTS
from xenflow.store.network_rows import LAID, NamedRows


def mixed(before: NamedRows, after: NamedRows, held: Names) -> NamedRows:
    """The rows `after`, but of each name that is held what `before` has: its row, or none."""
    made = {table: dict(rows) for table, rows in after.items()}
    for part, table in zip(PARTS, LAID, strict=True):
        for key in ((name,) for name in held.get(part, ())):
            row = before.get(table, {}).get(key)
            if row is not None:
                made.setdefault(table, {})[key] = row
            else:
                made.get(table, {}).pop(key, None)
    return made
