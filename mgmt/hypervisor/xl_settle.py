"""Where a domain is, and what brings it to run at exactly one host: decided from what is seen.

Pure.  The `xl` driver asks after every migration that did not end well, and `xenflow recover` does,
when no `xl migrate` of the domain is left: what `xl list` shows everywhere is then the whole truth.
Why it can be decided is the order in which two xl hand a domain over (tools/xl/xl_migrate.c): the
source renames its copy away *before* it lets the destination go on, the destination takes the
domain's own name *before* it runs, and the source destroys its copy *after* it has been told so.
So whoever has the domain's own name has the domain; where nobody has, the source ran it last.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from mgmt.hypervisor import UnclearError, may_be_left
from mgmt.hypervisor.xl_output import AWAY, INCOMING, Listed


class Settling(Enum):
    """What is done with a copy, in words: its name, host and number, and the domain's name."""

    DESTROY = "destroyed {copy} on {host}"
    """It is not the domain."""
    RENAME = "renamed {copy} on {host} back to {domain}"
    RESUME = "domain {domid} on {host} was suspended and runs on"
    UNPAUSE = "domain {domid} on {host} was paused and runs on"


@dataclass(frozen=True, slots=True)
class SettleStep:
    """One thing to do with one host's copy of a domain."""

    do: Settling
    host: str
    copy: Listed
    domain: str

    def __str__(self) -> str:
        copy, words = self.copy, self.do.value
        return words.format(copy=copy.name, host=self.host, domid=copy.domid, domain=self.domain)


@dataclass(frozen=True, slots=True)
class XlSettlement:
    """The host where the domain runs once the steps are done."""

    host: str
    steps: tuple[SettleStep, ...]
    silent: tuple[str, ...] = ()

    @property
    def left(self) -> tuple[str, ...]:
        """What may be of the domain elsewhere still, for people."""
        return may_be_left(self.silent)


def whereabouts(
    domain: str, seen: Mapping[str, Sequence[Listed]], silent: Collection[str] = ()
) -> tuple[str, Listed]:
    """The host that has a domain, and the copy there that is the domain.

    `seen` is what each host lists, `silent` the hosts that did not answer.  Raises UnclearError.
    """
    copies = [(host, copy) for host, listed in seen.items() for copy in listed]
    own = [(host, copy) for host, copy in copies if copy.name == domain]
    if len(own) > 1:
        where = " and ".join(f"{host} (domain {copy.domid})" for host, copy in own)
        raise UnclearError(
            f"{domain} exists on {where}: destroy the one that is not the router by hand"
        )
    if own:
        return own[0]
    unknown = f"; {', '.join(sorted(silent))} did not answer and may have it" if silent else ""
    away = [(host, copy) for host, copy in copies if copy.name == domain + AWAY]
    if len(away) == 1 and not silent:
        return away[0]
    left = [f"{copy.name} on {host}" for host, copy in copies if copy.is_of(domain)]
    if left:
        start = f"`xl create` {domain} on a host, then run `xenflow recover {domain}`"
        what = unknown or f", maybe half of it: {start}"
        raise UnclearError(f"there is no domain {domain}, only {' and '.join(left)}{what}", silent)
    raise UnclearError(f"no host has a domain {domain}{unknown}", silent)


def settle(
    domain: str, seen: Mapping[str, Sequence[Listed]], silent: Collection[str] = ()
) -> XlSettlement:
    """What to do so that a domain runs at one host and nothing of it is left at another.

    The copy that is not the domain goes first: it has the domain's memory, and maybe the names of
    its vifs.  Raises UnclearError.
    """
    host, copy = whereabouts(domain, seen, silent)
    steps: list[SettleStep] = [
        SettleStep(Settling.DESTROY, other, found, domain)
        for other, listed in seen.items()
        for found in listed
        if found.name in (domain + INCOMING, domain + AWAY) and found is not copy
    ]
    if copy.name != domain:
        steps.append(SettleStep(Settling.RENAME, host, copy, domain))
    if copy.state == "suspended":
        steps.append(SettleStep(Settling.RESUME, host, copy, domain))
    elif copy.state == "paused":
        steps.append(SettleStep(Settling.UNPAUSE, host, copy, domain))
    elif copy.state != "running":
        raise UnclearError(f"{domain} on {host} is {copy.state}: it must be started anew there")
    return XlSettlement(host, tuple(steps), tuple(sorted(silent)))
