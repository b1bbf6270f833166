"""Traffic from the generator to the receiver that knows, for each migration, what became of it.

`ProbeTraffic` is the lab's probe, both ways at once.  `IperfTraffic` is what the report used: iperf
sends, one way, and tcpdump on the two machines' interfaces sees what was sent and what arrived;
only the two captures count, not what iperf says.
"""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Protocol

from bench.experiments import capture
from lab import judge, operate
from lab.judge import Counts
from lab.namespace import LabError
from lab.operate import find_node
from lab.probe import ProbePair, TooBusyError, payload_size

_LONGEST_S = 1800.0
_PORT = 5201
_LINGER_S = 0.5
_CAPTURE_S = 1.5
"""tcpdump gets what its kernel captured once a second; ended before, it never sees the rest."""
_SOLICITATIONS = 60
_BEGIN_LIMIT_S = 10.0


class Traffic(Protocol):
    """What a session needs of it."""

    def baseline(self, seconds: float) -> None:
        """The same while nothing happens.  Raises TooBusyError where it loses."""

    def start(self) -> None:
        """Begin; packets are being sent when this returns."""

    def stop(self) -> None:
        """End, once what is under way has arrived."""

    def counts(self, begins_ns: list[int]) -> list[tuple[Counts, Counts]]:
        """(there, back) of what was sent before the first migration and of each one."""

    def __enter__(self) -> Traffic: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None: ...


def make(name: str, nodes: tuple[str, str], rate_pps: int, size: int, folder: Path) -> Traffic:
    """The traffic called so."""
    if name == "iperf":
        return IperfTraffic(nodes, rate_pps, size, folder)
    return ProbeTraffic(nodes, rate_pps, size, folder)


class ProbeTraffic:
    """The lab's probe."""

    def __init__(self, nodes: tuple[str, str], rate_pps: int, size: int, folder: Path) -> None:
        self._folder = folder
        self._pair = ProbePair(*nodes, rate_pps=rate_pps, size=size, directory=folder)

    def baseline(self, seconds: float) -> None:
        self._pair.baseline(seconds)

    def start(self) -> None:
        self._pair.start(_LONGEST_S)

    def stop(self) -> None:
        self._pair.stop(_LINGER_S)

    def counts(self, begins_ns: list[int]) -> list[tuple[Counts, Counts]]:
        return list(zip(*judge.read(self._folder, begins_ns), strict=True))

    def __enter__(self) -> ProbeTraffic:
        return self

    def __exit__(self, *_: object) -> None:
        self._pair.close()


