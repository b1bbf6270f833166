"""A migration as data: which placement goes to which switches, in what order, and what is awaited.

`mgmt.migrate` carries the effects out and undoes them; nothing here does anything.  The order is
the whole secret, so it is written once, for each mode, as a list to be read from top to bottom:

overlapped (the default)
    prepare   both hosts hold the router's routes; trees and detours reach the destination
    control   the VM moves (the commit point); packets for it are held, then follow it
    links     the switches between the hosts are turned, the one nearest the destination first;
              before that, where a switch was late, what it had no time for while the VM waited
    drain     until nothing arrives at the source any more
    clean     the source forgets the router

report (the report's section 4.2, figure 4.4: strictly control plane, data plane, links)
    the same effects, but the destination gets the flows, read from the source's switch and
    translated to its ports, only after the VM has moved

native (the baseline of section 2.4)
    the VM forwards, behind bridges; nothing is prepared, neighbours learn from a gratuitous ARP
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import ceil
from typing import Any

from xenflow.model.network import Network, NetworkError, Router
from xenflow.model.placement import Mode, Placement
from xenflow.plan.effects import (
    Apply,
    AwaitReady,
    AwaitVifs,
    CopyFlows,
    Drain,
    Effect,
    EndMove,
    Mirror,
    MoveVM,
    Pace,
    Release,
    Unmirror,
    Unpause,
)


class Order(Enum):
    """The order of a migration's stages."""

    OVERLAPPED = "overlapped"
    REPORT = "report"
    NATIVE = "native"


@dataclass(frozen=True, slots=True)
class Stage:
    """Some effects under a name; `commits` where the VM has moved at its end: before that a
    failure undoes everything, after that only forward is possible."""

    name: str
    title: str
    effects: tuple[Effect, ...]
    commits: bool = False

    @property
    def at(self) -> tuple[str, ...]:
        """The names of the datapaths that it concerns, in the effects' order."""
        return tuple(dict.fromkeys(name for effect in self.effects for name in effect.at))


def reachable(network: Network, router: Router) -> tuple[str, ...]:
    """Every datapath that some link of the router can lie on."""
    trees = [network.links[i.link].tree for i in router.interfaces]
    return tuple(name for name in network.datapaths if any(t.reaches(name) for t in trees))


def concerned(
    network: Network, router: Router, hosts: Collection[str], placed: Mapping[str, Placement]
) -> tuple[str, ...]:
    """The datapaths that a router's links lie on while it is at some hosts, and the others on these
    links are where they were placed, or at home.

    Only these need to know where it is.  They are a connected part of each link's tree: to any
    other switch everybody on the link lies behind one and the same port, whatever it believes.
    """
    names = set(hosts)
    for interface in router.interfaces:
        link = network.links[interface.link]
        terminals = {access.end.datapath for access in link.access} | set(hosts)
        for other, _ in network.members(link.name):
            if other is not router:
                known = placed.get(other.name)
                terminals.update(known.hosts if known is not None else (other.home,))
        names |= link.tree.spanning({n for n in terminals if link.tree.reaches(n)}).keys()
    return tuple(name for name in network.datapaths if name in names)


def informed(
    network: Network,
    router: Router,
    mode: Mode,
    hosts: Collection[str],
    placed: Mapping[str, Placement],
) -> tuple[str, ...]:
    """The datapaths that are told where a router is: those concerned; of one in native mode all
    that can be, for a bridge learns by what it hears, and one may be left anywhere."""
    if mode is Mode.NATIVE:
        return reachable(network, router)
    return concerned(network, router, hosts, placed)


def unfinished(given: Mapping[str, Placement]) -> dict[str, Placement]:
    """Of a router's placements (by datapath) those that no finished move leaves anywhere: between
    hosts, or on a host that was not told that the router has left.  An old one elsewhere is none:
    who is not concerned is not told, and what it believes leads the right way."""
    return {
        name: placement
        for name, placement in given.items()
        if len(placement.hosts) > 1 or name in placement.hosts
    }


