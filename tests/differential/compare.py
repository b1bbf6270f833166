"""What left both routers, laid side by side.

Frames are compared as they are but for what two kernels may well do differently: the id of a
packet that a router itself made, the time in a timestamp reply, and padding.  Which of several
equal next hops is taken is each router's own affair.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from tests.differential.cases import MARK, FrameCase, untellable
from tests.differential.cases6 import LABEL
from tests.differential.configurations import Both
from tests.differential.rig import REFERENCE, XENFLOW, BatchOutcome, router_mac
from xenflow.openflow import packet as pk

Left = Counter[tuple[int, bytes]]
"""(port, frame) -> how often."""


Idents = dict[tuple[int, int], int]
"""(family, IP id or flow label) -> the id of a case."""


@dataclass(slots=True)
class Difference:
    """One case that the two routers did not treat alike."""

    case: FrameCase | None
    kernel: Left
    xenflow: Left

    def __str__(self) -> str:
        if self.case is None:
            head = "frames that belong to no case"
        else:
            head = (
                f"case {self.case.id} ({self.case.kind}), into port {self.case.port}:\n"
                f"    {show(self.case.frame)}"
            )
        return f"{head}\n  kernel:\n{_lines(self.kernel)}\n  XenFlow:\n{_lines(self.xenflow)}"


@dataclass(slots=True)
class Report:
    """What came of comparing."""

    cases: Counter[int] = field(default_factory=Counter)
    """By family; and so are these."""
    answered: Counter[int] = field(default_factory=Counter)
    other_leg: Counter[int] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    untellable: Counter[str] = field(default_factory=Counter)
    """By reason, how many were sent."""
    tolerated: Counter[str] = field(default_factory=Counter)
    """By reason, how many of those were treated differently."""

    def __str__(self) -> str:
        reasons = "; ".join(
            f"{reason}: {count} sent, {self.tolerated[reason]} treated differently"
            for reason, count in self.untellable.items()
            if reason
        )
        counts = ", ".join(
            f"IPv{family}: {count} cases, {self.answered[family]} answered, "
            f"{self.other_leg[family]} by another leg"
            for family, count in sorted(self.cases.items())
        )
        return f"{counts}; {len(self.differences)} differ; {reasons}"

    def add(self, other: Report) -> None:
        """Count another report in."""
        self.cases += other.cases
        self.answered += other.answered
        self.other_leg += other.other_leg
        self.differences += other.differences
        self.untellable += other.untellable
        self.tolerated += other.tolerated


def compare(cases: Iterable[FrameCase], outcome: BatchOutcome, config: Both) -> Report:
    """Lay what came out side by side."""
    report = Report()
    sent = list(cases)
    idents = {
        (case.family, case.id & (LABEL if case.family == 6 else 0xFFFF)): case.id for case in sent
    }
    left = {side: _by_case(outcome.frames[side], config, idents) for side in (REFERENCE, XENFLOW)}
    for case in sent:
        report.cases[case.family] += 1
        kernel = left[REFERENCE].pop(case.id, Counter())
        xenflow = left[XENFLOW].pop(case.id, Counter())
        report.answered[case.family] += bool(kernel)
        reason = untellable(case.frame)
        report.untellable[reason] += bool(reason)
        if kernel == xenflow:
            continue
        if _another_leg(kernel, xenflow, config):
            report.other_leg[case.family] += 1
        elif reason and _as_if_it_were_sound(normal(case.frame, config), xenflow):
            report.tolerated[reason] += 1
        else:
            report.differences.append(Difference(case, kernel, xenflow))
    rest = [Counter[tuple[int, bytes]](), Counter[tuple[int, bytes]]()]
    for total, side in zip(rest, (REFERENCE, XENFLOW), strict=True):
        for counted in left[side].values():
            total.update(counted)
    if rest[0] != rest[1]:
        report.differences.append(Difference(None, rest[0] - rest[1], rest[1] - rest[0]))
    return report


def _by_case(frames: Iterable[tuple[int, bytes]], config: Both, idents: Idents) -> dict[int, Left]:
    """The frames by the id of their case; those without one under -1."""
    found: dict[int, Left] = defaultdict(Counter)
    for port, frame in frames:
        found[_case_of(frame, config, idents)][port, normal(frame, config)] += 1
    return found


def _case_of(frame: bytes, config: Both, idents: Idents) -> int:
    """The id that a frame carries: a mark in it, or the IP id or flow label of what only passed."""
    at = frame.find(MARK)
    if at >= 0 and len(frame) >= at + 7:
        return int(struct.unpack_from("!I", frame, at + 3)[0])
    seen = pk.parse(frame)
    at = seen.l3
    if seen.dl_type == pk.ETH_IPV6 and len(frame) >= at + 40 and not config.is_own(_source6(frame)):
        return idents.get((6, int.from_bytes(frame[at : at + 4], "big") & LABEL), -1)
    passed = not config.is_own(seen.nw_src)
    if seen.dl_type == pk.ETH_IPV4 and seen.end >= at + 20 and passed:
        return idents.get((4, frame[at + 4] << 8 | frame[at + 5]), -1)
    return -1


def _source6(frame: bytes) -> int:
    """The source of an IPv6 packet, also of one whose headers break off."""
    at = pk.parse(frame).l3
    return int.from_bytes(frame[at + 8 : at + 24], "big")


def normal(frame: bytes, config: Both) -> bytes:
    """The frame without what may differ."""
    seen = pk.parse(frame)
    if seen.dl_type == pk.ETH_ARP:
        return frame[: seen.l3 + 28]
    if seen.dl_type == pk.ETH_IPV6 and len(frame) >= seen.l3 + 40:
        return _normal6(frame, seen.l3, config)
    if seen.dl_type != pk.ETH_IPV4 or seen.end < seen.l3 + 20:
        return frame
    body = bytearray(frame[: seen.end])
    at = seen.l3
    timed = _forget_times(body, at)
    if config.is_own(seen.nw_src):
        body[at + 4 : at + 6] = body[at + 10 : at + 12] = b"\0\0"
    if seen.nw_proto == 1 and seen.l4:
        kind, quoted = body[seen.l4], seen.l4 + 8
        if kind == 14:
            body[quoted : quoted + 12] = bytes(12)
        if kind == 14 or (len(body) >= quoted + 20 and _forget_times(body, quoted)) or timed:
            body[seen.l4 + 2 : seen.l4 + 4] = b"\0\0"
    return bytes(body)


def _normal6(frame: bytes, at: int, config: Both) -> bytes:
    end = at + 40 + (frame[at + 4] << 8 | frame[at + 5])
    body = bytearray(frame[:end])
    if frame[at + 6] == 44 and config.is_own(_source6(frame)):
        body[at + 44 : at + 48] = bytes(4)
    return bytes(body)


def _forget_times(body: bytearray, at: int) -> bool:
    """Clear what a timestamp option holds (RFC 791), with the checksum; whether there is one."""
    here, end = at + 20, at + (body[at] & 15) * 4
    while here + 2 <= min(end, len(body)):
        size = body[here + 1] if body[here] > 1 else 1
        if body[here] == 0x44 and size >= 4:
            body[here + 4 : here + size] = bytes(len(body[here + 4 : here + size]))
            body[at + 10 : at + 12] = b"\0\0"
            return True
        here += max(1, size)
    return False


def _another_leg(kernel: Left, xenflow: Left, config: Both) -> bool:
    """Whether both sent the same packet to equal next hops."""
    if kernel.total() != 1 or xenflow.total() != 1:
        return False
    (k_port, k_frame), (x_port, x_frame) = next(iter(kernel)), next(iter(xenflow))
    ends = {(k_port, k_frame[:6]), (x_port, x_frame[:6])}
    for group in (*config.v4.groups, *config.v6.groups):
        legs = {
            (port, (config.station(port, gateway) or 0).to_bytes(6, "big"))
            for port, gateway in group
        }
        if ends <= legs and k_frame[12:] == x_frame[12:]:
            return x_frame[6:12] == router_mac(x_port).to_bytes(6, "big")
    return False


def _as_if_it_were_sound(sent: bytes, xenflow: Left) -> bool:
    """Whether XenFlow did nothing worse than forward it as it was."""
    if not xenflow:
        return True
    if xenflow.total() != 1:
        return False
    (_, frame) = next(iter(xenflow))
    was, now = pk.parse(sent), pk.parse(frame)
    if was.dl_type == pk.ETH_IPV6:
        before, after = sent[was.l3 :], frame[now.l3 :]
        return before[:7] + before[8:] == after[:7] + after[8:] and before[7] == after[7] + 1
    return frame[now.l3 + 20 :] == sent[was.l3 + 20 :][: len(frame) - now.l3 - 20]


# --------------------------------------------------------------------------------------------
# For people


def show(frame: bytes) -> str:
    """A frame in words and in hex."""
    seen = pk.parse(frame)
    words = [f"{seen.dl_src:012x} > {seen.dl_dst:012x}", f"type {seen.dl_type:#06x}"]
    if seen.vlan_tci:
        words.append(f"vlan {seen.vlan_tci & 0xFFF}")
    if seen.dl_type == pk.ETH_IPV4:
        words.append(
            f"{_dotted(seen.nw_src)} > {_dotted(seen.nw_dst)} proto {seen.nw_proto} "
            f"ttl {seen.nw_ttl} frag {seen.nw_frag} {seen.tp_src}/{seen.tp_dst}"
        )
    elif seen.dl_type == pk.ETH_IPV6:
        words.append(
            f"{IPv6Address(seen.ipv6_src)} > {IPv6Address(seen.ipv6_dst)} proto {seen.nw_proto} "
            f"hops {seen.nw_ttl} frag {seen.nw_frag} {seen.tp_src}/{seen.tp_dst}"
        )
    elif seen.dl_type == pk.ETH_ARP:
        words.append(f"op {seen.arp_op} {_dotted(seen.arp_spa)} asks {_dotted(seen.arp_tpa)}")
    cut = frame.hex() if len(frame) <= 120 else f"{frame[:110].hex()}... ({len(frame)} bytes)"
    return f"{', '.join(words)}\n    {cut}"


def _dotted(address: int) -> str:
    return ".".join(str(byte) for byte in address.to_bytes(4, "big"))


def _lines(left: Left) -> str:
    lines = [f"    {n} x port {port}: {show(frame)}" for (port, frame), n in left.items()]
    return "\n".join(lines) or "    nothing"
