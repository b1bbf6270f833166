"""Octets as people write them out, field by field."""

from __future__ import annotations


def octets(*parts: str) -> bytes:
    """Octets in hexadecimal digits; "N*" are N zeros."""
    words = " ".join(parts).split()
    return b"".join(bytes(int(w[:-1])) if w.endswith("*") else bytes.fromhex(w) for w in words)
