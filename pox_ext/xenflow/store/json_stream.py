"""JSON objects out of a stream of octets that has no marks between them (RFC 7047, 4).

Pure; used by the session with a server.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

MAX_CHARACTERS = 1 << 30
"""Of one object: a server that says more without an end is not understood."""

_ESCAPED = re.compile(r"\\.", re.DOTALL)


class JsonStream:
    """Takes pieces as they come and gives the objects that are whole.

    Braces and quotes are counted as they come.  Where all braces are closed everything is whole
    and is read, once.  Under a stream that never pauses there it is read again whenever it has
    doubled.  So the cost stays in proportion to the octets, however they are cut and whatever they
    are.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._pieces: list[str] = []
        self._size = 0
        self._again_at = 0
        self._open = 0
        """Braces that are not closed."""
        self._in_text = False
        self._escape = ""
        """The backslash that a piece ended with."""

    def feed(self, octets: bytes) -> list[dict[str, Any]]:
        """The objects that these octets complete.

        Raises ValueError where it is no JSON object, or too large a one.
        """
        piece = self._decoder.decode(octets)
        self._pieces.append(piece)
        self._size += len(piece)
        self._count(piece)
        whole = self._open <= 0 and not self._in_text
        if not whole and self._size < self._again_at:
            return []
        found, rest = _read("".join(self._pieces))
        if whole and rest:
            raise ValueError(f"expected a JSON object, found {rest[:20]!r}")
        if len(rest) > MAX_CHARACTERS:
            raise ValueError("an object without an end")
        self._pieces = [rest] if rest else []
        self._size = len(rest)
        self._again_at = 2 * self._size
        return found

    def _count(self, piece: str) -> None:
        plain = _ESCAPED.sub("", self._escape + piece)
        self._escape = "\\" if plain.endswith("\\") else ""
        parts = plain.split('"')
        outside = "".join(parts[self._in_text :: 2])
        self._open += outside.count("{") - outside.count("}")
        self._in_text ^= len(parts) % 2 == 0


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
