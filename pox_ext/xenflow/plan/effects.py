"""The effects of a migration: what is done, as values.

Which of them there are, in which order, is `plan.migration`; `mgmt.migrate` carries them out.
Nothing here does anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from xenflow.model.placement import Placement

PATIENCE_S = 0.5
"""So long, in seconds, a VM that is suspended is kept waiting for switches, by all prompt effects
together: well below the dead interval of a routing protocol's neighbours."""


class Pace(Enum):
    """When an effect is carried out.

    While the VM is suspended nobody who is late may be waited for.  What is PROMPT is done as far
    as the switches answer within PATIENCE_S; from the first that does not on it is left out.  Then
    what is LATE, the same effects, follows once the VM runs, and until that is done the controllers
    pass on what is held for it.  Where nothing was left out, nothing is LATE.
    """

    USUAL = "usual"
    PROMPT = "prompt"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class Apply:
    """Give switches a placement, all at once, and await that it is in force on each; or, where
    nothing that follows depends on that, only that each has confirmed it."""

    datapaths: tuple[str, ...]
    placement: Placement
    proven: bool = True
    pace: Pace = Pace.USUAL


@dataclass(frozen=True, slots=True)
class Mirror:
    """The destination's controller gets all that the source's knows of the router, and from now
    on every change, whichever of the two routerd talks to."""

    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class CopyFlows:
    """The router's flows are read from the source's switch, their ports translated to the
    destination's, and written there."""

    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class AwaitReady:
    """Until a host's switch holds, in force, every flow of the router."""

    host: str


@dataclass(frozen=True, slots=True)
class MoveVM:
    """The hypervisor moves the VM and leaves it paused at the destination."""

    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class AwaitVifs:
    """Until the VM's interfaces exist on a host's switch."""

    host: str


@dataclass(frozen=True, slots=True)
class Release:
    """Packets held for the VM at a host go to the host where it is now."""

    host: str
    to: str
    pace: Pace = Pace.USUAL


@dataclass(frozen=True, slots=True)
class Unpause:
    """The VM runs on, at the destination."""

    host: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Until nothing has arrived for the router at a host over two pushes of its counters."""

    host: str


@dataclass(frozen=True, slots=True)
class Unmirror:
    """The source is told no more of the router."""

    source: str
    destination: str


Effect = (
    Apply
    | Mirror
    | CopyFlows
    | AwaitReady
    | MoveVM
    | AwaitVifs
    | Release
    | Unpause
    | Drain
    | Unmirror
)
