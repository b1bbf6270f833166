"""Records netlink datagrams of this kernel into netlink_samples.txt, for test_netlink.py.

unshare -n python tests/routerd/record_netlink.py       (root)
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "pox_ext")]

from routerd import rtnetlink as rt  # noqa: E402
from routerd.netlink_socket import NetlinkListener, Requests  # noqa: E402

SETUP = """
link set lo up
link add name eth0 type veth peer name p0
link add name eth1 type veth peer name p1
link set eth0 address 02:00:00:00:00:10 up
link set eth1 address 02:00:00:00:00:11 up
link set p0 up
link set p1 up
addr add 10.0.0.1/24 dev eth0
addr add 10.0.1.1/24 dev eth1
nexthop add id 4 via 10.0.0.3 dev eth0
nexthop add id 5 via 10.0.1.2 dev eth1
nexthop add id 6 group 4/5,3
nexthop add id 7 blackhole
route add default via 10.0.0.2
route add 10.20.0.0/16 nhid 5
route add 10.21.0.0/16 nhid 6
route add 10.22.0.0/16 via 10.0.1.2 metric 32
route add 10.22.0.0/16 via 10.0.0.2 metric 20
route add 10.23.0.0/16 nexthop via 10.0.0.2 weight 2 nexthop via 10.0.1.3
route add 10.24.0.0/16 via 10.0.0.2 mtu lock 1000
route add 10.25.0.0/16 via inet6 fe80::9 dev eth0
route add 10.26.0.0/16 tos 8 via 10.0.0.2
route add blackhole 10.27.0.0/16
route add unreachable 10.28.0.0/16
route add prohibit 10.29.0.0/16
route add throw 10.30.0.0/16
route add 10.31.0.0/16 dev eth1
route add 10.32.0.0/16 encap ip id 7 dst 10.0.0.9 via 10.0.0.2 dev eth0
route add 10.33.0.0/16 via 10.77.0.1 dev eth1 onlink
neigh add 10.0.0.2 lladdr 02:aa:00:00:00:02 dev eth0
neigh add 10.0.0.3 lladdr 02:aa:00:00:00:03 nud stale dev eth0
neigh add 10.0.1.2 dev eth1 managed
rule add from 10.9.0.0/16 lookup 7
addr add 2001:db8::1/64 dev eth0 nodad
addr add 2001:db8:1::1/64 dev eth1 nodad
nexthop add id 14 via fe80::5 dev eth0
nexthop add id 15 via 2001:db8:1::5 dev eth1
nexthop add id 16 group 14/15,3
route add 10.34.0.0/16 nexthop via inet6 fe80::9 dev eth0 nexthop via 10.0.1.2
route add 10.35.0.0/16 nhid 14
neigh add fe80::9 lladdr 02:aa:00:00:00:09 dev eth0
"""
SETUP6 = """
nexthop add id 17 blackhole
route add default via fe80::9 dev eth0
route add 2001:db8:20::/48 nhid 15
route add 2001:db8:21::/48 nhid 16
route add 2001:db8:22::/48 nhid 17
route add 2001:db8:23::/48 nexthop via 2001:db8::2 weight 2 nexthop via fe80::9 dev eth1
route add 2001:db8:24::/48 via fe80::9 dev eth0 mtu 1300
route add 2001:db8:25::/48 via fe80::9 dev eth0 metric 30
route add 2001:db8:25::/48 via fe80::9 dev eth1 metric 20
route add 2001:db8:26::/48 via fe80::9 dev eth0
route append 2001:db8:26::/48 dev eth1
route add 2001:db8:27::/48 from 2001:db8:f::/48 via fe80::9 dev eth0
route add blackhole 2001:db8:28::/48
route add unreachable 2001:db8:29::/48
route add prohibit 2001:db8:2a::/48
route add throw 2001:db8:2b::/48
route add 2001:db8:2c::/48 dev eth1
route add 2001:db8:2d::/48 via fe80::9 dev eth0 expires 100
route add 2001:db8:2e::/48 via fe80::9 dev eth0 expires 1
route add 2001:db8:2f::/48 encap seg6 mode encap segs 2001:db8::9 dev eth0
rule add from 2001:db8:f::/48 lookup 7
"""
CHANGES = (
    "route add 10.40.0.0/16 via 10.0.0.2",
    "route del 10.40.0.0/16",
)
CHANGES6 = (
    "route add 2001:db8:40::/48 via fe80::9 dev eth0",
    "route append 2001:db8:40::/48 via fe80::9 dev eth1",
    "route append 2001:db8:40::/48 via 2001:db8::2",
    "route del 2001:db8:40::/48 via fe80::9 dev eth0",
    "route replace 2001:db8:40::/48 nexthop via fe80::9 dev eth0 nexthop via fe80::9 dev eth1",
    "route del 2001:db8:40::/48",
    "route add 2001:db8:40::/48 via fe80::9 dev eth0",
    "route append 2001:db8:40::/48 dev eth1",
)

DUMPS = {
    "links": rt.get_all(rt.RTM_GETLINK),
    "netconf": rt.get_all(rt.RTM_GETNETCONF, rt.AF_INET),
    "nexthops": rt.get_all(rt.RTM_GETNEXTHOP),
    "rules": rt.get_all(rt.RTM_GETRULE, rt.AF_INET),
    "main": rt.get_routes(rt.AF_INET, rt.TABLE_MAIN),
    "local": rt.get_routes(rt.AF_INET, rt.TABLE_LOCAL),
    "neighbours": rt.get_all(rt.RTM_GETNEIGH, rt.AF_INET),
    "netconf6": rt.get_all(rt.RTM_GETNETCONF, rt.AF_INET6),
    "rules6": rt.get_all(rt.RTM_GETRULE, rt.AF_INET6),
    "main6": rt.get_routes(rt.AF_INET6, rt.TABLE_MAIN),
    "local6": rt.get_routes(rt.AF_INET6, rt.TABLE_LOCAL),
    "neighbours6": rt.get_all(rt.RTM_GETNEIGH, rt.AF_INET6),
}


def batch(commands: str, *family: str) -> None:
    """Commands of `ip`, one a line, none of which may say its family."""
    subprocess.run(["ip", *family, "-force", "-batch", "-"], input=commands, text=True, check=False)


def main() -> None:
    """Set up, dump, write."""
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
    batch(SETUP)
    time.sleep(2)  # until the links have their link-local addresses
    batch(SETUP6, "-6")
    time.sleep(2)  # until a route has expired
    lines = []
    for name, request in DUMPS.items():
        lines += [f"{name} {data.hex()}" for data in Requests().datagrams(request)]
    listener = NetlinkListener(rt.NETLINK_ROUTE, rt.GROUPS, 1 << 20)
    for name, family, commands in (("event", "-4", CHANGES), ("event6", "-6", CHANGES6)):
        for command in commands:
            subprocess.run(["ip", family, *command.split()], check=True)
        found, _ = listener.drain(99)
        lines += [
            f"{name} {rt.request(m.type, m.flags, m.seq, m.body).hex()}"
            for m in found
            if m.type in (rt.RTM_NEWROUTE, rt.RTM_DELROUTE)
        ]
    Path(__file__).with_name("netlink_samples.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
