"""Both sides of the route conversation, wired together without a socket."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from tests.conftest import ROOT
from xenflow.routes import messages as m
from xenflow.routes.feed import (
    BYTES_BURST,
    MESSAGES_BURST,
    MESSAGES_PER_S,
    TRANSITIONS,
    Bucket,
    Feed,
    FeedEvent,
    Phase,
)
from xenflow.routes.messages import (
    Header,
    NextHop,
    NextHopType,
    Op,
    RouteMessageType,
    Section,
    SectionKind,
    pack,
)
from xenflow.routes.router_state import RouterState
from xenflow.routes.sender import Sender, SenderState, snapshot_messages


def via(id_, mac=0):
    return NextHop(id_, NextHopType.VIA, 4, 2, id_, mac)


def routes(count, nexthop=1, first=0):
    return Section(
        SectionKind.ROUTE4, Op.SET, [(n << 8, 24, nexthop) for n in range(first, first + count)]
    )


def loaded_sender(count=3, epoch=77):
    sender = Sender("vr1", epoch)
    sender.change([Section(SectionKind.NEXTHOP, Op.SET, [via(1), via(2)]), routes(count)], 0.0)
    return sender


class Pair:
    """A Sender and a Feed with a list in each direction."""

    def __init__(self, sender=None, feed=None):
        self.sender = sender or loaded_sender()
        self.feed = feed or Feed("vr1")
        self.now = 100.0
        self.up: list[m.Frames] = []
        self.down: list[m.Frames] = []
        self.outcomes = []

    def effects(self, effects):
        self.up += list(effects.messages)
        return effects

    def connect(self):
        self.effects(self.sender.connected(self.now))
        return self

    def outcome(self, out):
        self.down += [frames for source, frames in out.replies if source is None]
        self.outcomes.append(out)
        return out

    def settle(self):
        """Until nothing is under way."""
        while self.up or self.down:
            while self.up:
                self.outcome(self.feed.receive(self.up.pop(0), self.now))
            while self.down:
                self.effects(self.sender.receive(self.down.pop(0), self.now))
        return self

    def pass_time(self, seconds, step=0.5):
        until = self.now + seconds
        while self.now < until:
            self.now += step
            if self.effects(self.sender.tick(self.now)).reconnect:
                self.connect()
            self.outcome(self.feed.tick(self.now))
            self.settle()
        return self

    def types(self, frames):
        return [m.parse_header(f).type for f in frames]


def test_a_new_router_is_streamed_and_then_current():
    pair = Pair(loaded_sender(5000)).connect().settle()
    assert pair.feed.phase is Phase.CURRENT
    assert pair.feed.state.same(pair.sender.state)
    streamed = [o for o in pair.outcomes if o.changes is not None]
    assert sum(len(o.changes.routes) for o in streamed) == 5000
    assert [o.ended for o in streamed] == [False] * (len(streamed) - 1) + [True]
    assert pair.sender.link is SenderState.UP
    assert pair.feed.state.seq == 1


def test_welcome_when_nothing_was_missed():
    pair = Pair().connect().settle()
    pair.sender.disconnected()
    pair.connect()
    assert pair.types(pair.up) == [RouteMessageType.HELLO]
    out = pair.outcome(pair.feed.receive(pair.up.pop(), pair.now))
    assert pair.types(f for _, f in out.replies) == [RouteMessageType.WELCOME]


def test_a_lost_delta_is_found_by_the_next_and_only_the_difference_is_a_change():
    pair = Pair(loaded_sender(100)).connect().settle()
    pair.sender.change([routes(1, nexthop=2)], pair.now)  # lost
    pair.now += 2
    pair.effects(pair.sender.change([routes(1, nexthop=2, first=200)], pair.now))
    pair.settle()
    assert pair.feed.state.same(pair.sender.state)
    ended = pair.outcomes[-1].changes
    assert sorted(ended.routes) == [(0, 24, 2), (200 << 8, 24, 2)]


def test_a_lost_last_delta_is_found_by_the_heartbeat():
    pair = Pair().connect().settle()
    pair.sender.change([routes(1, nexthop=2)], pair.now)  # lost
    pair.pass_time(1.5)
    assert pair.feed.state.same(pair.sender.state)


def test_nothing_is_deleted_before_the_end_of_a_snapshot():
    pair = Pair(loaded_sender(3000)).connect().settle()
    smaller = loaded_sender(2500, epoch=78)  # routerd was started again
    messages = list(snapshot_messages(smaller.state, "vr1"))
    for frames in messages[:-1]:
        assert pair.feed.receive(frames, pair.now).changes is None
        assert len(pair.feed.state.routes) == 3000
    out = pair.feed.receive(messages[-1], pair.now)
    assert out.ended
    assert len(out.changes.gone) == 500
    assert not out.changes.routes


def test_what_comes_twice_is_applied_once():
    pair = Pair().connect().settle()
    (delta,) = pair.sender.change([routes(1, nexthop=2)], pair.now).messages
    first = pair.feed.receive(delta, pair.now, "routerd")
    second = pair.feed.receive(delta, pair.now, "mirror")
    assert first.changes and second.changes is None and second.error is None


def test_deltas_of_a_mirror_keep_a_second_feed_current_for_the_router_that_arrives():
    pair = Pair().connect().settle()
    there = Feed("vr1")
    for frames in snapshot_messages(pair.feed.state, "vr1"):
        there.receive(frames, pair.now, "import")
    (delta,) = pair.sender.change([routes(1, nexthop=2)], pair.now).messages
    assert there.receive(delta, pair.now, "mirror").changes
    moved = Pair(pair.sender, there).connect()
    out = there.receive(moved.up.pop(), pair.now, "routerd")
    assert moved.types(f for _, f in out.replies)[0] is RouteMessageType.WELCOME


def test_another_routers_name_is_refused():
    pair = Pair()
    other = Sender("vr2", 5)
    (hello,) = other.connected(0.0).messages
    out = pair.feed.receive(hello, 0.0)
    assert "'vr2' speaks on the link of 'vr1'" in str(out.error)
    ((_, reply),) = out.replies
    refusal = m.parse(reply)
    assert refusal.header.type is RouteMessageType.REFUSED
    assert "vr2" in refusal.sections[0].records[0].reason
    assert pair.feed.heard is None
    assert "vr1" in other.receive(reply, 0.0).note


def test_a_refused_delta_changes_nothing_and_is_made_up_for():
    pair = Pair().connect().settle()
    bad = pack(Header(RouteMessageType.DELTA, 77, 2, "vr1"), [routes(1, nexthop=99)])
    out = pair.feed.receive(bad, pair.now)
    assert "no next hop 99" in str(out.error)
    assert pair.feed.phase is Phase.BEHIND
    pair.effects(pair.sender.change([routes(1, nexthop=2)], pair.now))
    pair.settle()
    assert pair.feed.state.same(pair.sender.state)


def test_silence_makes_the_router_stale_and_the_sender_reconnect():
    pair = Pair().connect().settle()
    assert not pair.feed.stale(pair.now)
    assert pair.feed.stale(pair.now + 3.1)
    assert not pair.sender.tick(pair.now + 2.9).reconnect
    effects = pair.sender.tick(pair.now + 3.0)
    assert effects.reconnect and pair.sender.link is SenderState.DOWN
    pair.pass_time(10)
    assert not pair.sender.tick(pair.now).reconnect


def test_heartbeats_keep_both_sides_awake():
    pair = Pair().connect().settle()
    pair.pass_time(20)
    assert not pair.feed.stale(pair.now)
    assert pair.sender.link is SenderState.UP
    assert pair.feed.state.seq == pair.sender.state.seq


def test_a_change_too_large_for_a_message_is_still_one_change():
    sender = loaded_sender(120_000)
    pair = Pair(sender).connect().settle()
    pair.effects(sender.change([routes(120_000, nexthop=2)], pair.now))
    pair.settle()
    assert pair.feed.state.same(sender.state)
    changed = [o.changes for o in pair.outcomes if o.changes and o.changes.routes]
    assert len(changed[-1].routes) == 120_000
    assert pair.feed.state.seq == 2


def test_a_broken_off_first_snapshot_is_completed_by_the_next():
    sender = loaded_sender(5000)
    feed = Feed("vr1")
    messages = list(snapshot_messages(sender.state, "vr1"))
    feed.receive(messages[0], 0.0)
    out = feed.receive(messages[2], 0.0)
    assert feed.phase is Phase.PARTIAL
    assert [
        m.parse_header(f).type for _, f in out.replies
    ] == []  # asked less than 1 s after a part
    out = feed.tick(1.1)
    assert RouteMessageType.RESYNC in [m.parse_header(f).type for _, f in out.replies]
    pair = Pair(sender, feed).connect().settle()
    assert feed.complete and feed.state.same(pair.sender.state)


def test_acknowledgements_are_apart():
    pair = Pair().connect().settle()
    count = 0
    for n in range(100):
        pair.now += 0.001
        (delta,) = pair.sender.change([routes(1, nexthop=1 + n % 2)], pair.now).messages
        out = pair.feed.receive(delta, pair.now)
        count += sum(m.parse_header(f).type is RouteMessageType.ACK for _, f in out.replies)
    assert 1 <= count <= 3
    out = pair.feed.tick(pair.now + 0.05)
    assert pair.feed.state.seq == m.parse_header(out.replies[0][1]).seq == pair.sender.state.seq


def test_the_bucket_pauses_a_talkative_router():
    bucket = Bucket()
    assert not any(bucket.take(10, 0.0) for _ in range(int(MESSAGES_BURST)))
    assert bucket.take(10, 0.0) == pytest.approx(1 / MESSAGES_PER_S)
    assert bucket.take(10, 10.0) == 0.0
    assert bucket.take(2 * int(BYTES_BURST), 20.0) == pytest.approx(2.0)


def test_rubbish_is_refused_without_an_exception():
    feed = Feed("vr1")
    for frames in (
        [],
        [b""],
        [b"x" * 40],
        [b"XFRT"] * 9,
        pack(Header(RouteMessageType.ACK, 1, 1, "vr1")),
    ):
        out = feed.receive(frames, 0.0)
        assert out.error is not None
        assert m.parse_header(out.replies[0][1]).type is RouteMessageType.REFUSED
    sender = Sender("vr1", 1)
    sender.connected(0.0)
    for frames in ([], [b""], pack(Header(RouteMessageType.RESYNC, 1, 1, "vr2"))):
        assert "ignored" in sender.receive(frames, 0.0).note


def test_a_fault_of_our_own_is_not_the_routers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no error of the message, which is not refused: whoever called is told."""

    def packs_badly(header: Header, sections: Iterable[Section] = ()) -> m.Frames:
        wrong = header if header.type is RouteMessageType.REFUSED else replace(header, seq=-1)
        return pack(wrong, sections)

    feed = Feed("vr1")
    hello = pack(Header(RouteMessageType.HELLO, 7, 1, "vr1"))
    monkeypatch.setattr("xenflow.routes.feed.pack", packs_badly)
    with pytest.raises(m.PackError):
        feed.receive(hello, 0.0)


