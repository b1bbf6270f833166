"""The kernel inside a bzImage, as raw ELF.

Xen's domain builder takes either; a raw ELF needs no decompression each time a domain is made,
which under emulation takes seconds.  Where the payload lies says the kernel's own header
(Documentation/x86/boot.rst, boot protocol 2.08).  Called by `build`.
"""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable

from xen.image.debian import BuildError

_MAGIC_AT, _MAGIC, _VERSION_AT, _OLDEST = 0x202, b"HdrS", 0x206, 0x208
_SETUP_SECTORS_AT, _PAYLOAD_AT = 0x1F1, 0x248
_UNPACKED_SIZE = 4
"""Octets behind the packed data that say how long it is unpacked."""


def vmlinux(image: bytes, lz4: Callable[[bytes], bytes]) -> bytes:
    """The ELF file; `lz4` unpacks what Python's library does not.

    Raises BuildError where it is no bzImage, or packed in a way that is not known here.
    """
    if image[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
        raise BuildError("the kernel is no bzImage")
    (version,) = struct.unpack_from("<H", image, _VERSION_AT)
    if version < _OLDEST:
        raise BuildError(f"the kernel's boot protocol {version:#x} is older than 2.08")
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_AT)
    start = ((image[_SETUP_SECTORS_AT] or 4) + 1) * 512 + offset
    payload = image[start : start + length]
    unpack = next((how for magic, how in (
        (b"\xfd7zXZ\0", lambda data: lzma.LZMADecompressor().decompress(data)),
        (b"\x1f\x8b", gzip.decompress),
        (b"\x02\x21\x4c\x18", lz4),
    ) if payload.startswith(magic)), None)  # fmt: skip
    if unpack is None:
        raise BuildError(f"the kernel is packed in an unknown way: {payload[:6].hex()}")
    found = unpack(payload[:-_UNPACKED_SIZE])
    if found[:4] != b"\x7fELF":
        raise BuildError("what the bzImage holds is not ELF")
    return found
