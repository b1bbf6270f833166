"""The lease on a router: who holds it may move the router, everybody else must not.

It is kept by the controllers of all switches concerned, each for `LEASE_S` after it was last heard
of, so that a management entity that was killed holds nothing for long.  Whoever wants it needs it
from every one of them.  With it the controllers of the two hosts keep the journal: what was begun,
for `xenflow status` to show.

Every effect goes through the lease (`ask`, and `check` for a hypervisor, which knows no leases) and
is refused when somebody else has taken over: one that was stopped meanwhile (Ctrl-Z, an ssh that
hung) does no harm when it goes on.  What is done was planned before the lease was held; so whoever
gives it says where the router is by now, and what the network is, and a plan made for another place
or network is refused.  From then on what the router needs of the network stays as it is.  A
controller that was restarted knows it still.  One that keeps nothing, or is of the release before,
has forgotten it; it is told again as long as nobody can have taken over.

Owners are in an order: each one's *term* is higher than any that the controllers concerned knew
when it took the lease.  All of them keep it on disk before the first effect, and refuse a lower
one.

Called by `migrate`, by `planning` while it clears up what an interrupted migration left, and by the
verbs `mode` and `router`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Self

from mgmt.at_once import at_once
from mgmt.client import AskError, Refused, asker
from mgmt.session import Ask
from xenflow.model.placement import Placement
from xenflow.plan.migration import purpose

Problem = tuple[str, str]
"""What could not be done, and why."""

LEASE_S = 10.0
KEEP_S = 2.5
REGAIN_S = 0.1
"""How often a controller that was restarted is asked again for the lease, while somebody who does
not get it elsewhere has it there."""


class MovedError(AskError):
    """The router, or the network, is not what it was when this was planned."""

    code = "stale-version"


class LostError(AskError):
    """The lease is not this one's any more: nothing more may be done, not even put back."""

    code = "lost"