class Conversation(RuleBasedStateMachine):
    """Changes, restarts and moves, with messages lost, doubled and reordered.

    At every moment a complete Feed holds a state that the Sender had; when all goes well again it
    holds the one that the Sender has.
    """

    sent = Bundle("sent")

    def __init__(self):
        super().__init__()
        self.epoch = 1
        self.pair = Pair(Sender("vr1", 1, part_records=2))
        self.had = {}
        self.change([], {1: 0, 2: 0})
        self.pair.connect()

    def change(self, keys, macs):
        sender = self.pair.sender
        new = RouterState()
        new.apply([Section(SectionKind.NEXTHOP, Op.SET, [via(i, mac) for i, mac in macs.items()])])
        if macs:
            ids = sorted(macs)
            new.apply(
                [
                    Section(
                        SectionKind.ROUTE4, Op.SET, [(k << 8, 24, ids[k % len(ids)]) for k in keys]
                    )
                ]
            )
        self.pair.effects(sender.change(sender.state.sections_to(new), self.pair.now))
        self.remember()

    def remember(self):
        state = self.pair.sender.state
        self.had[state.epoch, state.seq] = (dict(state.routes), dict(state.nexthops))

    @rule(
        keys=st.sets(st.integers(0, 6)),
        macs=st.dictionaries(st.integers(1, 4), st.integers(0, 2), max_size=3),
    )
    def changes(self, keys, macs):
        self.change(keys, macs)

    @rule(count=st.integers(1, 5))
    def delivered_up(self, count):
        for _ in range(min(count, len(self.pair.up))):
            frames = self.pair.up.pop(0)
            self.pair.outcome(self.pair.feed.receive(frames, self.pair.now))

    @rule(data=st.data())
    def mirrored(self, data):
        """Another controller passes something on, whatever becomes of it on the direct way."""
        if self.pair.up:
            frames = self.pair.up[data.draw(st.integers(0, len(self.pair.up) - 1))]
            out = self.pair.feed.receive(frames, self.pair.now, "mirror")
            self.pair.outcomes.append(out)

    @rule(count=st.integers(1, 5))
    def delivered_down(self, count):
        for _ in range(min(count, len(self.pair.down))):
            self.pair.effects(self.pair.sender.receive(self.pair.down.pop(0), self.pair.now))

    @rule(data=st.data(), up=st.booleans())
    def lost(self, data, up):
        queue = self.pair.up if up else self.pair.down
        if queue:
            del queue[data.draw(st.integers(0, len(queue) - 1))]

    @rule(data=st.data(), up=st.booleans())
    def doubled(self, data, up):
        queue = self.pair.up if up else self.pair.down
        if queue:
            frames = queue[data.draw(st.integers(0, len(queue) - 1))]
            queue.insert(data.draw(st.integers(0, len(queue))), frames)

    @rule(data=st.data(), up=st.booleans())
    def reordered(self, data, up):
        queue = self.pair.up if up else self.pair.down
        if queue:
            frames = queue.pop(data.draw(st.integers(0, len(queue) - 1)))
            queue.insert(data.draw(st.integers(0, len(queue))), frames)

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.1, 4.0]))
    def time_passes(self, seconds):
        pair = self.pair
        pair.now += seconds
        if pair.effects(pair.sender.tick(pair.now)).reconnect:
            pair.connect()
        pair.outcome(pair.feed.tick(pair.now))

    @rule()
    def reconnected(self):
        self.pair.sender.disconnected()
        self.pair.connect()

    @rule()
    def routerd_restarted(self):
        self.epoch += 1
        state = self.pair.sender.state
        self.pair.sender = Sender("vr1", self.epoch, part_records=2)
        self.pair.sender.change(RouterState().sections_to(state), self.pair.now)
        self.remember()
        self.pair.connect()

    @rule()
    def controller_restarted(self):
        self.pair.feed = Feed("vr1")
        self.pair.sender.disconnected()
        self.pair.connect()

    @invariant()
    def the_state_is_one_that_was(self):
        feed = self.pair.feed
        assert all(out.error is None for out in self.pair.outcomes)
        self.pair.outcomes.clear()
        if feed.complete:
            state = feed.state
            assert (state.routes, state.nexthops) == self.had[state.epoch, state.seq]

    def teardown(self):
        self.pair.settle()
        self.pair.pass_time(12)
        assert self.pair.feed.phase is Phase.CURRENT
        assert self.pair.feed.state.same(self.pair.sender.state)
        assert self.pair.feed.state.seq == self.pair.sender.state.seq


