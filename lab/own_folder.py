"""Folders that programs write results into: new, empty, or their own from an earlier time.

Programs here run as root, and a folder is named by hand: what somebody else keeps in it must be
neither deleted nor written over.  So a program leaves a mark in its folder, goes on only in one
that has it, and deletes by name what it made itself, never the folder.

Called by the demo, the soak, the benchmarks, the experiments and the image's builder.  Standard
library only.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path


class NotOurFolderError(Exception):
    """The folder is somebody else's, or none; the message says what to do."""


def is_free(names: Collection[str], mark: str) -> bool:
    """Whether a program may use a folder in which there is so much."""
    return not names or mark in names


def made(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The names that a program made, by its patterns (as in `fnmatch`), sorted."""
    patterns = tuple(patterns)
    return sorted(n for n in names if any(fnmatchcase(n, pattern) for pattern in patterns))


def take(folder: Path, mark: str, patterns: Iterable[str] = (), *, own: Path | None = None) -> None:
    """Make a folder the program's, with its mark in it and nothing that matches `patterns`.

    mark      a file's name; it is made where it is not there
    patterns  names of what the program makes itself: they are deleted, everything else stays
    own       the program's own place, which needs no mark

    Raises NotOurFolderError, and leaves everything as it was, where the folder has things in it and
    no mark, or where it is no folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = [path.name for path in folder.iterdir()]
        at_home = own is not None and folder.resolve() == own.resolve()
        if not at_home and not is_free(names, mark):
            raise NotOurFolderError(
                f"{folder} has other things in it and is left as it is: name a folder that is new "
                "or empty, or one from an earlier run"
            )
        if mark not in names:
            (folder / mark).touch()
        for name in made(set(names) - {mark}, patterns):
            path = folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise NotOurFolderError(f"{folder}: {error.strerror or error}") from None