class RouterLease:
    """One router's, at some controllers.  `with` takes it and gives it back.

    `entry` is what it is taken for (`xenflow.plan.migration.purpose`); `journal_at`: the
    controllers that keep the journal, else all.  `given`, `digests`: the router's placement by
    datapath, and the network's digest by controller, as they were when this was planned.
    `takes_over`: what somebody has left unfinished is this one's to finish; else that is refused.
    Raises AskError, holding nothing, where somebody else has it or a controller does not answer;
    MovedError where a datapath was given another placement since, or a controller another network.
    """

    def __init__(
        self,
        ask: Ask,
        controllers: Iterable[str],
        router: str,
        entry: dict[str, Any],
        journal_at: Iterable[str] | None = None,
        given: Mapping[str, Placement] | None = None,
        digests: Mapping[str, str] | None = None,
        *,
        takes_over: bool = True,
    ) -> None:
        self._ask = ask
        self._takes_over = takes_over
        self._given = given or {}
        self._versions: dict[str, int] = {}
        self._planned = digests or {}
        self._digests: dict[str, str] = {}
        self._controllers = list(dict.fromkeys(controllers))
        self._journal_at = list(
            dict.fromkeys(self._controllers if journal_at is None else journal_at)
        )
        self.router = router
        self.owner = _owner()
        self._terms: dict[str, int] = {}
        """By controller; those of the release before know none."""
        self._about: dict[str, Any] = {"router": router, "owner": self.owner}
        self._entry = entry
        self._instances: dict[str, str] = {}
        self._held_at = 0.0
        """When the last question was asked that was answered as to the holder: a controller counts
        from when it gets one, and its answer may come at any time later."""
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        first, *others = self._controllers
        try:
            self._lock(first)  # of two that want it, the first controller decides
            at_once(self._lock, others)
            self._agree()
            self._refuse_moved()
        except BaseException:
            # Also where the answer was late, or not waited for: it may have been given.
            self._unlock(untouched=True)
            raise
        self._keeper.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.give_back(unfinished=kind is not None)

    def extend(self, controllers: Iterable[str]) -> None:
        """It is needed at these as well.  Raises AskError as taking it does."""
        more = [n for n in dict.fromkeys(controllers) if n not in self._controllers]
        self._controllers = [*self._controllers, *more]  # given back also where an answer is late
        at_once(self._lock, more)
        self._agree()
        self._refuse_moved()

    def _agree(self) -> None:
        """Every controller gets the highest term that one of them has given."""
        behind = [name for name, term in self._terms.items() if term < self.term]
        at_once(partial(self._lock, raises=True), behind)

    @property
    def term(self) -> int:
        """0 before it is held, and where all controllers are of the release before."""
        return max(self._terms.values(), default=0)

    def keep_journal_at(self, controllers: Iterable[str]) -> None:
        """From now on only these keep the journal."""
        self._journal_at = list(dict.fromkeys(controllers))

    def give_back(self, unfinished: bool = False) -> list[Problem]:
        """Nobody holds it any more, which may be said twice; returns what could not be done.  What
        is `unfinished` stays noted at the controllers."""
        if self._over.is_set():
            return []
        self._over.set()
        self._keeper.join()
        return self._unlock(unfinished=unfinished)

    def ask(
        self, controller: str, verb: str, /, timeout_s: float | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """An effect at a controller, in this owner's name.

        Raises AskError, LostError where somebody else has taken over, or it was given back.
        """
        if self._over.is_set():
            raise LostError(f"{self.owner} has given the lease of {self.router} back")
        for again in (True, False):
            asked_at = time.monotonic()
            try:
                done = self._ask(
                    controller, verb, timeout_s=timeout_s, owner=self.owner, **arguments
                )
                self._held_at = max(self._held_at, asked_at)
                return done
            except Refused as error:
                if error.code != "locked":
                    raise
                if not again:
                    raise LostError(error.message) from None
                self._regain(controller, error)
        raise AssertionError

    def check(self) -> None:
        """Raise LostError unless the lease is this one's still: asked right before something is
        done that no controller can refuse.

        The hosts' are asked: whoever takes over needs all, and a VM may be waiting meanwhile.
        """
        for error in at_once(self._confirm, self._journal_at).values():
            if isinstance(error, LostError):
                raise error
        if time.monotonic() - self._held_at > LEASE_S:
            raise LostError(
                f"no controller has said for {LEASE_S:g} s that the lease of {self.router} is held"
            )

    def note(self, entry: dict[str, Any], *, needed: bool) -> None:
        """Add to the journal.  Where it is `needed`, raises AskError if a controller does not
        keep it."""

        def tell(name: str) -> AskError | None:
            try:
                self.ask(name, "journal", entry=entry, router=self.router)
            except AskError as error:
                return error
            return None

        for error in at_once(tell, self._journal_at).values():
            if isinstance(error, LostError) or (error is not None and needed):
                raise error

    def _lock(self, name: str, raises: bool = False) -> None:
        """Take it at a controller, or, where it is held, raise its term."""
        asked_at = time.monotonic()
        about = self._about | ({} if raises else {"entry": self._entry})
        if name in self._terms:
            about["term"] = self.term
        answer = self._ask(name, "lock", lease_s=LEASE_S, **about)
        if "term" in answer:
            self._terms[name] = answer["term"]
        self._instances[name] = answer.get("instance", "")
        self._versions |= answer.get("versions", {})  # none where it is of the release before
        if "digest" in answer:
            self._digests[name] = answer["digest"]
        self._held_at = max(self._held_at, asked_at)
        if answer.get("left") and not self._takes_over:
            left = purpose(self.router, answer["left"][0])
            raise Refused("locked", f"{left} was left unfinished: `xenflow recover` first")

    def _refuse_moved(self) -> None:
        for name, placement in self._given.items():
            now = self._versions.get(name, placement.version)
            if now != placement.version:
                raise MovedError(
                    f"{self.router} was moved or changed meanwhile: planned at version "
                    f"{placement.version} of its placement, {name} is at {now}: ask again"
                )
        for name, digest in self._digests.items():
            planned = self._planned.get(name, digest)
            if planned != digest:
                raise MovedError(
                    f"the network was changed meanwhile: {name} has {digest}, and a move of "
                    f"{self.router} was planned with {planned}: ask again"
                )

    def _unlock(self, **how: bool) -> list[Problem]:
        """Give it back everywhere; returns what could not be done."""

        def unlock(controller: str) -> str:
            try:
                self._ask(controller, "unlock", **how, **self._about)
            except AskError as error:
                return str(error)
            return ""

        answers = at_once(unlock, self._controllers)
        return [(f"unlock at {name}", why) for name, why in answers.items() if why]

    def _confirm(self, name: str) -> AskError | None:
        try:
            self.ask(name, "journal", router=self.router)
        except AskError as error:
            return error
        return None

    def _regain(self, name: str, refusal: Refused) -> None:
        """A controller says that the lease is not this one's.  One that was restarted since may
        have it again while another has confirmed it within its time: nobody had it in between."""
        found = self._ask(name, "journal", router=self.router)
        restarted = found.get("instance", "") != self._instances.get(name)
        if not restarted or time.monotonic() - self._held_at > LEASE_S:
            raise LostError(refusal.message)
        deadline = time.monotonic() + LEASE_S
        while not self._over.is_set():
            try:
                self._terms.pop(name, None)  # somebody may have had it there and given it back
                self._lock(name)
                self._agree()
                return
            except Refused as error:
                if time.monotonic() > deadline or not self._held_elsewhere(name):
                    raise LostError(error.message) from None
                time.sleep(REGAIN_S)
        raise LostError(refusal.message)

    def _held_elsewhere(self, but: str) -> bool:
        """Whether another controller has this lease: then who has it at `but` does not get it
        there, and will give it back."""
        for name in self._controllers:
            with suppress(AskError):
                if name != but:
                    self._ask(name, "journal", **self._about)
                    return True
        return False

    def _keep(self) -> None:
        while not self._over.wait(KEEP_S):
            # What fails here the next thing that is asked says; the lease must be kept still, also
            # where it is this process that lacks something (a descriptor, a thread).
            with suppress(Exception):
                at_once(self._confirm, self._controllers, within_s=KEEP_S)  # one may be silent


def _owner() -> str:
    """Who this is, for people; no other is called so."""
    own = f":{os.getpid()}-{os.urandom(8).hex()}"
    return asker()[: 63 - len(own)] + own
