"""Frames, matches and flows by a seeded generator, for the tests that need many different ones."""

from __future__ import annotations

from random import Random

from tests import built_packets as built
from xenflow.openflow import flow as fl
from xenflow.openflow import packet as pk
from xenflow.openflow.flow import Action, Actions, Flow, Match

MAC = (0x00163E000001, 0x00163E000002, pk.BROADCAST, 0x01005E000005)
IP = (0x0A000001, 0x0A000102, 0xC0A80101, 0xE0000005)
IP6 = (0xFE80 << 112 | 1, 0x20010DB8 << 96 | 2)
NONCE = b"\x0e\1nonce!"
"""RFC 3971, section 5.3.2."""


def frames() -> list[bytes]:
    """One of each kind a switch tells apart, and several it should not stumble over."""
    a, b = IP[0], IP[1]
    udp = pk.udp(a, b, 1000, 53, b"x" * 30)
    tcp = pk.tcp(a, b, 1000, 179, b"y" * 8)
    ip = [
        pk.ipv4(a, b, 17, udp),
        pk.ipv4(a, IP[2], 17, pk.udp(a, IP[2], 5, 6), tos=0xB9),
        pk.ipv4(a, b, 6, tcp, ttl=2),
        pk.ipv4(a, b, 1, pk.icmp(8, 0, 1 << 16 | 1, b"ping")),
        pk.ipv4(a, b, 17, udp, ttl=1),
        pk.ipv4(a, b, 17, udp, ttl=0),
        pk.ipv4(a, b, 0, b"zero"),
        pk.ipv4(a, b, 17, udp, flags=pk.MORE_FRAGMENTS),
        pk.ipv4(a, b, 17, udp, frag_offset=64),
        pk.ipv4(a, IP[3], pk.OSPF, built.ospf_hello(a, 10), ttl=1),
        pk.ipv4(a, b, 17, udp, options=b"\x94\x04\0\0"),
        pk.ipv4(a, b, 17, udp[:6] + b"\0\0" + udp[8:]),
        pk.ipv4(a, b, 6, tcp[:12]),
        pk.ipv4(b, a, 17, pk.udp(b, a, 53, 1000, b"z" * 1400)),
    ]
    made = [pk.ethernet(MAC[1], MAC[0], pk.ETH_IPV4, packet) for packet in ip]
    made.append(made[0] + bytes(20))
    made.append(made[0][:24] + b"\xff\xff" + made[0][26:])
    made.append(made[0][:30])
    made.append(made[0][:16] + b"\x01\x00" + made[0][18:])
    made.append(pk.ethernet(pk.BROADCAST, MAC[0], pk.ETH_ARP, pk.arp(1, MAC[0], a, 0, b)))
    made.append(pk.ethernet(MAC[1], MAC[0], pk.ETH_ARP, pk.arp(2, MAC[0], a, MAC[1], b)))
    made.append(pk.ethernet(MAC[1], MAC[0], pk.ETH_ARP, pk.arp(2, MAC[0], a, MAC[1], b)[:20]))
    made.append(pk.ethernet(MAC[1], MAC[0], pk.ETH_IPV6, pk.ipv6(*IP6, 17, udp)))
    made.append(pk.ethernet(MAC[1], MAC[0], pk.ETH_IPV6, pk.ipv6(*IP6, 58, bytes((135, 0)) * 12)))
    made.append(built.solicitation(MAC[0], *IP6))
    made.append(built.solicitation(MAC[0], *IP6, MAC[1], NONCE + built.source_address(MAC[0])))
    made.append(pk.ethernet(MAC[1], MAC[0], 0x88CC, b"lldp"))
    made.append(pk.ethernet(MAC[1], MAC[0], 12, b"\x42\x42\x03" + bytes(9)))
    made.append(pk.ethernet(MAC[1], MAC[0], 70, b"\xaa\xaa\x03\0\0\0\x08\0" + ip[0]))
    made += [pk.vlan(frame, 5, i % 8) for i, frame in enumerate(made[:9] + made[-8:])]
    made.append(pk.vlan(pk.vlan(made[0], 7), 5))
    return made


