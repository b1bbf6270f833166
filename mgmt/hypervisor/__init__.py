"""Who moves a router's VM: one interface, a driver for each hypervisor.

`mgmt.executor` asks a driver to move a domain and leave it paused at the destination: that is the
moment up to which a migration can be undone, by every driver.  The driver is named by the
datapath's `hypervisor` in the network file (`xenflow.model.hypervisor_spec`) and made by `of`.  A
driver tells what it sees and does what it is told; the order of a migration's steps is none of its
business.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, Self

from xenflow.model import hypervisor_spec
from xenflow.model.hypervisor_spec import LabSpec, LibvirtSpec, SpecError, XlSpec
from xenflow.model.network import Network, NetworkError


class HypervisorError(Exception):
    """The hypervisor did not do what it was asked, and says why.

    `code` is its own word for the reason where it has one ("busy", "already-there", ...).
    """

    def __init__(self, message: str, code: str = "failed") -> None:
        super().__init__(message)
        self.code = code


UNKNOWN = ("silent", "unreachable", "late")
"""Codes of errors after which it is not known whether what was asked has been, or will be, done."""


class UnclearError(HypervisorError):
    """Where a VM is cannot be decided; the message says what an operator has to look at.  Where a
    host is silent, the next look may decide it."""

    def __init__(self, message: str, silent: Collection[str] = ()) -> None:
        super().__init__(message, "unreachable" if silent else "unclear")


@contextmanager
def reasons(silent: Mapping[str, HypervisorError]) -> Iterator[None]:
    """Where a VM's place cannot be decided, why hosts are silent is said, too."""
    try:
        yield
    except UnclearError as error:
        why = "; ".join(str(e) for e in silent.values())
        raise HypervisorError(f"{error}{f' ({why})' if why else ''}", error.code) from None


def may_be_left(silent: Iterable[str]) -> tuple[str, ...]:
    """That hosts which did not answer may have a copy of a VM, for people."""
    return tuple(f"{host} did not answer: a copy may be left there" for host in silent)


class JobState(Enum):
    """How far a live migration is."""

    PRECOPY = "precopy"
    """Memory is copied while the VM runs at the source."""
    SUSPENDED = "suspended"
    """The VM runs nowhere: the rest is copied."""
    MOVED_PAUSED = "moved_paused"
    """The VM is at the destination, paused; its interfaces exist there."""
    RUNNING = "running"
    """The VM runs at the destination."""
    FAILED = "failed"
    """The VM runs at the source, as before."""


@dataclass(frozen=True, slots=True)
class Job:
    """A live migration, as it stood when the driver was asked.

    `suspended_s` is how long the VM has run nowhere so far, where the driver can tell; `detail`
    is the hypervisor's own words, above all for FAILED.  `events` are the states reached and when,
    by the hypervisor's own clock, in seconds: only differences between them mean something.
    `left`: which copies are, or may be, on other hosts once it runs.
    """

    id: str
    router: str
    to: str
    state: JobState
    detail: str = ""
    suspended_s: float | None = None
    events: tuple[tuple[str, float], ...] = ()
    left: tuple[str, ...] = ()


@dataclass(slots=True)
class LiveMove:
    """A live migration as its driver keeps it; `router` is its id, times are this machine's."""

    router: str
    source: str
    to: str
    state: JobState = JobState.PRECOPY
    detail: str = ""
    events: list[tuple[str, float]] = field(default_factory=list)
    left: tuple[str, ...] = ()

    @property
    def under_way(self) -> bool:
        """Whether the VM is not at the destination yet, and may get there."""
        return self.state in (JobState.PRECOPY, JobState.SUSPENDED)

    def advance(self, state: JobState, at: float | None = None) -> None:
        """Note a new state, once, and when it was reached (else now)."""
        if self.state is not state or not self.events:
            self.state = state
            self.events.append((state.value, time.monotonic() if at is None else at))

    def job(self) -> Job:
        """As it stands."""
        events = tuple(self.events)
        begun, suspended_s = dict(events).get(JobState.SUSPENDED.value), None
        if begun is not None:
            over = self.state in (JobState.RUNNING, JobState.FAILED)
            suspended_s = (events[-1][1] if over else time.monotonic()) - begun
        id, state, detail = self.router, self.state, self.detail
        return Job(id, id, self.to, state, detail, suspended_s, events, self.left)


