"""`python -m routerd`: the command line."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from typing import Any

from routerd.daemon import Daemon, DaemonOptions, read_once
from routerd.rule_table_link import endpoint
from xenflow.routes.family import FAMILIES, V4, V6, prefix_text
from xenflow.routes.router_state import RouterState

DESCRIPTION = """\
Watches the routes, next hops, neighbours and interfaces of this virtual router's kernel and tells
the Rule Table, in the Domain 0 of whatever host the router runs on, so that the host's switch can
forward for it.  Whatever writes the routes (BIRD, FRR, an operator) need not know of it."""

EPILOG = """\
what it needs
  Root (CAP_NET_ADMIN), to keep neighbours resolved and to enlarge its netlink buffers.  A control
  interface with an IPv6 link-local address, to nothing but the Rule Table.  Neither needs to be
  there at the start: routerd waits for both, and finds the Rule Table again after a move.

what it tells
  For every prefix the route that the kernel would use: of several the one with the lowest metric,
  without legs that are dead.  Gateways are kept resolved (NTF_EXT_MANAGED, from Linux 5.16 on).
  Where the main table alone does not decide, it says so, and the router's packets go through the
  VM: further ip rules, routes by TOS, IPv4 forwarding off, rp_filter (set it to 0), nftables
  or iptables rules, IPsec policies, VRFs and bridges, traffic control (ingress, and queueing
  disciplines that hold packets back), BPF programs at XDP, tcx or netfilter.

what it leaves out
  The control interface with its routes, addresses and neighbours.

signals
  SIGTERM, SIGINT: neighbours are released and routerd ends; the Rule Table keeps the routes.

exit status
  0 ended by a signal, or state printed; 1 netlink refused; 2 wrong usage.

examples
  python -m routerd --control ctl0 --router vr1
  python -m routerd --control ctl0 --router vr1 --dump | jq .nexthops
  python -m routerd --control ctl0 --router vr1 --dry-run"""


def _router(value: str) -> str:
    if not 1 <= len(value.encode()) <= 16 or not value.isprintable():
        raise argparse.ArgumentTypeError(f"{value!r}: 1 to 16 octets, printable")
    return value


def _interface(value: str) -> str:
    if not 1 <= len(value.encode()) <= 15:
        raise argparse.ArgumentTypeError(f"{value!r}: an interface name has 1 to 15 octets")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line's description."""
    made = argparse.ArgumentParser(
        prog="python -m routerd",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--control",
        metavar="IF",
        type=_interface,
        required=True,
        help="the interface to the Rule Table",
    )
    made.add_argument(
        "--router",
        metavar="NAME",
        type=_router,
        required=True,
        help="this router's name in the network's description",
    )
    made.add_argument(
        "--peer",
        metavar="ADDRESS",
        default="fe80::1",
        help="the Rule Table's address, the same on every host (default fe80::1)",
    )
    made.add_argument(
        "--port", metavar="N", type=int, default=6641, help="its TCP port (default 6641)"
    )
    made.add_argument(
        "--log-level",
        metavar="LEVEL",
        default="info",
        choices=("debug", "info", "warning", "error"),
        help="debug, info, warning or error (default info); one line each, on stderr",
    )
    made.add_argument(
        "--receive-buffer",
        metavar="BYTES",
        type=int,
        default=32 << 20,
        help="for notifications of the kernel (default 32 MiB)",
    )
    made.add_argument(
        "--carrier-grace",
        metavar="SECONDS",
        type=float,
        default=5.0,
        help="how long neighbours count as resolved after the carrier was lost, as it is in every"
        " live migration (default 5)",
    )
    made.add_argument(
        "--no-keep-neighbours",
        action="store_true",
        help="do not have the kernel keep gateways resolved",
    )
    made.add_argument(
        "--dump", "--once", action="store_true", help="print the state as JSON and end"
    )
    made.add_argument(
        "--dry-run",
        action="store_true",
        help="connect to nothing, change nothing; print every change as it would be told",
    )
    return made


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    options = parser().parse_args(arguments)
    logging.basicConfig(
        level=options.log_level.upper(),
        format=f"%(asctime)s routerd[{options.router}] %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    state = None
    try:
        if options.dump:
            state = read_once(options.control)
        else:
            daemon = Daemon(
                DaemonOptions(
                    options.control,
                    options.router,
                    endpoint(options.peer, options.control, options.port),
                    options.dry_run,
                    options.receive_buffer,
                    not options.no_keep_neighbours,
                    options.carrier_grace,
                )
            )
            signal.signal(signal.SIGTERM, daemon.stop)
            signal.signal(signal.SIGINT, daemon.stop)
            daemon.run()
    except OSError as error:
        logging.error("netlink-refused error=%r", str(error))
        return 1
    if state is not None:
        json.dump(as_json(state), sys.stdout, indent=1)
        print()
    return 0


def _mac(value: int) -> str:
    return value.to_bytes(6, "big").hex(":") if value else ""


def as_json(state: RouterState) -> dict[str, Any]:
    """The state for people and scripts: addresses and MACs as text."""
    return {
        "slow": state.policy.slow_of(V4),
        "slow6": state.policy.slow_of(V6),
        "remarks": [remark.words for remark in state.policy.remarks],
        "interfaces": [
            {"ifindex": i.ifindex, "name": i.name, "mac": _mac(i.mac), "mtu": i.mtu}
            | {"up": bool(i.flags & 1), "running": bool(i.flags & 2)}
            | {"forwarding": bool(i.flags & 4), "forwarding6": bool(i.flags & 8)}
            for i in state.interfaces.values()
        ],
        "locals": [
            {"prefix": f"{FAMILIES[r.family].text(r.address)}/{r.length}", "ifindex": r.ifindex}
            for r in state.locals.values()
        ],
        "nexthops": [
            {"id": n.id, "type": n.type.name.lower(), "ifindex": n.ifindex}
            | {"gateway": FAMILIES[n.family].text(n.gateway) if n.gateway else ""}
            | {"mac": _mac(n.mac), "routes": state.uses[n.id]}
            | {
                "legs": [
                    {"id": leg.leg, "weight": leg.weight}
                    for leg in state.legs.get(n.id, {}).values()
                ]
            }
            for n in state.nexthops.values()
        ],
        "neighbours": [
            {
                "ifindex": n.ifindex,
                "address": FAMILIES[n.family].text(n.address),
                "mac": _mac(n.mac),
            }
            for n in state.neighbours.values()
        ],
        "routes": [
            {"prefix": prefix_text(key >> 8, key & 0xFF), "nexthop": nexthop}
            for key, nexthop in state.routes.items()
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
