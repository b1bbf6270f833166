"""Pieces that are built once and kept: each in a folder named by what went into it.

A piece is either whole or not there: it is made beside its place and moved.  The cache is
$XENFLOW_CACHE, else `.cache` in the repository; it may be deleted at any time when nothing runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
_KEPT = 3
"""So many versions of a piece stay, for those who go back and forth between two."""


def directory() -> Path:
    """The cache of the bed."""
    return Path(os.environ.get("XENFLOW_CACHE") or ROOT / ".cache").resolve() / "xen-bed"


def digest(parts: Iterable[str | bytes | Path]) -> str:
    """A short name for texts and the contents of files and folders."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            for path in [part] if part.is_file() else sorted(part.rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    mode = path.stat().st_mode & 0o111
                    total.update(f"{path.relative_to(part)} {mode}\0".encode())
                    total.update(path.read_bytes())
        else:
            total.update(part.encode() if isinstance(part, str) else part)
        total.update(b"\0\0")
    return total.hexdigest()[:16]


def piece(
    name: str,
    parts: Iterable[str | bytes | Path],
    make: Callable[[Path], None],
    say: Callable[[str], None],
) -> Path:
    """The folder of a piece, made now if it is not there; `make` fills an empty folder."""
    here = directory()
    here.mkdir(parents=True, exist_ok=True)
    folder = here / f"{name}-{digest(parts)}"
    with (here / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            os.utime(folder)
            return folder
        begun = time.monotonic()
        say(f"building {name}")
        part = here / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        make(part)
        part.rename(folder)
        say(f"built {name} in {time.monotonic() - begun:.0f} s")
        versions = sorted(here.glob(f"{name}-" + "?" * 16), key=lambda p: p.stat().st_mtime)
        for old in versions[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    return folder
