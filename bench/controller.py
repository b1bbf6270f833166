"""The controller that is measured: a real `./pox.py xenflow` process, and a router that speaks.

`RouterConnection` is a DEALER that says what routerd would say, packed beforehand.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import zmq

from bench.components.bench_witness import REPORT
from bench.open_vswitch import BenchError, OpenVSwitch, end
from mgmt.client import AskError, Client
from xenflow.model import management
from xenflow.routes import messages as m
from xenflow.routes.feed import Phase

ROOT = Path(__file__).resolve().parents[1]
MANAGE = "tcp://127.0.0.1:6640"
OPENFLOW_PORT = 6633
RAW_PORT = 6634
DPID = 0xB1
ROUTER = "vr1"
CONTROL = "vr1.ctl"
LINKS = 2

_HEAD = """\
[network]
name = "bench"

[controllers.bench]
openflow = "127.0.0.1:{openflow}"
manage = "{manage}"
"""

_HOST = """
[datapaths.{name}]
kind = "host"
dpid = "{dpid:016x}"
controller = "bench"
pipeline = "{pipeline}"
proof = "bound"
proof_bound_s = 0.1
other = "drop"
"""

_ROUTER = """
[links.left{n}]
id = {left_id}
vlan = {left_vlan}
access = [{{ at = "{host}:p{left_port}", macs = [{left}] }}]

[links.right{n}]
id = {right_id}
vlan = {right_vlan}
access = [{{ at = "{host}:p{right_port}", macs = [{right}] }}]

[routers.vr{n}]
id = {n}
home = "{host}"
control_vif = "vr{n}.ctl"
interfaces = [
    {{ name = "eth0", link = "left{n}", mac = "{mac0}", vif = "vr{n}.0" }},
    {{ name = "eth1", link = "right{n}", mac = "{mac1}", vif = "vr{n}.1" }},
]
"""

GATEWAYS = 16
GATEWAY_MAC = 0x020000AA0000
"""Gateway n of the first router has this plus n; even numbers are on its first link."""


def host_name(number: int) -> str:
    """The host with this number, from 0; its datapath id is DPID plus it."""
    return f"bench{number + 1}" if number else "bench"


def describe(pipelines: Sequence[str] = ("proactive",), routers: int = 1) -> str:
    """A network file: a host for each pipeline, and routers that are spread over them, `vr1` on the
    first; each has two links of its own, which nothing joins."""
    text = _HEAD.format(openflow=OPENFLOW_PORT, manage=MANAGE)
    for number, pipeline in enumerate(pipelines):
        text += _HOST.format(name=host_name(number), dpid=DPID + number, pipeline=pipeline)
    for index in range(routers):
        port = 2 * (index // len(pipelines))
        text += _ROUTER.format(
            n=index + 1,
            host=host_name(index % len(pipelines)),
            left_id=2 * index + 1,
            left_vlan=101 + 2 * index,
            left_port=port + 1,
            right_id=2 * index + 2,
            right_vlan=102 + 2 * index,
            right_port=port + 2,
            left=_stations(index, 0),
            right=_stations(index, 1),
            mac0=_mac(interface_mac(index, 0)),
            mac1=_mac(interface_mac(index, 1)),
        )
    return text


def interface_mac(router: int, interface: int) -> int:
    """The MAC of an interface of the router with this number, from 0."""
    return 0x020000010101 + (router << 16) + (interface << 8)


def gateway_mac(router: int, number: int) -> int:
    """The MAC of one of a router's gateways."""
    return GATEWAY_MAC + (router << 8) + number


def _stations(router: int, link: int) -> str:
    macs = [_mac(gateway_mac(router, n)) for n in range(link, GATEWAYS, LINKS)]
    return ", ".join(f'"{mac}"' for mac in macs)


def _mac(value: int) -> str:
    return value.to_bytes(6, "big").hex(":")