def astray(
    network: Network, router: Router, newest: Placement, given: Mapping[str, Placement]
) -> set[str]:
    """The datapaths that lead frames for a router another way than its newest placement does,
    without being told: there are none where every tree lies as it did when the router moved."""
    found = set()
    for link in (interface.link for interface in router.interfaces):
        tree, shall = network.links[link].tree, newest.leads(link)
        for name, placement in given.items():
            leads = placement.leads(link)
            if leads == shall or not all(map(tree.reaches, (name, leads, shall))):
                continue
            if name in (leads, shall) or tree.toward(name, leads) != tree.toward(name, shall):
                found.add(name)
    return found


def left_over(given: Mapping[str, Placement]) -> set[str]:
    """The hosts in these."""
    return {host for placement in unfinished(given).values() for host in placement.hosts}


def needed(
    network: Network, router: Router, newest: Placement, given: Mapping[str, Placement]
) -> set[str]:
    """The hosts that a router needs, of its placements (by datapath): where it is by the newest,
    where a move has left it, and where whoever leads its frames astray believes it."""
    wrong = astray(network, router, newest, given)
    return {*newest.hosts, *left_over(given), *(h for name in wrong for h in given[name].hosts)}


def stages(
    network: Network,
    start: Placement,
    to: str,
    order: Order,
    placed: Mapping[str, Placement] | None = None,
) -> list[Stage]:
    """The stages that take a router from where it is to host `to`; `placed`: where the others are
    that are not at home.

    Raises NetworkError where the network does not allow it.
    """
    router = network.routers[start.router]
    source = start.vm
    check(network, router, source, to)
    mode = Mode.NATIVE if order is Order.NATIVE else start.mode
    names = informed(network, router, mode, (source, to), placed or {})
    others = tuple(n for n in names if n not in (source, to))
    if order is Order.NATIVE:
        return _native(start, source, to, others)
    both = tuple(sorted((source, to)))
    reached = start.step(mode=Mode.XENFLOW, reaches=both)
    if order is Order.OVERLAPPED:
        prepared = reached.step(forwarders=both)
        moved = prepared.step(vm=to)
        late = _follow(moved, source, to, Pace.LATE)
        before = [
            Stage(
                "prepare",
                f"prepare the data plane on {to}",
                (
                    Mirror(source, to),
                    # The source takes detours before the destination sends any: where that lies on
                    # the way already, or carries a neighbour, it forwards from its first flow on.
                    Apply(others, prepared),
                    Apply((source,), reached),
                    Apply((to,), prepared),
                    AwaitReady(to),
                    Apply((source,), prepared),
                ),
            ),
            _control_plane(moved, source, to),
        ]
    else:
        moved = reached.step(vm=to)
        prepared = moved.step(forwarders=both)
        before = [
            Stage(
                "reach",
                f"extend the virtual links to {to}",
                tuple(Apply(each, reached) for each in (others, (to,), (source,))),
            ),
            _control_plane(moved, source, to),
            Stage(
                "data-plane",
                f"copy the flows from {source} to {to}",
                (
                    *_follow(moved, source, to, Pace.LATE),
                    Mirror(source, to),
                    CopyFlows(source, to),
                    Apply((to,), prepared),
                    AwaitReady(to),
                    Apply((source,), prepared),
                ),
            ),
        ]
        moved, late = prepared, ()
    rounds = turn_rounds(network, router, (source,), to)
    between = {name for each in rounds for name in each.datapaths}
    rounds.append(Round(tuple(n for n in (*others, to, source) if n not in between)))
    links, turned = in_rounds(rounds, moved.step(leads_to=to), lambda name: moved)
    settled = turned.step(forwarders=(to,), reaches=())
    return [
        *before,
        Stage("links", f"turn the virtual links to {to}", (*late, *links)),
        Stage("drain", f"wait until {source} is quiet", (Drain(source),)),
        Stage(
            "clean",
            f"remove the router from {source}",
            (
                Apply((source,), settled),
                Apply((*others, to), settled, proven=False),
                Unmirror(source, to),
            ),
        ),
    ]


def _control_plane(moved: Placement, source: str, to: str) -> Stage:
    return Stage(
        "control",
        f"move the VM to {to}",
        (
            MoveVM(source, to),
            AwaitVifs(to),
            *_follow(moved, source, to, Pace.PROMPT),
            Unpause(to),
        ),
        commits=True,
    )


