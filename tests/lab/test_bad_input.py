"""Bad input at live controllers, and what the command refuses.

After each: an error reply or a logged drop, the state and every switch's flows as before, and the
controller goes on.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import zmq

from lab import operate, switch
from lab.description import PREFIX, ROOT, Lab
from lab.namespace import inside
from lab.programs import python_path
from lab.state import NETWORK_FILE
from tests.lab.live import (
    LIMIT_S,
    answered,
    datapaths,
    difference,
    flows,
    hypervisor,
    in_sync,
    kill,
    reaches,
    restart_controller,
    settle,
    xenflow,
)
from tests.lab.needed import needs

PROGRAMS = ("ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "bird", "nft", "tc", "ip")
pytestmark = needs(PROGRAMS)


@pytest.fixture
def paper(lab_up: Callable[..., Lab]) -> Lab:
    lab = lab_up("paper", pause_s=0.1, precopy_s=0.1)
    settle(lambda: in_sync(lab), "every switch in sync")
    return lab


def lasting() -> dict[str, Any]:
    """The controllers' state without what changes by itself."""
    found = answered()
    for answer in found["controllers"].values():
        answer.pop("uptime_s", None)
        for row in answer.get("routers", ()):
            for key in ("age_s", "held", "stale", "phase"):
                row.pop(key, None)
        for row in answer.get("datapaths", ()):
            for key in ("pending", "errors", "flow_mods", "in_sync"):
                row.pop(key, None)
            for key in ("looked_s", "mended_s"):
                row["audit"].pop(key)
    return found


@contextmanager
def unchanged(lab: Lab) -> Iterator[None]:
    """State, processes and flows are the same afterwards, and a route change still gets through."""
    state, held = lasting(), flows(lab)
    yield
    settle(lambda: in_sync(lab), "every switch in sync")
    # a refused message of the router's own link is its problem until its next heartbeat
    settle(lambda: lasting()["causes"] == state["causes"], "nothing else is wrong")
    assert lasting() == state
    assert difference(held, flows(lab)) == []
    assert_a_route_becomes_a_flow(lab)


def assert_a_route_becomes_a_flow(lab: Lab) -> None:
    spare = "10.78.0.0/24"

    def there() -> bool:
        return any(f"nw_dst={spare}" in line for line in flows(lab, "host-a")["host-a"])

    operate.run("vr1", ["ip", "route", "add", spare, "via", "10.0.2.2"])
    settle(there, "the route is a flow")
    operate.run("vr1", ["ip", "route", "del", spare])
    settle(lambda: not there(), "it is none any more")


# --- the management socket -----------------------------------------------------------------------


def asked(**more: Any) -> bytes:
    return json.dumps({"v": 1, "id": "x", **more}).encode()


PLACEMENT = {
    "router": "vr1",
    "forwarders": ["host-b"],
    "vm": "host-b",
    "leads_to": "host-b",
    "reaches": [],
    "mode": "xenflow",
    "version": 10**6,
}

REQUESTS: dict[str, tuple[bytes, str]] = {
    "no UTF-8": (b"\xff\xfe\xfd", "malformed"),
    "no JSON": (b"status", "malformed"),
    "no object": (b"[1, 2]", "malformed"),
    "deep": (b"[" * 100_000, "malformed"),
    "no id": (b'{"v": 1, "verb": "status"}', "malformed"),
    "empty": (b"", "malformed"),
    "another version": (b'{"v": 2, "id": "x", "verb": "status"}', "wrong-version"),
    "unknown verb": (asked(verb="reboot"), "unknown-verb"),
    "missing argument": (asked(verb="routes"), "missing-argument"),
    "unknown argument": (asked(verb="status", force=True), "unknown-argument"),
    "unknown router": (asked(verb="routes", router="vr9"), "unknown-router"),
    "unknown datapath": (asked(verb="flows", datapath="host-z"), "unknown-datapath"),
    "wrong type": (asked(verb="routes", router="vr1", limit="many"), "bad-argument"),
    "too large": (asked(verb="status", router="x" * (2 << 20)), "too-large"),
    "placement on no host": (
        asked(verb="place", placement={**PLACEMENT, "vm": "host-z"}),
        "refused",
    ),
    "placement of nothing": (asked(verb="place", placement={"router": "vr1"}), "bad-argument"),
    "placement from the past": (
        asked(verb="place", placement={**PLACEMENT, "version": 0}),
        "stale-version",
    ),
    "placement from before all": (
        asked(verb="place", placement={**PLACEMENT, "version": -1}),
        "bad-argument",
    ),
    "journal of another": (
        asked(verb="journal", router="vr1", owner="nobody", entry={}),
        "locked",
    ),
    "import of garbage": (
        asked(verb="import", router="vr1", frames=["bm9uc2Vuc2U="]),
        "bad-argument",
    ),
    "a bad rule": (
        asked(verb="rule-add", datapath="host-a", rule={"id": "r", "actions": ["fly"]}),
        "bad-argument",
    ),
    "flows of garbage": (
        asked(verb="write-flows", router="vr1", datapath="host-a", flows=["AAAA"], ports={}),
        "bad-argument",
    ),
}


