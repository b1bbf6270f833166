"""Values as a file or a message brings them: how each is read, and what is said of a wrong one.

Used by the readers of the network file, of its lab's part and of the management messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
_MAC = re.compile(r"[0-9a-fA-F]{1,2}(?:[:-][0-9a-fA-F]{1,2}){5}")


def mac_text(mac: int) -> str:
    """Colon-separated, as in 00:16:3e:00:00:01."""
    return mac.to_bytes(6, "big").hex(":")


def mac_number(text: str) -> int:
    """What `mac_text` writes, and people do: six octets, of one or two hexadecimal digits each,
    with : or - between them.  Raises UnfitError where a text is no MAC address."""
    if not _MAC.fullmatch(text):
        raise UnfitError(f"{text!r} is no MAC address")
    return int.from_bytes(int(octet, 16) for octet in re.split("[:-]", text))


class UnfitError(ValueError):
    """A value of the wrong type or out of range; the message, if any, says what is wrong."""


@dataclass(frozen=True, slots=True)
class Value:
    """A type of value: `expected` is what is said to whoever gives another.

    `read` turns what was found into the value (raising ValueError), `write` does the opposite.
    """

    expected: str
    read: Callable[[Any], Any]
    write: Callable[[Any], Any] = lambda value: value


def of_type(kind: type[T]) -> Callable[[Any], T]:
    """Reads a value of one type.  Raises UnfitError where it is of another."""

    def read(value: Any) -> T:
        if not isinstance(value, kind):
            raise UnfitError
        return value

    return read


text_of = of_type(str)
BOOLEAN = Value("true or false", of_type(bool))


def whole(lowest: int, highest: int) -> Value:
    """A whole number within bounds; `true` is none."""

    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise UnfitError
        return value

    return Value(f"a whole number from {lowest} to {highest}", read)


def seconds(highest: float) -> Value:
    """A time, in seconds."""

    def read(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise UnfitError
        if not 0 < value <= highest:
            raise UnfitError
        return float(value)

    return Value(f"seconds, more than 0 and at most {highest:g}", read)


def choice(*choices: str) -> Value:
    """One of a few words."""

    def read(value: Any) -> str:
        if value not in choices:
            raise UnfitError
        return str(value)

    return Value(" or ".join(f'"{one}"' for one in choices), read)
