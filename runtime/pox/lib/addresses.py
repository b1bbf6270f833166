"""`EthAddr`, the type of a port's `hw_addr`: the part of POX's class that the component uses."""
# ruff: noqa: N802 - the names are POX's

from __future__ import annotations


class EthAddr:
    """A MAC address, from 6 bytes, another EthAddr, or text such as `02:00:00:00:00:01`.

    Equal to another EthAddr, and to bytes or text that mean the same address.
    Raises ValueError for anything that is no MAC address.
    """

    __slots__ = ("_value",)

    def __init__(self, address: bytes | str | EthAddr) -> None:
        raw: bytes
        if isinstance(address, EthAddr):
            raw = address._value
        elif isinstance(address, str):
            raw = bytes.fromhex(address.replace(":", "").replace("-", ""))
        else:
            raw = bytes(address)
        if len(raw) != 6:
            raise ValueError(f"no MAC address: {address!r}")
        self._value: bytes = raw

    @property
    def raw(self) -> bytes:
        """The six bytes."""
        return self._value

    def toRaw(self) -> bytes:
        """The six bytes."""
        return self._value

    def toStr(self, separator: str = ":") -> str:
        """Lower-case hexadecimal with a separator."""
        return self._value.hex(separator)

    def __str__(self) -> str:
        return self._value.hex(":")

    def __repr__(self) -> str:
        return f"EthAddr('{self}')"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, EthAddr):
            return self._value == other._value
        if isinstance(other, (bytes, str)):
            try:
                return self._value == EthAddr(other)._value
            except ValueError:
                return False
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._value)
