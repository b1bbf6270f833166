"""Packets for a VM that is suspended: held here, delivered where it runs next.

While a router's vif takes nothing on the host where its placement says the VM is, table VM sends
what it would have got to the controller (`tables.sent_up`).  It is kept in the order of arrival, up
to a bound in number and in age, and sent on when that vif takes frames, or when the router has
moved, to the host where it is now.

Before that, from the moment a migration is prepared, the controller gets a copy of what is put
into the vif for the VM itself.  When the vif takes nothing any more, what was put into it last may
not have been read: the copies of the last `RECENT_S` are held as well, as long as there is room for
them beside what nobody has had yet.  So a packet for the VM itself is delivered at least once, and
these perhaps twice; they are counted (`repeated`).  Who suspends a VM and says so before he does
(`announced`) leaves nothing unread: then no copy is delivered.

From a migration's beginning until it has been finished, or undone, the router's OSPF and IS-IS
hellos are repeated meanwhile (RFC 2328, section 9.5: neighbours wait RouterDeadInterval for the
next one; ISO/IEC 10589, 8.4.2: for the hold time that the last one has), so that a pause shorter
than the neighbours' patience is not turned into a lost adjacency by the phase of the hello timer.
Only its last hello is, of each kind, and only where it names a neighbour: one that leaves a
neighbour out ends that adjacency at once (RFC 2328, section 10.5).

Called by `vm.packets`; time is an argument.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from xenflow.openflow import packet

MAX_FRAMES = 2000
MAX_BYTES = 2_000_000
RECENT_S = 0.1
"""What was put into a vif so long before it was known to take nothing is held, too: a vif holds a
few hundred frames, and a VM that runs reads them within milliseconds.  The rest is the time until
it is known here."""
MAX_AGE_S = 60.0
"""Older frames help nobody: who sent them has asked again, or given up."""
MAX_KINDS = 8
"""Of hellos of one router on one link: OSPFv2 and OSPFv3, which may have instances, IS-IS's levels.
What a VM says more is not repeated."""
MAX_REPEATS_S = 120.0
"""A VM that does not come back must be missed in the end.  As long as OSPF's graceful restart asks
neighbours to wait for a router that forwards (RFC 3623, appendix B.1): whoever killed a migration
has time to run `xenflow recover`."""


@dataclass(frozen=True, slots=True)
class HeldFrame:
    """A frame without tag, the id of the link on which it came, and when."""

    link: int
    frame: bytes
    at: float
    copy: bool = False
    """Its vif has had it as well: what nobody has had yet goes before it."""
    number: int = 0
    """One more than that of the frame kept before."""


@dataclass(slots=True)
class Held:
    """What is held for one router, oldest first."""

    frames: list[HeldFrame] = field(default_factory=list)
    octets: int = 0
    held: int = 0
    dropped: int = 0
    delivered: int = 0
    repeated: int = 0
    _last: int = 0
    """The number of the frame kept last."""
    _copies: int = 0
    """How many of `frames` are copies."""
    _recent: deque[HeldFrame] = field(default_factory=deque)

    def copied(self, link: int, frame: bytes, now: float) -> None:
        """A frame has been put into the vif."""
        recent = self._recent
        recent.append(HeldFrame(link, frame, now))
        while len(recent) > MAX_FRAMES or recent[0].at < now - RECENT_S:
            recent.popleft()

    def suspended(self, now: float) -> None:
        """The vif takes nothing any more: hold what it may not have passed on."""
        for one in self._recent:
            if one.at >= now - RECENT_S:
                self.keep(one.link, one.frame, now, copy=True)
        self._recent.clear()

    def announced(self) -> None:
        """The VM will be suspended once the vif gets nothing any more: it reads what it was
        given."""
        self._recent.clear()

    def keep(self, link: int, frame: bytes, now: float, copy: bool = False) -> bool:
        """Keep one more; False (and counted, but for a copy) where there is no room."""
        if self._full(frame):
            self._drop_old(now)
        if not copy and self._full(frame):
            self._drop_copies(len(frame))
        if self._full(frame):
            self.dropped += not copy
            return False
        self._last += 1
        self.frames.append(HeldFrame(link, frame, now, copy, self._last))
        self.octets += len(frame)
        self.held += 1
        self.repeated += copy
        self._copies += copy
        return True

    def _full(self, frame: bytes) -> bool:
        return len(self.frames) >= MAX_FRAMES or self.octets + len(frame) > MAX_BYTES

    def _drop_copies(self, octets: int) -> None:
        """Make room for a frame, and some, out of the oldest copies."""
        if not self._copies:
            return  # a store that is full is asked for every frame that comes
        room, count = max(octets, MAX_BYTES // 8), max(1, MAX_FRAMES // 8)
        kept = []
        for one in self.frames:
            if one.copy and (room > 0 or count > 0):
                room, count = room - len(one.frame), count - 1
                self.held -= 1
                self.repeated -= 1
            else:
                kept.append(one)
        self._remain(kept)

    def _drop_old(self, now: float) -> None:
        if not self.frames or now - self.frames[0].at <= MAX_AGE_S:
            return
        young = [one for one in self.frames if now - one.at <= MAX_AGE_S]
        self.dropped += len(self.frames) - len(young)
        self._remain(young)

    def _remain(self, frames: list[HeldFrame]) -> None:
        self.frames = frames
        self.octets = sum(len(one.frame) for one in frames)
        self._copies = sum(one.copy for one in frames)

    def of(self, link: int | None, now: float) -> list[HeldFrame]:
        """What is to be sent on, of one link or of all, in order; the old is dropped."""
        self._drop_old(now)
        return [one for one in self.frames if link in (None, one.link)]

    def sent(self, frames: list[HeldFrame]) -> None:
        """Some of it has been sent on."""
        gone = set(map(id, frames))
        self._remain([one for one in self.frames if id(one) not in gone])
        self.delivered += len(frames)

    def links_are(self, links: set[int]) -> None:
        """Its router is on these links, by their ids, and on no others any more."""
        kept = [one for one in self.frames if one.link in links]
        self.dropped += len(self.frames) - len(kept)
        self._remain(kept)
        self._recent = deque(one for one in self._recent if one.link in links)

    def passed_on(self, link: int, upto: int) -> None:
        """Another host's controller has delivered those of a link with numbers up to `upto`."""
        self.sent([one for one in self.frames if one.link == link and one.number <= upto])


