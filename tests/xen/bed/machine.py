"""One Xen host: a QEMU that emulates its processor, and the cables that join it to the lab.

The lab has left the ends of the host's cables and of its management link in a namespace where
nothing else is.  Beside each comes a tap device, which is a network card of the host; what comes in
at one goes out at the other.  QEMU runs there too and is on the lab's record of processes, so that
`lab down` ends it whatever happened.

Only `-accel tcg`, whatever the machine offers: Xen inside a nested KVM does not always run, and a
test bed that is fast here and dead there is worth little.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from lab import process, wire
from lab.description import CABLE_MTU, MANAGEMENT, Lab
from lab.namespace import LabError, inside, ip, tc
from tests.xen.bed.build import Built

MEMORY_MIB = 768
DOM0_MIB = 320
MANAGEMENT_MTU = 1500
READY = "bed: ready"
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000


@dataclass(frozen=True, slots=True)
class QemuMachine:
    """One host's QEMU.  `number` makes its cards' MAC addresses differ from other hosts'."""

    name: str
    number: int
    namespace: str
    ports: tuple[str, ...]
    """The ends of its cables, in the order of its network cards after the first."""

    @property
    def console(self) -> Path:
        """What hypervisor and Domain 0 write on their console."""
        return process.LOG_DIR / f"{self.name}-console.log"

    def start(self, built: Built, payload: Path) -> process.Process:
        """Switch it on."""
        ends = (MANAGEMENT, *self.ports)
        taps = [f"tap{n}" for n in range(len(ends))]
        # only the kernel handles what is sent on the management network: it can finish packets that
        # come with checksums and segments left to do, which a switch on the cables could not
        flags = [_IFF_VNET_HDR, *(0 for _ in self.ports)]
        files = [_tap(self.namespace, tap, f) for tap, f in zip(taps, flags, strict=True)]
        self._join(ends, taps)
        self.console.unlink(missing_ok=True)
        try:
            return process.start(
                self.name,
                "qemu",
                self._command(built, payload, files),
                self.namespace,
                files=files,
            )
        finally:
            for file in files:
                os.close(file)

    def _join(self, ends: tuple[str, ...], taps: list[str]) -> None:
        ip([f"link set {tap} mtu {CABLE_MTU} up" for tap in taps], self.namespace)
        pairs = [p for end, tap in zip(ends, taps, strict=True) for p in ((end, tap), (tap, end))]
        tc(
            [
                line
                for one, other in pairs
                for line in (f"qdisc replace dev {one} ingress", wire.redirect(one, other))
            ],
            self.namespace,
        )

    def _command(self, built: Built, payload: Path, files: list[int]) -> list[str]:
        # no protection of processors that are not there: each would cost a good part of the speed
        xen = (
            f"console=com1 com1=115200,8n1 dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M "
            "loglvl=warning guest_loglvl=warning noreboot spec-ctrl=no xpti=off"
        )
        linux = f"{built.vmlinux} console=hvc0 quiet mitigations=off norandmaps"
        command = [
            "qemu-system-x86_64",
            "-accel",
            "tcg,thread=single,tb-size=192",
            "-cpu",
            "qemu64",
            "-m",
            str(MEMORY_MIB),
            "-smp",
            "1",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-kernel",
            str(built.xen),
            "-append",
            xen,
            "-initrd",
            f"{linux},{built.initramfs}",
            "-serial",
            f"file:{self.console}",
        ]
        for number, (disk, snapshot) in enumerate(((built.image, "on"), (payload, "off"))):
            mode = f"snapshot={snapshot}" if snapshot == "on" else "readonly=on"
            command += [
                "-drive",
                f"file={disk},format=raw,if=none,id=disk{number},{mode}",
                "-device",
                f"virtio-blk-pci,drive=disk{number}",
            ]
        for number, file in enumerate(files):
            mac = f"52:54:00:58:{self.number:02x}:{number:02x}"
            command += [
                "-netdev",
                f"tap,id=net{number},fd={file}",
                "-device",
                f"virtio-net-pci,netdev=net{number},romfile=,mac={mac},"
                f"host_mtu={CABLE_MTU if number else MANAGEMENT_MTU}",
            ]
        return command

    def is_ready(self) -> bool:
        """Whether Domain 0's init has got to its end."""
        return self.console.exists() and READY in self.console.read_text(errors="replace")


def machines(lab: Lab) -> list[QemuMachine]:
    """The hosts that the lab has left to us."""
    return [
        QemuMachine(
            name,
            number,
            lab.switch_namespace(name),
            tuple(c.near(name).port for c in lab.network.cables_of[name]),
        )
        for number, name in enumerate(lab.elsewhere, 1)
    ]


def await_ready(hosts: list[QemuMachine], running: list[process.Process], limit_s: float) -> None:
    """Until every host's Domain 0 is up.

    Raises LabError with the end of its console where one is not, or its QEMU has ended.
    """
    end = time.monotonic() + limit_s
    left = list(zip(hosts, running, strict=True))
    while left:
        left = [(host, qemu) for host, qemu in left if not host.is_ready()]
        for host, qemu in left:
            if not qemu.alive or time.monotonic() > end:
                what = f"not up within {limit_s:.0f} s" if qemu.alive else f"ended ({qemu.log})"
                said = host.console.read_text(errors="replace") if host.console.exists() else ""
                last = "\n  ".join(said.splitlines()[-15:])
                raise LabError(f"{host.name}: {what}; its console ({host.console}):\n  {last}")
        time.sleep(0.1)


def _tap(namespace: str, name: str, flags: int) -> int:
    """A tap device; it is there as long as this file, or a process's that was given it, is open."""
    with inside(namespace):
        file = os.open("/dev/net/tun", os.O_RDWR)
        request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | flags)
        fcntl.ioctl(file, _TUNSETIFF, request)
    return file
