"""Where a domain of libvirt's is, and what brings it to run at exactly one host: decided from what
is seen.

Pure; the `libvirt` driver asks.  libvirt gives both copies of a domain that is migrated the same
name, and the destination's exists, paused, from the beginning.  So only a copy that runs is the
domain whatever the others are; one that does not run may be what a host that is silent just now has
sent so far.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mgmt.hypervisor import UnclearError


@dataclass(frozen=True, slots=True)
class Copy:
    """A domain as one host has it: "running", "paused", ...; `leaving`: paused as the source of a
    migration."""

    state: str
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class LibvirtSettlement:
    """The host where the domain is; the hosts whose copies are not the domain; whether it stands
    still."""

    host: str
    destroy: tuple[str, ...]
    resume: bool


def whereabouts(domain: str, copies: Mapping[str, Copy], silent: Collection[str] = ()) -> str:
    """The host that has a domain: of several copies the one that runs, else the one that is not
    leaving.

    `copies` is what each host has, `silent` the hosts that did not answer and may have it.  Raises
    UnclearError.
    """
    running = [host for host, copy in copies.items() if copy.state == "running"]
    if len(running) == 1:
        return running[0]
    unknown = f"{', '.join(sorted(silent))} did not answer and may have it" if silent else ""
    if not copies:
        message = f"no host has a domain {domain} that is not shut off"
        raise UnclearError(f"{message}; {unknown}" if unknown else message, silent)
    if silent and not running:
        seen = " and ".join(f"{copy.state} on {host}" for host, copy in copies.items())
        raise UnclearError(f"{domain} is {seen}; {unknown}", silent)
    arrived = [host for host, copy in copies.items() if not copy.leaving]
    for found in (list(copies), arrived):
        if len(found) == 1 and not running:
            return found[0]
    raise UnclearError(
        f"{domain} exists on {' and '.join(copies)}: destroy the one that is not the router by hand"
    )


def settle(
    domain: str, copies: Mapping[str, Copy], silent: Collection[str] = ()
) -> LibvirtSettlement:
    """What to do so that a domain runs at one host and no host that answers has another copy.
    Raises UnclearError."""
    host = whereabouts(domain, copies, silent)
    others = tuple(other for other in copies if other != host)
    return LibvirtSettlement(host, others, copies[host].state != "running")
