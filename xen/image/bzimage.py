"""The kernel inside a bzImage, as raw ELF.

Xen's domain builder takes either; a raw ELF needs no decompression each time a domain is made,
which under emulation takes seconds.  Where the payload lies says the kernel's own header
(Documentation/x86/boot.rst, boot protocol 2.08).  Called by `build`.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable

from xen.image.debian import BuildError

_MAGIC_AT, _MAGIC, _VERSION_AT, _OLDEST = 0x202, b"HdrS", 0x206, 0x208
_SETUP_SECTORS_AT, _PAYLOAD_AT = 0x1F1, 0x248
_UNPACKED_SIZE = 4
"""Octets at the end that say how long it is unpacked: gzip's own, behind what others have packed
(arch/x86/boot/compressed/Makefile)."""
_GZIP_HEADER = 16 + zlib.MAX_WBITS


def vmlinux(image: bytes, lz4: Callable[[bytes], bytes]) -> bytes:
    """The ELF file; `lz4` unpacks what Python's library does not.

    Raises BuildError where it is no bzImage, or packed in a way that is not known here, or damaged.
    """
    if image[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
        raise BuildError("the kernel is no bzImage")
    (version,) = struct.unpack_from("<H", image, _VERSION_AT)
    if version < _OLDEST:
        raise BuildError(f"the kernel's boot protocol {version:#x} is older than 2.08")
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_AT)
    start = ((image[_SETUP_SECTORS_AT] or 4) + 1) * 512 + offset
    payload = image[start : start + length]
    try:
        if payload.startswith(b"\xfd7zXZ\0"):
            found = lzma.LZMADecompressor().decompress(payload)  # what follows is left alone
        elif payload.startswith(b"\x1f\x8b"):
            found = zlib.decompress(payload, _GZIP_HEADER)
        elif payload.startswith(b"\x02\x21\x4c\x18"):
            found = lz4(payload[:-_UNPACKED_SIZE])
        else:
            raise BuildError(f"the kernel is packed in an unknown way: {payload[:6].hex()}")
    except (lzma.LZMAError, zlib.error) as error:
        raise BuildError(f"the kernel cannot be unpacked: {error}") from None
    if found[:4] != b"\x7fELF":
        raise BuildError("what the bzImage holds is not ELF")
    return found
