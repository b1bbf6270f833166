"""What is written down about the lab that is up: its state, its network, where its routers are.

Written before what it says is made, whole or not at all, so that `down` finds everything after a
crash.  Read by all that has to do with a lab: the `xenflow lab` verbs, the emulated hypervisor,
tests and measurements.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lab import made, process, switch
from lab.description import COPIES, COPY_HEADER, Lab, copy_name, load_lab
from lab.namespace import LabError
from xenflow.store.network_file import read_text

RUN_DIR = Path("/run/xenflow")
NETWORK_FILE = RUN_DIR / "network.toml"
"""Where the `xenflow` command looks for the network when it is not told."""
_STATE_FILE = process.STATE_DIR / "state.json"
_DOMAINS_FILE = process.STATE_DIR / "domains.json"
_LOCK_FILE = RUN_DIR / "lab.lock"
STORE_PORT = 6643
"""Where the lab's store listens, in the lab's own node."""
STARTING, UP, CHANGING = "starting", "up", "changing"


@dataclass(frozen=True, slots=True)
class LabOptions:
    """How a lab is brought up.

    controllers        one `./pox.py xenflow` for each; without them fixed flows (`flows.py`)
    daemon             "bird" or "frr"
    hello_s, dead_s    OSPF's times
    bgp                BGP beside OSPF (BIRD only)
    max_idle_ms, max_revalidator_ms   how long Open vSwitch keeps cached flows
    pause_s, precopy_s the emulated hypervisor's times
    limit_s            how long routing may take to converge
    keep               leave everything as it is when that fails
    store              the network lives in a store, with a planner, and follows what is applied
    members            how many servers that has, each in a node of its own
    """

    controllers: bool = True
    daemon: str = "bird"
    hello_s: int = 1
    dead_s: int = 4
    bgp: bool = False
    max_idle_ms: int = 200
    max_revalidator_ms: int = 100
    pause_s: float = 0.3
    precopy_s: float = 0.2
    limit_s: float = 30.0
    keep: bool = False
    store: bool = False
    members: int = 1


@dataclass(frozen=True, slots=True)
class State:
    """What is written down about the lab that is up.

    phase  STARTING, UP, CHANGING while `reload` is at work, or where it was left; "kept" where it
           did not come up
    """

    phase: str
    source: str
    network: str
    since: float
    options: LabOptions
    settings_before: dict[str, str] = field(default_factory=dict)
    cut: tuple[str, ...] = ()

    def write(self) -> None:
        """Keep it, whole or not at all."""
        write_json(_STATE_FILE, asdict(self))


def write_json(path: Path, value: Any) -> None:
    """Replace a file by another in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value, indent=1) + "\n")
    new.rename(path)


def read_state() -> State | None:
    """The lab that is up or was left behind, or None."""
    try:
        value = json.loads(_STATE_FILE.read_text())
        value["options"] = LabOptions(**value["options"])
        value["cut"] = tuple(value["cut"])
        return State(**value)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"{_STATE_FILE}: {error}; `xenflow lab down` sweeps it") from None


def current() -> tuple[Lab, State]:
    """The lab that is up.

    Raises LabError where none is.
    """
    state = read_state()
    if state is None:
        raise LabError("no lab is up: `xenflow lab up paper` brings one up")
    if state.phase == STARTING:
        raise LabError(
            "the lab is not up (still coming up, or left behind by a failure: "
            "`xenflow lab down` sweeps it)"
        )
    return made.with_made(load_lab(NETWORK_FILE), made.read()), state


def placed() -> dict[str, str]:
    """Where each router runs now, as the emulated hypervisor last wrote it."""
    return {name: entry["host"] for name, entry in read_domains().items()}


def read_domains() -> dict[str, dict[str, str]]:
    """Router -> {"host", "state"}, as the emulated hypervisor keeps it."""
    try:
        found: dict[str, dict[str, str]] = json.loads(_DOMAINS_FILE.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def write_domains(domains: dict[str, dict[str, str]]) -> None:
    """The same, written."""
    write_json(_DOMAINS_FILE, domains)


@contextmanager
def lock() -> Iterator[None]:
    """One change of the lab at a time."""
    RUN_DIR.mkdir(parents=True, exist_ok=True)
    with _LOCK_FILE.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LabError(
                "another `xenflow lab` command is changing the lab: try again when it has finished"
            ) from None
        yield


def store_nodes(lab: Lab, members: int) -> list[str]:
    """The nodes where the servers of the lab's store are: its own, then others that run here."""
    here = (node for node in lab.management if node not in ("operator", *lab.elsewhere))
    return list(dict.fromkeys(("lab", *here)))[:members]


def network_text(source: Path, *, store: bool = False, members: int = 1) -> str:
    """What the lab's copy of a network file says: what the file does, and where the lab's `store`
    is.  Where a switch's changes are proven by its revalidator, and its controller runs in another
    node, so that $OVS_RUNDIR is not that of the switch, it says the switch's run directory, too.

    Raises NetworkError where the file is wrong, LabError where it names a store of its own.
    """
    lab, text = load_lab(source), original_text(read_text(source))
    if lab.network.store:
        raise LabError(f"{source}: network.store: a lab has a store of its own (--store) or none")
    if store:
        nodes = store_nodes(lab, members)
        servers = ", ".join(f'"tcp:{lab.management[node]}:{STORE_PORT}"' for node in nodes)
        text = _below(r"network", f"store = [{servers}]", text, f"{source}: [network]")
    for datapath in lab.datapaths:
        node = lab.switch_node(datapath.name)
        elsewhere = node != lab.controller_node(datapath.controller)
        if datapath.proof == "revalidator" and elsewhere and not datapath.ovs_rundir:
            here = switch.rundir(node)
            header = rf"datapaths\.\"?{re.escape(datapath.name)}\"?"
            where = f"{source}: [datapaths.{datapath.name}]"
            text = _below(header, f'ovs_rundir = "{here}"', text, where)
    return f"{COPY_HEADER}{source.resolve()}\n{text}"


def original_text(text: str, options: LabOptions | None = None) -> str:
    """The text that a lab's copy of a network file was made of, but for switches' directories."""
    if not text.startswith(COPY_HEADER):
        return text
    text = text.partition("\n")[2]
    if options is not None and options.store:
        text = re.sub(rf'^store = \["tcp:[^"]*:{STORE_PORT}"\]\n', "", text, count=1, flags=re.M)
    return text


def _below(header: str, line: str, text: str, where: str) -> str:
    """A text with a line more below a table's header.  Raises LabError where it has none."""
    found = re.compile(rf"^(\[\s*{header}\s*\].*)$", re.M)
    text, count = found.subn(lambda match: f"{match.group()}\n{line}", text, count=1)
    if not count:
        raise LabError(f"{where}: expected as a table of its own, below a line of that form")
    return text


def write_network_file(text: str, lab: Lab | None = None) -> None:
    """Put the file in use where every other program finds it; with copies of the files that it
    names, where it is that of a `lab`."""
    for own in lab.own.values() if lab else ():
        copy = RUN_DIR / COPIES / copy_name(own.file)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(own.text)
    new = NETWORK_FILE.with_suffix(".new")
    new.write_text(text)
    new.rename(NETWORK_FILE)
