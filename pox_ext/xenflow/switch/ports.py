"""A switch's ports: their numbers, which have carrier, and which vifs take nothing all the same."""

from __future__ import annotations

from collections.abc import Iterable


class Ports(dict[str, tuple[int, bool]]):
    """(number, carrier) by name."""

    def __init__(self) -> None:
        super().__init__()
        self._suspended: frozenset[str] = frozenset()
        """Vifs that take nothing though they may have carrier, as the hypervisor says."""

    def are(self, ports: Iterable[tuple[str, int, bool]]) -> None:
        """These are all: name, number, carrier."""
        self.clear()
        self.update({name: (number, up) for name, number, up in ports})

    @property
    def numbers(self) -> dict[str, int]:
        """The number of each."""
        return {name: number for name, (number, _) in self.items()}

    @property
    def names(self) -> dict[int, str]:
        """The name of each number."""
        return {number: name for name, (number, _) in self.items()}

    @property
    def dark(self) -> set[int]:
        """The numbers of those without carrier."""
        return {number for number, up in self.values() if not up}

    @property
    def suspended(self) -> frozenset[str]:
        """Those that take nothing."""
        return frozenset(name for name in self if not self.takes(name))

    def takes(self, name: str) -> bool:
        """Whether a port exists, has carrier, and what is sent there arrives somewhere."""
        return self.get(name, (0, False))[1] and name not in self._suspended

    def suspended_are(self, vifs: frozenset[str]) -> tuple[set[str], set[str]]:
        """The hypervisor says which vifs take nothing, though they may have carrier.  Returns the
        ports that take frames now and did not, and those that did and do not now."""
        took = self.keys() - self.suspended
        self._suspended = vifs
        takes = self.keys() - self.suspended
        return takes - took, took - takes
