"""routerd's side of the conversation with the Rule Table: what to send, and when.

`feed.py` is the other side, and says what the two guarantee together.  Called by `routerd`; what
carries a whole state (`snapshot_messages`) also by controllers, which hand it to one another.
Nothing here does I/O or reads a clock: `now` is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from xenflow.routes.feed import AGAIN_S, HEARTBEAT_S, SILENCE_S
from xenflow.routes.messages import (
    MAX_BYTES,
    MAX_SECTIONS,
    SNAPSHOT_RECORDS,
    Frames,
    Header,
    MessageError,
    RouteMessageType,
    Section,
    SectionKind,
    pack,
    packed_size,
    parse,
)
from xenflow.routes.router_state import RouterState


def snapshot_messages(
    state: RouterState, router: str, part_records: int = SNAPSHOT_RECORDS
) -> Iterator[Frames]:
    """The messages that carry a whole state: to the Rule Table, into a file, to another
    controller.  The state must not change before the last one is taken."""
    count = 0
    for count, sections in enumerate(state.snapshot(part_records), 1):
        header = Header(RouteMessageType.SNAPSHOT, state.epoch, state.seq, router, count - 1)
        yield pack(header, sections)
    yield pack(Header(RouteMessageType.SNAPSHOT_END, state.epoch, state.seq, router, count))


class SenderState(Enum):
    """How a Sender stands with its Rule Table."""

    DOWN = "down"
    """No connection: nothing is sent."""
    HELLO = "hello"
    """Connected, HELLO sent, no answer yet."""
    UP = "up"
    """Answered."""


@dataclass(slots=True)
class Effects:
    """What the Sender's shell must do: send `messages` at once and in order (some are made only
    while being sent), then, if `reconnect`, close the socket and open it again.  `note` says
    in words what happened, "" for nothing worth telling."""

    messages: Iterable[Frames] = ()
    reconnect: bool = False
    note: str = ""


class Sender:
    """routerd's side.  `state` is what the Rule Table should know; `change` changes it."""

    def __init__(self, router: str, epoch: int, part_records: int = SNAPSHOT_RECORDS) -> None:
        self.router = router
        self.part_records = part_records
        self.state = RouterState()
        self.state.epoch = epoch
        self.link = SenderState.DOWN
        self._heard = 0.0
        self._said = 0.0
        self._hello_at = 0.0
        self._snapshot_at = float("-inf")

    def connected(self, now: float) -> Effects:
        """A new connection stands."""
        self.link = SenderState.HELLO
        self._heard = now
        self._snapshot_at = float("-inf")
        return Effects([self._hello(now)])

    def disconnected(self) -> None:
        """The connection is lost."""
        self.link = SenderState.DOWN

    def change(self, sections: Sequence[Section], now: float) -> Effects:
        """Apply one consistent change and tell it.  A change too large for one message goes as a
        snapshot, which the Rule Table applies as a whole just the same.

        Raises MessageError when the sections do not fit the state, PackError when a message cannot
        hold them; nothing has changed then.
        """
        delta = self._delta(sections)
        self.state.apply(sections)
        return self._told(delta, now)

    def become(self, new: RouterState, now: float) -> Effects:
        """The same for a whole state, which must not be used afterwards.  The first is not
        compared with anything: whoever listens asks for a snapshot.  Raises PackError, too."""
        first = not self.state.seq
        sections = [] if first else self.state.sections_to(new)
        if not (first or sections):
            return Effects()
        delta = self._delta(sections)
        new.epoch, new.seq = self.state.epoch, self.state.seq
        self.state.take(new)
        if first and self.link is not SenderState.DOWN:
            self.state.seq, self._said = 1, now
            return Effects(self._snapshot(now))
        return self._told(delta, now)

    def _delta(self, sections: Sequence[Section]) -> Frames | None:
        """The next delta; None where it would be too large, or nobody would hear it."""
        if self.link is SenderState.DOWN:
            return None
        if len(sections) > MAX_SECTIONS or packed_size(sections) > MAX_BYTES:
            return None
        header = self._header(RouteMessageType.DELTA)
        return pack(replace(header, seq=header.seq + 1), sections)

    def _told(self, delta: Frames | None, now: float) -> Effects:
        self.state.seq += 1
        if self.link is SenderState.DOWN:
            return Effects()
        self._said = now
        return Effects(self._snapshot(now) if delta is None else [delta])

    def receive(self, frames: Sequence[bytes], now: float) -> Effects:
        """Take one message from the Rule Table; one that cannot be read is only noted."""
        try:
            message = parse(frames)
        except MessageError as error:
            return Effects(note=f"unreadable message ignored: {error}")
        header = message.header
        if header.router != self.router:
            return Effects(note=f"message for router {header.router!r} ignored")
        if self.link is SenderState.DOWN:  # it was under way when the connection broke
            return Effects()
        self._heard = now
        if header.type is RouteMessageType.RESYNC:
            self.link = SenderState.UP
            if now - self._snapshot_at < AGAIN_S / 4:
                return Effects()
            return Effects(self._snapshot(now), note="snapshot asked for")
        if header.type is RouteMessageType.REFUSED:
            reasons = [
                r.reason
                for s in message.sections
                for r in s.records
                if s.kind is SectionKind.POLICY
            ]
            return Effects(note=f"refused: {'; '.join(reasons)}")
        if (
            header.type in (RouteMessageType.WELCOME, RouteMessageType.ACK)
            and header.epoch == self.state.epoch
        ):
            was, self.link = self.link, SenderState.UP
            return Effects(note="in sync" if was is not SenderState.UP else "")
        return Effects()

    def tick(self, now: float) -> Effects:
        """Heartbeats; HELLO again when it went unanswered; a new connection after silence."""
        if self.link is SenderState.DOWN:
            return Effects()
        if now - self._heard >= SILENCE_S:
            self.link = SenderState.DOWN
            return Effects(reconnect=True, note=f"nothing heard for {SILENCE_S:g} s")
        if self.link is SenderState.HELLO and now - self._hello_at >= AGAIN_S:
            return Effects([self._hello(now)])
        if now - self._said >= HEARTBEAT_S:
            self._said = now
            return Effects([pack(self._header(RouteMessageType.HEARTBEAT))])
        return Effects()

    def next_tick(self, now: float) -> float:
        """When `tick` should be called next, at the latest."""
        if self.link is SenderState.DOWN:
            return now + HEARTBEAT_S
        times = [self._heard + SILENCE_S, self._said + HEARTBEAT_S]
        if self.link is SenderState.HELLO:
            times.append(self._hello_at + AGAIN_S)
        return max(now, min(times))

    def _header(self, type_: RouteMessageType) -> Header:
        return Header(type_, self.state.epoch, self.state.seq, self.router)

    def _hello(self, now: float) -> Frames:
        self._hello_at = self._said = now
        return pack(self._header(RouteMessageType.HELLO))

    def _snapshot(self, now: float) -> Iterator[Frames]:
        self._snapshot_at = now
        return snapshot_messages(self.state, self.router, self.part_records)
