"""Where a router is: the one value a migration changes.

Every switch's local flows are a function of the network's description and of the placements of its
routers (`tables/pipeline.py`).  A migration is a short list of placements, applied to switches in a
given order and each proven in force before the next (`migration.py`); undoing it is the same list
backwards.  There is no other state to keep, to restore or to clean up.

The fields are independent, because the data plane needs no VM: several hosts can forward for a
router at the same moment, while packets for the router itself have one place to go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from xenflow.model.network import NetworkError, Router

LAST_VERSION = 2**62
"""So far versions go: a column of the store has 64 bits, and what comes after must have room."""


class StaleVersionError(NetworkError):
    """What is known of where a router is is newer, or another placement of the same version."""


class Mode(Enum):
    """Who forwards a router's packets."""

    XENFLOW = "xenflow"
    """The switches of its forwarders."""
    NATIVE = "native"
    """The VM itself, behind a learning bridge for each virtual link: the report's baseline."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one router is, for every switch of the network.

    forwarders  hosts whose switches hold its routes and forward for it
    vm          the host where packets for the VM itself go: its vif's host; while the vif does not
                exist there (the VM is suspended) that host holds them
    leads_to    the host that the other switches send frames for its interfaces to
    reaches     hosts that the links' trees reach already, though they do not forward yet
    mode        who forwards
    version     grows with every change: a switch's controller refuses to go back, and another
                placement of the same version
    unturned    links that lead elsewhere still, while a switch is turned link by link: (name, host)
    """

    router: str
    forwarders: tuple[str, ...]
    vm: str
    leads_to: str
    reaches: tuple[str, ...] = ()
    mode: Mode = Mode.XENFLOW
    version: int = 0
    unturned: tuple[tuple[str, str], ...] = ()

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every host that a link's tree must reach for this router, in a fixed order."""
        still = (host for _, host in self.unturned)
        return tuple(sorted({*self.forwarders, *self.reaches, self.leads_to, self.vm, *still}))

    def leads(self, link: str) -> str:
        """The host that the other switches send frames for the router to that come on a link."""
        return dict(self.unturned).get(link, self.leads_to)

    def forwards(self, datapath: str) -> bool:
        """Whether a switch forwards for the router."""
        return self.mode is Mode.XENFLOW and datapath in self.forwarders

    def has_left(self, router: Router) -> bool:
        """Whether the router has ever left its home: this says then what the network does not."""
        return self.version > router.first_version or self.vm != router.home

    def step(self, **changes: Any) -> Placement:
        """The next placement."""
        return replace(self, version=self.version + 1, **changes)


def at_home(router: str, host: str, version: int = 0) -> Placement:
    """A router that has never moved."""
    return Placement(router, (host,), host, host, version=version)


def first_place(router: Router) -> Placement:
    """Where a router is that has not moved since it was started."""
    return at_home(router.name, router.home, router.first_version)


def newest_each(placements: Iterable[Placement]) -> dict[str, Placement]:
    """Of each router the one of the highest version, the last where several have it."""
    found: dict[str, Placement] = {}
    for placement in placements:
        if placement.version >= found.get(placement.router, placement).version:
            found[placement.router] = placement
    return found


def to_json(placement: Placement) -> dict[str, Any]:
    """As the management messages and the controller's state file carry it."""
    return {
        "router": placement.router,
        "forwarders": list(placement.forwarders),
        "vm": placement.vm,
        "leads_to": placement.leads_to,
        "reaches": list(placement.reaches),
        "mode": placement.mode.value,
        "version": placement.version,
        "unturned": dict(placement.unturned),
    }


def from_json(value: Any) -> Placement:
    """The inverse of `to_json`.

    Raises NetworkError naming the field that is missing or of the wrong type.
    """
    if not isinstance(value, dict):
        raise NetworkError("placement: expected an object")

    def take(key: str, kind: type | tuple[type, ...]) -> Any:
        found = value.get(key)
        if not isinstance(found, kind) or isinstance(found, bool):
            raise NetworkError(f"placement: {key}: expected {kind}, found {found!r}")
        return found

    def hosts(key: str) -> tuple[str, ...]:
        found = take(key, list)
        if not all(isinstance(name, str) for name in found):
            raise NetworkError(f"placement: {key}: expected host names, found {found!r}")
        return tuple(found)

    unturned = value.get("unturned", {})
    if not isinstance(unturned, dict) or not all(isinstance(h, str) for h in unturned.values()):
        raise NetworkError(f"placement: unturned: expected hosts by link, found {unturned!r}")
    try:
        mode = Mode(value.get("mode"))
    except ValueError as error:
        raise NetworkError(f"placement: mode: {error}") from None
    version = take("version", int)
    if not 0 <= version <= LAST_VERSION:
        raise NetworkError(f"placement: version: expected 0 to {LAST_VERSION}, found {version}")
    return Placement(
        router=take("router", str),
        forwarders=hosts("forwarders"),
        vm=take("vm", str),
        leads_to=take("leads_to", str),
        reaches=hosts("reaches"),
        mode=mode,
        version=version,
        unturned=tuple(unturned.items()),
    )
