"""Follows a packet through the network: from switch to switch, to where all its copies end.

Each switch is asked for itself (`look`); here it is only decided where what leaves one arrives
next, by the cables of the network file.  Called by the verb `trace`; pure but for `look`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mgmt.client import AskError
from xenflow.model.network import Cable, End, Network

Answer = dict[str, Any]
"""What a controller answers to `trace` (docs/messages.md)."""
Look = Callable[[str, str, bytes], Answer]
"""(datapath, port it comes in by, frame) -> what its controller answers; raises AskError."""

MAX_HOPS = 1000
"""After so many switches what is left is not followed any more."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One switch that the packet, or a copy of it, has passed.  `came`: by what, in words."""

    datapath: str
    came: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Stop:
    """Where one copy ended: `kind` is "left" (the network, by an access port), "vm", "held",
    "dropped", "lost" (a port without carrier), "loop", "bridge" or "unknown"."""

    kind: str
    datapath: str
    words: str


@dataclass(slots=True)
class Journey:
    """All that became of a packet, in the order in which it is followed: nearest switches first."""

    hops: list[Hop] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all of it could be followed to its end."""
        return all(stop.kind not in ("unknown", "loop") for stop in self.stops)

    @property
    def outcome(self) -> str:
        """Where it ends, in one line."""
        return "; ".join(dict.fromkeys(f"{s.datapath}: {s.words}" for s in self.stops))

    def json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "hops": [{"came": hop.came, **hop.answer} for hop in self.hops],
            "ends": [
                {"kind": s.kind, "datapath": s.datapath, "words": s.words} for s in self.stops
            ],
            "outcome": self.outcome,
        }


def follow(network: Network, first: Answer, look: Look) -> Journey:
    """From the answer of the first switch on."""
    return _Follower(network, look).run(first)


class _Follower:
    def __init__(self, network: Network, look: Look) -> None:
        self.network = network
        self.look = look
        self.journey = Journey()
        self.seen: set[tuple[str, str, bytes]] = set()
        self.queue: deque[tuple[End, bytes, str]] = deque()
        self.ports: dict[End, Cable] = {
            end: cable for cable in network.cables.values() for end in (cable.a, cable.b)
        }

    def run(self, first: Answer) -> Journey:
        came = f"comes in by {first.get('in_port')}"
        self._passed(Hop(str(first.get("datapath")), came, first))
        while self.queue:
            end, frame, came = self.queue.popleft()
            key = end.datapath, end.port, frame
            if key in self.seen:
                self._stop("loop", end.datapath, f"comes in by {end.port} again: it goes round")
                continue
            if len(self.journey.hops) >= MAX_HOPS:
                self._stop("unknown", end.datapath, f"not followed beyond {MAX_HOPS} switches")
                continue
            self.seen.add(key)
            try:
                answer = self.look(end.datapath, end.port, frame)
            except AskError as error:
                self._stop("unknown", end.datapath, f"not known what becomes of it: {error}")
                continue
            self._passed(Hop(end.datapath, came, answer))
        return self.journey

    def _stop(self, kind: str, datapath: str, words: str) -> None:
        self.journey.stops.append(Stop(kind, datapath, words))

    def _passed(self, hop: Hop) -> None:
        self.journey.hops.append(hop)
        outputs = [out for out in hop.answer.get("outputs", ()) if out.get("kind") != "copy"]
        if not outputs:
            self._stop("dropped", hop.datapath, _why_dropped(hop.answer))
        for out in outputs:
            try:
                self._goes(hop.datapath, out)
            except (KeyError, TypeError, ValueError):
                self._stop(
                    "unknown",
                    hop.datapath,
                    "not known what becomes of it: its controller's answer cannot be read",
                )

    def _goes(self, datapath: str, out: dict[str, Any]) -> None:
        kind, words = str(out.get("kind")), str(out.get("words"))
        if kind == "vm" and out.get("onward"):
            onward = out["onward"]
            vif = End(datapath, str(onward["port"]))
            came = f"comes from {out.get('router')}'s VM by {vif.port}"
            self.queue.append((vif, bytes.fromhex(onward["frame"]), came))
            return
        if kind != "port":
            self._stop(kind, datapath, words)
            return
        end = End(datapath, str(out.get("port")))
        cable = self.ports.get(end)
        if not out.get("up"):
            self._stop("lost", datapath, words)
        elif cable is not None:
            far = cable.far(datapath)
            came = f"comes in by {far.port} (cable {cable.name}, from {datapath})"
            self.queue.append((far, bytes.fromhex(out["frame"]), came))
        else:
            self._stop("left", datapath, f"{words}, {self._beyond(end)}")

    def _beyond(self, end: End) -> str:
        for link in self.network.links.values():
            if any(access.end == end for access in link.access):
                return f"where link {link.name} ends"
        return "a port that the network file does not name"


def _why_dropped(answer: Answer) -> str:
    """What the last table said of it."""
    steps = answer.get("steps") or [{}]
    words = str(steps[-1].get("explanation") or "")
    return words if "dropped" in words else f"{answer.get('outcome') or 'dropped'} ({words})"
