"""Whose a folder is that a script is told to write into, and what of it may be deleted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab.own_folder import NotOurFolderError, take

ROOT = Path(__file__).resolve().parents[2]
MARK = ".mine"


def contents(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_folder_with_other_things_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref")
    (tmp_path / "result.json").write_text("somebody else's")
    before = contents(tmp_path)
    with pytest.raises(NotOurFolderError, match="has other things in it"):
        take(tmp_path, MARK, ["*"])
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["", "new", "new/deeper"])
def test_a_new_or_empty_folder_is_taken(tmp_path: Path, name: str) -> None:
    take(tmp_path / name, MARK, ["*"])
    assert (tmp_path / name / MARK).exists()


def test_of_a_folder_taken_before_only_what_was_made_goes(tmp_path: Path) -> None:
    take(tmp_path, MARK)
    (tmp_path / "run-1").mkdir()
    (tmp_path / "run-1" / "records").touch()
    (tmp_path / "result.json").touch()
    (tmp_path / "notes.txt").touch()
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    (tmp_path / "run-2").symlink_to(elsewhere)
    take(tmp_path, MARK, ["result.json", "run-*"])
    assert contents(tmp_path) == [MARK, "notes.txt"]
    assert contents(elsewhere) == ["kept"]


def test_the_programs_own_place_needs_no_mark(tmp_path: Path) -> None:
    (tmp_path / "run-1").touch()
    (tmp_path / "notes.txt").touch()
    take(tmp_path, MARK, ["run-*"], own=tmp_path / ".." / tmp_path.name)
    assert contents(tmp_path) == [MARK, "notes.txt"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotOurFolderError, match="file"):
        take(tmp_path / "file", MARK)


@pytest.mark.parametrize(
    "program",
    [
        ["lab.demo", "--out"],
        ["lab.soak", "paper", "1", "1", "--out"],
        ["bench", "--keep"],
        ["bench.experiments", "--only", "figures", "--out"],
    ],
    ids=lambda program: program[0],
)
def test_every_program_refuses_a_folder_of_somebody_elses(
    tmp_path: Path, program: list[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = subprocess.run(
        [sys.executable, "-m", *program, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "has other things in it" in done.stderr and "Traceback" not in done.stderr
    assert contents(tmp_path) == ["thesis.tex"]


def test_the_images_work_folder_is_deleted_only_where_it_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "router-build").mkdir()
    (tmp_path / "router-build" / "thesis.tex").write_text("years of work")
    done = subprocess.run(
        [sys.executable, "-m", "xen.image", "--cache", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "has other things in it" in done.stderr, done.stderr
    assert contents(tmp_path) == ["router-build", "router-build/thesis.tex"]
