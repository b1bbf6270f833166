"""A router's sessions that fall while it is suspended, as its own packets show them: BFD and BGP.

Nobody can answer for the VM in these: BFD's packets come many a second and say who is alive, BGP's
are TCP.  So the operator is told, before a move, how long the neighbour waits and whether the
expected suspension is longer (`mgmt.planning`).  The switch sends up a session's packets until what
is wanted has been read, then none for QUIET_S (table INGRESS).  What BFD says is read twice
first: a session that begins is down, and then up at the slow rate of one that is not.

Sources: RFC 5880, sections 4.1 and 6.8.4 (BFD), RFC 5881 and 5883 (its ports); RFC 4271, sections
4.2 and 4.4 (BGP).  Called by `vm.packets`; time is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from xenflow.openflow import packet as pk
from xenflow.routes.family import FAMILIES, is_link_local
from xenflow.tables.families import MATCHED, family_in

UDP, TCP = 17, 6
BFD_PORTS = (3784, 4784)
BGP_PORT = 179
QUIET_S = 10
"""So long nothing more is sent up of a session that has been read."""
SETTLING_S = 1
"""So long, of a BFD session that is not up, or says another time than before: until it is up it
sends a packet a second (RFC 5880, section 6.8.3), and says so in its first packets afterwards."""
FORGET_S = 4.0 * QUIET_S
"""A session of which nothing was sent for so long is none any more; BGP's quiet sessions send at
least every third of the hold time, usually 60 s."""
FORGET_BGP_S = 200.0
MAX_SESSIONS = 256
"""Of one router; and so many are not sent up at once."""
OPEN_WITHIN = 8
"""An OPEN is among the first packets of a connection that begins, or was missed."""
_SYN, _FIN, _RST = 2, 1, 4
_UP = 3


@dataclass(slots=True)
class Session:
    """One session.

    wait_s      so long the neighbour waits for the VM; None where that is not known, 0 for ever
    interval_s  so often the VM sends, None where that is not known
    """

    protocol: str
    local: str
    remote: str
    wait_s: float | None = None
    interval_s: float | None = None
    seen: float = 0.0
    packets: int = 0

    def row(self) -> dict[str, Any]:
        """For `status`."""
        shown = ("protocol", "local", "remote", "wait_s", "interval_s")
        return {name: getattr(self, name) for name in shown}


class Quiet(NamedTuple):
    """What of a session need not be sent up, and for how many seconds."""

    match: Mapping[str, int]
    seconds: int


class _Key(NamedTuple):
    """A session's, as its packets show it; `interface` where its addresses are link-local."""

    protocol: str
    family: int
    local: int
    remote: int
    interface: str

    def text(self, address: int) -> str:
        """One of its addresses as people write it."""
        scope = f"%{self.interface}" if self.interface else ""
        return FAMILIES[self.family].text(address) + scope


class Sessions:
    """The sessions of one router."""

    def __init__(self) -> None:
        self._known: dict[_Key, Session] = {}
        self._quieted: deque[float] = deque(maxlen=MAX_SESSIONS)

    def heard(self, frame: bytes, now: float, interface: str = "") -> Quiet | None:
        """The VM has sent something by an interface.  Returns what need not be sent up for a while;
        None where more is wanted, or it is no session's."""
        packet = pk.parse(frame)
        family = family_in(packet)
        if family is None or not packet.l4:
            return None
        of = MATCHED[family]
        local, remote = getattr(packet, of.src), getattr(packet, of.dst)
        link_local = is_link_local(local, family.host)
        where = interface if link_local else ""
        seconds = QUIET_S
        if packet.nw_proto == UDP and packet.tp_dst in BFD_PORTS:
            key = _Key("BFD", family.number, local, remote, where)
            if not self._bfd(frame, packet, key, now):
                seconds = SETTLING_S
        elif packet.nw_proto == TCP and BGP_PORT in (packet.tp_src, packet.tp_dst):
            key = _Key("BGP", family.number, local, remote, where)
            if not self._bgp(frame, packet, key, now):
                return None
        else:
            return None
        if len(self._quieted) == MAX_SESSIONS and now - self._quieted[0] < QUIET_S:
            return None  # or a VM could fill the table
        self._quieted.append(now)
        ports = ("tp_src", "tp_dst") if packet.nw_proto == TCP else ("tp_dst",)
        names = ("dl_type", "nw_proto", of.src, of.dst, *ports)
        return Quiet({name: getattr(packet, name) for name in names}, seconds)

    def _bfd(self, frame: bytes, packet: pk.Packet, key: _Key, now: float) -> bool:
        """Whether it is up, and says the same as before."""
        said = frame[packet.l4 + 8 : packet.end]
        if len(said) < 24 or said[0] >> 5 != 1 or said[1] >> 6 != _UP:
            self._known.pop(key, None)
            return False
        # The neighbour waits for at least this: its own required interval may be longer.
        interval_s = int.from_bytes(said[12:16], "big") / 1e6
        wait_s, before = said[2] * interval_s, self._known.get(key)
        as_before = before is not None and before.wait_s == wait_s
        self._put(key, wait_s, interval_s, now)
        return as_before

    def _bgp(self, frame: bytes, packet: pk.Packet, key: _Key, now: float) -> bool:
        """Whether enough has been read."""
        flags = frame[packet.l4 + 13]
        if flags & (_FIN | _RST):
            self._known.pop(key, None)
            return True
        if flags & _SYN:
            self._known.pop(key, None)
        known = self._known.get(key)
        said = frame[packet.l4 + (frame[packet.l4 + 12] >> 4) * 4 : packet.end]
        wait_s = known.wait_s if known is not None else None
        if len(said) >= 24 and said[:16] == b"\xff" * 16 and said[18] == 1:
            wait_s = float(said[22] << 8 | said[23])
        session = self._put(key, wait_s, wait_s / 3 if wait_s else None, now)
        session.packets = 1 if flags & _SYN else session.packets + bool(session.packets)
        # From its beginning on an OPEN is awaited; of an older one nothing more is to be seen.
        return wait_s is not None or not 0 < session.packets < OPEN_WITHIN

    def _put(
        self, key: _Key, wait_s: float | None, interval_s: float | None, now: float
    ) -> Session:
        session = self._known.get(key)
        if session is None:
            if len(self._known) >= MAX_SESSIONS:
                del self._known[min(self._known, key=lambda k: self._known[k].seen)]
            ends = key.text(key.local), key.text(key.remote)
            session = self._known[key] = Session(key.protocol, *ends)
        session.wait_s, session.interval_s, session.seen = wait_s, interval_s, now
        return session

    def rows(self, now: float) -> list[dict[str, Any]]:
        """Those that are there, for `status`."""
        limits = {"BFD": FORGET_S, "BGP": FORGET_BGP_S}
        return [one.row() for one in self._known.values() if now - one.seen < limits[one.protocol]]


def falls(row: Mapping[str, Any], pause_s: float) -> bool:
    """Whether a session that `status` shows falls in a suspension of so many seconds: the VM may
    have been about to send when it began.  What is not known does not count."""
    wait_s, interval_s = row.get("wait_s"), row.get("interval_s") or 0.0
    return bool(wait_s) and pause_s + interval_s > float(wait_s or 0.0)


def words(row: Mapping[str, Any]) -> str:
    """A session for people."""
    wait_s = row.get("wait_s")
    if wait_s is None:
        waits = "hold time not seen"
    elif not wait_s:
        waits = "no hold time"
    else:
        waits = f"its neighbour waits {wait_s:g} s"
    return f"{row['protocol']} {row['local']} - {row['remote']} ({waits})"