@dataclass(frozen=True, slots=True)
class Domain:
    """A router's VM: where it is ("running", "paused" or "suspended")."""

    router: str
    host: str
    state: str


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A migration that was given up: what was done for that, and which copies of the VM are, or may
    be, on other hosts still; in words."""

    did: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """All of it."""
        return [*self.did, *self.left]


class Claim(Protocol):
    """The right to do something with a router's VM: a `mgmt.lease.RouterLease`."""

    owner: str

    def check(self) -> None:
        """Raise where it has gone to somebody else."""


class Unclaimed:
    """Nobody else is there."""

    owner = ""

    def check(self) -> None:
        """Always."""


class Hypervisor(Protocol):
    """A driver.  Every method raises HypervisorError.

    `name` is "lab", "xl", ...; `emulated` is true where no VM is involved, so that every output
    can say so.  `claim` is checked right before anything is done; what the check raises goes
    through.
    """

    name: str
    emulated: bool
    claim: Claim

    def domain(self, router: str) -> Domain | None:
        """A router's VM, wherever it is; None where no host of this hypervisor has it."""

    def copies(self, host: str, routers: Collection[str]) -> list[str]:
        """What a host has of these routers' VMs, whole or in part, by the hypervisor's names."""

    def check(self, router: str, to: str) -> None:
        """Whether a host can take a VM, as far as can be told without changing anything; the error
        says what it lacks."""

    def migrate(self, router: str, to: str) -> Job:
        """Begin to move a VM to a host; it will be left paused there.  Returns at once."""

    def job(self, id: str) -> Job:
        """How far a migration is."""

    def unpause(self, router: str) -> None:
        """Let a VM that has been moved run on."""

    def abort(self, router: str, own: bool = False) -> GivenUp:
        """Give up a migration, whoever began it or only if this driver did (`own`): the VM runs on
        at the source, if it does not run at the destination already ("too-late"), and nothing of
        it is left elsewhere.  Where there is nothing to give up: "no-migration"; what of its own
        was asked for and has not begun yet does not begin later."""

    def close(self) -> None:
        """End the connection."""


class Drivers:
    """The drivers that a command has opened, each when it was first needed; `with` closes them."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._opened: dict[str, Hypervisor] = {}
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def of(self, host: str) -> Hypervisor:
        """The driver for a host's VMs.  Raises NetworkError where the network file names none."""
        if host not in self._opened:
            self._opened[host] = self._closing.enter_context(closing(of(self._network, host)))
        return self._opened[host]


def of(network: Network, host: str) -> Hypervisor:
    """A driver for a host's VMs; it knows the network's other hosts of the same kind.

    Raises NetworkError where the network file names none.
    """
    spec = _spec(network, host)
    match spec:
        case LabSpec(url):
            from mgmt.hypervisor.lab import LabDriver

            return LabDriver(url)
        case XlSpec():
            from mgmt.hypervisor.xl import Xl

            specs = {h: _spec(network, h) for h in network.hosts}
            return Xl({h: s for h, s in specs.items() if isinstance(s, XlSpec)})
        case LibvirtSpec():
            try:
                from mgmt.hypervisor.libvirt_driver import Libvirt
            except ImportError:
                raise NetworkError(
                    f"{host}: hypervisor libvirt needs libvirt-python: apt-get install "
                    "python3-libvirt, or from XenFlow's sources scripts/setup"
                ) from None
            specs = {h: _spec(network, h) for h in network.hosts}
            return Libvirt({h: s.uri for h, s in specs.items() if isinstance(s, LibvirtSpec)})
        case None:
            raise NetworkError(
                f"no hypervisor is named for {host}; set hypervisor to {hypervisor_spec.FORMS}"
            )


def _spec(network: Network, host: str) -> hypervisor_spec.Spec | None:
    text = network.datapaths[host].hypervisor
    if not text:
        return None
    try:
        return hypervisor_spec.parse(text)
    except SpecError as error:
        raise NetworkError(f"{host}: hypervisor {text}: {error}") from None
