"""What holds the network is for its owner alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from xenflow.store import private_file
from xenflow.store.laid_file import LaidFile, LaidRows
from xenflow.store.line_file import LineFile


def lines(folder: Path) -> Path:
    file = LineFile(folder / "state.json")
    file.replace([1])
    return folder / "state.json"


def laid(folder: Path) -> Path:
    file = LaidFile(folder, "paper")
    file.keep(LaidRows())
    return file.path


@pytest.mark.parametrize("keep", [lines, laid])
def test_nobody_else_may_read_it(keep: Callable[[Path], Path], tmp_path: Path) -> None:
    """Whatever the umask, and where it was written by a release that let others read it."""
    before = os.umask(0)
    try:
        for name in ("state.json", "state.new", "laid.json", "laid.new"):
            (tmp_path / name).write_text("")
        assert keep(tmp_path).stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_what_is_not_whole_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        private_file.write(tmp_path / "file", b"x")
    assert not [*tmp_path.iterdir()]