def test_management_refuses(paper: Lab) -> None:
    wrong = []
    with unchanged(paper), zmq.Context() as context:
        for name, (request, code) in REQUESTS.items():
            with context.socket(zmq.DEALER) as sock:
                sock.linger = 0
                sock.connect(paper.network.controllers["host-a"].manage)
                sock.send_multipart([b"", request])
                if not sock.poll(round(1000 * LIMIT_S)):
                    wrong.append(f"{name}: no answer")
                    continue
                answer = json.loads(sock.recv_multipart()[-1])
                found = answer.get("error", {}).get("code")
                if answer["ok"] or found != code:
                    wrong.append(f"{name}: expected {code}, found {answer}")
    assert wrong == []


def test_management_drops(paper: Lab) -> None:
    """Too large for the socket, no ZeroMQ at all, half a message, frames without end."""
    host, port = paper.network.controllers["host-a"].manage.removeprefix("tcp://").split(":")
    with unchanged(paper), zmq.Context() as context:
        with context.socket(zmq.DEALER) as sock:
            sock.linger = 0
            sock.connect(paper.network.controllers["host-a"].manage)
            sock.send_multipart([b"", b"x" * (17 << 20)])
            assert not sock.poll(500)
            sock.send_multipart([b"" for _ in range(2000)])
            sock.poll(500)
        for data in (os.urandom(5000), b"GET / HTTP/1.1\r\n\r\n", b"\xff" + bytes(8) + b"\x7f"):
            with socket.create_connection((host, int(port)), LIMIT_S) as raw:
                raw.sendall(data)


# --- the routers' socket -------------------------------------------------------------------------

FROM_ROUTER = """
import json, os, socket, sys, zmq
from xenflow.routes import messages as m
t = m.RouteMessageType
address = "tcp://[fe80::1%ctl0]:6641"
def pack(type, seq=0, router="vr1", sections=(), part=0, epoch=7):
    return m.pack(m.Header(type, epoch, seq, router, part), sections)
status = json.dumps({"v": 1, "id": "x", "verb": "status"}).encode()
unlock = json.dumps({"v": 1, "id": "x", "verb": "unlock", "router": "vr1", "owner": "x"}).encode()
route = m.Section(m.SectionKind.ROUTE4, m.Op.SET, [(0x0A4F0000, 24, 99)])
cases = {
    "garbage": [b"nonsense"],
    "nothing": [b""],
    "half a header": [pack(t.HELLO)[0][:20]],
    "another version": [b"XFRT\\x02" + pack(t.HELLO)[0][5:]],
    "unknown type": [pack(t.HELLO)[0][:5] + b"\\x63" + pack(t.HELLO)[0][6:]],
    "an answer": pack(t.WELCOME),
    "another router": pack(t.HELLO, router="vr2"),
    "a section of garbage": [pack(t.DELTA, 5)[0], os.urandom(64)],
    "a section that is cut off": [pack(t.DELTA, 5)[0], b"\\x06\\x01" + bytes(4) + b"\\x10\\0"],
    "too many sections": [pack(t.DELTA, 5)[0]] + [b"\\x06\\x01" + bytes(6)] * 300,
    "a delta without a snapshot": pack(t.DELTA, 500, sections=[route]),
    "an end without parts": pack(t.SNAPSHOT_END, 3, part=9),
    "a management verb": [status],
    "a management verb behind a delimiter": [b"", unlock],
}
answered = json.loads(sys.argv[1])
answers = {}
for name, frames in cases.items():
    wait_ms = 120_000 if name in answered else 1500
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.ipv6, sock.linger = 1, 0
        sock.connect(address)
        sock.send_multipart(frames)
        got = []
        while sock.poll(wait_ms if not got else 50):
            head = m.parse_header(sock.recv_multipart())
            if head.type is not t.ALIVE:  # a heartbeat to whoever spoke, and no answer
                got.append(head.type.name)
        answers[name] = got
with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
    sock.ipv6, sock.linger = 1, 0
    sock.connect(address)
    sock.send_multipart([bytes(2 << 20)])
    answers["2 MiB"] = ["answered"] if sock.poll(500) else []
index = socket.if_nametoindex("ctl0")
for data in (os.urandom(3000), b"GET / HTTP/1.1\\r\\n\\r\\n"):
    with socket.create_connection(("fe80::1%ctl0", 6641), 120) as raw:
        raw.sendall(data)
print(json.dumps(answers))
"""
"""Says what no routerd says, from inside vr1, and prints the types of the answers; its argument
names what is certainly answered."""
ANSWERED = {
    "a delta without a snapshot": "RESYNC",
    "another router": "REFUSED",
    "another version": "REFUSED",
}