def _follow(moved: Placement, source: str, to: str, pace: Pace) -> tuple[Effect, ...]:
    """Packets for the VM go where it is.

    First the destination takes them, then the source passes its own on: the other way round they
    would meet in the middle.
    """
    return (
        Apply((to,), moved, pace=pace),
        Release(source, to, pace),
        Apply((source,), moved, pace=pace),
        Release(source, to, pace),
    )


def _native(start: Placement, source: str, to: str, others: tuple[str, ...]) -> list[Stage]:
    bridged = start.step(mode=Mode.NATIVE, reaches=tuple(sorted({source, to})))
    settled = bridged.step(vm=to, leads_to=to, forwarders=(to,), reaches=())
    return [
        Stage("bridge", "bridge the virtual links", (Apply((*others, source, to), bridged),)),
        Stage("control", f"move the VM to {to}", (MoveVM(source, to), Unpause(to)), commits=True),
        Stage("settle", "record where it is", (Apply((*others, source, to), settled),)),
    ]


def recovery_stages(
    network: Network,
    now: Placement,
    here: str,
    others: Sequence[str],
    placed: Mapping[str, Placement] | None = None,
    given: Mapping[str, Placement] | None = None,
) -> list[Stage]:
    """What brings all switches of a router to the host where its VM runs, from any mixture of
    the placements of an interrupted migration; `given`: which of them a datapath has, where that is
    not `now`, the newest.

    Every host that forwards goes on forwarding until the links are turned and it is quiet.
    """
    router = network.routers[now.router]
    hosts = tuple(sorted({here, *others, *now.hosts}))
    names = informed(network, router, now.mode, hosts, placed or {})
    # Those too that a link led over which has gone meanwhile: they would believe the move for ever.
    told = unfinished(given or {})
    names += tuple(n for n in network.datapaths if n in told and n not in names)
    forwarders = tuple(sorted({here, *now.forwarders}))
    reached = now.step(forwarders=forwarders, vm=here, reaches=hosts, unturned=())
    left = [h for h in hosts if h != here]
    rounds = [Round((here,)), *turn_rounds(network, router, left, here)]
    between = {name for each in rounds for name in each.datapaths}
    rounds.append(Round(tuple(n for n in names if n not in between)))
    had = dict.fromkeys(names, now) | dict(given or {})
    # Some switches may be turned already, and stay so: the others keep to the order.
    (first, *rest), reached = in_rounds(rounds, reached, had.__getitem__)
    links, turned = in_rounds(rounds, reached.step(leads_to=here), lambda name: reached)
    settled = turned.step(forwarders=(here,), reaches=())
    # In native mode the VM forwards: no switch holds flows of its routes.
    ready = () if now.mode is Mode.NATIVE else (AwaitReady(here),)
    return [
        Stage("observe", f"follow the VM to {here}", (first, *ready, *rest)),
        Stage("links", f"turn the virtual links to {here}", tuple(links)),
        Stage("drain", "wait until the others are quiet", tuple(Drain(h) for h in left)),
        Stage(
            "clean",
            "remove the router from the others",
            (
                *(Apply((h,), settled) for h in left),
                Apply(names, settled),
                *(Unmirror(h, here) for h in left),
            ),
        ),
    ]


def check_host(network: Network, name: str) -> None:
    """Raise NetworkError, with the reason, where a datapath cannot carry a router."""
    if name not in network.datapaths:
        known = ", ".join(sorted(network.hosts))
        raise NetworkError(f"unknown host {name}: the network has {known}")
    if name not in network.hosts:
        raise NetworkError(f"{name} is a plain switch: it cannot carry a router")


def check(network: Network, router: Router, source: str, to: str) -> None:
    """Raise NetworkError, with the reason, where a router cannot move from source to `to`."""
    check_host(network, to)
    if to == source:
        raise NetworkError(f"{router.name} is on {to} already")
    for interface in router.interfaces:
        tree = network.links[interface.link].tree
        peers = {a.end.datapath for a in network.links[interface.link].access}
        peers.update(r.home for r, _ in network.members(interface.link) if r is not router)
        for peer in sorted({source, *peers}):
            if not (tree.reaches(to) and tree.reaches(peer)):
                raise NetworkError(
                    f"no path from {to} to {peer} for virtual link {interface.link}: "
                    f"{router.name} would lose its neighbour there"
                )


