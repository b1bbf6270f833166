"""Where a router is, as the store has it: the cell `placement` of `Placement` and `Laid_Element`.

It names the router's number too: another router of the same name, made after that one had gone, is
another one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from xenflow.model.network import Network, NetworkError, Router
from xenflow.model.placement import Placement, from_json, to_json
from xenflow.store.columns import Cell

KNOWN = 1 << 13
"""So many cells are not written, nor read, anew each time that the store is compared with."""


def to_cell(placement: Placement, router: Router) -> str:
    """The cell."""
    return _written(placement, router.id)


@lru_cache(KNOWN)
def _written(placement: Placement, id: int) -> str:
    return json.dumps({"id": id, **to_json(placement)}, separators=(",", ":"))


@lru_cache(KNOWN)
def _parsed(cell: Cell) -> tuple[Any, Placement] | None:
    """The router's number and the placement; None where it is none."""
    try:
        value = json.loads(str(cell)) if cell else {}
        return value.get("id"), from_json(value)
    except (AttributeError, ValueError, NetworkError, RecursionError):
        return None


def read(cells: Iterable[Cell], network: Network) -> Iterator[Placement]:
    """What cells say of routers that the network has; what does not fit it is left out."""
    for cell in cells:
        if (parsed := _parsed(cell)) is None:
            continue
        id, placement = parsed
        router = network.routers.get(placement.router)
        if router is None or id != router.id:
            continue
        of_before = placement.version < router.first_version  # it was stopped, and started anew
        if not of_before and all(host in network.hosts for host in placement.hosts):
            yield placement
