"""Edits of cables."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace

from mgmt.edits import (
    Edit,
    Places,
    crossing,
    end_of,
    new,
    refuse_used,
    replaced,
    switch_of,
    without,
)
from mgmt.session import known
from xenflow.model.network import Cable, Network


def add(network: Network, args: Namespace, _: Places) -> Network:
    """A cable more."""
    a, b = args.ends
    cable = Cable(
        new("cable", args.cable, network.cables),
        end_of(network, a, switch_of(b)),
        end_of(network, b, switch_of(a)),
    )
    return replaced(network, cables={**network.cables, cable.name: cable})


def change(network: Network, args: Namespace, places: Places) -> Network:
    """Other ends.  Raises UsageError where a link needs it as it is."""
    cable = known("cable", args.cable, network.cables)
    refuse_used(f"cable {cable.name}", crossing(network, places, {cable.name}))
    a, b = args.ends
    changed = replace(
        cable,
        a=end_of(network, a, switch_of(b)),
        b=end_of(network, b, switch_of(a)),
    )
    return replaced(network, cables={**network.cables, cable.name: changed})


def remove(network: Network, args: Namespace, places: Places) -> Network:
    """A cable less.  Raises UsageError where a link needs it."""
    cable = known("cable", args.cable, network.cables)
    refuse_used(f"cable {cable.name}", crossing(network, places, {cable.name}))
    return replaced(network, cables=without(network.cables, cable.name))


_ENDS = (
    "ends",
    {
        "nargs": 2,
        "metavar": "SWITCH[:PORT]",
        "help": "its two ends (port: to-OTHER, where none is named)",
    },
)

EDITS = (
    Edit("add", "a cable more between two switches", add, (_ENDS,)),
    Edit("set", "a cable has other ends", change, (_ENDS,), places=True),
    Edit("remove", "a cable less; refused where a link needs it", remove, places=True),
)
