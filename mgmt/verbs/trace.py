"""`xenflow trace`: what would become of a packet, switch by switch and table by table, in words.

Nothing is sent: each switch's controller looks the packet up in the flows it has installed, and
what leaves by a cable is looked up at its other end (`mgmt.journey`).
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from typing import Any

import netaddr

from mgmt import journey
from mgmt.journey import Hop, Journey
from mgmt.session import ManagementSession, UsageError
from mgmt.verbs import Exit, add_json, emit

NAME = "trace"
SUMMARY = "what would become of a packet in the network, each decision explained"

PROTOCOLS = {"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "gre": 47, "icmpv6": 58, "ospf": 89}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "start",
        metavar="ROUTER|DATAPATH:PORT",
        help="the router that the packet comes to, or the port that it comes in by",
    )
    parser.add_argument(
        "packet",
        metavar="PACKET",
        type=packet,
        help="such as src=10.0.1.2,dst=10.0.2.2,ttl=64,proto=udp,sport=5000,dport=53,link=left; "
        "keys: " + ", ".join(_KEYS),
    )
    parser.add_argument("--on", metavar="HOST", help="as this host would (default: where it is)")
    add_json(parser)


def run(args: Namespace, session: ManagementSession) -> int:
    sent = args.packet
    if "link" in sent:
        session.link(sent["link"])
    datapath, colon, port = args.start.partition(":")
    if colon and args.on:
        raise UsageError("--on is of a ROUTER; DATAPATH:PORT names the switch already")
    if colon:
        session.datapath(datapath)
        in_port: str | int = int(port) if port.isdigit() else port
        answer = session.ask_datapath(
            datapath, "trace", datapath=datapath, in_port=in_port, packet=sent
        )
    elif args.on:
        session.router(args.start)
        session.host(args.on)
        about = {"router": args.start, "datapath": args.on, "packet": sent}
        answer = session.ask_datapath(args.on, "trace", **about)
    else:
        answer = session.ask_router(args.start, "trace", packet=sent)

    def look(datapath: str, port: str, frame: bytes) -> dict[str, Any]:
        return session.ask_datapath(datapath, "trace", datapath=datapath, in_port=port, frame=frame)

    found = journey.follow(session.network, answer, look)
    emit(args, {"packet": sent, **found.json()}, _text(found))
    return Exit.OK if found.complete else Exit.FAILED


def packet(text: str) -> dict[str, Any]:
    """PACKET as the management messages carry it.  Raises ArgumentTypeError."""
    found: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if key not in _KEYS or not equals:
            raise ArgumentTypeError(f"{item!r}: expected KEY=VALUE, KEY one of {', '.join(_KEYS)}")
        name, read, expected = _KEYS[key]
        if name in found:
            raise ArgumentTypeError(f"{key}: given twice")
        try:
            found[name] = read(value)
        except (ValueError, netaddr.AddrFormatError):
            raise ArgumentTypeError(f"{key}: expected {expected}, found {value!r}") from None
    if "nw_dst" not in found:
        raise ArgumentTypeError("dst=ADDRESS is missing")
    if "nw_src" in found and (":" in found["nw_src"]) != (":" in found["nw_dst"]):
        raise ArgumentTypeError("src and dst: one is an IPv4 address, the other an IPv6 address")
    return found


def _within(highest: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = int(text, 0)
        if not 0 <= number <= highest:
            raise ValueError
        return number

    return read


def _address(text: str) -> str:
    return str(netaddr.IPAddress(text, flags=netaddr.INET_PTON))


def _mac(text: str) -> str:
    mac = netaddr.EUI(text, version=48, dialect=netaddr.mac_unix_expanded)
    if not int(mac):
        raise ValueError  # nobody's (IEEE 802, 8.2.2)
    return str(mac)


def _protocol(text: str) -> int:
    return PROTOCOLS[text] if text in PROTOCOLS else _within(255)(text)


def _yes_or_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError
    return text == "yes"


_Key = tuple[str, Callable[[str], Any], str]
_KEYS: dict[str, _Key] = {
    "src": ("nw_src", _address, "an IPv4 or IPv6 address"),
    "dst": ("nw_dst", _address, "an IPv4 or IPv6 address"),
    "ttl": ("nw_ttl", _within(255), "0 to 255"),
    "proto": ("nw_proto", _protocol, f"0 to 255 or {', '.join(PROTOCOLS)}"),
    "sport": ("tp_src", _within(65535), "0 to 65535"),
    "dport": ("tp_dst", _within(65535), "0 to 65535"),
    "tos": ("nw_tos", _within(255), "0 to 255"),
    "link": ("link", str, "a link's name"),
    "smac": ("dl_src", _mac, "a station's MAC address"),
    "dmac": ("dl_dst", _mac, "a station's MAC address"),
    "type": ("dl_type", _within(65535), "an EtherType"),
    "vlan": ("dl_vlan", _within(4095), "0 to 4095"),
    "fragment": ("fragment", _yes_or_no, "yes or no"),
}


def _text(found: Journey) -> str:
    lines: list[str] = []
    for number, hop in enumerate(found.hops, 1):
        lines += [f"{number}. {hop.datapath}, {hop.came}", *(f"   {line}" for line in _steps(hop))]
    return "\n".join([*lines, f"outcome: {found.outcome}"])


def _steps(hop: Hop) -> Iterator[str]:
    for step in hop.answer.get("steps", ()):
        table = step.get("table")
        where = step.get("name") if table is None else f"table {table} {step.get('name')}"
        yield f"{where}: {step.get('explanation')}"
        if step.get("flow"):
            owner = f"of {step['owner']}: " if "owner" in step else ""
            yield f"    {owner}{step['flow']}"
    yield f"=> {hop.answer.get('outcome')}"
