"""Commands in a Domain 0, over one ssh connection a host that stays open.

Under emulation an ssh handshake takes one to two seconds of the host's processor, a command over
an open connection 0.2 s.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass

from lab import process
from lab.description import Lab
from lab.namespace import LabError
from tests.xen.bed.build import Built

CONFIG = process.STATE_DIR / "ssh_config"
"""What ssh needs to know to enter the bed's hosts."""
SSH = ("ssh", "-F", str(CONFIG), "-o", f"ControlPath={process.STATE_DIR}/ssh-%h")
ENVIRONMENT = {"XENFLOW_SSH": " ".join(SSH)}
"""In which `xenflow` finds its way into the hosts, over the connections that are open."""


class Dom0Error(LabError):
    """A command in a Domain 0 failed; the message is what it said."""


@dataclass(frozen=True, slots=True)
class BedDom0:
    """One host's Domain 0."""

    host: str
    address: str

    def run(
        self, command: str, *, limit_s: float = 120.0, check: bool = True, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command; `text` is its input.

        Raises Dom0Error where it fails and `check` is set, or it takes too long.
        """
        try:
            done = subprocess.run(
                [*SSH, self.address, command],
                capture_output=True,
                text=True,
                check=False,
                timeout=limit_s,
                input=text or "",
            )
        except subprocess.TimeoutExpired:
            raise Dom0Error(f"{self.host}: {command}: not done within {limit_s:.0f} s") from None
        if check and done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise Dom0Error(f"{self.host}: {command}: exit status {done.returncode}: {said}")
        return done

    def ask(self, command: str, *, limit_s: float = 120.0) -> str:
        """What a command prints.

        Raises Dom0Error.
        """
        return self.run(command, limit_s=limit_s).stdout

    def popen(self, command: str) -> subprocess.Popen[str]:
        """Begin a command."""
        return subprocess.Popen(
            [*SSH, self.address, command],
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def domains(self) -> list[str]:
        """The names of the domains, Domain 0 apart."""
        lines = self.ask("xl list").splitlines()[1:]
        return [line.split()[0] for line in lines if not line.startswith("Domain-0 ")]


def dom0s(lab: Lab) -> dict[str, BedDom0]:
    """Every host's Domain 0, by the host's name."""
    return {host: BedDom0(host, str(lab.management[host])) for host in lab.elsewhere}


def connect(lab: Lab, built: Built, limit_s: float = 60.0) -> dict[str, BedDom0]:
    """Open the connections; returns once every Domain 0 answers.

    Raises Dom0Error where one does not.
    """
    _write_config(lab, built)
    found = dom0s(lab)
    for one in found.values():
        process.start(one.host, "ssh", [*SSH, "-M", "-N", one.address], None)
    end = time.monotonic() + limit_s
    for one in found.values():
        while one.run("true", check=False).returncode:
            if time.monotonic() > end:
                raise Dom0Error(f"{one.host}: no ssh at {one.address} within {limit_s:.0f} s")
            time.sleep(0.5)
    return found


def _write_config(lab: Lab, built: Built) -> None:
    """Nothing of the user's own: hosts, key and known hosts are the bed's."""
    known = process.STATE_DIR / "known_hosts"
    addresses = " ".join(str(lab.management[host]) for host in lab.elsewhere)
    key = built.ssh_host_key.with_suffix(".pub").read_text().split()[:2]
    known.write_text(f"{addresses.replace(' ', ',')} {' '.join(key)}\n")
    identity = process.STATE_DIR / "ssh_key"
    identity.touch(0o600)
    identity.write_text(built.ssh_key.read_text())
    CONFIG.write_text(f"""\
Host {addresses}
    User root
    IdentityFile {identity}
    IdentitiesOnly yes
    UserKnownHostsFile {known}
    BatchMode yes
    ConnectTimeout 30
    ServerAliveInterval 10
    ServerAliveCountMax 6
""")
