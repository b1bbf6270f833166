"""A small file of JSON, a value a line, that outlives a crash.

A change is a line more, synced to the disk before it is acknowledged; so it costs the same however
much the file says.  When much was added the file is replaced, as a whole, by what still counts.
What was acknowledged is there after a crash, and what could not be kept is not done.  A last line
that is not whole was not acknowledged.  Called by `state_file`,
`lease_file` and `laid_file`.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from xenflow.store import private_file

MORE_BYTES = 64 << 10
"""The file is replaced when so much was added to it, or as much as it had."""


class StateError(RuntimeError):
    """What was to be kept could not be written; nothing has changed."""


class LineFile:
    """One file; `path` None: nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._size = self._room = 0
        """Octets that it has, and that may be added to it; 0 before it was written here."""
        self.doubt = ""
        """Why what was kept last may not be on the disk, though it is in the file; "": it is."""

    def replace(self, values: Iterable[Any]) -> None:
        """The file says these; it is on the disk when this returns, or `doubt` says why it may not
        be.

        Raises StateError, the old file being left as it was, where that cannot be done.
        """
        if self.path is None:
            return
        text = b"".join(map(_line, values))
        draft = self.path.with_suffix(".new")
        self._room = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            private_file.write(draft, text)
            draft.replace(self.path)
        except OSError as error:
            raise self._not_kept(error) from None
        # From here on the file is the new one: whoever starts next reads it.
        try:
            private_file.sync_folder(self.path.parent)
        except OSError as error:
            self.doubt = (
                f"state folder {self.path.parent}: {error.strerror or error}: what was kept last "
                "is lost if the machine goes down now"
            )
            return
        self.doubt = ""
        self._size, self._room = len(text), max(MORE_BYTES, len(text))

    def add(self, value: Any, *, synced: bool = True) -> bool:
        """Add a value; it is on the disk when this returns, or, where it need not be `synced`, in
        the file, which outlives this process.  False where nothing can be added, and the file is to
        be replaced.

        Raises StateError, nothing being added.
        """
        if self.path is None:
            return True
        line = _line(value)
        if len(line) > self._room:
            return False
        try:
            with self.path.open("r+b", buffering=0) as file:
                if file.seek(0, os.SEEK_END) != self._size:
                    return False  # somebody else has written it
                try:
                    if file.write(line) < len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    if synced:
                        os.fsync(file.fileno())
                except OSError:
                    self._room = 0
                    with suppress(OSError):
                        file.truncate(self._size)
                    raise
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._not_kept(error) from None
        self._size += len(line)
        self._room -= len(line)
        return True

    def _not_kept(self, error: OSError) -> StateError:
        assert self.path is not None
        return StateError(
            f"state folder {self.path.parent}: {error.strerror or error}: nothing was changed; "
            "mend that and try again"
        )


def _line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
