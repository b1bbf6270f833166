"""What `xl` and ssh print, read.

Pure: tested on what Xen 4.17 really printed (tests/mgmt/xl_samples).  Used by the `xl` driver.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

INCOMING = "--incoming"
"""xl's name for a domain that has not been handed over yet, at the destination."""
AWAY = "--migratedaway"
"""xl's name for a domain that has been handed over, at the source, until it is destroyed."""


class OutputError(ValueError):
    """It is not what xl prints."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of `xl list`.

    `flags` are six letters or dashes: running, blocked, paused, shut down, the reason for that,
    dying.  Source: list_domains in tools/xl/xl_list.c.
    """

    name: str
    domid: int
    memory_mib: int
    flags: str

    @property
    def state(self) -> str:
        """running, paused, suspended, crashed, shut down or dying."""
        if self.flags[5] == "d":
            return "dying"
        if self.flags[3] == "s":
            return {"s": "suspended", "c": "crashed"}.get(self.flags[4], "shut down")
        return "paused" if self.flags[2] == "p" else "running"

    def is_of(self, domain: str) -> bool:
        """Whether it is that domain, under any of the names it has while it moves."""
        return self.name in (domain, domain + INCOMING, domain + AWAY)


_LISTED = re.compile(
    r"(?P<name>\S.*?)\s+(?P<domid>\d+)\s+(?P<memory>\d+)\s+(?P<vcpus>\d+)\s+"
    r"(?P<flags>[rb?-]{2}[p?-][s?-][rscw?-][d?-])\s+(?P<time>[\d.]+)"
)


def domains(text: str) -> list[Listed]:
    """The domains of `xl list`.  Raises OutputError."""
    heading, *lines = text.splitlines() or [""]
    if not heading.startswith("Name"):
        raise OutputError(f"xl list: expected a heading, found {heading!r}")
    found = []
    for line in lines:
        match = _LISTED.fullmatch(line.strip())
        if match is None:
            raise OutputError(f"xl list: cannot read {line!r}")
        found.append(
            Listed(match["name"], int(match["domid"]), int(match["memory"]), match["flags"])
        )
    return found


@dataclass(frozen=True, slots=True)
class Config:
    """What `xl list -l DOMAIN` says that a destination must have."""

    memory_mib: int
    bridges: tuple[str, ...]
    scripts: tuple[str, ...]


