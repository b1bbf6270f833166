"""Which runs are missing, in what order they are made, and that what was measured is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.experiments import __main__ as command
from bench.experiments import claims, points
from bench.experiments.points import ExperimentOptions, RunBatch
from bench.experiments.store import Key, MeasuredRun, Store, parse, read_csv, write_csv
from lab.namespace import LabError

ROOT = Path(__file__).resolve().parents[2]
SMALL = ExperimentOptions(
    runs=7,
    rates=(500, 1000),
    sizes=(64,),
    modes=("native", "xenflow"),
    traffics=("probe",),
    designs=("host",),
)


def keys(session: RunBatch) -> list[int]:
    return [key.run for key in session.keys]


def test_every_point_has_its_first_session_before_any_has_its_second() -> None:
    rounds = points.sessions(points.migrations(SMALL), ())
    assert [[keys(s) for s in one] for one in rounds] == [
        [[1, 2, 3, 4, 5]] * 4,
        [[6, 7]] * 4,
    ]
    assert len({s.key for one in rounds for s in one}) == 8


def test_a_point_is_measured_in_all_modes_of_one_network_before_the_next_point_is() -> None:
    wanted = ExperimentOptions(runs=1, rates=(500, 1000), sizes=(64,), traffics=("iperf",))
    order = [(found[0].what, found[0].rate_pps) for found in points.migrations(wanted)]
    assert order == [
        ("native", 500),
        ("xenflow", 500),
        ("native", 1000),
        ("xenflow", 1000),
        ("domain0", 500),
        ("domain0", 1000),
    ]
    only = list(points.migrations(ExperimentOptions(runs=1, modes=("xenflow",))))
    assert {found[0].what for found in only} == {"xenflow"}


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.jsonl")
    first, *_ = points.migrations(SMALL)
    store.add(MeasuredRun(key, {"lost": 0}) for key in first if key.run != 3)
    again = Store(store.path)
    rounds = points.sessions([first], again)
    assert [keys(s) for one in rounds for s in one] == [[3]]


def test_an_invalid_run_is_kept_and_tried_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.jsonl")
    key = next(points.migrations(SMALL))[0]
    store.add([MeasuredRun(key, invalid="the traffic alone loses")])
    again = Store(store.path)
    assert key not in again and not list(again.rows())
    assert [row.invalid for row in again.refused()] == ["the traffic alone loses"]
    again.add([MeasuredRun(key, {"lost": 1.0})])
    last = Store(store.path)
    assert key in last
    assert [row.invalid for row in last.refused()] == ["the traffic alone loses"]


def test_a_line_that_was_cut_off_is_left_out_and_spoils_no_other(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.jsonl")
    first, second, third, *_ = next(points.migrations(SMALL))
    store.add([MeasuredRun(first, {"lost": 0.0}), MeasuredRun(second, {"lost": 0.0})])
    store.path.write_text(store.path.read_text()[:-20])
    again = Store(store.path)
    assert first in again and second not in again
    again.add([MeasuredRun(third, {"lost": 0.0})])
    assert {row.key for row in Store(store.path).rows()} == {first, third}


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", '{"experiment": "migration"}', "null"])
def test_what_is_no_row_is_none(line: str) -> None:
    assert parse(line) is None


def test_a_row_survives_the_file() -> None:
    row = MeasuredRun(
        Key("migration", "lab", "native", "iperf", 64, 500, 2), {"lost": 3.0}, "", "2030"
    )
    assert parse(row.line()) == row


def test_what_is_whole_is_kept_when_a_session_fails_or_is_interrupted(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.jsonl")
    rounds = points.sessions(points.migrations(SMALL), store)
    seen: list[RunBatch] = []

    def make(session: RunBatch, said: Callable[[str], None]) -> Iterator[MeasuredRun]:
        seen.append(session)
        yield MeasuredRun(session.keys[0], {"total_s": 1.0})
        if len(seen) == 1:
            raise LabError("the hypervisor is gone")
        if len(seen) == 2:
            raise KeyboardInterrupt
        yield from (MeasuredRun(key, {"total_s": 1.0}) for key in session.keys[1:])

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

    def make(session: RunBatch, said: Callable[[str], None]) -> Iterator[MeasuredRun]:
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
    wanted = ExperimentOptions(runs=1, backend="xen")
    found = [keys[0] for keys in points.migrations(wanted)]
    assert {(k.backend, k.what) for k in found} == {("xen", mode) for mode in points.MODES}
    assert {k.rate_pps for k in found} == set(points.BACKENDS["xen"].rates_pps)
    assert {k.traffic for k in found} == {"iperf"}
    assert not list(points.designs(wanted))


def test_dry_run_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--dry-run",
        "--runs",
        "1",
        "--rates",
        "500",
        "--sizes",
        "64",
        "--modes",
        "native",
        "--traffic",
        "iperf",
        "--only",
        "migrations",
        "--out",
        str(tmp_path / "out"),
    ]
    assert command.main(words) == 0
    said = capsys.readouterr().out
    assert "native, 64 bytes, iperf at 500 packets/s: run 1" in said
    assert "1 runs" in said
    assert not (tmp_path / "out").exists()


FIRST = MeasuredRun(
    Key("migration", "lab", "native", "iperf", 64, 500, 1), {"total_s": 1.0}, "", "2030-02"
)
SECOND = replace(FIRST, key=replace(FIRST.key, run=2))
TRIED = replace(SECOND, values={}, invalid="busy")


def test_published_runs_count_as_kept_and_the_later_of_two_counts(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.jsonl")
    store.add([FIRST, TRIED])
    older, newer = replace(FIRST, at="2030-01"), replace(FIRST, at="2030-03")
    kept = Store(store.path, [older, SECOND, TRIED, replace(TRIED, invalid="lost")])
    assert list(kept.rows()) == [FIRST, SECOND]
    assert [row.invalid for row in kept.refused()] == ["busy", "lost"]
    assert list(Store(store.path, [newer]).rows()) == [newer]
    assert list(Store(store.path).rows()) == [FIRST]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """A folder in which two runs and a try are published."""
    pytest.importorskip("matplotlib")
    folder = tmp_path / "docs"
    (folder / "figures").mkdir(parents=True)
    (folder / "experiments.md").write_text(f"by hand\n{claims.BEGIN}\n{claims.END}\n")
    write_csv([migration_row(1), migration_row(2), TRIED], folder / "figures" / "runs.csv")
    return folder


def figures_only(out: Path, *words: str) -> int:
    return command.main(["--only", "figures", "--out", str(out), *words])


def test_what_is_measured_is_published_beside_it_and_not_in_the_documents(
    tmp_path: Path, documents: Path
) -> None:
    before = {path: path.read_bytes() for path in documents.rglob("*") if path.is_file()}
    Store(tmp_path / "out" / "runs.jsonl").add([migration_row(3)])
    assert figures_only(tmp_path / "out") == 0
    assert "1 runs, made from" in (tmp_path / "out" / "experiments.md").read_text()
    assert (tmp_path / "out" / "figures" / "fig5_3.png").exists()
    assert read_csv(tmp_path / "out" / "figures" / "runs.csv") == [migration_row(3)]
    assert all(path.read_bytes() == content for path, content in before.items())


def migration_row(run: int) -> MeasuredRun:
    values = {
        "total_s": 1.0,
        "silent_s": 0.5,
        "sent": 9,
        "lost": 0,
        "lost_there": 0,
        "duplicated": 0,
        "reordered": 0,
        "longest_gap_s": 0.1,
    }
    return MeasuredRun(replace(FIRST.key, run=run), values, at="2030-02")


def test_a_published_run_is_not_lost_where_others_are_published(
    tmp_path: Path, documents: Path
) -> None:
    published = read_csv(documents / "figures" / "runs.csv")
    assert figures_only(tmp_path / "none", "--docs", str(documents)) == 0
    assert read_csv(documents / "figures" / "runs.csv") == published
    Store(tmp_path / "out" / "runs.jsonl").add([migration_row(3), replace(TRIED, invalid="lost")])
    assert figures_only(tmp_path / "out", "--docs", str(documents)) == 0
    rows = read_csv(documents / "figures" / "runs.csv")
    assert [row.key.run for row in rows if not row.invalid] == [1, 2, 3]
    assert {row.invalid for row in rows if row.invalid} == {"busy", "lost"}
    text = (documents / "experiments.md").read_text()
    assert "3 runs, made from" in text and "1 run: busy" in text and text.startswith("by hand")
    assert not (tmp_path / "out" / "experiments.md").exists()


WORDS = [
    "--runs",
    "2",
    "--rates",
    "500",
    "--sizes",
    "64",
    "--modes",
    "native",
    "--traffic",
    "iperf",
    "--only",
    "migrations",
]


def test_dry_run_sees_what_is_published(
    tmp_path: Path, documents: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dry-run", *WORDS, "--out", str(tmp_path / "out")]
    assert command.main(words) == 0
    assert "2 runs, about" in capsys.readouterr().out
    assert command.main([*words, "--docs", str(documents)]) == 0
    assert capsys.readouterr().out == "0 runs, about 0 s; 2 are there already\n"
    assert command.main([*words, "--docs", str(documents), "--again"]) == 0
    said = capsys.readouterr().out
    assert "run 1, 2" in said and "2 runs, about" in said and "; 2 are there already" in said


def test_what_is_published_while_a_series_is_made_stays(
    tmp_path: Path, documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = documents / "figures" / "runs.csv"

    def measure(args: object, store: Store, rounds: object) -> int:
        store.add([migration_row(3)])
        write_csv([*read_csv(table), migration_row(4)], table)
        return 0

    monkeypatch.setattr(command, "measure", measure)
    assert figures_only(tmp_path / "out", "--docs", str(documents)) == 0
    assert [row.key.run for row in read_csv(table) if not row.invalid] == [1, 2, 3, 4]


def test_tries_stand_in_the_order_of_trying(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.jsonl")
    store.add([replace(TRIED, at="2030-03")])
    kept = Store(store.path, [replace(TRIED, at="2030-01")])
    assert [row.at for row in kept.refused()] == ["2030-01", "2030-03"]


def test_a_published_table_that_cannot_be_read_is_left_alone(
    tmp_path: Path, documents: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = documents / "figures" / "runs.csv"
    table.write_text(table.read_text() + "<<<<<<< ours\n")
    before = table.read_text()
    assert figures_only(tmp_path / "out", "--docs", str(documents)) == 1
    assert "runs.csv, line 5: not a run" in capsys.readouterr().err
    assert table.read_text() == before


def test_documents_without_the_page_are_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        command.main([*WORDS, "--docs", str(tmp_path / "dcos")])
    assert refused.value.code == 2
    assert "dcos/experiments.md" in capsys.readouterr().err


def test_until_a_run_is_made_again_the_old_one_counts(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.jsonl", [FIRST, SECOND])
    session = RunBatch((FIRST.key, SECOND.key))
    new = replace(FIRST, values={"total_s": 2.0}, at="2030-03")

    def make(session: RunBatch, said: Callable[[str], None]) -> Iterator[MeasuredRun]:
        yield new
        raise LabError("the hypervisor is gone")

    command.Series(store, [[session]], float("inf")).run(make)
    assert list(store.rows()) == [new, SECOND]
    failed = [(row.key, row.invalid) for row in store.refused()]
    assert failed == [(SECOND.key, "failed: the hypervisor is gone")]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The script beside a set-up that only notes its call, with no virtual environment."""
    root = tmp_path / "checkout"
    for name in ("scripts", "bin"):
        (root / name).mkdir(parents=True)
    for name in ("bench", "lab", "pox_ext", "scripts/experiments"):
        (root / name).symlink_to(ROOT / name)
    for name, text in (
        ("scripts/setup", f"touch {root}/was-set-up; exit 3"),
        ("bin/python3", f'exec {sys.executable} -S "$@"'),  # without any package
    ):
        (root / name).write_text(f"#!/bin/sh\n{text}\n")
        (root / name).chmod(0o755)
    return root


def run_script(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        [checkout / "scripts" / "experiments", *words, "--out", str(checkout / "out")],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("word", "says"), [("--dry-run", "run 1, 2"), ("--help", "scripts/setup")])
def test_a_dry_run_needs_no_set_up_and_no_package(word: str, says: str, checkout: Path) -> None:
    done = run_script(checkout, word, *WORDS)
    assert (done.returncode, done.stderr) == (0, "")
    assert says in done.stdout
    assert not (checkout / "was-set-up").exists() and not (checkout / "out").exists()


@pytest.mark.parametrize("words", [("--only", "figures"), ("--runs", "1"), ("--dry",)])
def test_everything_else_is_set_up_first(words: tuple[str, ...], checkout: Path) -> None:
    assert run_script(checkout, *words).returncode == 3
    assert (checkout / "was-set-up").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--dry"],
        ["--modes", "bridge"],
        ["--rates", "0"],
        ["--rates", "1.5"],
        ["--sizes", "63"],
        ["--runs", "-1"],
        ["--traffic", "udp"],
        ["--only", "everything"],
        ["--on", "moon"],
    ],
)
def test_wrong_words_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        command.main(words)
    assert refused.value.code == 2
    assert words[0] in capsys.readouterr().err
