"""What the demo and the soak say and take, without a lab."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import moves, soak
from lab.demo import Demo, Run
from lab.description import find_file, load_lab
from lab.judge import Counts
from lab.moves import Move
from lab.namespace import LabError


def test_the_demos_table_says_at_which_rate_each_mode_was_judged() -> None:
    counts = {"gen to recv": Counts(sent=5000)}
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
    assert [line[heading.index("RATE/S")] for line in lines] == ["5000", "625"]


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
