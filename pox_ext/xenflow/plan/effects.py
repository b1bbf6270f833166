"""The effects of a migration, as values: each with its words, its place, its pace and its undo.

Which of them a migration has, in which order, is `plan.migration`; `mgmt.executor` carries them
out.  A new effect is a class here, in `Effect`, and one more case there.  Nothing here does
anything.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
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

    USUAL = ""
    PROMPT = ", unless a switch is late"
    LATE = ", where a switch was late"
    """The values are what an effect's words end with."""


class _Effect(ABC):
    """What every effect says of itself."""

    __slots__ = ()

    @property
    @abstractmethod
    def at(self) -> tuple[str, ...]:
        """The names of the datapaths that it concerns, in order."""

    @abstractmethod
    def words(self) -> str:
        """What it does, for people."""

    @property
    def pace(self) -> Pace:
        """When it is carried out."""
        return Pace.USUAL

    def undo(self, before: Placement) -> tuple[Effect, ...]:
        """What puts it back, as long as the VM has not run at the destination; `before` is the
        placement that the datapaths it concerns had."""
        return ()


@dataclass(frozen=True, slots=True)
class _AtHost(_Effect):
    host: str

    @property
    def at(self) -> tuple[str, ...]:
        return (self.host,)


@dataclass(frozen=True, slots=True)
class _BetweenHosts(_Effect):
    source: str
    destination: str

    @property
    def at(self) -> tuple[str, ...]:
        return self.source, self.destination


@dataclass(frozen=True, slots=True)
class Apply(_Effect):
    """Give switches a placement, all at once, and await that it is in force on each; or, where
    nothing that follows depends on that, only that each has confirmed it."""

    datapaths: tuple[str, ...]
    placement: Placement
    proven: bool = True
    pace: Pace = Pace.USUAL

    @property
    def at(self) -> tuple[str, ...]:
        return self.datapaths

    def words(self) -> str:
        p = self.placement
        still = "".join(f" ({link} to {host} still)" for link, host in p.unturned)
        return (
            f"{', '.join(self.datapaths) or 'no switch'}: forwarders {'+'.join(p.forwarders)}, "
            f"VM {p.vm}, links to {p.leads_to}{still}, {p.mode.value}; "
            f"{'in force' if self.proven else 'confirmed'}{self.pace.value}"
        )

    def undo(self, before: Placement) -> tuple[Effect, ...]:
        if not self.datapaths:
            return ()
        back, vm = Apply(self.datapaths, before), self.placement.vm
        if vm in self.datapaths and vm != before.vm:
            return back, Release(vm, before.vm)  # what it has held meanwhile
        return (back,)


@dataclass(frozen=True, slots=True)
class Mirror(_BetweenHosts):
    """The destination's controller gets all that the source's knows of the router, and from now
    on every change, whichever of the two routerd talks to."""

    def words(self) -> str:
        return f"{self.source} tells {self.destination} its routes, and every change from now on"

    def undo(self, before: Placement) -> tuple[Effect, ...]:
        return (Unmirror(self.source, self.destination),)


@dataclass(frozen=True, slots=True)
class Unmirror(_BetweenHosts):
    """The source is told no more of the router."""

    def words(self) -> str:
        return f"{self.source} and {self.destination} tell each other no more"


@dataclass(frozen=True, slots=True)
class CopyFlows(_BetweenHosts):
    """The router's flows are read from the source's switch, their ports translated to the
    destination's, and written there."""

    def words(self) -> str:
        return f"flows read from {self.source}, ports translated, written to {self.destination}"


@dataclass(frozen=True, slots=True)
class AwaitReady(_AtHost):
    """Until a host's switch holds, in force, every flow of the router."""

    def words(self) -> str:
        return f"{self.host} holds all flows, in force"


@dataclass(frozen=True, slots=True)
class MoveVM(_BetweenHosts):
    """The hypervisor moves the VM and leaves it paused at the destination."""

    def words(self) -> str:
        return f"the hypervisor moves the VM from {self.source} to {self.destination}, paused there"

    def undo(self, before: Placement) -> tuple[Effect, ...]:
        return (EndMove(self.source, self.destination),)


@dataclass(frozen=True, slots=True)
class EndMove(_BetweenHosts):
    """The hypervisor ends the VM's move, unless it runs at the destination already."""

    def words(self) -> str:
        return f"the VM runs on {self.source}, its move to {self.destination} ended"


@dataclass(frozen=True, slots=True)
class AwaitVifs(_AtHost):
    """Until the VM's interfaces exist on a host's switch."""

    def words(self) -> str:
        return f"the VM's interfaces exist on {self.host}"


@dataclass(frozen=True, slots=True)
class Release(_AtHost):
    """Packets held for the VM at a host go to the host where it is now."""

    to: str
    pace: Pace = Pace.USUAL

    def words(self) -> str:
        return f"{self.host} sends packets held for the VM to {self.to}{self.pace.value}"


@dataclass(frozen=True, slots=True)
class Unpause(_AtHost):
    """The VM runs on, at the destination."""

    def words(self) -> str:
        return f"the VM runs on {self.host}"


@dataclass(frozen=True, slots=True)
class Drain(_AtHost):
    """Until nothing has arrived for the router at a host over two pushes of its counters."""

    def words(self) -> str:
        return f"nothing arrives at {self.host} for the router any more"


Effect = (
    Apply
    | Mirror
    | Unmirror
    | CopyFlows
    | AwaitReady
    | MoveVM
    | EndMove
    | AwaitVifs
    | Release
    | Unpause
    | Drain
)
