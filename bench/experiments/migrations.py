"""Moves a router under traffic: the runs of figures 5.2, 5.3 and 5.4.

There are two kinds of network, with XenFlow's switches (modes `native` and `xenflow`) and with
Domain 0's kernels (`domain0`); one is brought up when a session needs it and stays as long as the
next needs the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

from bench.experiments import domain0_kernel, domain0_on_xen, on_xen, traffic
from bench.experiments.domain0_kernel import KernelMover, Moved
from bench.experiments.points import BACKENDS, BETWEEN_S, RunBatch
from bench.experiments.store import MeasuredRun, measured, refused
from lab import bring_up, operate
from lab.judge import Counts
from lab.moves import Mover, ends, mover
from lab.namespace import LabError
from lab.probe import TooBusyError
from xenflow.plan.migration import Order

TOPOLOGY = "paper"
"""The report's figure 5.1."""
_BEFORE_S = 0.7
_SENT_AT_LEAST = 0.9
"""Of a run's packets, or nothing can be said of them."""
_ORDERS = {"native": Order.NATIVE, "xenflow": Order.OVERLAPPED}


class Migrations:
    """Makes sessions; everything is taken down at the end of the `with`."""

    def __init__(self, backend: str, folder: Path, say: Callable[[str], None]) -> None:
        self._backend = backend
        self._folder = folder
        self._say = say
        self._up = ExitStack()
        self._which = ""
        self._xenflow: Mover | None = None
        self._kernel: KernelMover | None = None

    def __enter__(self) -> Migrations:
        return self

    def __exit__(self, *_: object) -> None:
        self._down()

    def _down(self) -> None:
        self._up.close()
        self._which = ""
        self._xenflow = self._kernel = None

    def _switch_to(self, mode: str) -> Callable[[], Moved]:
        """The lab that a mode needs, in that mode; returns what moves its router."""
        which = "kernel" if mode == "domain0" else "switches"
        if which != self._which:
            self._down()
            in_lab = self._backend == "lab"
            if which == "kernel":
                self._kernel = self._up.enter_context(
                    domain0_kernel.separated(TOPOLOGY)
                    if in_lab
                    else domain0_on_xen.separated(self._say)
                )
            else:
                self._xenflow = self._up.enter_context(
                    _switches() if in_lab else on_xen.switches(self._say)
                )
            self._which = which
        if self._kernel:
            self._kernel.refresh()
            return self._kernel.move
        assert self._xenflow is not None
        self._xenflow.forward_by(mode)
        return lambda: self._move(mode)

    def _move(self, mode: str) -> Moved:
        assert self._xenflow is not None
        move = self._xenflow.move(self._xenflow.other_host(), _ORDERS[mode].value)
        return move.total_s, move.outage_s, move.suspended_s

    def make(self, session: RunBatch, said: Callable[[str], None]) -> Iterator[MeasuredRun]:
        """The session's rows; where it is interrupted, those that are whole before that goes on.

        Raises NetworkError where the lab or a migration fails.
        """
        move = self._switch_to(session.key.what)
        lab = (self._kernel or self._xenflow).lab  # type: ignore[union-attr]
        key = session.key
        _acquaint(*ends(lab))
        begun_ns: list[int] = []
        done: list[Moved] = []
        with traffic.make(key.traffic, ends(lab), key.rate_pps, key.size, self._folder) as sender:
            try:
                sender.baseline(BACKENDS[key.backend].baseline_s)
                sender.start()
                time.sleep(_BEFORE_S)
                try:
                    for _ in session.keys:
                        begun_ns.append(time.monotonic_ns())
                        done.append(move())
                        time.sleep(BETWEEN_S)
                finally:
                    begun_ns.append(time.monotonic_ns())
                    sender.stop()
                    if done:
                        yield from _rows(session, done, begun_ns, sender.counts(begun_ns))
            except TooBusyError as error:
                said(str(error))
                yield from (refused(key, str(error)) for key in session.keys)


def _acquaint(one: str, other: str) -> None:
    """A VM that has not forwarded until now knows neither machine: while it asks for them, its
    kernel drops what does not fit into its queue."""
    address = operate.find_node(other).addresses[0]
    asked = operate.run(one, ["ping", "-c3", "-i0.3", "-W5", address])
    if asked.returncode:
        raise LabError(f"{one} does not reach {other}: {asked.stdout.strip()[-200:]}")


def _rows(
    session: RunBatch, moves: list[Moved], begun_ns: list[int], counts: list[tuple[Counts, Counts]]
) -> Iterator[MeasuredRun]:
    """A row for each migration that came to its end; `begun_ns` has when each began, then when the
    last had ended; the first of `counts` is of what was sent before any, the last of what was sent
    after all."""
    for key, (total_s, silent_s, suspended_s), window_ns, (there, back) in zip(
        session.keys, moves, pairwise(begun_ns), counts[1:], strict=False
    ):
        both = there + back
        should = key.rate_pps * (window_ns[1] - window_ns[0]) / 1e9
        if there.sent < _SENT_AT_LEAST * should:
            yield refused(
                key,
                f"invalid: the machine is too busy, {there.sent} packets were sent "
                f"instead of {should:.0f}; lost of them: {there.lost}",
            )
            continue
        yield measured(
            key,
            total_s=round(total_s, 6),
            silent_s=round(silent_s, 6),
            suspended_s=round(suspended_s, 6),
            sent=both.sent,
            lost=both.lost,
            lost_there=there.lost,
            duplicated=both.duplicated,
            reordered=both.reordered,
            longest_gap_s=round(both.longest_gap_s, 6),
        )


@contextmanager
def _switches() -> Iterator[Mover]:
    """A lab with XenFlow's switches."""
    lab = bring_up.up(TOPOLOGY, say=lambda _: None)
    try:
        with mover(lab) as router:
            yield router
    finally:
        bring_up.down(say=lambda _: None)
