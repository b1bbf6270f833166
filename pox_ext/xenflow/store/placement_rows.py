"""Where a router is, as the store has it: the cell `placement` of `Placement` and `Laid_Element`.

It names the router's number too: another router of the same name, made after that one had gone, is
another one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from xenflow.model.network import Network, NetworkError, Router
from xenflow.model.placement import Placement, from_json, to_json
from xenflow.store.columns import Cell


def to_cell(placement: Placement, router: Router) -> str:
    """The cell."""
    return json.dumps({"id": router.id, **to_json(placement)}, separators=(",", ":"))


def read(cells: Iterable[Cell], network: Network) -> Iterator[Placement]:
    """What cells say of routers that the network has; what does not fit it is left out."""
    for cell in cells:
        try:
            value = json.loads(str(cell)) if cell else {}
            placement = from_json(value)
        except (ValueError, NetworkError, RecursionError):
            continue
        router = network.routers.get(placement.router)
        if router is None or value.get("id") != router.id:
            continue
        of_before = placement.version < router.first_version  # it was stopped, and started anew
        if not of_before and all(host in network.hosts for host in placement.hosts):
            yield placement


def newest(placements: Iterable[Placement]) -> Mapping[str, Placement]:
    """Of each router the one of the highest version."""
    found: dict[str, Placement] = {}
    for placement in placements:
        if placement.version >= found.get(placement.router, placement).version:
            found[placement.router] = placement
    return found