@dataclass(slots=True)
class RepeatedHello:
    """A router's last hello of one kind on one link, and when it is due again."""

    frame: bytes
    interval_s: float
    due: float


class Hellos:
    """The last hello of every router on every link, of each kind."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, int, int], RepeatedHello] = {}
        self._since: dict[str, float] = {}

    def heard(self, router: str, link: int, frame: bytes, now: float) -> None:
        """The VM has sent something itself."""
        said = _hello(frame)
        if said is None:
            return
        kind, interval_s, neighbours = said
        self._since.pop(router, None)
        self._last.pop((router, link, kind), None)
        kinds = sum(key[:2] == (router, link) for key in self._last)
        if neighbours and kinds < MAX_KINDS:
            self._last[router, link, kind] = RepeatedHello(frame, interval_s, now + interval_s)

    def due(self, router: str, now: float) -> list[tuple[int, bytes]]:
        """The hellos of a suspended router that must be repeated now: (link id, frame)."""
        since = self._since.setdefault(router, now)
        if now - since > MAX_REPEATS_S:
            return []
        ready = []
        for (name, link, _), hello in self._last.items():
            if name == router and hello.due <= now:
                hello.due = now + hello.interval_s
                ready.append((link, hello.frame))
        return ready

    def forget(self, router: str) -> None:
        """The router runs again, here or elsewhere, or its hellos are not heard any more."""
        self._since.pop(router, None)
        for key in [key for key in self._last if key[0] == router]:
            del self._last[key]


ISIS_SHARE = 3
"""An IS-IS hello has the hold time, not the interval: usual are three to ten hellos in it."""


def _hello(frame: bytes) -> tuple[int, float, int] | None:
    """Kind, how often it is repeated (seconds), how many neighbours it names.  IS-IS's kinds and
    OSPF's have other numbers."""
    if (isis := packet.isis_hello(frame)) is not None:
        return (isis.kind, isis.hold_s / ISIS_SHARE, isis.neighbours) if isis.hold_s else None
    ospf = packet.hello(frame)
    return (ospf.kind, ospf.interval_s, ospf.neighbours) if ospf and ospf.interval_s else None
