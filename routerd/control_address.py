"""Decides when the control link gets its address back.

When an interface is switched off the kernel removes its IPv6 addresses, and does not put back
what it did not make itself (net/ipv6/addrconf.c, addrconf_ifdown; `keep_addr_on_down` is not for
link-local ones).  A control link that was switched off and on again in the VM would never reach
the Rule Table again.  So its link-local addresses are remembered, and put back when it is switched
on without any.  Those that somebody removes while it is on stay removed.  No I/O here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from routerd.rtnetlink import AddressInfo


@dataclass(slots=True)
class ControlAddress:
    """See the module."""

    _kept: tuple[AddressInfo, ...] = ()
    _was_off: bool = False

    def switched(self, on: bool) -> None:
        """The kernel told that the control link is on, or off."""
        self._was_off = self._was_off or not on

    def lacks(self, ifindex: int, on: bool, found: Iterable[AddressInfo]) -> list[AddressInfo]:
        """The addresses to put back now; `found` are the link-local ones of the control link, which
        has that index and is on or off."""
        self.switched(on)
        here = tuple(found)
        if here or not on:
            self._kept = here or self._kept
            self._was_off = self._was_off and not here
            return []
        if not self._was_off:
            self._kept = ()
        return [AddressInfo(ifindex, a.length, a.address, a.scope) for a in self._kept]