Conversation.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestConversation = Conversation.TestCase


def state_with(count, nexthop=1):
    state = RouterState()
    state.apply([Section(SectionKind.NEXTHOP, Op.SET, [via(1), via(2)]), routes(count, nexthop)])
    return state


def test_the_first_whole_state_is_taken_and_a_later_one_told_as_its_difference():
    sender = Sender("vr1", 77)
    assert not list(sender.become(state_with(5), 0.0).messages)
    assert (sender.state.seq, sender.state.epoch, len(sender.state.routes)) == (1, 77, 5)
    pair = Pair(sender)
    pair.connect()
    pair.settle()
    assert pair.feed.state.same(sender.state)
    (delta,) = sender.become(state_with(6), pair.now).messages
    (section,) = m.parse(delta).sections
    pair.up.append(delta)
    assert section.records == [(5 << 8, 24, 1)]
    pair.settle()
    assert pair.feed.state.same(sender.state) and pair.feed.state.seq == 2


def test_a_whole_state_that_says_nothing_new_has_no_number():
    sender = loaded_sender(5)
    seq = sender.state.seq
    assert not list(sender.become(state_with(5), 0.0).messages)
    assert sender.state.seq == seq


def test_the_first_whole_state_goes_as_a_snapshot_to_one_who_listens_already():
    pair = Pair(Sender("vr1", 77))
    pair.connect()
    pair.effects(pair.sender.become(state_with(5), pair.now))
    pair.settle()
    assert pair.feed.state.same(pair.sender.state) and pair.feed.phase is Phase.CURRENT


