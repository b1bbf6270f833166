"""Edits of cables."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from typing import Any

from mgmt.edits import (
    Edit,
    Option,
    Places,
    crossing,
    end_of,
    new,
    refuse_used,
    replaced,
    switch_of,
    without,
)
from mgmt.session import UsageError, known
from xenflow.model.network import Cable, Network
from xenflow.model.values import UnfitError
from xenflow.store.network_keys import label_range


def add(network: Network, args: Namespace, _: Places) -> Network:
    """A cable more."""
    a, b = args.ends
    cable = Cable(
        new("cable", args.cable, network.cables),
        end_of(network, a, switch_of(b)),
        end_of(network, b, switch_of(a)),
        **_given(args),
    )
    return replaced(network, cables={**network.cables, cable.name: cable})


def change(network: Network, args: Namespace, places: Places) -> Network:
    """Other ends, or other terms: what does not fit the links that lie on it the planner refuses.
    Raises UsageError where a link needs its ends as they are."""
    cable = known("cable", args.cable, network.cables)
    terms = _given(args)
    changed = replace(cable, **terms)
    if not args.ends and not terms:
        raise UsageError(f"cable {cable.name}: what is another? (its ends, {', '.join(_TERMS)})")
    if args.ends:
        if len(args.ends) != 2:
            raise UsageError(f"cable {cable.name}: expected two ends, SWITCH[:PORT] each")
        refuse_used(f"cable {cable.name}", crossing(network, places, {cable.name}))
        a, b = args.ends
        ends = end_of(network, a, switch_of(b)), end_of(network, b, switch_of(a))
        changed = replace(changed, a=ends[0], b=ends[1])
    return replaced(network, cables={**network.cables, cable.name: changed})


def remove(network: Network, args: Namespace, places: Places) -> Network:
    """A cable less.  Raises UsageError where a link needs it."""
    cable = known("cable", args.cable, network.cables)
    refuse_used(f"cable {cable.name}", crossing(network, places, {cable.name}))
    return replaced(network, cables=without(network.cables, cable.name))


def _given(args: Namespace) -> dict[str, Any]:
    """What the command line says of the cable beside its ends.  Raises UsageError."""
    terms = ("mbps", "cost", "mtu")
    found = {term: value for term in terms if (value := getattr(args, term)) is not None}
    if args.labels is not None:
        try:
            found["labels"] = tuple(label_range(one) for one in args.labels.split(",") if one)
        except UnfitError:
            words = "expected VLAN ids and ranges such as 100,200-299"
            raise UsageError(f"--labels {args.labels}: {words}") from None
    return found


_END: dict[str, Any] = {
    "metavar": "SWITCH[:PORT]",
    "help": "its two ends (port: to-OTHER, where none is named)",
}
_TERMS: dict[str, dict[str, Any]] = {
    "--mbps": {"type": int, "metavar": "N", "help": "Mbit/s it carries (0: not known)"},
    "--cost": {"type": int, "metavar": "N", "help": "of sending over it (0: by its mbps)"},
    "--mtu": {"type": int, "metavar": "N", "help": "octets of a packet it carries (0: any)"},
    "--labels": {
        "metavar": "ID[-ID],...",
        "help": 'the VLAN ids that links may have on it ("": all)',
    },
}
_SAID: tuple[Option, ...] = tuple(_TERMS.items())

EDITS = (
    Edit("add", "a cable more between two switches", add, (("ends", {"nargs": 2, **_END}), *_SAID)),
    Edit(
        "set",
        "a cable has other ends, or carries something else",
        change,
        (("ends", {"nargs": "*", **_END}), *_SAID),
        places=True,
    ),
    Edit("remove", "a cable less; refused where a link needs it", remove, places=True),
)
