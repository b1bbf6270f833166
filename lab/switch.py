"""One Open vSwitch for each datapath: own database, own daemon, own run directory.

Two `ovs-vswitchd` in one namespace would clash over the userspace datapath's tap, and two that
share a run directory over their sockets; so each node has both to itself, and every command says
which switch it means (`--db`, `OVS_RUNDIR`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from lab import process
from lab.description import Lab, controller_target
from lab.namespace import LabError
from xenflow.model.network import Datapath
from xenflow.tables import tracked

BRIDGE = "br0"
DAEMONS = ("ovsdb-server", "ovs-vswitchd")
"""The processes of a switch, by their names in the lab's record."""
TIMEOUT_S = 60
MAX_BACKOFF_MS = 1000
"""How long a switch waits before it tries to connect again, and lets a connection come about."""
_SCHEMAS = (
    "/usr/share/openvswitch/vswitch.ovsschema",
    "/usr/local/share/openvswitch/vswitch.ovsschema",
)


def rundir(node: str) -> Path:
    """The run directory of a node's switch, also what `ovs_rundir` in a network file means."""
    return process.STATE_DIR / node / "ovs"


def environment(node: str) -> dict[str, str]:
    """What makes `ovs-vsctl`, `ovs-ofctl` and `ovs-appctl` speak to a node's switch."""
    here = str(rundir(node))
    return {"OVS_RUNDIR": here, "OVS_DBDIR": here, "OVS_LOGDIR": str(process.LOG_DIR)}


def make_template(path: Path) -> None:
    """An empty database, made once and copied for every switch.

    Raises LabError where Open vSwitch is not installed.
    """
    schema = next((s for s in _SCHEMAS if Path(s).exists()), None)
    if schema is None or shutil.which("ovsdb-tool") is None:
        raise LabError("Open vSwitch is not installed (package openvswitch-switch)")
    path.unlink(missing_ok=True)
    subprocess.run(["ovsdb-tool", "create", str(path), schema], check=True)


def start_database(node: str, namespace: str, template: Path) -> None:
    """Start the database server; the switch follows once it has been told what it is."""
    here = rundir(node)
    here.mkdir(parents=True, exist_ok=True)
    shutil.copy(template, here / "conf.db")
    process.start(
        node,
        "ovsdb-server",
        (
            f"ovsdb-server {here}/conf.db --remote=punix:{here}/db.sock "
            f"--pidfile={here}/ovsdb-server.pid -vconsole:info"
        ).split(),
        namespace,
        environment=environment(node),
    )


def start_daemon(node: str, namespace: str) -> None:
    """Start `ovs-vswitchd`, real-time where that is allowed: beside busy processes it loses
    packets otherwise."""
    here = rundir(node)
    process.start(
        node,
        "ovs-vswitchd",
        (
            f"ovs-vswitchd unix:{here}/db.sock --pidfile={here}/ovs-vswitchd.pid --disable-system "
            "--disable-system-route -vconsole:info -vrconn:console:warn"
        ).split(),
        namespace,
        environment=environment(node),
        realtime=True,
    )


def configuration(
    lab: Lab, datapath: Datapath, *, controllers: bool, max_idle_ms: int, max_revalidator_ms: int
) -> list[str]:
    """The `ovs-vsctl` arguments that make a datapath of an empty switch.

    Cached flows must not outlive a change: hence max-idle and max-revalidator.  Access ports have
    their link's VLAN as tag, which only NORMAL regards.
    """
    words = (
        f"set Open_vSwitch . other_config:max-idle={max_idle_ms} "
        f"other_config:max-revalidator={max_revalidator_ms} "
        "other_config:n-revalidator-threads=1 other_config:n-handler-threads=1 "
        f"-- add-br {BRIDGE} "
        f"-- set Bridge {BRIDGE} datapath_type=netdev fail_mode=secure protocols=OpenFlow10 "
        f"other_config:datapath-id={datapath.dpid:016x} other_config:disable-in-band=true"
    ).split()
    words += tracked.vsctl_words(BRIDGE)
    for end, tag in lab.ports.items():
        if end.datapath == datapath.name:
            words += add_port(end.port, tag)
    if controllers:
        words += (
            f'-- --id=@controller create Controller target="{controller_target(lab, datapath)}" '
            f"connection_mode=out-of-band max_backoff={MAX_BACKOFF_MS} inactivity_probe=5000 "
            f"-- set Bridge {BRIDGE} controller=@controller"
        ).split()
    return words


def add_port(name: str, tag: int) -> list[str]:
    """The `ovs-vsctl` arguments that add a port; whatever had that name goes.  A `tag` of 0 is
    none."""
    words = [*delete_port(name), "--", "add-port", BRIDGE, name]
    return [*words, f"tag={tag}"] if tag else words


def delete_port(name: str) -> list[str]:
    """The `ovs-vsctl` arguments that delete a port, if it is there."""
    return ["--", "--if-exists", "del-port", name]


def vsctl(node: str, words: Sequence[str], *, wait: bool = True) -> subprocess.Popen[str]:
    """Begin one transaction; `finish` waits for it.  Without `wait` it does not wait for the
    switch to have carried it out."""
    return subprocess.Popen(
        [
            "ovs-vsctl",
            f"--db=unix:{rundir(node)}/db.sock",
            f"--timeout={TIMEOUT_S}",
            *([] if wait else ["--no-wait"]),
            "--",
            *words,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(running: Iterable[subprocess.Popen[str]]) -> None:
    """Wait for commands begun together.

    Raises LabError with what the first that failed said.
    """
    failed = ""
    for one in running:
        _, error = one.communicate()
        if one.returncode and not failed:
            failed = f"{error.strip()} ({one.args!r})"
    if failed:
        raise LabError(failed)


def ofctl(node: str, *words: str, text: str | None = None) -> str:
    """Run `ovs-ofctl` on a node's switch and return what it prints.

    Raises LabError with what the tool said.
    """
    done = subprocess.run(
        ["ovs-ofctl", *words],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment(node)},
    )
    if done.returncode:
        raise LabError(f"ovs-ofctl {' '.join(words)} on {node}: {done.stderr.strip()}")
    return done.stdout


def connected(node: str) -> bool | None:
    """Whether the switch is connected to its controller (None: it has none)."""
    one = vsctl(node, ["--columns=is_connected", "list", "Controller"])
    out, _ = one.communicate()
    return None if ":" not in out else "true" in out
