"""What the demo and the soak say and take, without a lab."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lab import measuring, moves, soak
from lab.demo import Demo, Run
from lab.description import find_file, load_lab
from lab.judge import Counts, Verdict
from lab.measuring import Moved
from lab.moves import Move
from lab.namespace import LabError
from lab.random_moves import RandomMovesOptions, RandomMovesOutcome


def test_the_demos_table_says_at_which_rate_each_mode_was_judged() -> None:
    counts = {(version, "gen to recv"): Counts(sent=2500) for version in (4, 6)}
    demo = Demo.__new__(Demo)
    demo.runs = [
        Run(
            Move("vr1", "host-a", "host-b", mode, 0, 2.0, 0.3, (0.1, 0.4), True, 0.5, ()),
            64,
            rate_pps,
            Path("records"),
            counts,
        )
        for mode, rate_pps in (("native", 5000.0), ("overlapped", 625.0))
    ]
    heading, *lines = (line.split() for line in demo.table().splitlines())
    assert [line[heading.index("RATE/S")] for line in lines] == ["2500", "2500", "312.5", "312.5"]


def test_the_soak_moves_and_loads_whom_it_is_told_to() -> None:
    args = soak._arguments(["path", "1", "100", "--router", "vr2", "--machines", "recv,gen"])
    assert (args.router, args.machines) == ("vr2", ("recv", "gen"))
    lab = load_lab(find_file("path"))
    assert moves.ends(lab, args.machines) == ("recv", "gen")
    assert moves.ends(lab) == ("gen", "recv")
    with pytest.raises(LabError, match=r"gne: no such machine .*gen, recv"):
        moves.ends(lab, ("gne", "recv"))
    with pytest.raises(LabError, match="vr9: no such router"), moves.mover(lab, "vr9"):
        pass


@pytest.mark.parametrize("wrong", ["gen", "gen,gen", ",recv", "a,b,c"])
def test_two_machines(wrong: str) -> None:
    with pytest.raises(SystemExit) as ended:
        soak._arguments(["path", "1", "100", "--machines", wrong])
    assert ended.value.code == 2


def move_to(host: str, began_ns: int = 0) -> Move:
    return Move("vr1", "host-a", host, "overlapped", began_ns, 2.0, 0.3, (0.1, 0.4), True, 0.5, ())


def failing_third(index: int) -> Move:
    if index == 2:
        raise LabError("host-b did not answer")
    return move_to("host-b", index)


def interrupted_third(index: int) -> Move:
    if index == 2:
        raise KeyboardInterrupt
    return move_to("host-b", index)


def signalled_second(index: int) -> Move:
    """Ctrl-C came when that move could not be ended any more."""
    assert index < 2
    return replace(move_to("host-b", index), signalled=index == 1)


@pytest.mark.parametrize(
    ("move", "status", "verdict", "words"),
    [
        (failing_third, 1, "failed", "the next move failed: host-b did not answer"),
        (interrupted_third, measuring.INTERRUPTED, "passed", "interrupted"),
        (signalled_second, measuring.INTERRUPTED, "passed", "interrupted"),
        (lambda index: move_to("host-b", index), 0, "passed", None),
    ],
)
def test_a_run_that_ends_early_says_what_it_counted(
    move: Callable[[int], Move],
    status: int,
    verdict: str,
    words: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    counts = [Counts(sent=100)] * 4

    def work() -> RandomMovesOutcome:
        moved = measuring.make_moves(3, 0.0, move, tmp_path)
        assert len(moved.begins_ns()) == 3
        return RandomMovesOutcome(
            RandomMovesOptions(), moved, counts, {"host-a": [30.0] * (len(moved.moves) + 1)}
        )

    args = argparse.Namespace(out=tmp_path, json=False)
    assert measuring.run("random-moves", args, RandomMovesOptions(), work) == status
    written = json.loads((tmp_path / "result.json").read_text())
    made = 3 if words is None else 2
    assert (written["verdict"], written["ended"]) == (verdict, words)
    assert len(written["moves"]) == made
    assert written["sum"]["sent"] == 400
    text = capsys.readouterr().out
    assert f"{verdict}: {made} moves in campus" in text
    assert (words or "") in text


def test_what_was_lost_before_a_move_failed_counts() -> None:
    moved = Moved([move_to("host-b")], None)
    assert moved.verdict([Counts(sent=5)]) is Verdict.PASSED
    assert moved.verdict([Counts(sent=5, lost=1)]) is Verdict.FAILED