@dataclass(frozen=True, slots=True)
class Round:
    """Switches that are turned at the same time; one alone may turn `later` some of the links."""

    datapaths: tuple[str, ...]
    later: tuple[str, ...] = ()

    def placement(self, turned: Placement, was: Placement) -> Placement:
        """What they are given: `turned`, but for the links that still lead where they did."""
        still = [(link, was.leads(link)) for link in self.later]
        kept = tuple((link, host) for link, host in still if host != turned.leads_to)
        return replace(turned, unturned=kept)


def in_rounds(
    rounds: Sequence[Round], placement: Placement, had: Callable[[str], Placement]
) -> tuple[list[Effect], Placement]:
    """A placement is given to switches in rounds; `had`: the one that a switch has.

    Each round has a version of its own, for what is given in it need not be the same.  Returns the
    effects, and the placement as it is given last.
    """
    effects: list[Effect] = []
    for each in rounds:
        if each.datapaths:
            placement = placement.step() if effects else placement
            effects.append(Apply(each.datapaths, each.placement(placement, had(each.datapaths[0]))))
    return effects, placement


def turn_rounds(network: Network, router: Router, sources: Collection[str], to: str) -> list[Round]:
    """The switches strictly between hosts and `to` on the links' trees, in rounds.

    Only these send frames for the router another way after the move.  On each link they must be
    turned from the destination backwards: a switch that is turned then always leads to turned
    ones, and no frame can bounce between two switches, in whatever moment it comes.  Where two
    links cross switches in opposite orders, one of these turns link by link.
    """
    ways = [
        (interface.link, network.links[interface.link].tree.path(source, to)[-2:0:-1])
        for interface in router.interfaces
        for source in sources
    ]
    rounds: list[Round] = []
    while nearest := sorted({way[0] for _, way in ways if way}):
        whole = [n for n in nearest if not any(n in way[1:] for _, way in ways)]
        turn = whole or nearest[:1]
        ways = [(link, way[1:] if way and way[0] in turn else way) for link, way in ways]
        later = dict.fromkeys(link for link, way in ways if turn[0] in way)
        rounds.append(Round(tuple(turn), tuple(later)))
    return rounds


def purpose(router: str, entry: Any) -> str:
    """What somebody does with a router, in words: the first entry of the journal says it."""
    match entry:
        case {"migration": {"from": source, "to": to, "mode": mode}}:
            return f"a migration of {router} from {source} to {to} ({mode})"
        case {"words": str(words)}:
            return words
    return f"a migration of {router}"


def under_way(row: Mapping[str, Any]) -> str:
    """That a migration goes on just now, since when and by whom, in words; or its owner was killed,
    which its lease outlasts.  `row` is one of `migrations` in the answer to `status`."""
    what = purpose(row["router"], next(iter(row.get("journal") or ()), None))
    said = f"{what} is under way, for {row.get('since_s', 0.0):.0f} s now, by {row['owner']}"
    return (
        f"{said}, heard of {row['heard_s']:.0f} s ago: wait for it, or end it there; if it was "
        f"killed, ask again in {ceil(row['ends_s'])} s"
    )


def undo_of(done: Sequence[Effect], start: Placement) -> list[Effect]:
    """What puts everything back after some effects of the stages before the commit point.

    The VM's move is ended first: the switches follow the VM.  The rest is the same way backwards:
    each switch gets the placement it had before (under a newer version), the last ones first, so
    that no moment of it is one that going forward had not had.
    """
    had: dict[str, Placement] = {}
    version = 0
    undo: list[Effect] = []
    for effect in done:
        before = next((had[name] for name in effect.at if name in had), start)
        undo[:0] = effect.undo(before)
        if isinstance(effect, Apply):
            had.update(dict.fromkeys(effect.datapaths, effect.placement))
            version = max(version, effect.placement.version)
    for index, effect in enumerate(undo):
        if isinstance(effect, Apply):
            version += 1
            undo[index] = replace(effect, placement=replace(effect.placement, version=version))
    return sorted(undo, key=lambda effect: not isinstance(effect, EndMove))
