"""Which runs are missing, in what order they are made, and that what was measured is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.experiments import __main__ as command
from bench.experiments import points
from bench.experiments.points import Session, Wanted
from bench.experiments.store import Key, Row, Store, parse
from lab.namespace import LabError

SMALL = Wanted(runs=7, rates=(500, 1000), sizes=(64,), modes=("native", "xenflow"),
               traffics=("probe",), designs=("host",))


def keys(session: Session) -> list[int]:
    return [key.run for key in session.keys]


def test_every_point_has_its_first_session_before_any_has_its_second() -> None:
    rounds = points.sessions(points.migrations(SMALL), ())
    assert [[keys(s) for s in one] for one in rounds] == [
        [[1, 2, 3, 4, 5]] * 4, [[6, 7]] * 4,
    ]  # fmt: skip
    assert len({s.key for one in rounds for s in one}) == 8


def test_a_point_is_measured_in_all_modes_of_one_network_before_the_next_point_is() -> None:
    wanted = Wanted(runs=1, rates=(500, 1000), sizes=(64,), traffics=("iperf",))
    order = [(found[0].what, found[0].rate_pps) for found in points.migrations(wanted)]
    assert order == [
        ("native", 500), ("xenflow", 500), ("native", 1000), ("xenflow", 1000),
        ("domain0", 500), ("domain0", 1000),
    ]  # fmt: skip
    only = list(points.migrations(Wanted(runs=1, modes=("xenflow",))))
    assert {found[0].what for found in only} == {"xenflow"}


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.jsonl")
    first, *_ = points.migrations(SMALL)
    store.add(Row(key, {"lost": 0}) for key in first if key.run != 3)
    again = Store(store.path)
    rounds = points.sessions([first], again)
    assert [keys(s) for one in rounds for s in one] == [[3]]
    again.forget(first)
    assert sum(len(s.keys) for one in points.sessions([first], again) for s in one) == 7


def test_an_invalid_run_is_kept_and_tried_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.jsonl")
    key = next(points.migrations(SMALL))[0]
    store.add([Row(key, invalid="the traffic alone loses")])
    again = Store(store.path)
    assert key not in again and not list(again.rows())
    assert [row.invalid for row in again.refused()] == ["the traffic alone loses"]
    again.add([Row(key, {"lost": 1.0})])
    last = Store(store.path)
    assert key in last
    assert [row.invalid for row in last.refused()] == ["the traffic alone loses"]


def test_a_line_that_was_cut_off_is_left_out_and_spoils_no_other(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.jsonl")
    first, second, third, *_ = next(points.migrations(SMALL))
    store.add([Row(first, {"lost": 0.0}), Row(second, {"lost": 0.0})])
    store.path.write_text(store.path.read_text()[:-20])
    again = Store(store.path)
    assert first in again and second not in again
    again.add([Row(third, {"lost": 0.0})])
    assert {row.key for row in Store(store.path).rows()} == {first, third}


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", '{"experiment": "migration"}', "null"])
def test_what_is_no_row_is_none(line: str) -> None:
    assert parse(line) is None


def test_a_row_survives_the_file() -> None:
    row = Row(Key("migration", "lab", "native", "iperf", 64, 500, 2), {"lost": 3.0}, "", "2030")
    assert parse(row.line()) == row


def test_what_is_whole_is_kept_when_a_session_fails_or_is_interrupted(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.jsonl")
    rounds = points.sessions(points.migrations(SMALL), store)
    seen: list[Session] = []

    def make(session: Session, said: Callable[[str], None]) -> Iterator[Row]:
        seen.append(session)
        yield Row(session.keys[0], {"total_s": 1.0})
        if len(seen) == 1:
            raise LabError("the hypervisor is gone")
        if len(seen) == 2:
            raise KeyboardInterrupt
        yield from (Row(key, {"total_s": 1.0}) for key in session.keys[1:])

    series = command.Series(store, rounds, float("inf"))
    with pytest.raises(KeyboardInterrupt):
        series.run(make)
    assert series.failed == 1
    kept = {row.key for row in Store(store.path).rows()}
    assert kept == {rounds[0][0].keys[0], rounds[0][1].keys[0]}
    failed = [(row.key, row.invalid) for row in Store(store.path).refused()]
    assert failed == [(k, "failed: the hypervisor is gone") for k in rounds[0][0].keys[1:]]
    left = points.sessions(points.migrations(SMALL), Store(store.path))
    assert sum(len(s.keys) for one in left for s in one) == 28 - 2
    command.Series(store, left, float("inf")).run(make)
    assert len(list(Store(store.path).rows())) == 28


def test_nothing_is_begun_that_would_end_too_late(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.jsonl")
    rounds = points.sessions(points.migrations(SMALL), store)

    def make(session: Session, said: Callable[[str], None]) -> Iterator[Row]:
        raise AssertionError("there is no time for it")

    series = command.Series(store, rounds, 0.0)
    series.run(make)
    assert series.out_of_time and not series.failed
    assert series.left_s() > 28


def test_the_rest_is_estimated_from_what_was_measured() -> None:
    session = points.sessions(points.migrations(SMALL), ())[0][0]
    slow = points.expected_s(session, {("lab", "native"): 10.0})
    fast = points.expected_s(session, {("lab", "native"): 2.0, ("xen", "native"): 10.0})
    assert slow - fast == pytest.approx(8.0 * 5)


def test_on_xen_it_is_iperf_at_rates_it_carries_and_no_design() -> None:
    wanted = Wanted(runs=1, backend="xen")
    found = [keys[0] for keys in points.migrations(wanted)]
    assert {(k.backend, k.what) for k in found} == {("xen", mode) for mode in points.MODES}
    assert {k.rate_pps for k in found} == set(points.BACKENDS["xen"].rates_pps)
    assert {k.traffic for k in found} == {"iperf"}
    assert not list(points.designs(wanted))


def test_dry_run_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--dry-run", "--runs", "1", "--rates", "500", "--sizes", "64", "--modes", "native",
             "--traffic", "iperf", "--only", "migrations", "--out", str(tmp_path / "out")]
    assert command.main(words) == 0
    said = capsys.readouterr().out
    assert "native, 64 bytes, iperf at 500 packets/s: run 1" in said
    assert "1 runs" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [["--modes", "bridge"], ["--rates", "0"], ["--rates", "1.5"], ["--sizes", "63"],
     ["--runs", "-1"], ["--traffic", "udp"], ["--only", "everything"], ["--on", "moon"]],
)  # fmt: skip
def test_wrong_words_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        command.main(words)
    assert refused.value.code == 2
    assert words[0] in capsys.readouterr().err
