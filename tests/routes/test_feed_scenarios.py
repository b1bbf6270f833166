"""Conversations between a routerd and the Rule Table's feed, as they are in `scenarios/*.txt`.

Both are the real ones.  What they say is on its way until it arrives or is lost.  The commands:

    routerd EPOCH hops COUNT routes COUNT   routerd is started; its kernel has next hops 1, 2 ...
                                            and by hop 1 the routes 10.0.0.0/24, 10.0.1.0/24 ...
    connect                                 a connection stands; what was on its way is lost
    route PREFIX HOP                        the kernel has a route, in place of the one there was
    gone PREFIX                             it has the route no more
    deliver [COUNT]                         so many messages arrive; without COUNT those that are
                                            said on it, too, until nothing is on its way
    lose                                    what routerd has said does not arrive
    mirror                                  another controller passes on what routerd has said
    wait SECONDS [lost]                     both look at the time each half second, and what they
                                            say arrives, or not (`lost`)
    forge TYPE EPOCH/SEQ ROUTER             somebody says that on routerd's link
    flood COUNT                             somebody says so many heartbeats there at one moment
    limit WHAT COUNT                        of that no more is taken (`router_state.Capacity`)
    controller                              the Rule Table is started anew
    holds                                   what it knows

A message is said with EPOCH/SEQ, and so is what the feed knows, after its phase.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pytest

from tests import scenario_file
from xenflow.routes import messages as m
from xenflow.routes.feed import Feed, FeedOutcome
from xenflow.routes.messages import Frames, Header, Op, RouteMessageType, Section, SectionKind
from xenflow.routes.sender import Effects, Sender

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


class Conversation:
    """Its commands are its public methods."""

    def __init__(self) -> None:
        self.controller()
        self._up: list[Frames] = []
        self._down: list[Frames] = []
        self._now = 100.0
        self._lines: list[str] = []

    def __call__(self, command: str, *words: str) -> str:
        self._lines = []
        getattr(self, command)(*words)
        return "\n".join(self._lines)

    def routerd(self, epoch: str, _: str, hops: str, __: str, routes: str) -> None:
        self._sender = Sender("vr1", int(epoch), part_records=3)
        known = [m.NextHop(n, m.NextHopType.VIA, 4, 2, n, n) for n in range(1, int(hops) + 1)]
        some = [_route(f"10.0.{n}.0/24", "1") for n in range(int(routes))]
        kinds = (SectionKind.NEXTHOP, known), (SectionKind.ROUTE4, some)
        self._sender.change([Section(kind, Op.SET, records) for kind, records in kinds], 0.0)

    def connect(self) -> None:
        self._up, self._down = [], []
        self._routerd_does("routerd", self._sender.connected(self._now))

    def route(self, prefix: str, hop: str) -> None:
        section = Section(SectionKind.ROUTE4, Op.SET, [_route(prefix, hop)])
        self._routerd_does("routerd", self._sender.change([section], self._now))

    def gone(self, prefix: str) -> None:
        section = Section(SectionKind.ROUTE4, Op.DELETE, [_route(prefix, "0")])
        self._routerd_does("routerd", self._sender.change([section], self._now))

    def deliver(self, count: str = "1000") -> None:
        for _ in range(int(count)):
            if self._up:
                frames = self._up.pop(0)
                self._feed_does(_words(frames), self._feed.receive(frames, self._now))
            elif self._down:
                frames = self._down.pop(0)
                self._routerd_does(_words(frames), self._sender.receive(frames, self._now))

    def lose(self) -> None:
        self._lines += [f"lost: {_words(frames)}" for frames in self._up]
        self._up = []

    def mirror(self) -> None:
        for frames in self._up:
            out = self._feed.receive(frames, self._now, "the mirror")
            self._feed_does(f"{_words(frames)} by the mirror", out)

    def wait(self, seconds: str, lost: str = "") -> None:
        for _ in range(round(float(seconds) * 2)):
            self._now += 0.5
            self._routerd_does("routerd", self._sender.tick(self._now))
            self._feed_does("feed", self._feed.tick(self._now))
            if lost:
                self._up, self._down = [], []
            self.deliver()

    def forge(self, kind: str, number: str, router: str) -> None:
        epoch, seq = map(int, number.split("/"))
        self._up.append(m.pack(Header(RouteMessageType[kind], epoch, seq, router)))

    def flood(self, count: str) -> None:
        state = self._feed.state
        beat = m.pack(Header(RouteMessageType.HEARTBEAT, state.epoch, state.seq, "vr1"))
        pauses = [self._feed.receive(beat, self._now).pause_s for _ in range(int(count))]
        beyond = sum(pause > 0 for pause in pauses)
        self._lines.append(f"{beyond} too many; not read for {pauses[-1]:.3f} s")

    def limit(self, what: str, count: str) -> None:
        state = self._feed.state
        state.capacity = replace(state.capacity, **{what: int(count)})

    def controller(self) -> None:
        self._feed = Feed("vr1")

    def holds(self) -> None:
        state = self._feed.state
        self._lines.append(f"{self._known()}, next hops {sorted(state.nexthops)}")
        rows = sorted((hop, key) for key, hop in state.routes.items())
        for hop, of_hop in groupby(rows, itemgetter(0)):
            nets = [f"{ipaddress.IPv4Address(key >> 8)}/{key & 255}" for _, key in of_hop]
            self._lines.append(f"by {hop}: {', '.join(nets)}")

    def _routerd_does(self, on: str, effects: Effects) -> None:
        messages = list(effects.messages)
        self._up += messages
        said = ", ".join(map(_words, messages))
        self._line(on, effects.note, f"says {said}" if said else "")
        if effects.reconnect:
            self.connect()

    def _feed_does(self, on: str, out: FeedOutcome) -> None:
        done = [] if on == "feed" else [self._known()]
        if out.changes is not None:
            changes = out.changes
            counts = len(changes.nexthops), len(changes.routes), len(changes.gone)
            words = ("next hops changed", "routes set", "routes gone")
            done += [f"{what} {n}" for what, n in zip(words, counts, strict=True) if n]
        to = {source: f" to {source}" if source else "" for source, _ in out.replies}
        said = ", ".join(_words(frames) + to[source] for source, frames in out.replies)
        whole = "a whole state" if out.ended else ""
        self._line(on, *done, whole, f"says {said}" if said else "")
        self._down += [frames for source, frames in out.replies if source is None]

    def _line(self, on: str, *done: str) -> None:
        if any(done):
            self._lines.append(f"{on}: {'; '.join(filter(None, done))}")

    def _known(self) -> str:
        return f"{self._feed.phase.value} {self._feed.state.epoch}/{self._feed.state.seq}"


def _route(prefix: str, hop: str) -> m.Route:
    net = ipaddress.IPv4Network(prefix)
    return int(net.network_address), net.prefixlen, int(hop)


def _words(frames: Frames) -> str:
    header = m.parse_header(frames)
    said = f"{header.type.name} {header.epoch}/{header.seq}"
    if header.type in (RouteMessageType.SNAPSHOT, RouteMessageType.SNAPSHOT_END):
        said += f" part {header.part}"
    return said if header.router == "vr1" else f"{said} of {header.router}"


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 6


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    scenario_file.check(path, Conversation())