def test_routers_socket_refuses(paper: Lab) -> None:
    with unchanged(paper):
        words = [sys.executable, "-c", FROM_ROUTER, json.dumps(list(ANSWERED))]
        done = operate.run("vr1", words, cwd=ROOT, env=python_path())
        assert done.returncode == 0, done.stderr
        answers = json.loads(done.stdout)
    # What is out of order is answered by asking for all of it; of a message that is no message
    # nobody can say whom to answer, or it is refused.
    for name, got in answers.items():
        assert set(got) <= {"REFUSED", "RESYNC"}, f"{name}: {got}"
    for name, kind in ANSWERED.items():
        assert set(answers[name]) == {kind}, name  # who does not heed a RESYNC gets another
    assert answers["2 MiB"] == []


def test_routers_socket_is_on_the_routers_link_only(paper: Lab) -> None:
    address = str(paper.management["host-a"])
    with inside(PREFIX + "host-a"):
        for family, where in (
            (socket.AF_INET, (address, 6641)),
            (socket.AF_INET, ("127.0.0.1", 6641)),
            (socket.AF_INET6, ("::1", 6641)),
        ):
            with socket.socket(family) as sock:
                sock.settimeout(LIMIT_S)
                with pytest.raises(OSError, match=r"refused|unreachable|assign"):
                    sock.connect(where)


# --- the port for switches -----------------------------------------------------------------------


def openflow(kind: int, body: bytes = b"", xid: int = 0, version: int = 1) -> bytes:
    return struct.pack("!BBHI", version, kind, 8 + len(body), xid) + body


