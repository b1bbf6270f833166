"""Brings a host into the state that the network file says, before its controller starts.

The filter on the routers' control links (a router may speak there as itself, to the Rule Table, and
to nobody else), and its bridge with the cables' ports.  What is so already stays as it is: flows
and ports of routers that run are not touched.  Called by `xenflow.service`; `bridge` and `guard`
are pure.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from xenflow import this_controller
from xenflow.model import control_link
from xenflow.model.network import Datapath, DatapathKind, Network, NetworkError
from xenflow.store.laid_file import LaidFile
from xenflow.store.network_file import load
from xenflow.store.network_rows import laid_entries
from xenflow.tables import tracked

BRIDGE = "xenflow0"
GUARD_FILE = "/var/lib/xenflow/guard.nft"
"""The filter as it was loaded last: nftables.service, which empties the whole ruleset, puts it back
from there (`nftables-xenflow.conf`)."""
NETWORK_FILE = "/etc/xenflow/network.toml"
DEFAULTS_FILE = "/etc/default/xenflow"
"""What the unit reads before it starts the controller: NAME=VALUE lines, systemd.exec(5)."""
STATE_FOLDER = "/var/lib/xenflow"
"""Where the controller keeps what it has, as the unit starts it."""
INACTIVITY_MS = 30_000
"""How long a controller that answers nothing is kept: it may be short of the processor while
domains are built, and who it has lost reads all flows again.  Its end is noticed at once."""
_TIMEOUT_S = 60


def datapath(network: Network, controller: str) -> Datapath:
    """The host that a controller looks after.

    Raises NetworkError unless there is exactly one.
    """
    found = [d for d in network.datapaths_of(controller) if d.kind is DatapathKind.HOST]
    if len(found) != 1:
        names = ", ".join(d.name for d in found) or "none"
        raise NetworkError(f"controller {controller}: expected one host, found {names}")
    return found[0]


def as_laid(network: Network, state: str = STATE_FOLDER) -> Network:
    """The network that the controller here starts with: where the file says that it lives in a
    store, what the store laid last; else, or while nothing is kept, the file's.

    Raises NetworkError where what is kept cannot be read.
    """
    laid = LaidFile(Path(state), network.name).load() if network.store else None
    return network if laid is None else laid_entries(laid.own, network, alone=True)


def named_here(defaults: str = DEFAULTS_FILE) -> str:
    """Which controller the operator says that this host's is: XENFLOW_CONTROLLER in the
    environment, as the unit sets it, else in the unit's own file, for whoever calls by hand; ""
    where neither says."""
    if "XENFLOW_CONTROLLER" in os.environ:
        return os.environ["XENFLOW_CONTROLLER"]
    found = ""
    with suppress(OSError), open(defaults, encoding="utf-8") as lines:
        for line in lines:
            name, _, value = line.strip().partition("=")
            if name.strip() == "XENFLOW_CONTROLLER":
                found = value.strip().strip("\"'")
    return found


def bridge(network: Network, here: Datapath) -> list[str]:
    """The command that makes the bridge as the network file says.

    The controller is a *service*: Open vSwitch deletes all flows of a bridge that gets its first
    primary controller or loses its last one (connmgr_set_controllers), so also when it stops
    waiting for flows to be restored (`scripts/restart-openvswitch`).  A service is told of what
    happens once it has sent OFPT_SET_CONFIG, as ours does.
    """
    address, port = network.controllers[here.controller].openflow
    shown = f"[{address}]" if ":" in address else address
    words = ["ovs-vsctl", f"--timeout={_TIMEOUT_S}", "--", "--may-exist", "add-br", BRIDGE]
    words += ["--", "set", "Bridge", BRIDGE, "fail_mode=secure", "protocols=OpenFlow10"]
    words += [f"other_config:datapath-id={here.dpid:016x}", "other_config:disable-in-band=true"]
    words += tracked.vsctl_words(BRIDGE)
    words += ["--", "set-controller", BRIDGE, f"tcp:{shown}:{port}"]
    words += ["--", "set", "Controller", BRIDGE, "type=service", "connection_mode=out-of-band"]
    words += ["max_backoff=1000", f"inactivity_probe={INACTIVITY_MS}"]
    for name, vlan in _ports(network, here):
        words += ["--", "--may-exist", "add-port", BRIDGE, name]
        words += ["--", "set", "Port", name, f"tag={vlan}"] if vlan else []
    return words


def nics(network: Network, here: Datapath) -> list[str]:
    """The commands that switch the cables' and access ports' interfaces on."""
    return [f"link set dev {name} up" for name, _ in _ports(network, here)]


def _ports(network: Network, here: Datapath) -> Iterator[tuple[str, int]]:
    """The cables' ports, each with 0, and the access ports with their VLAN."""
    for cable in network.cables_of[here.name]:
        yield cable.near(here.name).port, 0
    for link in network.links.values():
        for access in link.access:
            if access.end.datapath == here.name:
                yield access.end.port, link.vlan