def some_match(random: Random, frame: bytes, in_port: int) -> Match:
    """A match that `frame` fits, of some of its fields, partly masked."""
    seen = pk.fields(frame, in_port)
    names = [
        n for n in ("in_port", "dl_dst", "dl_src", "vlan_tci", "reg0") if random.random() < 0.3
    ]
    dl_type = seen["dl_type"]
    if random.random() < 0.6:
        names.append("dl_type")
        inner: list[str] = []
        if dl_type == fl.IPV4:
            inner = ["nw_src", "nw_dst", "nw_tos", "nw_ttl", "nw_frag"]
        elif dl_type == fl.ARP:
            inner = ["arp_op", "arp_spa", "arp_tpa", "arp_sha", "arp_tha"]
        elif dl_type == fl.IPV6:
            inner = ["ipv6_src", "ipv6_dst", "nw_ttl"]
        names += [n for n in inner if random.random() < 0.3]
        if dl_type in (fl.IPV4, fl.IPV6) and random.random() < 0.4:
            names.append("nw_proto")
            whole = not seen["nw_frag"] & 2
            if whole and seen["nw_proto"] in fl.TRANSPORT and random.random() < 0.6:
                names += [n for n in ("tp_src", "tp_dst") if random.random() < 0.6]
                if seen["nd_sll"] and {"tp_src", "tp_dst"} <= {*names}:
                    names += [n for n in ("nd_target", "nd_sll") if random.random() < 0.6]
    entries = []
    for name in names:
        spec = fl.FIELD[name]
        mask = None
        maskable = spec.maskable and not (name[:2] == "tp" and seen["nw_proto"] in (1, 58))
        if maskable and random.random() < 0.4:
            mask = random.getrandbits(spec.bits)
            if spec.bits >= 32 and random.random() < 0.7:
                mask = -1 << random.randrange(spec.bits) & (1 << spec.bits) - 1
        value = 0 if seen["nw_frag"] and name[:2] == "tp" else seen[name] & spec.valid
        entries.append((name, value, mask))
    return fl.canonical(entries)


def some_actions(random: Random, what: Match, tables: range, n_ports: int = 6) -> Actions:
    """Up to seven actions that go with the match; resubmits into `tables` only."""
    exact = {name: value for name, value, mask in what if mask is None}
    dl_type = exact.get("dl_type")
    made: list[Action] = []
    for _ in range(random.randrange(8)):
        choice = random.randrange(14)
        if choice <= 2:
            made.append(fl.output(random.randrange(1, n_ports + 1)))
        elif choice == 3:
            made += [fl.load("reg1", random.randrange(1, 7)), fl.output_reg("reg1")]
        elif choice <= 6 and tables:
            made.append(fl.resubmit(random.choice(tables)))
        elif choice == 7:
            made.append(fl.load("in_port", random.choice((0, 2))))
        elif choice == 8:
            made.append(fl.load_bits("reg0", random.randrange(8), 3, random.randrange(8)))
        elif choice == 9:
            made.append(fl.set_vlan(random.randrange(4096)))
        elif choice == 10:
            made.append(random.choice((fl.strip_vlan(), fl.set_dl_src(7), fl.set_dl_dst(MAC[2]))))
        elif choice == 11:
            made.append(random.choice((fl.move("dl_src", "dl_dst"), fl.output(fl.IN_PORT))))
        elif dl_type in (fl.IPV4, fl.IPV6) and random.random() < 0.5:
            made.append(fl.dec_ttl())
        elif dl_type == fl.IPV4:
            made.append(
                random.choice(
                    (
                        fl.load("nw_dst", random.getrandbits(32)),
                        fl.move("nw_dst", "nw_src"),
                        fl.load("nw_ttl", 9),
                        fl.load("nw_tos", 0x40),
                        fl.move("nw_src", "reg0"),
                    )
                )
            )
            later = any(name == "nw_frag" and value & 2 for name, value, _ in what)
            if exact.get("nw_proto") in (6, 17) and not later and random.random() < 0.5:
                name = "tcp_dst" if exact["nw_proto"] == 6 else "udp_dst"
                made.append(fl.load(name, random.choice((0, 77))))
        elif exact.get("nd_sll"):  # without it there may be no option whose type is changed
            made += [fl.load("nd_options_type", 2), fl.load("nd_reserved", 7 << 29)]
            made.append(fl.load("icmpv6_type", 136))
        elif exact.get("arp_op"):  # without it a truncated frame crashes Open vSwitch 3.1
            made += [fl.load("arp_op", 2), fl.move("arp_sha", "arp_tha"), fl.load("arp_sha", 9)]
            made.append(fl.move("arp_spa", "arp_tpa"))
    return tuple(made)


def some_flows(random: Random, n: int, n_tables: int = 5) -> list[Flow]:
    """`n` flows; no two of a table have the same priority."""
    pool = frames()
    priorities = random.sample(range(0x10000), n)
    made = []
    for priority in priorities:
        table = random.randrange(n_tables)
        what = some_match(random, random.choice(pool), random.randrange(1, 4))
        actions = some_actions(random, what, range(table + 1, n_tables))
        cookie = random.choice((0, 1, 2, random.getrandbits(63)))
        timeouts = random.choice(((0, 0), (0, 0), (30, 0), (0, 3600), (7, 8)))
        made.append(Flow(table, priority, what, actions, cookie, *timeouts))
    return made
