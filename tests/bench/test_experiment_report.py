"""Tables, figures and their place in the documents: from rows alone."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bench.experiments import claims, figures
from bench.experiments.store import Key, MeasuredRun, TableError, read_csv, write_csv


def migration(
    mode: str,
    run: int,
    lost: float,
    total_s: float = 1.0,
    *,
    size: int = 64,
    traffic: str = "probe",
    rate: int = 1000,
    backend: str = "lab",
) -> MeasuredRun:
    return MeasuredRun(
        Key("migration", backend, mode, traffic, size, rate, run),
        {
            "silent_s": 0.5,
            "total_s": total_s,
            "lost": 2 * lost,
            "lost_there": lost,
            "sent": 4000,
            "duplicated": 0,
            "reordered": 1,
            "longest_gap_s": run / 4,
        },
        at=f"2030-01-0{run}",
    )


def design(what: str, run: int, rate: float) -> MeasuredRun:
    values = {"forwarded_pps": rate, "latency_p50_us": 50.0, "latency_p99_us": 90.0}
    return MeasuredRun(Key("design", "lab", what, "flood", 64, 0, run), values, at="2030-01-01")


ROWS = [
    *(migration("native", run, 100 + run) for run in (1, 2)),
    *(migration("xenflow", run, 0, 2.5) for run in (1, 2, 3)),
    design("vm", 1, 100.0),
    design("xenflow", 1, 250.0),
]


def line(text: str, *words: str) -> str:
    found = [one for one in text.splitlines() if all(word in one for word in words)]
    assert len(found) == 1, (words, found)
    return found[0]


def test_losses_are_summed_over_the_runs_of_a_mode() -> None:
    text = claims.measured(ROWS, [])
    assert "0 of 12,000 in 3 runs, 3 of these without any loss" in line(text, "XenFlow, both sizes")
    assert "406 of 8,000 in 2 runs, 0 of these" in line(text, "native, both sizes")
    assert (
        "0 doubled, 3 out of order; no packet for 0.500 s at most in half of the runs, for "
        "0.75 s in all"
    ) in line(text, "XenFlow, both sizes")
    assert "102 ± 6 at 1,000/s" in line(text, "native, probe, there")


@pytest.mark.parametrize(
    ("traffics", "ways"),
    [
        (("probe",), "both ways"),
        (("iperf",), "generator to receiver"),
        (("probe", "iperf"), "both ways, iperf's generator to receiver"),
    ],
)
def test_which_way_was_counted_is_said(traffics: tuple[str, ...], ways: str) -> None:
    text = claims.measured([migration("xenflow", 1, 0, traffic=t) for t in traffics], [])
    assert f"XenFlow, both sizes, all rates, {ways} |" in text


def test_a_design_is_compared_by_rate_and_by_latency() -> None:
    said = line(claims.measured(ROWS, []), "(d) XenFlow, 64 bytes")
    assert "2.50 times the VM's forwarding rate, 1.00 times the VM's median latency" in said


def test_what_was_not_measured_is_called_so() -> None:
    text = claims.measured(ROWS, [])
    for words in (
        ("XenFlow / native, 1500",),
        ("| Domain 0's kernel, 64 bytes",),
        ("native, iperf, there",),
        ("(c) Domain 0's kernel forwards, 64",),
    ):
        assert line(text, *words).endswith(f"| {claims.NOT} |")
    empty = claims.measured([], [])
    assert "None yet." in empty and "figures/fig" not in empty
    assert "figures/fig5_4.png" in text and "figures/fig1_5.png" in text


def test_total_time_is_compared_at_points_that_both_have() -> None:
    rows = [
        migration("native", 1, 0, 1.0),
        migration("xenflow", 1, 0, 3.0),
        migration("native", 1, 0, 2.0, rate=2000),
        migration("xenflow", 1, 0, 3.0, rate=2000),
        migration("xenflow", 1, 0, 99.0, rate=4000),
    ]
    assert claims.ratio(rows, "xenflow", "native", 64) == "1.5 to 3.0 (2 points)"
    assert claims.ratio(rows, "domain0", "native", 64) == claims.NOT
    assert claims.ratio(rows, "xenflow", "domain0", 64) == claims.NOT


def test_total_times_of_different_traffic_are_not_mixed() -> None:
    rows = [
        migration("native", 1, 0, 1.0),
        migration("xenflow", 1, 0, 4.0),
        migration("native", 1, 0, 2.0, traffic="iperf"),
        migration("xenflow", 2, 0, 4.0),
        migration("xenflow", 1, 0, 2.0, traffic="iperf"),
    ]
    assert claims.ratio(rows, "xenflow", "native", 64) == "1.0 to 4.0 (2 points)"


def test_a_loss_of_xenflow_is_not_hidden() -> None:
    text = claims.measured([*ROWS, migration("xenflow", 4, 3)], [])
    assert "6 of 16,000 in 4 runs, 3 of these" in line(text, "XenFlow, both sizes")


def test_genuine_xen_stands_beside_the_lab_and_is_not_mixed_with_it() -> None:
    text = claims.measured([*ROWS, migration("xenflow", 1, 2, rate=25, backend="xen")], [])
    assert "0 of 12,000 in 3 runs" in line(text, "| XenFlow, both sizes")
    assert "4 of 4,000 in 1 runs" in line(text, "| genuine Xen: XenFlow, both sizes")
    assert line(text, "| genuine Xen | xenflow | probe | 64 | 25 | 1 |")


def test_runs_are_counted_and_refused_ones_are_named() -> None:
    refused = [
        MeasuredRun(Key("migration", "lab", "native", "probe", 64, 9000, run), invalid="busy")
        for run in (1, 2)
    ]
    text = claims.measured(ROWS, refused)
    assert "some points here have only 1," in text
    assert "7 runs, made from 2030-01-01 to 2030-01-03" in text
    assert "| lab | migration | xenflow | probe | 1 | 3 | 3 |" in text
    assert "- lab, native, probe, 64 bytes, 9,000 packets/s, 2 runs: busy" in text


def test_the_generated_part_replaces_only_itself(tmp_path: Path) -> None:
    document = tmp_path / "experiments.md"
    document.write_text(f"before\n{claims.BEGIN}\nold\n{claims.END}\nafter\n")
    claims.rewrite(document, "new")
    claims.rewrite(document, "newer")
    assert document.read_text() == f"before\n{claims.BEGIN}\n\nnewer\n\n{claims.END}\nafter\n"


def test_a_page_that_is_not_there_is_begun(tmp_path: Path) -> None:
    document = tmp_path / "experiments.md"
    claims.rewrite(document, "new")
    claims.rewrite(document, "newer")
    assert document.read_text().startswith("# ")
    assert f"{claims.BEGIN}\n\nnewer\n\n{claims.END}" in document.read_text()


@pytest.mark.parametrize(
    "text",
    ["", claims.BEGIN, f"{claims.END}{claims.BEGIN}", f"{claims.BEGIN}{claims.BEGIN}{claims.END}"],
)
def test_a_document_without_its_marks_stays_as_it_is(text: str, tmp_path: Path) -> None:
    document = tmp_path / "experiments.md"
    document.write_text(text)
    with pytest.raises(ValueError, match="measured: begin"):
        claims.rewrite(document, "new")
    assert document.read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["experiments.md"]


def test_each_figure_is_drawn_with_its_data_beside(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = {path.name for path in figures.draw(ROWS, tmp_path)}
    assert files == {
        f"{name}{suffix}"
        for name in ("fig5_2", "fig5_3", "fig5_4", "fig1_5")
        for suffix in (".png", ".csv")
    }
    assert all((tmp_path / name).stat().st_size for name in files)
    with (tmp_path / "fig5_4.csv").open() as file:
        rows = {row["what"]: row for row in csv.DictReader(file)}
    assert (rows["native"]["mean"], rows["native"]["runs"]) == ("101.5", "2")
    assert float(rows["native"]["half_width_95"]) == pytest.approx(12.706 * 0.5)
    assert rows["xenflow"]["mean"] == "0"


def test_each_curve_and_its_intervals_stay_in_the_panel_and_aside_of_the_others() -> None:
    pytest.importorskip("matplotlib")
    rows = [
        migration(mode, run, 100 * run, rate=rate)
        for mode in ("native", "xenflow")
        for run in (1, 2, 3)
        for rate in (1000, 2000)
    ]
    rows += [migration("domain0", run, 0, rate=rate) for run in (1, 2) for rate in (1000, 2000)]
    figure = figures.MIGRATION_FIGURES[2]
    axis = figures.migration(figure, figures.points(rows, "migration", figure.value)).axes[0]
    low, high = axis.get_ylim()
    ends = [y for bars in axis.collections for one in bars.get_segments() for _, y in one]
    assert low < min(ends) < 0 and high > max(ends) > 400
    first = [curve.lines[0].get_xdata()[0] for curve in axis.containers]
    assert len(first) == len(set(first)) == 3
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.close("all")


def test_every_run_is_a_line_of_the_data_and_can_be_read_again(tmp_path: Path) -> None:
    tried = MeasuredRun(migration("native", 9, 0).key, {}, "invalid: busy,\nvery", "2030-01-02")
    path = write_csv([*ROWS, tried], tmp_path / "runs.csv")
    assert read_csv(path) == [*ROWS, tried]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(ROWS) + 1
    assert rows[0]["lost_there"] == "101" and rows[0]["forwarded_pps"] == ""
    before = path.read_bytes()
    assert write_csv(read_csv(path), path).read_bytes() == before
    assert not read_csv(tmp_path / "none.csv")


def test_a_table_without_tries_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(
        "experiment,backend,what,traffic,size,rate_pps,run,at,lost,forwarded_pps\n"
        "migration,lab,native,probe,64,500,1,2030,3,\n"
    )
    key = Key("migration", "lab", "native", "probe", 64, 500, 1)
    assert read_csv(path) == [MeasuredRun(key, {"lost": 3}, at="2030")]


@pytest.mark.parametrize(
    "damage", ["migration,lab,native", "migration,lab,native,probe,64,x,1,2,,", "<<<<<<< ours"]
)
def test_a_damaged_table_is_named_and_not_read(damage: str, tmp_path: Path) -> None:
    path = write_csv(ROWS, tmp_path / "runs.csv")
    path.write_text(path.read_text() + damage + "\n")
    with pytest.raises(TableError, match="runs.csv, line 9: not a run"):
        read_csv(path)
