"""What is to be measured, in what order, and what of it is missing.  Pure.

A *point* is a place on a figure's axis: a mode, a traffic, a size, a rate.  Runs of a point that
follow each other share one baseline and one traffic: a *session*.  Sessions go round all points
before a point has its next one, so that a series that is interrupted has something of everything,
and a machine that is slow for a while is slow for all.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from bench.experiments.store import Key

MODES = ("native", "domain0", "xenflow")
"""The VM forwards behind bridges; Domain 0's kernel forwards; XenFlow's switch forwards."""
_TOGETHER = (("native", "xenflow"), ("domain0",))
"""The same, by the network that they share; within one a point is measured in all its modes before
the next point is."""
DESIGNS = ("host", "vm", "domain0", "xenflow")
"""Figure 1.5, (a) to (d)."""
LIMIT = "direct"
"""Beside the designs: generator and receiver on one cable."""
TRAFFICS = ("probe", "iperf")
SIZES = (64, 1500)
RUNS = 10
AT_ONCE = 5
"""Runs of one session."""
BETWEEN_S = 1.0
DESIGN_S = 11.0
_AROUND_S = 3.5


@dataclass(frozen=True, slots=True)
class Backend:
    """Where routers run, and what can be measured there.

    rates_pps      packets/s unless others are asked for
    traffics       who sends and counts, unless others are asked for
    baseline_s     how long each session's traffic runs while nothing moves
    first_guess_s  how long a migration takes, by its mode, until some were made
    """

    title: str
    rates_pps: tuple[int, ...]
    traffics: tuple[str, ...]
    baseline_s: float
    first_guess_s: Mapping[str, float]
    designs: bool


BACKENDS = {
    "lab": Backend(
        "lab",
        (500, 1000, 2000, 4000),
        TRAFFICS,
        2.0,
        {"native": 1.0, "domain0": 1.2, "xenflow": 2.3},
        True,
    ),
    "xen": Backend(
        "genuine Xen",
        (10, 50),
        ("iperf",),
        8.0,
        {"native": 25.0, "domain0": 25.0, "xenflow": 30.0},
        False,
    ),
}


@dataclass(frozen=True, slots=True)
class ExperimentOptions:
    """What is asked for; no rates, or no traffics, are the backend's."""

    runs: int = RUNS
    rates: tuple[int, ...] = ()
    sizes: tuple[int, ...] = SIZES
    modes: tuple[str, ...] = MODES
    traffics: tuple[str, ...] = ()
    designs: tuple[str, ...] = (*DESIGNS, LIMIT)
    backend: str = "lab"


@dataclass(frozen=True, slots=True)
class RunBatch:
    """Runs that are made one after the other, under the same traffic."""

    keys: tuple[Key, ...]

    @property
    def key(self) -> Key:
        """The first."""
        return self.keys[0]


def migrations(wanted: ExperimentOptions) -> Iterator[list[Key]]:
    """The runs of each point of figures 5.2 to 5.4."""
    backend = BACKENDS[wanted.backend]
    for together in _TOGETHER:
        for traffic, size, rate, what in product(
            wanted.traffics or backend.traffics,
            wanted.sizes,
            wanted.rates or backend.rates_pps,
            (mode for mode in together if mode in wanted.modes),
        ):
            yield [
                Key("migration", wanted.backend, what, traffic, size, rate, run)
                for run in range(1, wanted.runs + 1)
            ]


def designs(wanted: ExperimentOptions) -> Iterator[list[Key]]:
    """The runs of figure 1.5; the three that need no controller beside each other."""
    for what in wanted.designs if BACKENDS[wanted.backend].designs else ():
        for size in wanted.sizes:
            yield [
                Key("design", wanted.backend, what, "flood", size, 0, run)
                for run in range(1, wanted.runs + 1)
            ]


def sessions(
    series: Iterable[list[Key]], made: Container[Key], at_once: int = AT_ONCE
) -> list[list[RunBatch]]:
    """What is missing, round by round."""
    rounds: list[list[RunBatch]] = []
    for keys in series:
        for begin in range(0, len(keys), at_once):
            missing = tuple(k for k in keys[begin : begin + at_once] if k not in made)
            number = begin // at_once
            while len(rounds) <= number:
                rounds.append([])
            if missing:
                rounds[number].append(RunBatch(missing))
    return [one for one in rounds if one]


def expected_s(session: RunBatch, took_s: Mapping[tuple[str, str], float]) -> float:
    """How long a session will take; `took_s`: the mean time of a migration by its backend and its
    mode, as far as some were made."""
    key, count = session.key, len(session.keys)
    if key.experiment == "design":
        return DESIGN_S * count
    backend = BACKENDS[key.backend]
    one = took_s.get((key.backend, key.what), backend.first_guess_s[key.what]) + 0.3 + BETWEEN_S
    return backend.baseline_s + _AROUND_S + one * count