def config(text: str) -> Config:
    """Raises OutputError."""
    try:
        value = json.loads(text)
        found = (value[0] if isinstance(value, list) else value)["config"]
        nics = found.get("nics", [])
        return Config(
            memory_mib=-(-int(found["b_info"]["max_memkb"]) // 1024),
            bridges=tuple(dict.fromkeys(n["bridge"] for n in nics if n.get("bridge"))),
            scripts=tuple(dict.fromkeys(n["script"] for n in nics if n.get("script"))),
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise OutputError(f"xl list -l: {error!r}") from None


@dataclass(frozen=True, slots=True)
class Info:
    """Of `xl info`.  `balloons`: Domain 0 may give memory away, so more is free than it says."""

    version: tuple[int, int]
    release: str
    free_mib: int
    balloons: bool


def info(text: str) -> Info:
    """Raises OutputError."""
    values = dict(re.findall(r"(?m)^(\w+)\s*: ?(.*)$", text))
    try:
        return Info(
            version=(int(values["xen_major"]), int(values["xen_minor"])),
            release=values["xen_version"].strip(),
            free_mib=int(values["free_memory"]),
            balloons="dom0_mem=" not in values["xen_commandline"],
        )
    except (LookupError, ValueError) as error:
        raise OutputError(f"xl info: {error!r}") from None


class Mark(Enum):
    """What a line of `xl migrate` says about how far it is."""

    COPYING = "the destination answers, memory is copied"
    HANDED_OVER = "the destination has the domain, and xl let it run there"
    STARTED = "the domain was started at the destination"
    SUCCESS = "migrated"
    PUT_BACK = "the domain runs on at the source"
    UNCLEAR = "xl does not know at which host the domain runs"


_MARKS = (
    ("Saving to migration stream", Mark.COPYING),
    ("migration sender: Giving target permission to start", Mark.HANDED_OVER),
    ("migration sender: Target reports successful startup", Mark.STARTED),
    ("Migration successful", Mark.SUCCESS),
    ("migration sender: Resumed OK", Mark.PUT_BACK),
    ("Migration failed, resuming at sender", Mark.PUT_BACK),
    ("** Migration failed during final handshake", Mark.UNCLEAR),
)


def mark(line: str) -> Mark | None:
    """What a line says; None for most."""
    return next((found for start, found in _MARKS if line.strip().startswith(start)), None)


_CAUSES: Sequence[tuple[str, str]] = (
    (
        r"(?i)no space left on device",
        "a disk of the destination's Domain 0 is full (/var/lib/xen, /var/log or /run)",
    ),
    (
        r"(?i)(cannot allocate|not enough|failed to allocate|insufficient) memory|Out of memory"
        r"|freemem|domain_setmaxmem|populate_physmap|Failed to populate",
        "the destination has too little free memory",
    ),
    (
        r"(?i)Could not find bridge(?: device)? (?P<name>\S+)|bridge (?P<name2>\S+) does not exist"
        r"|no bridge named (?P<name3>\S+)",
        "the destination has no bridge {name}",
    ),
    (r"cannot execute (?P<name>\S+): No such file", "the destination has no hotplug script {name}"),
    (
        r"(?P<name>/\S+) (?:online|add) \[\d+\] exited with error",
        "the hotplug script {name} failed at the destination",
    ),
    (
        r"(?i)stream version|unknown stream|Unable to read.*version|unsupported.*(stream|format)"
        r"|bad (magic|version)|from Xen .*not supported|newer than|Unhandled optional",
        "the destination's Xen does not understand what this Xen sends",
    ),
    (
        r"(?i)guest didn't acknowledge suspend|failed to suspend at sender|GUEST_TIMEDOUT",
        "the guest did not let itself be suspended",
    ),
    (r"(?i)xl\S*: (?:command )?not found|xl\S*: No such file", "the destination has no xl"),
    (r"truncated reading banner", "the receiver at the destination did not start"),
    (
        r"(?i)Broken pipe|Connection reset|truncated|lost connection|connection .*closed",
        "the connection to the destination ended",
    ),
)

_SSH: Sequence[tuple[str, str]] = (
    (
        r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED"
        r"|No .* host key is known",
        "its host key is unknown or has changed; compare it, then log in once by `ssh {login}`",
    ),
    (r"Permission denied", "the login was refused; it needs a key without a password prompt"),
    (r"Could not resolve hostname", "the name cannot be resolved"),
    (r"Connection refused", "nothing listens there"),
    (r"No route to host|Network is unreachable", "there is no way to it"),
    (r"timed out|Connection timeout|not responding", "it does not answer"),
    (r"python3: (?:command )?not found|python3: No such file", "python3 is missing there"),
    (r"(?:ssh|socat)\S*: (?:command )?not found", "the transport command is missing"),
    (r"(?i)(Connection (?:closed|reset)[^\n]*)", "the connection ended"),
)


def ssh_problem(text: str, login: str) -> str:
    """Why ssh did not get through, for people; "" where it says nothing that is known."""
    for pattern, words in _SSH:
        found = re.search(pattern, text)
        if found is not None:
            line = next(x for x in text.splitlines() if re.search(pattern, x))
            return f"{words.format(login=login)} ({line.strip()})"
    return ""


def reason(lines: Iterable[str], login: str) -> str:
    """Why a migration failed, from all that xl printed."""
    kept = [line.strip() for line in lines if line.strip()]
    text = "\n".join(kept)
    why = ssh_problem(text, login) if "truncated reading banner" in text else ""
    if why:
        return f"the source cannot reach {login}: {why}"
    for pattern, words in _CAUSES:
        found = re.search(pattern, text)
        if found is not None:
            name = next((v for v in found.groupdict().values() if v), "of that name")
            line = next((x for x in kept if re.search(pattern, x)), "")
            return f"{words.format(name=name)} ({line})" if line else words.format(name=name)
    errors = [line for line in kept if "error" in line.lower()] or kept[-1:]
    return errors[0] if errors else "xl said nothing"