class ControllerProcess:
    """One `./pox.py xenflow` with the witness beside it, from `with` to its end.

    The witness's reports must be read (`confirmed`, `drop_reports`): the controller waits for that.
    """

    def __init__(
        self,
        directory: Path,
        core: Sequence[str],
        *,
        description: str = "",
        routers: str = "",
        profile: str = "",
        witness: bool = True,
    ) -> None:
        self.directory = directory
        network = directory / "network.toml"
        network.write_text(description or describe())
        self._witness = directory / "witness"
        self._witness.unlink(missing_ok=True)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(self._witness))
        words = [sys.executable]
        words += ["-m", "cProfile", "-o", profile] if profile else []
        words += [str(ROOT / "pox.py"), *core]
        words += ["xenflow", f"--network={network}"]
        words += [f"--routers={routers}"] if routers else []
        words += ["bench_witness", f"--to={self._witness}"] if witness else []
        components = str(ROOT / "bench" / "components")
        path = os.pathsep.join([components, os.environ.get("PYTHONPATH", "")])
        with (directory / "controller.log").open("ab") as log:
            self.process = subprocess.Popen(
                words, stdout=log, stderr=log, env=dict(os.environ, PYTHONPATH=path)
            )

    def __enter__(self) -> ControllerProcess:
        self.client = Client(MANAGE, "bench")
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        end(self.process)
        self._sock.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def wait_connected(self, switch: OpenVSwitch, ports: Sequence[int] = (OPENFLOW_PORT,)) -> None:
        """Have a switch connect to these controllers; wait until this one has read it back and
        brought it up to date."""
        told = False
        limit = time.monotonic() + 15
        while time.monotonic() < limit:
            if self.process.poll() is not None:
                raise BenchError(f"the controller has ended: see {self.directory}/controller.log")
            try:
                rows = self.client.request("status")["datapaths"]
            except AskError:
                continue
            if not told:
                switch.use_controller(*ports)
                told = True
            if all(row["connected"] and row["in_sync"] for row in rows[: len(switch.bridges)]):
                return
            time.sleep(0.02)
        raise BenchError(f"the switch did not connect: see {self.directory}/controller.log")

    def confirmed(
        self, kind: m.RouteMessageType, seq: int | None = None, wait_s: float = 60.0
    ) -> int:
        """Wait for the witness's report of a message: its CLOCK_MONOTONIC then (ns).

        Raises BenchError where it does not come.
        """
        self._sock.settimeout(wait_s)
        while True:
            try:
                report = self._sock.recv(64)
            except TimeoutError:
                raise BenchError(f"{kind.name} {seq} was not confirmed in {wait_s:g} s") from None
            code, number, at = REPORT.unpack(report)
            if code == int(kind) and seq in (None, number):
                return int(at)

    def drop_reports(self) -> None:
        """Forget reports that have come."""
        self._sock.setblocking(False)
        try:
            while True:
                self._sock.recv(64)
        except BlockingIOError:
            return

    def exported(self) -> list[list[bytes]]:
        """All messages that carry what it knows of the router, in its order: it mirrors them."""
        parts: list[list[bytes]] = []
        with zmq.Context.instance().socket(zmq.ROUTER) as mirror:
            port = mirror.bind_to_random_port("tcp://127.0.0.1")
            to = {"router": ROUTER, "to": f"tcp://127.0.0.1:{port}"}
            self.client.request("mirror", **to, on=True)
            kind = None
            while kind is not m.RouteMessageType.SNAPSHOT_END:
                if not mirror.poll(30_000):
                    raise BenchError("the controller does not mirror what it knows")
                sender, empty, frame = mirror.recv_multipart()
                asked = management.parse_request(frame)
                parts.append(asked.arguments["frames"])
                kind = m.parse_header(parts[-1]).type
                answer = management.reply(asked.id, {"phase": Phase.CURRENT.value})
                mirror.send_multipart([sender, empty, answer])
            self.client.request("mirror", **to, on=False)
        return parts


class RouterConnection:
    """A ZeroMQ DEALER on the Rule Table's socket for the router."""

    def __init__(self, address: str, name: str = ROUTER) -> None:
        self._name = name
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 100_000)
        self._socket.connect(address)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def hello(self, epoch: int, seq: int) -> m.RouteMessageType:
        """Say HELLO and return what is answered."""
        self.send(m.pack(m.Header(m.RouteMessageType.HELLO, epoch, seq, self._name)))
        if not self._socket.poll(10_000):
            raise BenchError("the Rule Table did not answer HELLO")
        return m.parse(self._socket.recv_multipart()).header.type

    def send(self, frames: list[bytes]) -> None:
        """Send one message."""
        self._socket.send_multipart(frames)
