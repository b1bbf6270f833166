"""JSON objects out of a stream of octets that has no marks between them (RFC 7047, 4).

Pure; used by the session with a server.
"""

from __future__ import annotations

import codecs
import json
from typing import Any

MAX_CHARACTERS = 1 << 30
"""Of one object: a server that says more without an end is not understood."""


class JsonStream:
    """Takes pieces as they come and gives the objects that are whole.

    Whatever is sent whole ends with a closing brace, so a piece that ends with one is worth a
    reading.  Under a stream that does not pause it is read again whenever it has doubled; so the
    cost stays in proportion to the octets, however large an object is.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._pieces: list[str] = []
        self._size = 0
        self._again_at = 0

    def feed(self, octets: bytes) -> list[dict[str, Any]]:
        """The objects that these octets complete.

        Raises ValueError where it is no JSON object, or too large a one.
        """
        piece = self._decoder.decode(octets)
        self._pieces.append(piece)
        self._size += len(piece)
        if not piece.endswith("}") and self._size < self._again_at:
            return []
        text = "".join(self._pieces)
        found, rest = _read(text)
        if len(rest) > MAX_CHARACTERS:
            raise ValueError("an object without an end")
        self._pieces = [rest] if rest else []
        self._size = len(rest)
        self._again_at = 2 * self._size
        return found


def _read(text: str) -> tuple[list[dict[str, Any]], str]:
    """The whole objects at the beginning of a text, and what is left of it."""
    found: list[dict[str, Any]] = []
    decoder = json.JSONDecoder()
    place = 0
    while rest := text[place : place + 1]:
        if rest.isspace():
            place += 1
            continue
        if rest != "{":
            raise ValueError(f"expected a JSON object, found {text[place : place + 20]!r}")
        try:
            value, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError:
            break
        found.append(value)
    return found, text[place:]