def guard(network: Network) -> str:
    """nftables rules for the control link of every router of the network, wherever it is now."""
    routers = network.routers.values()
    if not routers:
        return "add table inet xenflow\ndelete table inet xenflow\n"
    links = ", ".join(f'"{router.control_vif}"' for router in routers)
    senders = ", ".join(
        f'"{r.control_vif}" . {control_link.mac(r)} . {control_link.address(r)}' for r in routers
    )
    here, port = control_link.RULE_TABLE_ADDRESS, control_link.RULE_TABLE_PORT
    return f"""\
add table inet xenflow
delete table inet xenflow
table inet xenflow {{
    set links {{
        type ifname
        elements = {{ {links} }}
    }}
    set senders {{
        type ifname . ether_addr . ipv6_addr
        elements = {{ {senders} }}
    }}
    chain from-router {{
        ip6 daddr {here} tcp dport {port} accept
        ip6 daddr {{ {here}, ff02::1:ff00:1 }} ip6 hoplimit 255 \
icmpv6 type nd-neighbor-solicit accept
        ip6 daddr {here} ip6 hoplimit 255 icmpv6 type nd-neighbor-advert accept
    }}
    chain input {{
        type filter hook input priority -10; policy accept;
        iifname != @links accept
        iifname . ether saddr . ip6 saddr @senders jump from-router
        drop
    }}
    chain forward {{
        type filter hook forward priority -10; policy accept;
        iifname @links drop
        oifname @links drop
    }}
}}
"""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python3 -m xen.dom0.host",
        description=__doc__.partition("\n\n")[0],
        epilog="exit status: 0 done, 1 failed, 2 wrong usage",
    )
    parser.add_argument(
        "--network",
        metavar="FILE",
        default=NETWORK_FILE,
        help=f"the network file (default {NETWORK_FILE})",
    )
    parser.add_argument(
        "--controller",
        metavar="NAME",
        help="which of its controllers this is (default: XENFLOW_CONTROLLER, from the environment "
        f"or {DEFAULTS_FILE}, else as pox.py decides)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done")
    options = parser.parse_args(arguments)
    try:
        network = as_laid(load(options.network))
        wanted = named_here() if options.controller is None else options.controller
        here = datapath(network, this_controller(network, wanted))
    except NetworkError as error:
        print(f"xen.dom0.host: {error}", file=sys.stderr)
        return 1
    rules = guard(network)
    steps: list[tuple[list[str], str]] = [
        # First: an interface that is missing must not leave the control links without it.
        (["nft", "-f", "-"], rules),
        (["dd", f"of={GUARD_FILE}", "status=none"], rules),
        (bridge(network, here), ""),
        (["ip", "-batch", "-"], "".join(line + "\n" for line in nics(network, here))),
    ]
    for words, text in steps:
        if options.dry_run:
            print(shlex.join(words) + (f" <<END\n{text}END" if text else ""))
        elif not _run(words, text):
            return 1
    return 0


def _run(words: list[str], text: str) -> bool:
    try:
        done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        print(f"xen.dom0.host: {words[0]} is not installed", file=sys.stderr)
        return False
    if done.returncode:
        print(f"xen.dom0.host: {words[0]}: {done.stderr.strip()}", file=sys.stderr)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
