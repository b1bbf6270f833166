"""The conversation between `routerd` and the Rule Table, as two state machines without I/O.

`Feed` is the Rule Table's side for one router: it takes messages, keeps the `RouterState` true and
says what to answer.  `Sender` (`sender.py`) is routerd's side.  Time is an argument (`now`, seconds
of any clock that only grows), sockets are somebody else's: a test wires the two together with a
list that loses, doubles and reorders.

What the conversation guarantees: when messages get through again, the Feed's state is the
Sender's within a heartbeat, and at every moment before it is a state that the Sender had, as a
whole.  A gap in the numbers, another epoch, a restart of either side and a move to another host
all end in the same way: RESYNC, a fresh snapshot kept beside the state in use, the difference.
The one exception is a router of which nothing is known yet: there is nothing to protect, so the
parts are applied as they come.  Nothing is ever deleted before a snapshot is complete.

A Feed may hear the same router from several sources: its routerd, another controller's mirror,
an import.  The numbers are the same everywhere, so what comes twice is ignored.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from xenflow.routes.messages import (
    Frames,
    Header,
    MessageError,
    Op,
    Policy,
    RouteMessageType,
    Section,
    SectionKind,
    pack,
    parse_header,
    parse_sections,
)
from xenflow.routes.router_state import Changes, RouterState

HEARTBEAT_S = 1.0
SILENCE_S = 3.0
"""Nothing heard for so long: the other side is gone."""
ACK_S = 0.05
"""Acknowledgements are at least this far apart."""
AGAIN_S = 1.0
"""A question (HELLO, RESYNC) that brought nothing is asked again."""

MESSAGES_PER_S, MESSAGES_BURST = 2_000.0, 4_000.0
BYTES_PER_S, BYTES_BURST = 32e6, 64e6
"""What one router may send.  A snapshot of 100,000 routes is 51 messages of 0.9 MB."""


class Bucket:
    """Token buckets for messages and octets."""

    __slots__ = ("_bytes", "_messages", "_when")

    def __init__(self) -> None:
        self._messages, self._bytes = MESSAGES_BURST, BYTES_BURST
        self._when = float("inf")

    def take(self, size: int, now: float) -> float:
        """Count one message of `size` octets.  Returns for how many seconds nothing more should
        be read: 0 in the usual case."""
        passed = max(0.0, now - self._when)
        self._when = now
        self._messages = min(MESSAGES_BURST, self._messages + passed * MESSAGES_PER_S) - 1
        self._bytes = min(BYTES_BURST, self._bytes + passed * BYTES_PER_S) - size
        return max(0.0, -self._messages / MESSAGES_PER_S, -self._bytes / BYTES_PER_S)


class Phase(Enum):
    """How much a Feed knows."""

    NEW = "new"
    """Nothing was ever heard of this router."""
    STREAMING = "streaming"
    """Its first snapshot is being applied as it comes."""
    PARTIAL = "partial"
    """The first snapshot broke off: what is there was true, but is not all."""
    CURRENT = "current"
    """The state is that of delta `seq`."""
    BEHIND = "behind"
    """The state is that of delta `seq`, but a later one was missed: a snapshot is awaited."""
    DOUBTED = "doubted"
    """The state may be half changed, whatever its number: a snapshot is awaited."""


COMPLETE = frozenset({Phase.CURRENT, Phase.BEHIND, Phase.DOUBTED})
"""Phases in which a whole state is in use."""
NUMBERED = frozenset({Phase.CURRENT, Phase.BEHIND})
"""Phases in which it is the one that the router had at its number."""


class FeedEvent(Enum):
    """What a message, or the want of one, is for what a Feed knows."""

    BEGUN = "a snapshot begins"
    BROKEN = "the snapshot that is applied as it comes breaks off"
    ENDED = "a snapshot is complete"
    AGREED = "the router names the number that the state has"
    MISSED = "the router names another number, or says what cannot be applied"
    DOUBTED = "dealing with a change has failed"


TRANSITIONS: Mapping[FeedEvent, Mapping[Phase, Phase]] = {
    FeedEvent.BEGUN: {Phase.NEW: Phase.STREAMING},
    FeedEvent.BROKEN: {Phase.STREAMING: Phase.PARTIAL},
    FeedEvent.ENDED: dict.fromkeys(Phase, Phase.CURRENT),
    FeedEvent.AGREED: dict.fromkeys(NUMBERED, Phase.CURRENT),
    FeedEvent.MISSED: {Phase.CURRENT: Phase.BEHIND},
    FeedEvent.DOUBTED: dict.fromkeys(COMPLETE, Phase.DOUBTED),
}
"""Which phase follows on which, by the event; one that is not named stays."""


@dataclass(slots=True)
class FeedOutcome:
    """What a message or the passing of time led to.

    replies  messages to send, each to one source
    changes  what changed in the Feed's state, None for nothing
    ended    a snapshot has just become the state in use: what is not in it may be deleted now
    pause_s  for how long not to read from this router's socket
    error    why the message was refused
    """

    replies: list[tuple[Hashable, Frames]] = field(default_factory=list)
    changes: Changes | None = None
    ended: bool = False
    pause_s: float = 0.0
    error: MessageError | None = None


@dataclass(slots=True)
class _Staging:
    """A snapshot on its way in."""

    epoch: int
    seq: int
    state: RouterState
    parts: int = 0

    def expects(self, header: Header) -> bool:
        return (self.epoch, self.seq, self.parts) == (header.epoch, header.seq, header.part)


_MAX_SOURCES = 4
_MAX_STAGED = 2
"""Snapshots on their way in at once: the router's own, and a mirror's of it."""
_MAX_RETIRED = 8


class Feed:
    """One router as the Rule Table hears it.

    `router` is the name that every message must carry: the socket it came through belongs to
    that router.  `state` stays the same object for ever.
    """

    def __init__(self, router: str) -> None:
        self.router = router
        self.state = RouterState()
        self.phase = Phase.NEW
        self.heard: float | None = None
        """When something was last heard of this router, from anywhere."""
        self._bucket = Bucket()
        self._sources: dict[Hashable, float] = {}
        self._staging: dict[Hashable, _Staging] = {}
        self._asked: dict[Hashable, float] = {}
        self._retired: dict[int, float] = {}
        self._epoch: int | None = None
        self._acked_at = float("-inf")
        self._ack_to: dict[Hashable, None] = {}
        self._alive_at = float("-inf")

    @property
    def complete(self) -> bool:
        """Whether the state is one that the router had as a whole."""
        return self.phase in COMPLETE

    def stale(self, now: float) -> bool:
        """Whether nothing has been heard of the router for SILENCE_S."""
        return self.heard is None or now - self.heard > SILENCE_S

    def receive(self, frames: Frames, now: float, source: Hashable = None) -> FeedOutcome:
        """Take one message that came from `source` (a ZeroMQ identity, a controller's name).

        Never raises for what the message says: what is wrong with it is in the FeedOutcome.
        """
        out = FeedOutcome(pause_s=self._bucket.take(sum(map(len, frames)), now))
        try:
            header = parse_header(frames)
            if header.router != self.router:
                raise MessageError(
                    f"router {header.router!r} speaks on the link of {self.router!r}", "header"
                )
            if header.type >= RouteMessageType.WELCOME:
                raise MessageError(f"{header.type.name} is for the Rule Table to send", "header")
            self.heard = now
            self._know(source, now)
            match header.type:
                case RouteMessageType.HELLO:
                    self._hello(header, now, source, out)
                case RouteMessageType.SNAPSHOT:
                    self._snapshot(header, frames, now, source, out)
                case RouteMessageType.SNAPSHOT_END:
                    self._snapshot_end(header, now, source, out)
                case RouteMessageType.DELTA:
                    self._delta(header, frames, now, source, out)
                case RouteMessageType.HEARTBEAT:
                    self._heartbeat(header, now, source, out)
        except MessageError as error:
            out.error = error
            refusal = Section(SectionKind.POLICY, Op.SET, [Policy(False, str(error))])
            self._reply(out, source, RouteMessageType.REFUSED, [refusal])
        self._acknowledge(now, out)
        return out

    def keep(self, source: Hashable, now: float) -> None:
        """A source is there and is not read for now (`now`: seconds): its silence is no silence,
        and it goes on getting heartbeats.  Nothing for one that was never heard."""
        if source in self._sources:
            self._sources[source] = now

    def doubt(self) -> None:
        """The state may be half changed, or somebody was not told of a change: whatever its number
        says, a snapshot is needed."""
        for source in list(self._staging):
            self._abandon(source)
        self._happened(FeedEvent.DOUBTED)
        self._asked.clear()

    def tick(self, now: float) -> FeedOutcome:
        """What the passing of time asks for: heartbeats, acknowledgements, asking again."""
        out = FeedOutcome()
        for source, heard in list(self._sources.items()):
            if now - heard > SILENCE_S:
                self._forget(source)
        self._acknowledge(now, out)
        if now - self._alive_at >= HEARTBEAT_S:
            self._alive_at = now
            for source in self._sources:
                self._reply(out, source, RouteMessageType.ALIVE)
        if self.phase is not Phase.CURRENT:
            for source in self._sources:
                self._ask(source, now, out)
        return out

    # Messages

    def _hello(self, header: Header, now: float, source: Hashable, out: FeedOutcome) -> None:
        self._enter_epoch(header.epoch, now)
        self._abandon(source)
        if self._agrees(header):
            self._happened(FeedEvent.AGREED)
            self._reply(out, source, RouteMessageType.WELCOME)
        else:
            self._happened(FeedEvent.MISSED)
            self._asked[source] = now
            self._reply(out, source, RouteMessageType.RESYNC)

    def _snapshot(
        self, header: Header, frames: Frames, now: float, source: Hashable, out: FeedOutcome
    ) -> None:
        if self._is_old(header, now):
            return
        self._enter_epoch(header.epoch, now)
        if header.part == 0:
            self._abandon(source)
            if len(self._staging) >= _MAX_STAGED:
                self._abandon(next(iter(self._staging)))
            streams = self.phase is Phase.NEW
            state = self.state if streams else RouterState(self.state.capacity)
            self._staging[source] = _Staging(header.epoch, header.seq, state)
            self._happened(FeedEvent.BEGUN)
        staging = self._staging.get(source)
        if staging is None or not staging.expects(header):
            self._abandon(source)
            self._ask(source, now, out)
            return
        try:
            changes = staging.state.apply(parse_sections(frames))
        except MessageError:
            self._abandon(source)
            raise
        staging.parts += 1
        self._asked[source] = now
        if staging.state is self.state:
            out.changes = changes

    def _snapshot_end(self, header: Header, now: float, source: Hashable, out: FeedOutcome) -> None:
        if self._is_old(header, now):
            self._abandon(source)
            return
        staging = self._staging.get(source)
        if staging is None or not staging.expects(header):
            self._abandon(source)
            self._ask(source, now, out)
            return
        if staging.state is self.state:
            out.changes = Changes()
        else:
            out.changes = self.state.become(staging.state)
        # Other snapshots under way are older or the same, and one of them may have been
        # streaming into the state that has just been replaced.
        self._staging.clear()
        self.state.epoch, self.state.seq = header.epoch, header.seq
        self._happened(FeedEvent.ENDED)
        out.ended = True
        self._ack_to[source] = None

    def _delta(
        self, header: Header, frames: Frames, now: float, source: Hashable, out: FeedOutcome
    ) -> None:
        state = self.state
        if self.phase in NUMBERED and header.epoch == state.epoch:
            if header.seq == state.seq + 1:
                try:
                    out.changes = state.apply(parse_sections(frames))
                except MessageError:
                    self._happened(FeedEvent.MISSED)
                    raise
                state.seq = header.seq
                self._ack_to[source] = None
                return
            if header.seq <= state.seq:
                self._ack_to[source] = None
                return
        elif self._is_over(header.epoch, now):
            return
        self._happened(FeedEvent.MISSED)
        self._ask(source, now, out)

    def _heartbeat(self, header: Header, now: float, source: Hashable, out: FeedOutcome) -> None:
        if self._is_old(header, now):
            return
        if self._agrees(header):
            self._happened(FeedEvent.AGREED)
            return
        self._happened(FeedEvent.MISSED)
        self._ask(source, now, out)

    # What is known

    def _happened(self, event: FeedEvent) -> None:
        self.phase = TRANSITIONS[event].get(self.phase, self.phase)

    def _agrees(self, header: Header) -> bool:
        state = self.state
        same = (header.epoch, header.seq) == (state.epoch, state.seq)
        return same and self.phase in NUMBERED

    def _is_old(self, header: Header, now: float) -> bool:
        """Whether a snapshot or heartbeat tells of a time before the state in use."""
        state = self.state
        if self._is_over(header.epoch, now):
            return True
        return self.complete and header.epoch == state.epoch and header.seq < state.seq

    def _is_over(self, epoch: int, now: float) -> bool:
        """Whether an epoch was followed by another, so that its late messages do not count.  Not
        for good: a late HELLO may have made the true epoch look like an old one."""
        return now - self._retired.get(epoch, float("-inf")) < SILENCE_S

    def _enter_epoch(self, epoch: int, now: float) -> None:
        """Only routerd's start makes an epoch, so the one before is over."""
        if epoch == self._epoch or self._is_over(epoch, now):
            return
        if self._epoch is not None:
            while len(self._retired) >= _MAX_RETIRED:
                self._retired.pop(next(iter(self._retired)))
            self._retired[self._epoch] = now
        self._retired.pop(epoch, None)
        self._epoch = epoch

    def _abandon(self, source: Hashable) -> None:
        staging = self._staging.pop(source, None)
        if staging is not None and staging.state is self.state:
            self._happened(FeedEvent.BROKEN)

    # Sources

    def _know(self, source: Hashable, now: float) -> None:
        if source not in self._sources and len(self._sources) >= _MAX_SOURCES:
            self._forget(min(self._sources, key=self._sources.__getitem__))
        self._sources[source] = now

    def _forget(self, source: Hashable) -> None:
        self._abandon(source)
        for kept in (self._sources, self._asked, self._ack_to):
            kept.pop(source, None)

    # Answers

    def _ask(self, source: Hashable, now: float, out: FeedOutcome) -> None:
        if now - self._asked.get(source, float("-inf")) >= AGAIN_S:
            self._asked[source] = now
            self._reply(out, source, RouteMessageType.RESYNC)

    def _acknowledge(self, now: float, out: FeedOutcome) -> None:
        if self._ack_to and now - self._acked_at >= ACK_S:
            self._acked_at = now
            for source in self._ack_to:
                self._reply(out, source, RouteMessageType.ACK)
            self._ack_to.clear()

    def _reply(
        self,
        out: FeedOutcome,
        source: Hashable,
        type_: RouteMessageType,
        sections: Iterable[Section] = (),
    ) -> None:
        epoch = self.state.epoch if self.complete else 0
        seq = self.state.seq if self.complete else 0
        out.replies.append((source, pack(Header(type_, epoch, seq, self.router), sections)))