class IperfTraffic:
    """iperf3 from the first node to the second; tcpdump on both."""

    def __init__(self, nodes: tuple[str, str], rate_pps: int, size: int, folder: Path) -> None:
        self._one, self._other = nodes
        self._from, self._to = (find_node(node).addresses[0] for node in nodes)
        self._rate_pps, self._payload = rate_pps, payload_size(size)
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files = folder / "sent.pcap", folder / "received.pcap"
        self._dumps: list[subprocess.Popen[str]] = []
        self._iperf: list[subprocess.Popen[str]] = []
        self._offset_ns = 0
        self._begun_ns = 0
        # iperf3 ends at the first packet that cannot be sent: the kernel must go on asking for a
        # router that is away for long, as it goes on sending to it meanwhile
        operate.run(
            self._one, ["sysctl", "-qw", f"net.ipv4.neigh.eth0.ucast_solicit={_SOLICITATIONS}"]
        )

    def baseline(self, seconds: float) -> None:
        self.start()
        time.sleep(seconds)
        took_s = (time.monotonic_ns() - self._begun_ns) / 1e9
        self.stop()
        ((there, _),) = self.counts([])
        if there.sent < 0.9 * self._rate_pps * took_s:
            raise TooBusyError(
                f"invalid: the machine is too busy, iperf sends {there.sent} "
                f"packets in {took_s:.1f} s instead of {self._rate_pps} a second"
            )
        if there.lost or there.duplicated:
            raise TooBusyError(
                f"invalid: the machine is too busy; while nothing happened, "
                f"{there.lost} of {there.sent} of iperf's packets lost, "
                f"{there.duplicated} duplicated"
            )

    def start(self) -> None:
        self._offset_ns = time.monotonic_ns() - time.clock_gettime_ns(time.CLOCK_REALTIME)
        for node, file in zip((self._one, self._other), self._files, strict=True):
            file.unlink(missing_ok=True)
            self._dumps.append(self._dump(node, file))
        server = ["iperf3", "-s", "-1", "-B", self._to, "-p", str(_PORT), "--forceflush"]
        self._iperf.append(self._begin(self._other, server, "iperf-server.log"))
        self._await_text(self._folder / "iperf-server.log", "Server listening", "iperf's server")
        self._iperf.append(
            self._begin(
                self._one,
                [
                    "iperf3",
                    "-c",
                    self._to,
                    "-B",
                    self._from,
                    "-p",
                    str(_PORT),
                    "-u",
                    "-b",
                    str(self._rate_pps * self._payload * 8),
                    "-l",
                    str(self._payload),
                    "-t",
                    str(round(_LONGEST_S)),
                    "-i",
                    "0",
                    "--forceflush",
                ],
                "iperf-client.log",
            )
        )
        self._await_packets()
        self._begun_ns = time.monotonic_ns()

    def _dump(self, node: str, file: Path) -> subprocess.Popen[str]:
        command = [
            "tcpdump",
            "-i",
            "eth0",
            "-n",
            "-U",
            "-Z",
            "root",
            "-s",
            str(capture.SNAP),
            "-B",
            "16384",
            "--time-stamp-precision=nano",
            "-w",
            str(file),
            f"udp and src host {self._from} and dst host {self._to} and dst port {_PORT}",
        ]
        begun = self._begin(node, command, file.stem + ".log")
        self._await_text(self._folder / (file.stem + ".log"), "listening on", f"{node}'s tcpdump")
        return begun

    def _begin(self, node: str, command: list[str], log: str) -> subprocess.Popen[str]:
        with (self._folder / log).open("w") as file:
            return operate.popen(node, command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def _await_text(self, log: Path, text: str, who: str) -> None:
        end = time.monotonic() + _BEGIN_LIMIT_S
        while text not in log.read_text(errors="replace"):
            if time.monotonic() > end:
                raise LabError(f"{who} did not begin; it says: {log.read_text().strip()[-300:]}")
            time.sleep(0.02)

    def _await_packets(self) -> None:
        end = time.monotonic() + _BEGIN_LIMIT_S
        while self._files[1].stat().st_size < 1000:
            if time.monotonic() > end or self._iperf[-1].poll() is not None:
                said = (self._folder / "iperf-client.log").read_text().strip()[-300:]
                raise LabError(f"iperf sends nothing; it says: {said}")
            time.sleep(0.02)

    def stop(self) -> None:
        client = self._iperf[-1]
        if client.poll() is not None:
            said = (self._folder / "iperf-client.log").read_text().strip()[-300:]
            raise LabError(f"iperf gave up; it says: {said}")
        client.send_signal(signal.SIGINT)
        client.wait(_BEGIN_LIMIT_S)
        time.sleep(_CAPTURE_S)
        for dump in self._dumps:
            dump.send_signal(signal.SIGINT)
            dump.wait(_BEGIN_LIMIT_S)
        for file in self._files:
            said = (self._folder / (file.stem + ".log")).read_text()
            if "\n0 packets dropped by kernel" not in said:
                raise TooBusyError(f"invalid: tcpdump could not keep up: {said.strip()[-200:]}")
        self.close()

    def counts(self, begins_ns: list[int]) -> list[tuple[Counts, Counts]]:
        records = capture.read(*self._files, self._offset_ns)
        return [(there, Counts()) for there in judge.by_move(records, begins_ns)]

    def close(self) -> None:
        """End whatever runs."""
        for one in self._iperf + self._dumps:
            if one.poll() is None:
                one.kill()
            one.wait()
        self._iperf, self._dumps = [], []

    def __enter__(self) -> IperfTraffic:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
