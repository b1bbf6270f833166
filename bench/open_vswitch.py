"""A private Open vSwitch: one bridge on the userspace datapath, one controller at a time.

The controller that is measured and the one that writes the baseline (`raw_controller`) take turns
at the same switch.  Everything lives in a directory of the run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCHEMAS = (
    "/usr/share/openvswitch/vswitch.ovsschema",
    "/usr/local/share/openvswitch/vswitch.ovsschema",
)
TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A measurement cannot be made here, or measured something else than it should."""


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used so far, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process: asked first, killed where it does not hear."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class OpenVSwitch:
    """The running switch; `running` makes one."""

    def __init__(self, directory: Path, bridge: str, pid: int) -> None:
        self.directory = directory
        self.bridge = bridge
        self.bridges = [bridge]
        self.pid = pid
        self._patience = 0
        self.environment = dict(
            os.environ,
            OVS_RUNDIR=str(directory),
            OVS_DBDIR=str(directory),
            OVS_LOGDIR=str(directory),
        )

    def vsctl(self, *words: str) -> str:
        """One transaction of `ovs-vsctl`; what it prints."""
        command = ["ovs-vsctl", f"--db=unix:{self.directory}/db.sock", "--timeout=10", *words]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    def use_controller(self, *ports: int) -> None:
        """Connect to the controllers on these loopback ports, who listen already, and to no other
        any more; the flows stay."""
        words: list[str] = []
        for port in ports:
            words += [
                "--",
                f"--id=@c{port}",
                "create",
                "controller",
                "inactivity_probe=0",
                f'target="tcp:127.0.0.1:{port}"',
            ]
        chosen = ",".join(f"@c{port}" for port in ports)
        for bridge in self.bridges:
            self.vsctl(*words, "--", "set", "bridge", bridge, f"controller=[{chosen}]")

    def be_patient(self) -> None:
        """To be called once it is connected: from then on it does not hang up on a controller that
        is silent.  (What `use_controller` says of it comes into force with the next change of the
        bridge that happens while it is connected, no matter which: seen with Open vSwitch 3.1.)"""
        self._patience += 1
        for bridge in self.bridges:
            self.vsctl("set", "bridge", bridge, f"external_ids:patience={self._patience}")

    def add_bridge(self, dpid: int) -> None:
        """One more bridge, a datapath of its own."""
        name = f"br{len(self.bridges)}"
        self.vsctl(*new_bridge(name, dpid))
        self.bridges.append(name)

    def add_port(self, name: str) -> None:
        """Add a network interface of this namespace."""
        self.vsctl("add-port", self.bridge, name)

    def dump(self, table: int) -> list[str]:
        """The flows of a table without their counters, sorted."""
        done = subprocess.run(
            [
                "ovs-ofctl",
                "--no-names",
                "--no-stats",
                "dump-flows",
                f"unix:{self.directory}/{self.bridge}.mgmt",
                f"table={table}",
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        return sorted(line.strip() for line in done.stdout.splitlines() if "table=" in line)

    def rest(self) -> None:
        """Wait until the daemon has done what it does later (freeing what was deleted)."""
        before = cpu_s(self.pid)
        for _ in range(100):
            time.sleep(0.15)
            now = cpu_s(self.pid)
            if now - before < 0.015:
                return
            before = now


def new_bridge(name: str, dpid: int) -> list[str]:
    """Words for `ovs-vsctl`."""
    return [
        "add-br",
        name,
        "--",
        "set",
        "bridge",
        name,
        "datapath_type=netdev",
        "fail_mode=secure",
        "protocols=OpenFlow10",
        f"other_config:datapath-id={dpid:016x}",
        "other_config:disable-in-band=true",
    ]


@contextmanager
def running(directory: Path, dpid: int) -> Iterator[OpenVSwitch]:
    """A switch without a controller.

    Raises BenchError where Open vSwitch is not installed or does not start.
    """
    schema = next((s for s in SCHEMAS if os.path.exists(s)), None)
    if schema is None or shutil.which("ovs-vswitchd") is None:
        raise BenchError("Open vSwitch is not installed (package openvswitch-switch)")
    directory.mkdir(parents=True, exist_ok=True)
    database = f"unix:{directory}/db.sock"
    processes: list[subprocess.Popen[bytes]] = []
    environment = dict(
        os.environ, OVS_RUNDIR=str(directory), OVS_DBDIR=str(directory), OVS_LOGDIR=str(directory)
    )

    def start(*command: str) -> subprocess.Popen[bytes]:
        with (directory / f"{command[0]}.log").open("wb") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        return processes[-1]

    def wait_for(name: str) -> None:
        limit = time.monotonic() + 10
        while not (directory / name).exists():
            if time.monotonic() > limit:
                raise BenchError(f"Open vSwitch did not start: see {directory}/*.log")
            time.sleep(0.01)

    try:
        (directory / "conf.db").unlink(missing_ok=True)  # kept from a run before
        subprocess.run(["ovsdb-tool", "create", str(directory / "conf.db"), schema], check=True)
        start("ovsdb-server", str(directory / "conf.db"), f"--remote=p{database}")
        wait_for("db.sock")
        switch = OpenVSwitch(directory, "br0", 0)
        switch.vsctl("--no-wait", "init")
        switch.pid = start("ovs-vswitchd", database, "--disable-system").pid
        switch.vsctl(*new_bridge("br0", dpid))
        wait_for("br0.mgmt")
        yield switch
    finally:
        for process in reversed(processes):
            end(process)
