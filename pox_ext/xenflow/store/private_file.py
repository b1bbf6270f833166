"""How a file is written that holds the network: for its owner alone, and on the disk.

Called by `line_file` and `server`, which put what is written here in its place.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def write(path: Path, octets: bytes) -> None:
    """Make a file anew; it is on the disk when this returns, but for its name (`sync_folder`).

    Raises OSError, no part of it being left: that would take the room that is missing.
    """
    try:
        path.unlink(missing_ok=True)  # whoever may read it, and has it open, reads the old one
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            path.unlink()
        raise


def sync_folder(folder: Path) -> None:
    """Names in a folder are on the disk as well (fsync(2)).  Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
