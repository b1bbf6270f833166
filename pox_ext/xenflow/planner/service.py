"""The planner's service: holds the lease, answers `apply`, and writes to the store.

Of several planners one holds the lease `planner`; its owner's name begins with the address where it
listens, so that controllers, which watch the lease, know whom to ask.  One change is made at a
time: the next waits until the watch has told the last one.  Knows neither sockets nor clocks; run
by `__main__`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from xenflow.model import management as mg
from xenflow.model.difference import in_words
from xenflow.model.management import ManagementError, Request
from xenflow.model.network import Network, NetworkError
from xenflow.planner.book import WATCHED, Book, Proposal
from xenflow.planner.events import EventLog, told
from xenflow.planner.recovery import Recovering, Recovery
from xenflow.store import network_file
from xenflow.store.laid_file import to_json
from xenflow.store.lease import LeaseContender
from xenflow.store.network_store import (
    NetworkStore,
    ViewOverdue,
    WatchEvent,
    WholeView,
    touches,
)
from xenflow.store.transaction import (
    Committed,
    RefusalReason,
    WriteOutcome,
    WriteRefused,
    new_uuid,
)

log = logging.getLogger("xenflow.planner")

LEASE = "planner"
LEASE_S = 6.0
"""A planner that has said nothing for so long is followed by another."""
WRITE_S = 5.0
"""How long the store may take for a transaction."""
ANSWER_S = 9.0
"""A change that is not known to be made, or not, is answered as that after so long."""
FILL_S = ANSWER_S + 1.0
"""How often it is tried to give an empty store its first network."""
QUEUE = 64
"""Requests that wait at most."""

_OTHERS_CHANGE = "somebody else has changed the network"
_LOOK = "look at what it is now, and apply again"
_NEW = (
    "nothing was changed; was it made anew, or put back from a copy?  Controllers take what it has "
    "once laid.json is moved out of their state folders, and they are started again"
)

Send = Callable[[bytes], Any]


@dataclass(slots=True)
class _AskedChange:
    """A request for a change; `until`: its answer is given by then."""

    request: Request
    send: Send
    until: float
    proposal: Proposal | None = None
    written: bool | None = None
    """False: certainly not.  True: what the watch says once it is as far as the proposal's number
    decides.  None: not known."""
    doubt: bool = False
    """Whether an outcome was unknown."""
    waiting: bool = False
    """Whether an outcome is awaited."""
    puts_back: bool = False
    """Whether it puts back what was not confirmed."""
    refusal: str = ""
    """Why it is not made, where it is not; empty: others changed the network at the same time."""

    def refuse(self, code: str, words: str) -> None:
        """Answer that it is not done, or not known to be."""
        self.send(mg.error_reply(self.request.id, ManagementError(code, words)))


class PlannerService:
    """See the module.

    listens  tcp://ADDRESS:PORT, where it is asked
    now      a monotonic clock, in seconds
    today    the time of day, in seconds since 1970
    first    the network file that an empty store is given; "" for none
    recover  begins `xenflow recover` for a router; None: moves that were left stay as they are
    """

    def __init__(
        self,
        store: NetworkStore,
        listens: str,
        now: Callable[[], float],
        today: Callable[[], float],
        first: str = "",
        recover: Callable[[str, Network], Recovering] | None = None,
    ) -> None:
        self._store = store
        self._now = now
        self._today = today
        self._first = first
        self._fill_at = 0.0
        self._why_empty = ""
        self._book = Book()
        self._events = EventLog()
        self._recovery = None if recover is None else Recovery(recover, self._recovered)
        self._lease = LeaseContender(LEASE, f"{listens} {new_uuid()}", LEASE_S)
        self._queue: deque[_AskedChange] = deque()
        self._forgetting = self._copying = False
        self._deadline: tuple[int, float] = (0, 0.0)
        """Of the change that waits to be confirmed its number, and when it is put back."""
        self._tries_back = 0
        """The change that it was tried to put back last."""
        self._failed: dict[str, str] = {}
        """Steps that raised when they were done last, and what."""
        self._heard = False
        self.ended = False
        store.watch(WATCHED, WRITE_S, self._told)

    # --- the store ----------------------------------------------------------------------------

    def _told(self, event: WatchEvent) -> None:
        if isinstance(event, ViewOverdue):
            log.warning("the store does not say what it has: %s", event.words)
            return
        self._book.hear(event)
        self._lease.row_is(self._book.lease, self._now())
        if touches(event, ("Migration",)):
            self._guarded("what has become of moves", self._see)
        if isinstance(event, WholeView) and self._others():
            log.info("waits: %s", self._not_ready())
        self._go_on()

    def _see(self) -> None:
        held, today = self._lease.holds(self._now()), int(self._today())
        self._events.see(self._book.migrations, self._book.placements, today, held)

    def _guarded(self, what: str, do: Callable[[], Any]) -> None:
        """A step, where what raises in it is said, once, and ends nothing: a row that somebody
        wrote by hand must not end a planner, and then the one that follows it."""
        try:
            do()
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            if self._failed.get(what) != words:
                log.error("%s: %s", what, words, exc_info=error)
            self._failed[what] = words
        else:
            self._failed.pop(what, None)

    def tick(self) -> None:
        """What time asks for; to be called several times a second."""
        now = self._now()
        if turn := self._lease.turn(now):
            self._store.transact(turn, LEASE_S / 3, self._beaten)
        held = self._lease.holds(now)
        if held is not self._heard:
            self._heard = held
            log.info("%s the lease", "holds" if held else "does not hold")
            if held:
                self._note(
                    f"planner from {self._lease.owner.partition(' ')[0]}", "planner", "", "begun"
                )
        if held and self._book.whole and self._first and now >= self._fill_at:
            self._fill(now)
        if held and self._book.may_forget and not self._forgetting:
            self._guarded("forgetting what is no more", self._forget)
        if held and self._book.may_copy and not self._copying:
            self._guarded("copying where routers are", self._copy)
        if held and self._book.whole:
            self._guarded("putting back what was not confirmed", partial(self._put_back, now))
            if wanted := self._events.turn(self._book.events, self._lease.fence()):
                self._events.writing = True
                self._store.transact(wanted, WRITE_S, self._recorded)
        if self._recovery is not None and held and self._book.whole:
            self._guarded("recovering moves", partial(self._recover, self._recovery, now))
        elif self._recovery is not None:
            self._recovery.end()
        self._go_on()

    def _recover(self, recovery: Recovery, now: float) -> None:
        recovery.tick(now, self._book.migrations, self._book.network)

    def _forget(self) -> None:
        self._book.may_forget = False
        forget = self._book.forget(self._lease.fence(), self._store.state().cluster)
        if forget:
            self._forgetting = True
            self._store.transact(forget, WRITE_S, self._forgotten)

    def _copy(self) -> None:
        self._book.may_copy = False
        if copied := self._book.copied(self._lease.fence()):
            self._copying = True
            self._store.transact(copied, WRITE_S, self._copied)

    def _recovered(self, router: str, why_not: str) -> None:
        outcome = f"failed: {why_not}" if why_not else "done"
        self._note("planner", "recover", f"{router}: its move was left", outcome)

    def _note(self, by: str, what: str, words: str, outcome: str) -> None:
        self._events.note(int(self._today()), by, what, words, outcome)

    def _recorded(self, outcome: WriteOutcome) -> None:
        self._events.writing = False
        if not isinstance(outcome, Committed):
            log.info("events are not written: %s", outcome.words)

    def _noted(self, request: Request, send: Send, refusals: bool = True) -> Send:
        """Note what is answered, `refusals` too, then send it."""
        confirms = request.verb == "confirm"

        def sent(frame: bytes) -> None:
            said = mg.parse_answer(frame)
            number = said.result.get("change", 0)
            name = _name_of(request, number)
            words = said.message or in_words(said.result.get("changed", {}))
            what = " ".join(filter(None, ("change", str(number or ""))))
            outcome = "confirmed" if confirms else "made"
            if number or (refusals and not said.ok):
                told_as = f"{name}: {words}" if words else name
                outcome = outcome if said.ok else said.code
                self._note(request.by or "somebody", what, told_as, outcome)
            send(frame)

        return send if request.arguments.get("dry_run") else sent

    def _put_back(self, now: float) -> None:
        """Undo a change that was not confirmed in time.  One who follows another planner counts
        anew."""
        if self._book.unconfirmed is None:
            self._deadline = (0, 0.0)
            return
        number, confirm_s = self._book.unconfirmed
        if self._deadline[0] != number:
            self._deadline = (number, now + confirm_s)
        if now < self._deadline[1] or any(asked.puts_back for asked in self._queue):
            return
        try:
            text = self._book.undone(number)
            by = f"planner: change {number} was not confirmed"
            file = f"change {number} put back"
            request = mg.request("apply", "put back", by=by, text=text, file=file)
        except (NetworkError, ManagementError) as error:
            self._not_put_back(number, str(error))
            return
        parsed = mg.parse_request(request)
        first, self._tries_back = self._tries_back != number, number  # else it is told already
        send = self._noted(parsed, self._was_put_back, refusals=first)
        asked = _AskedChange(parsed, send, now + ANSWER_S)
        asked.puts_back = True
        self._queue.append(asked)

    def _was_put_back(self, answer: bytes) -> None:
        said = mg.parse_answer(answer)
        if not said.ok:
            self._not_put_back(self._deadline[0], said.message)

    def _not_put_back(self, number: int, words: str) -> None:
        """Tried again after a while."""
        log.error("change %d is not put back: %s", number, words)
        self._deadline = (number, self._now() + FILL_S)

    def _fill(self, now: float) -> None:
        """Give an empty store its first network; what does not succeed is tried again."""
        self._fill_at = now + FILL_S
        if self._book.change:
            self._first = ""
            return
        first = self._first
        try:
            text = network_file.read_text(first)
            request = mg.request("apply", "first", by="planner", text=text, file=Path(first).name)
        except (NetworkError, ManagementError) as error:
            self._not_filled(str(error))
            return
        asked = _AskedChange(mg.parse_request(request), self._filled, now + ANSWER_S)
        self._queue.appendleft(asked)

    def _filled(self, answer: bytes) -> None:
        said = mg.parse_answer(answer)
        if not said.ok:
            self._not_filled(said.message)

    def _not_filled(self, words: str) -> None:
        if words != self._why_empty:
            log.error("the empty store is not filled: %s", words)
        self._why_empty = words

    def _beaten(self, outcome: WriteOutcome) -> None:
        self._lease.answered(outcome, self._now())

    def _forgotten(self, outcome: WriteOutcome) -> None:
        self._forgetting = False
        if isinstance(outcome, Committed):
            log.info("%d rows of what is no more are forgotten", sum(outcome.touched))
        else:
            self._book.may_forget = True

    def _copied(self, outcome: WriteOutcome) -> None:
        self._copying = False
        if not isinstance(outcome, Committed):
            self._book.may_copy = True

    def end(self) -> None:
        """Give the lease back; `ended` when that is done."""
        if self._recovery is not None:
            self._recovery.end()
        self.ended = not self._lease.holds(self._now())
        if not self.ended:
            self._store.transact(self._lease.give_back(), 1.0, self._given_back)

    def _given_back(self, _: WriteOutcome) -> None:
        self.ended = True

    # --- requests -----------------------------------------------------------------------------

    def take(self, frame: bytes, send: Send) -> None:
        """Deal with one request frame; its answer is sent now or later."""
        try:
            request = mg.parse_request(frame)
        except ManagementError as error:
            send(mg.error_reply(error.id, error))
            return
        if request.verb in ("apply", "grow", "confirm"):
            send = self._noted(request, send)
        asked = _AskedChange(request, send, self._now() + ANSWER_S)
        if request.verb in ("history", "undone", "events", "event", "planner", "laid"):
            self._try(asked, self._look)
        elif request.verb == "confirm":
            self._try(asked, self._confirm)
        elif request.verb not in ("apply", "grow"):
            asked.refuse("unknown-verb", f"a planner does not answer {request.verb}")
        elif len(self._queue) >= QUEUE:
            asked.refuse("refused", "too many changes wait already: ask again")
        else:
            self._queue.append(asked)
            self._go_on()

    def _look(self, asked: _AskedChange) -> bool:
        """Answer what changes nothing."""
        if not self._book.whole:
            asked.refuse("refused", self._not_ready())
        elif asked.request.verb == "history":
            asked.send(mg.reply(asked.request.id, {"changes": self._book.history()}))
        elif asked.request.verb == "events":
            found = told(self._book.events.values(), asked.request.arguments["since"])
            asked.send(mg.reply(asked.request.id, {"events": found}))
        elif asked.request.verb == "planner":
            asked.send(mg.reply(asked.request.id, self._is_at()))
        elif asked.request.verb == "laid":
            laid = self._book.laid(self._store.state().cluster)
            asked.send(mg.reply(asked.request.id, to_json(laid)))
        elif asked.request.verb == "event":
            self._note(asked.request.by or "somebody", **asked.request.arguments)
            asked.send(mg.reply(asked.request.id))
        else:
            try:
                text = self._book.undone(asked.request.arguments["change"])
            except NetworkError as error:
                asked.refuse("refused", str(error))
            else:
                result = {"text": text, "last": self._book.change}
                asked.send(mg.reply(asked.request.id, result))
        return True

    def _is_at(self) -> dict[str, Any]:
        """docs/messages.md, verb `planner`."""
        changes = (one.request for one in self._queue)
        waiting = [{"by": one.by, "file": _name_of(one)} for one in changes]
        unconfirmed = None
        if waits := self._book.unconfirmed:
            number, confirm_s = waits
            until = self._deadline[1] if self._deadline[0] == number else self._now() + confirm_s
            left_s = round(max(0.0, until - self._now()), 1)
            unconfirmed = {"change": number, "left_s": left_s}
        cluster = self._store.state().cluster
        return {
            "cluster": cluster,
            "change": self._book.change,
            "concerns": dict(self._book.concerns),
            "in_force": dict(self._book.in_force(cluster)),
            "placed": {name: sorted(at.hosts) for name, at in self._book.placements.items()},
            "waiting": waiting,
            "unconfirmed": unconfirmed,
            "remembering": self._book.remembering(cluster),
        }

    def _confirm(self, asked: _AskedChange) -> bool:
        """Let the change that waits for it stay."""
        wanted = asked.request.arguments["change"]
        waits = self._book.unconfirmed
        if not self._lease.holds(self._now()):
            asked.refuse("refused", self._not_ready())
        elif waits is None or wanted not in (None, waits[0]):
            words = "no change waits to be confirmed"
            if wanted is not None:
                there = f"change {waits[0]} does" if waits else "none does"
                words = f"change {wanted} does not wait to be confirmed: {there}"
            asked.refuse("refused", words)
        else:
            confirmed = self._book.settled(self._lease.fence(), "in force")
            self._store.transact(confirmed, WRITE_S, partial(self._confirmed, asked, waits[0]))
        return True

    def _confirmed(self, asked: _AskedChange, number: int, outcome: WriteOutcome) -> None:
        if isinstance(outcome, Committed) and any(outcome.touched):
            log.info("change %d is confirmed (by %s)", number, asked.request.by)
            asked.send(mg.reply(asked.request.id, {"change": number}))
        elif isinstance(outcome, Committed):
            asked.refuse("refused", f"change {number} does not wait to be confirmed any more")
        elif isinstance(outcome, WriteRefused):
            asked.refuse("refused", f"the store does not take it: {outcome.words}")
        else:
            asked.refuse("unknown", f"whether change {number} is confirmed is not known: ask again")

    def _go_on(self) -> None:
        """Do what can be done of the request whose turn it is, and of those after it."""
        while self._queue and self._try(self._queue[0], self._step):
            self._queue.popleft()

    def _try(self, asked: _AskedChange, step: Callable[[_AskedChange], bool]) -> bool:
        """A step, where what raises in it is answered too: one file, or one row of the store, must
        not end a planner, and then the one that follows it."""
        verb = asked.request.verb
        try:
            return step(asked)
        except Exception as error:
            log.exception("%s by %s failed", verb, asked.request.by or "somebody")
            words = f"{verb}: {type(error).__name__}: {error}: see the planner's log"
            asked.refuse("internal", words)
            return True

    def _step(self, asked: _AskedChange) -> bool:
        """True where the request is answered."""
        if asked.waiting:
            return False
        if asked.proposal is None:
            return self._propose(asked)
        made = self._book.has(asked.proposal.uuid)
        told = asked.written is True and self._book.change >= asked.proposal.number
        if made or told or asked.written is False:
            self._answer(asked, made)
            return True
        if self._now() > asked.until:
            self._unwritten(asked, asked.proposal.number)
            return True
        if asked.written is None:  # written already it is refused, and changes nothing
            self._write(asked, asked.proposal)
        return False

    def _propose(self, asked: _AskedChange) -> bool:
        arguments, now = asked.request.arguments, self._now()
        ready = self._book.whole and self._lease.holds(now)
        if not ready and now < asked.until and not self._others():
            return False
        if not ready:
            asked.refuse("refused", self._not_ready())
            return True
        if now > asked.until:  # who asked has been told that it is not known
            words = "changes that were asked for before took too long: nothing was changed"
            asked.refuse("refused", words)
            return True
        try:
            if asked.request.verb == "grow":
                arguments = self._as_applied(asked)
            if arguments["since"] is not None:
                self._check_since(arguments["cluster"], arguments["since"])
            asked.proposal = self._book.propose(
                arguments["text"],
                arguments["file"],
                asked.request.by,
                max(0, int(self._today())),
                self._lease.fence(),
                round(arguments["confirm_s"] or 0),
                asked.puts_back,
                self._store.state().cluster,
            )
        except NetworkError as error:
            asked.refuse("refused", str(error))
            return True
        if arguments["dry_run"] or not asked.proposal.number:
            self._answer(asked, True)
            return True
        self._write(asked, asked.proposal)
        return False

    def _as_applied(self, asked: _AskedChange) -> dict[str, Any]:
        """Make of a request for links to grow one for a file to be applied; its arguments.  Raises
        NetworkError."""
        router, host = asked.request.arguments["router"], asked.request.arguments["to"]
        text, file = self._book.grown(router, host), _name_of(asked.request)
        frame = mg.request("apply", asked.request.id, by=asked.request.by, text=text, file=file)
        asked.request = mg.parse_request(frame)
        return asked.request.arguments

    def _unwritten(self, asked: _AskedChange, number: int) -> None:
        words = self._store.state().words
        if asked.doubt or asked.written:
            asked.refuse(
                "unknown",
                f"whether change {number} was written is not known: the store does not answer"
                f"{f' ({words})' if words else ''}; apply it again, which changes nothing where "
                "it was",
            )
        else:
            asked.refuse("refused", f"{self._not_ready()}: nothing was changed")

    def _check_since(self, cluster: str, since: int) -> None:
        """Raises NetworkError where who asks has looked at another network than is stored."""
        here, own = self._book.change, self._store.state().cluster
        if since and cluster != own:
            words = (
                f"controllers follow cluster {cluster}, and this planner's store is {own}: {_NEW}"
            )
        elif since > here:
            words = f"controllers are at change {since}, and the store is at {here}: {_NEW}"
        elif since < here:
            words = f"{_OTHERS_CHANGE}: {self._book.words_since(since)}: {_LOOK}"
        else:
            return
        raise NetworkError(words)

    def _others(self) -> bool:
        """Whether another planner holds the lease; one that listened here is no more."""
        row = self._book.lease
        owner = "" if row is None else str(row["owner"]).partition(" ")[0]
        return owner not in ("", self._lease.owner.partition(" ")[0])

    def _not_ready(self) -> str:
        row = self._book.lease
        if self._others() and row is not None:
            return f"the planner is at {str(row['owner']).partition(' ')[0]}: ask there"
        words = self._store.state().words or "it is being read"
        todo = "see that most of its servers run (`xenflow store status` on each), and ask again"
        return f"the store cannot be written to: {words}: {todo}"

    def _write(self, asked: _AskedChange, proposal: Proposal) -> None:
        asked.waiting = True

        def done(outcome: WriteOutcome) -> None:
            asked.waiting = False
            if isinstance(outcome, Committed):
                asked.written = True
            elif not isinstance(outcome, WriteRefused):
                asked.doubt = True
            elif outcome.reason is not RefusalReason.UNREACHABLE:
                log.info("change %d is not written: %s", proposal.number, outcome.words)
                asked.written = asked.doubt  # the refusal may be for what was written before
                if outcome.reason is not RefusalReason.WAIT:
                    asked.refusal = f"the store does not take it: {outcome.words}"
            self._go_on()

        left_s = min(WRITE_S, max(0.1, asked.until - self._now()))
        self._store.transact(proposal.transaction, left_s, done)

    def _answer(self, asked: _AskedChange, made: bool) -> None:
        proposal = asked.proposal
        assert proposal is not None
        if not made:
            others = self._book.words_since(proposal.number - 1)
            asked.refuse("refused", asked.refusal or f"{_OTHERS_CHANGE}: {others}: {_LOOK}")
            return
        dry = asked.request.arguments["dry_run"]
        if proposal.number and not dry:
            log.info(
                "change %d (by %s): %s",
                proposal.number,
                asked.request.by,
                proposal.difference.words(),
            )
        result: dict[str, Any] = {
            "change": 0 if dry else proposal.number,
            "digest": proposal.network.digest,
            "changed": proposal.difference.json(),
            "concerns": dict(proposal.concerns),
        }
        asked.send(mg.reply(asked.request.id, result))


def _name_of(request: Request, number: int = 0) -> str:
    """What a request for a change is called, for people."""
    arguments = request.arguments
    if request.verb == "confirm":
        return f"confirm {number or ''}".strip()
    if request.verb == "grow":
        return f"links of {arguments['router']} to {arguments['to']}"
    return str(arguments["file"])
