"""One Open vSwitch of a test's own: run directory, database, sockets and network namespace.

Its bridge runs on the userspace datapath (dpif-netdev) with dummy ports: frames are injected over
the control socket and what is sent is read back from pcap files, so the kernel sees nothing of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from xenflow.openflow import build, parse, wire
from xenflow.openflow.flow import Flow
from xenflow.openflow.statistics import StatsReply

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
N_PORTS = 6
LIMIT_S = 120
"""How long anything may take on a slow and busy machine; nothing does unless it fails."""


def available() -> bool:
    """Whether the programs are there and we may make a network namespace."""
    return (
        os.geteuid() == 0
        and SCHEMA.exists()
        and all(map(shutil.which, ("ovs-vswitchd", "ovsdb-server", "ovs-ofctl", "unshare")))
    )


class PrivateConnection:
    """A controller's end of an OpenFlow connection, blocking."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LIMIT_S)
        self.sock.connect(str(path))
        self.rest = b""
        self.queue: list[parse.Message] = []
        self.xid = 100
        self.send(build.hello() + build.set_flow_format_nxm() + build.enable_table_id())

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self) -> parse.Message:
        """The next message other than a hello; answers echo requests."""
        while True:
            while not self.queue:
                messages, self.rest = wire.split(self.rest + self.sock.recv(65536))
                self.queue += map(parse.message, messages)
            message = self.queue.pop(0)
            if isinstance(message, parse.EchoRequest):
                self.send(build.echo_reply(message.data, message.xid))
            elif not isinstance(message, parse.Hello):
                return message

    def barrier(self) -> list[parse.Message]:
        """What else arrived before the barrier's reply."""
        self.xid += 1
        self.send(build.barrier_request(self.xid))
        seen = []
        while (message := self.receive()) != parse.BarrierReply(self.xid):
            seen.append(message)
        return seen

    def add(self, flows: Iterable[Flow]) -> None:
        self.send(b"".join(map(build.flow_mod, flows)))
        assert self.barrier() == []

    def stats(self, request: bytes) -> list[StatsReply]:
        """All parts of the reply to `request`."""
        self.send(request)
        parts = []
        while True:
            message = self.receive()
            assert isinstance(message, StatsReply), message
            parts.append(message)
            if not message.more:
                return parts


class PrivateSwitch:
    """The running switch; bridge b0 with ports p1..p6 under these OpenFlow numbers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bridge = directory / "b0.mgmt"
        self.control: socket.socket | None = None
        self.decoder = json.JSONDecoder()

    def connect(self) -> PrivateConnection:
        return PrivateConnection(self.bridge)

    def pid(self) -> int:
        """The process that ovs-vswitchd is now."""
        return int((self.directory / "ovs-vswitchd.pid").read_text())

    def forget(self) -> None:
        """It was restarted: the control socket is another one."""
        if self.control is not None:
            self.control.close()
            self.control = None

    def ofctl(self, *arguments: str) -> str:
        command, *rest = arguments
        done = subprocess.run(
            ["ovs-ofctl", "--no-names", command, f"unix:{self.bridge}", *rest],
            check=True,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        return done.stdout

    def vsctl(self, *arguments: str) -> None:
        """One command of ovs-vsctl(8)."""
        command = ["ovs-vsctl", f"--db=unix:{self.directory}/db.sock", *arguments]
        subprocess.run(command, check=True, timeout=LIMIT_S)

    def appctl(self, method: str, *arguments: str) -> str:
        """One command over the control socket (JSON-RPC), without starting a program."""
        if self.control is None:
            self.control = socket.socket(socket.AF_UNIX)
            self.control.settimeout(LIMIT_S)
            self.control.connect(str(self.directory / f"ovs-vswitchd.{self.pid()}.ctl"))
        request = {"id": 0, "method": method, "params": list(arguments)}
        self.control.sendall(json.dumps(request).encode())
        buffer = ""
        while True:
            buffer += self.control.recv(1 << 20).decode()
            with contextlib.suppress(json.JSONDecodeError):
                reply, _ = self.decoder.raw_decode(buffer)
                break
        assert reply["error"] is None, reply
        return str(reply["result"])

    def _pcap(self, port: int) -> Path:
        return self.directory / f"p{port}.pcap"

    def _received(self) -> int:
        text = self.appctl("dpif-netdev/pmd-stats-show")
        return int(text.split("packets received: ")[1].split()[0])

    def inject(self, frame: bytes, in_port: int, fresh: bool = True) -> dict[int, list[bytes]]:
        """Let `frame` arrive at `in_port`, freshly translated unless flows that are cached may
        decide; what each port then sent."""
        if fresh:
            self.appctl("revalidator/purge")
        before = {port: self._pcap(port).stat().st_size for port in range(1, N_PORTS + 1)}
        count = self._received()
        self.appctl("netdev-dummy/receive", f"p{in_port}", frame.hex())
        deadline = time.monotonic() + LIMIT_S
        while self._received() == count:
            assert time.monotonic() < deadline, "the datapath did not take the frame"
        self.appctl("version")  # its outputs are written before the next request is answered
        sent = {}
        for port, size in before.items():
            data = self._pcap(port).read_bytes()[size:]
            frames = []
            while data:
                length = struct.unpack_from("<I", data, 8)[0]
                frames.append(data[16 : 16 + length])
                data = data[16 + length :]
            if frames:
                sent[port] = frames
        return sent


@contextlib.contextmanager
def switch() -> Iterator[PrivateSwitch]:
    """Start a switch, stop it, and remove what it wrote."""
    directory = Path(tempfile.mkdtemp(prefix="xf-ovs-", dir="/tmp"))
    env = dict(os.environ, OVS_RUNDIR=str(directory), OVS_DBDIR=str(directory))
    database = f"unix:{directory}/db.sock"
    processes: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        with (directory / f"{len(processes)}.log").open("wb") as log:
            processes.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))

    def wait_for(path: Path) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not path.exists():
            if time.monotonic() > deadline:
                logs = "".join(p.read_text() for p in directory.glob("*.log"))
                raise RuntimeError(f"{path.name} did not appear:\n{logs}")
            time.sleep(0.02)

    def vsctl(*arguments: str) -> None:
        command = ["ovs-vsctl", f"--db={database}", *arguments]
        subprocess.run(command, check=True, env=env, timeout=LIMIT_S)

    try:
        conf = directory / "conf.db"
        subprocess.run(["ovsdb-tool", "create", str(conf), str(SCHEMA)], check=True, env=env)
        start("ovsdb-server", str(conf), f"--remote=p{database}")
        wait_for(directory / "db.sock")
        vsctl("--no-wait", "init")
        start(
            *("unshare", "--net", "ovs-vswitchd", "--enable-dummy", database),
            f"--pidfile={directory}/ovs-vswitchd.pid",
        )
        wait_for(directory / "ovs-vswitchd.pid")
        setup = ["add-br", "b0", "--", "set", "bridge", "b0", "datapath_type=dummy"]
        setup += ["fail_mode=secure", "other-config:hwaddr=aa:00:00:00:00:01"]
        for port in range(1, N_PORTS + 1):
            setup += ["--", "add-port", "b0", f"p{port}", "--", "set", "interface", f"p{port}"]
            setup += ["type=dummy", f"ofport_request={port}"]
            setup += [f"options:tx_pcap={directory}/p{port}.pcap"]
        vsctl(*setup)
        wait_for(directory / "b0.mgmt")
        yield PrivateSwitch(directory)
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(LIMIT_S)
        shutil.rmtree(directory, ignore_errors=True)