class Impostor:
    """A switch of our own that connects to a controller of the lab from one of its nodes."""

    def __init__(self, namespace: str, address: tuple[str, int], dpid: int) -> None:
        with inside(namespace):
            self.socket = socket.create_connection(address, LIMIT_S)
        self.socket.settimeout(0.2)
        self.dpid = dpid
        self.types: list[int] = []
        self.ended = False
        self._input = b""
        self.socket.sendall(openflow(0))

    def serve(self, seconds: float) -> None:
        """Answer what a handshake and a barrier ask, and note what else comes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.ended:
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            self.ended = not data
            self._input += data
            while len(self._input) >= 8:
                length, xid = struct.unpack_from("!HI", self._input, 2)
                if len(self._input) < length:
                    break
                kind, self._input = self._input[1], self._input[length:]
                self.types.append(kind)
                self._answer(kind, xid)

    def serve_until(self, done: Callable[[], bool], what: str) -> None:
        """The same until something is so."""

        def served() -> bool:
            self.serve(0.2)
            return done()

        settle(served, what)

    def _answer(self, kind: int, xid: int) -> None:
        if kind == 5:
            body = struct.pack("!QIB3xII", self.dpid, 0, 8, 0, 0)
            self.socket.sendall(openflow(6, body, xid))
        elif kind == 16:
            self.socket.sendall(openflow(17, struct.pack("!HH", 0, 0) + bytes(1056), xid))
        elif kind == 18:
            self.socket.sendall(openflow(19, b"", xid))
        elif kind == 2:
            self.socket.sendall(openflow(3, b"", xid))

    def close(self) -> None:
        self.socket.close()


OFPT_VENDOR, OFPT_FLOW_MOD = 4, 14


def test_garbage_at_the_port_for_switches(paper: Lab) -> None:
    with unchanged(paper), inside(PREFIX + "host-a"):
        for data in (
            os.urandom(4000),
            b"\x01\x00\x00\x00\x00\x00\x00\x00",  # a length of 0
            b"\x01\x00\x00\x04\x00\x00\x00\x00",  # shorter than its header
            openflow(0) + openflow(6, b"short"),
            openflow(0, version=4),
            openflow(0) + openflow(10, b"\0" * 3),
            openflow(0)[:5],
        ):
            with socket.create_connection(("127.0.0.1", 6633), LIMIT_S) as raw:
                raw.sendall(data)


def test_datapath_that_nobody_named_is_left_alone(paper: Lab) -> None:
    with unchanged(paper):
        stranger = Impostor(PREFIX + "host-a", ("127.0.0.1", 6633), 0xDEAD)
        stranger.serve_until(lambda: 5 in stranger.types, "it is asked who it is")
        stranger.serve(1.0)
        head = struct.pack("!IHHBB", 2**32 - 1, 60, 1, 0, 0)
        stranger.socket.sendall(openflow(10, head + bytes(60)))
        stranger.serve(0.5)
        stranger.close()
    assert not {OFPT_FLOW_MOD, OFPT_VENDOR} & set(stranger.types)


def test_second_switch_with_the_same_datapath_id(paper: Lab) -> None:
    """The one that was there first and answers stays; the other one gets no flows."""
    with unchanged(paper):
        rival = Impostor(PREFIX + "host-a", ("127.0.0.1", 6633), 0xA1)
        rival.serve_until(lambda: rival.ended, "its connection is ended")
        rival.close()
        assert not {OFPT_FLOW_MOD, OFPT_VENDOR} & set(rival.types)
        assert datapaths()["host-a"]["connected"]


def test_switch_that_says_nonsense(paper: Lab) -> None:
    """In place of a switch that is gone: senseless messages; then the switch again."""
    before = flows(paper)
    address = paper.network.controllers["edge"].openflow
    node = paper.switch_node("recv")
    kill(node, "ovs-vswitchd")
    settle(lambda: not datapaths()["recv"]["connected"], "recv is gone")
    held_in = struct.pack("!IHHBB", 2**32 - 1, 60, 1, 0, 0)
    tagged = bytes(12) + b"\x81\x00\x08\x65\x08\x00"
    nonsense = [
        openflow(10, body)
        for body in (
            b"",
            b"\0" * 9,
            held_in,
            held_in + b"\xff" * 14,
            held_in + b"abc",
            held_in + tagged,
            held_in + tagged + b"\x45" + bytes(10),
            held_in + bytes(12) + b"\x81\x00",
        )
    ]
    nonsense += [
        openflow(kind, body, 0x80000001)
        for kind in (1, 11, 12, 17, 6, 4, 99)
        for body in (b"", b"\0", os.urandom(40), b"\xff" * 200)
    ]
    false = Impostor(PREFIX + node, address, 2)
    false.serve_until(lambda: bool(datapaths()["recv"]["connected"]), "it is taken for recv")
    for message in nonsense:
        with suppress(OSError):
            false.socket.sendall(message)
        false.serve(0.05)
        if false.ended:  # what cannot be OpenFlow costs a switch its connection, no more
            false.close()
            false = Impostor(PREFIX + node, address, 2)
            false.serve(0.3)
    answered("edge")
    false.close()
    (switch.rundir(node) / "ovs-vswitchd.pid").unlink(missing_ok=True)
    switch.start_daemon(node, PREFIX + node)
    settle(lambda: in_sync(paper), "recv is back")
    settle(lambda: difference(before, flows(paper)) == [], "flows as before")
    reaches("gen", "10.2.0.1")


# --- what the command refuses --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ("migrate vr9 host-b", 2, "unknown router vr9"),
        ("migrate vr1 host-z", 2, "unknown datapath host-z"),
        ("migrate vr1 gen", 2, "plain switch"),
        ("migrate vr1 host-a", 1, "on host-a already"),
        ("migrate vr1", 2, "usage"),
        ("migrate vr1 host-b --mode sideways", 2, "sideways"),
        ("plan vr1 host-a", 1, "on host-a already"),
        ("recover vr9", 2, "unknown router vr9"),
        (
            "apply /run/xenflow/network.toml",
            1,
            "follows no store (--store): use `xenflow lab reload FILE` (or bring",
        ),
        ("--network /nonexistent.toml status", 2, "/nonexistent.toml"),
        ("--network tests/store/network_file_errors/syntax.toml status", 2, "syntax.toml:"),
        ("lab up paper", 1, "up already"),
        ("lab cut nosuch", 2, "no such cable or link"),
        ("lab exec nosuch -- true", 2, "no such node"),
    ],
)
def test_command_refuses(paper: Lab, words: str, status: int, says: str) -> None:
    before = flows(paper)
    done = xenflow(*words.split())
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert difference(before, flows(paper)) == []


def test_destination_without_a_path_to_a_neighbour(paper: Lab) -> None:
    before = flows(paper)
    operate.cut("recv-b")
    try:
        settle(lambda: not datapaths()["host-b"]["ports"]["to-recv"]["up"], "recv-b has no carrier")
        done = xenflow("migrate", "vr1", "host-b")
    finally:
        operate.heal("recv-b")
    assert done.returncode == 1
    assert "recv-b" in done.stderr and "no carrier" in done.stderr
    assert difference(before, flows(paper)) == []


def test_destination_unreachable(paper: Lab) -> None:
    before = flows(paper)
    kill("host-b", "controller")
    done = xenflow("migrate", "vr1", "host-b")
    assert done.returncode == 1, done.stderr
    assert "host-b" in done.stderr and "does it run?" in done.stderr
    assert difference(before, flows(paper)) == []
    restart_controller(paper, "host-b")


def test_vm_that_does_not_run(paper: Lab) -> None:
    before = flows(paper)
    with hypervisor(paper) as xen:
        xen.pause("vr1")
        try:
            done = xenflow("migrate", "vr1", "host-b")
        finally:
            xen.unpause("vr1")
    assert done.returncode == 1, done.stderr
    assert "paused" in done.stderr
    settle(lambda: difference(before, flows(paper)) == [], "flows as before")


def test_not_root(paper: Lab) -> None:
    """Said at once.  Everything is imported as root: the files need not be readable for others."""
    drop = "import os, sys, lab.cli, mgmt.cli; os.setgroups([]); os.setresuid(65534, 65534, 65534)"
    done = subprocess.run(
        [sys.executable, "-c", f"{drop}; sys.exit(mgmt.cli.main(['lab', 'up', 'paper']))"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **python_path()},
    )
    assert done.returncode == 1, done.stderr
    assert "needs root" in done.stderr


def test_port_in_use(paper: Lab) -> None:
    """A second controller says which port is taken and ends; the first one goes on."""
    with unchanged(paper):
        for more in ([], ["--manage=tcp://127.0.0.1:6699"]):
            done = operate.run(
                "host-a",
                [
                    sys.executable,
                    str(ROOT / "pox.py"),
                    "openflow.of_01",
                    "--port=6633",
                    "xenflow",
                    f"--network={NETWORK_FILE}",
                    "--controller=host-a",
                    *more,
                ],
                env=python_path(),
                timeout=LIMIT_S,
            )
            assert done.returncode == 1, done.stdout + done.stderr
            assert "cannot listen" in done.stdout + done.stderr


def test_bad_network_file_for_a_controller(paper: Lab) -> None:
    bad = Path("tests/store/network_file_errors/unknown_keys.toml")
    done = operate.run(
        "host-a",
        [sys.executable, str(ROOT / "pox.py"), "xenflow", f"--network={ROOT / bad}"],
        env=python_path(),
        timeout=LIMIT_S,
    )
    assert done.returncode == 1
    assert "unknown_keys.toml:" in done.stdout + done.stderr
