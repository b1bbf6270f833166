"""What a controller must still know after a restart: placements, and rules put in by hand.

One small JSON file, replaced as a whole and synced to the disk before a request is answered:
what was acknowledged is there after a crash.  Routes are not kept; routers tell them again, and
until they have, nothing of theirs is deleted.  Called by `rule_table`.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from xenflow.pure.network import Network
from xenflow.pure.placement import Placement, from_json, to_json

log = logging.getLogger("xenflow.state")

NAME = "state.json"
Placements = dict[str, dict[str, Placement]]
"""Datapath -> router -> placement."""
Rules = dict[str, list[dict[str, Any]]]
"""Datapath -> its rules, as they were given."""


class StateFile:
    """The file in a controller's state directory; without a directory nothing is kept."""

    def __init__(self, directory: Path | None) -> None:
        self.path = directory / NAME if directory else None

    def load(self, network: Network) -> tuple[Placements, Rules]:
        """What was saved, as far as it still fits the network; nothing where it cannot be read."""
        if self.path is None or not self.path.exists():
            return {}, {}
        placements: Placements = {}
        try:
            value = json.loads(self.path.read_text())
            for name, rows in value["placements"].items():
                for placement in map(from_json, rows):
                    known = placement.router in network.routers
                    if known and set(placement.hosts) <= set(network.hosts):
                        placements.setdefault(name, {})[placement.router] = placement
            return placements, dict(value["rules"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.error("%s: %s: starting from the network's description", self.path, error)
            return {}, {}

    def save(self, placements: Placements, rules: Rules) -> None:
        """Replace the file; it is on the disk when this returns.  Raises OSError."""
        if self.path is None:
            return
        value = {
            "placements": {
                name: [to_json(p) for p in rows.values()] for name, rows in placements.items()
            },
            "rules": rules,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".new")
        with draft.open("w") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)
