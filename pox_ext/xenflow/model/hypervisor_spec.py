"""What a datapath's `hypervisor` may say, taken apart.

The network file's reader checks with it, and `mgmt.hypervisor` makes drivers of it.  The forms:

    lab:tcp://ADDRESS:PORT                      the lab's emulated hypervisor
    xl:                                         Xen in this machine's own Domain 0
    xl:ssh://[USER@]HOST[:PORT][?transport=COMMAND]
                                                Xen in a Domain 0 that is reached by ssh
    libvirt:URI                                 libvirt, e.g. xen:///system, qemu+ssh://HOST/system
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

FORMS = '"lab:tcp://ADDRESS:PORT", "xl:", "xl:ssh://[USER@]HOST[:PORT]" or "libvirt:URI"'

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]*")


class SpecError(ValueError):
    """It has none of the forms."""


@dataclass(frozen=True, slots=True)
class LabSpec:
    """The lab's hypervisor, by the URL of its socket."""

    url: str


@dataclass(frozen=True, slots=True)
class XlSpec:
    """A Domain 0.  `host` is "" for this machine's own.

    `transport` is the command that another Domain 0 runs, in ssh's place, to have something run
    here: with the host and the command as its last arguments.  "" is ssh.
    """

    host: str = ""
    user: str = ""
    port: int = 22
    transport: str = ""

    @property
    def login(self) -> str:
        """As ssh wants it."""
        return f"{self.user}@{self.host}" if self.user else self.host


@dataclass(frozen=True, slots=True)
class LibvirtSpec:
    """A libvirt daemon, by its connection URI."""

    uri: str


Spec = LabSpec | XlSpec | LibvirtSpec


def parse(text: str) -> Spec:
    """Raises SpecError."""
    driver, colon, where = text.partition(":")
    if driver == "lab" and re.fullmatch(r"tcp://[^/?#\s]+:[0-9]{1,5}", where):
        return LabSpec(where)
    if driver == "xl" and colon:
        return _xl(where)
    if driver == "libvirt" and re.fullmatch(r"[a-z0-9+.-]+:\S+", where):
        return LibvirtSpec(where)
    raise SpecError(f"expected {FORMS}")


def _xl(where: str) -> XlSpec:
    if not where:
        return XlSpec()
    try:
        parts = urlsplit(where)
        port = parts.port or 22
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError as error:
        raise SpecError(f"xl: {error}") from None
    user, host = parts.username or "", parts.hostname or ""
    fits = parts.scheme == "ssh" and parts.path in ("", "/") and not parts.fragment
    fits = fits and bool(_HOST.fullmatch(host)) and parts.password is None
    if not fits or (user and not _WORD.fullmatch(user)):
        raise SpecError(f"expected {FORMS}")
    transport = options.pop("transport", "")
    if options:
        raise SpecError(f"xl: unknown option {', '.join(options)}: there is only transport")
    return XlSpec(host, user, port, transport)
