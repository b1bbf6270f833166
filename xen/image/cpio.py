"""Archives in cpio's "newc" form, of which the kernel makes its first file system.

The kernel takes several behind each other (Documentation/driver-api/early-userspace/
buffer-format.rst): so the image is built once, and what is one router's own is appended.  Owner
and times are left out: the same content gives the same octets.  Called by `build` and
`router_config`.
"""

from __future__ import annotations

import stat

_ALIGNMENT = 512


class Archive:
    """Collects entries; `octets` closes it.  Folders must be added before what is in them."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._count = 0

    def folder(self, name: str) -> None:
        """Add a folder."""
        self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, content: bytes, *, program: bool = False) -> None:
        """Add a file."""
        self._entry(name, stat.S_IFREG | (0o755 if program else 0o644), content)

    def octets(self) -> bytes:
        """The whole archive, padded so that another may follow."""
        self._entry("TRAILER!!!", 0, b"")
        whole = b"".join(self._parts)
        return whole + bytes(-len(whole) % _ALIGNMENT)

    def _entry(self, name: str, mode: int, content: bytes) -> None:
        self._count += 1
        path = name.encode() + b"\0"
        numbers = (self._count, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        head = b"070701" + b"".join(b"%08x" % number for number in numbers) + path
        self._parts += [head, bytes(-len(head) % 4), content, bytes(-len(content) % 4)]