def test_a_source_that_is_not_read_for_now_goes_on_getting_heartbeats():
    feed = Feed("vr1")
    feed.receive(pack(Header(RouteMessageType.HELLO, 7, 1, "vr1")), 0.0, "peer")
    for now in range(1, 20):
        feed.keep("peer", float(now))
        feed.keep("stranger", float(now))
        told = {s for s, frames in feed.tick(float(now)).replies if alive(frames)}
        assert told == {"peer"}
    assert feed.tick(30.0).replies == []


def alive(frames):
    return m.parse_header(frames).type is RouteMessageType.ALIVE


@pytest.mark.parametrize("kind", [RouteMessageType.HELLO, RouteMessageType.HEARTBEAT])
def test_a_doubted_state_is_current_only_after_a_snapshot_whatever_its_number(kind):
    sender = loaded_sender()
    pair = Pair(sender).connect()
    pair.settle()
    assert pair.feed.phase is Phase.CURRENT
    pair.feed.doubt()
    pair.now += 5
    header = Header(kind, sender.state.epoch, sender.state.seq, "vr1")
    out = pair.feed.receive(pack(header), pair.now)
    types = [m.parse_header(frames).type for _, frames in out.replies]
    assert RouteMessageType.RESYNC in types and RouteMessageType.WELCOME not in types
    assert pair.feed.phase is Phase.DOUBTED
    for frames in snapshot_messages(sender.state, "vr1"):
        out = pair.feed.receive(frames, pair.now)
    assert out.ended and pair.feed.phase is Phase.CURRENT


# --- what is known of a router, after everything that can happen --------------------------------

WHOLE = state_with(2)
WHOLE.epoch, WHOLE.seq = 7, 1
PARTS = list(snapshot_messages(WHOLE, "vr1", part_records=2))


def told(seq, epoch=7):
    return pack(Header(RouteMessageType.HEARTBEAT, epoch, seq, "vr1"))


def feed_in(phase):
    """A Feed in a phase, by what it was told; a snapshot of "a" is under way."""
    feed = Feed("vr1")
    steps = {
        Phase.NEW: [],
        Phase.STREAMING: [PARTS[0]],
        Phase.PARTIAL: [PARTS[0], PARTS[0]],
        Phase.CURRENT: [*PARTS, PARTS[0]],
        Phase.BEHIND: [*PARTS, told(9), PARTS[0]],
        Phase.DOUBTED: [*PARTS],
    }
    for frames in steps[phase]:
        feed.receive(frames, 0.0, "a")
    if phase is Phase.DOUBTED:
        feed.doubt()
        feed.receive(PARTS[0], 0.0, "a")
    assert feed.phase is phase
    return feed


def happens(feed, event):
    """The event, as a router, or whoever deals with its messages, brings it about."""
    messages = {
        FeedEvent.BEGUN: [PARTS[0]],
        FeedEvent.ENDED: PARTS,
        FeedEvent.AGREED: [told(feed.state.seq, feed.state.epoch)],
        FeedEvent.MISSED: [told(9)],
    }
    if event is FeedEvent.BROKEN:
        feed.receive(PARTS[-1], 0.0, "a")
    elif event is FeedEvent.DOUBTED:
        feed.doubt()
    else:
        for frames in messages[event]:
            feed.receive(frames, 0.0, "b")


def documented():
    """The table of docs/messages.md: phase and event, and the phase that follows."""
    text = (ROOT / "docs" / "messages.md").read_text().split("\n| phase | a snapshot begins ")[1]
    for line in text.split("\n\n")[0].splitlines()[2:]:
        before, *after, _ = (words.strip() for words in line.strip("|").split("|"))
        for event, phase in zip(FeedEvent, after, strict=True):
            yield pytest.param(Phase(before), event, Phase(phase), id=f"{before}-{event.name}")


def test_every_phase_and_event_is_documented():
    pairs = {each.values[:2] for each in documented()}
    assert pairs == {(phase, event) for phase in Phase for event in FeedEvent}
    assert set(TRANSITIONS) == set(FeedEvent)


@pytest.mark.parametrize(("phase", "event", "after"), list(documented()))
def test_what_is_known_after_an_event(phase, event, after):
    feed = feed_in(phase)
    happens(feed, event)
    assert feed.phase is after
    assert feed.complete is (after in (Phase.CURRENT, Phase.BEHIND, Phase.DOUBTED))
