"""Whether a network is well: what the controllers answered, judged.

`causes` is the one place that decides it; the verb `status` prints them and ends accordingly.
A router that is being migrated is judged when its migration is over: meanwhile its switches differ
and its VM is away on purpose.  Nothing here asks anybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mgmt.client import Answers, AskError, parted
from mgmt.session import placements, told_of_each
from mgmt.text import count, duration
from xenflow.model.network import EMPTY, End, Network
from xenflow.model.placement import Mode, Placement
from xenflow.plan.migration import astray, informed, left_over, unfinished
from xenflow.store.network_rows import laid, laid_entries
from xenflow.store.own_rows import OwnRows

PLANNER_S = 10.0
"""A planner beats every 2 s, and another follows one that has not for 6 s."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason why the network is not well: `where` names a controller, datapath, cable, virtual
    link or router, `what` is for people."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def causes(network: Network, answers: Answers) -> list[Cause]:
    """Everything that is wrong by the answers to `status`, in the order: controllers, the
    planner, datapaths, cables, links, routers."""
    seen = _Seen(network, answers)
    return [
        *seen.controllers(),
        *seen.planner(),
        *seen.datapaths(),
        *seen.cables(),
        *seen.access(),
        *seen.routers(),
    ]


def moving(answers: Answers) -> dict[str, str]:
    """The routers whose migration is under way, and by whom."""
    return {
        row["router"]: str(row.get("owner")) for row in _migrations(answers) if row.get("under_way")
    }


def verdict(network: Network, found: list[Cause], under_way: Mapping[str, str]) -> str:
    """All of it in one line."""
    moves = "".join(
        f"; {router} is being migrated (by {owner})" for router, owner in under_way.items()
    )
    if not found:
        return f"network {network.name}: healthy{moves}"
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"network {network.name}: NOT HEALTHY: {found[0]}{more}{moves}"


class Digests:
    """Of a network, and of what each controller knows of it where it lives in a store."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._rows: OwnRows | None = None

    def of(self, controller: str) -> str:
        """The digest of a controller's part."""
        if self._rows is None:
            rows = {
                table: {key: {**row, "gone": False} for key, row in found.items()}
                for table, found in laid(self.network).items()
            }
            self._rows = OwnRows(rows)
        part = laid_entries(self._rows.of(controller), EMPTY)
        return replace(part, name=self.network.name).active.digest


def other_file(digests: Digests, controller: str, answer: Mapping[str, Any]) -> str:
    """What to say where a controller has another network than this command; "" where it has the
    same, or its part of it, or does not say (a controller of the release before)."""
    network = digests.network
    own = network.active.digest
    digest = answer.get("digest", own)
    if digest == own or (network.store and digest == digests.of(controller)):
        return ""
    if network.store:
        return (
            f"it knows another network than this command ({digest}, here {own}): the "
            "store's last change has not come there yet, or it is of another release"
        )
    return (
        f"it has another network file than this command ({digest}, here {own}): give "
        "both the same, then `xenflow reload`; where it is the same, they are of two releases"
    )


def _migrations(answers: Answers) -> Iterator[dict[str, Any]]:
    for answer in parted(answers)[0].values():
        yield from (row for row in answer.get("migrations", ()) if row)


class _Seen:
    """The answers, by what they are about."""

    def __init__(self, network: Network, answers: Answers) -> None:
        self.network = network
        self.answers = answers
        self.moving = moving(answers)
        self.digests = Digests(network)
        self.known, _ = parted(answers)
        self.rows: dict[str, dict[str, Any]] = {}
        for name, datapath in network.datapaths.items():
            told = self.known.get(datapath.controller, {}).get("datapaths", ())
            self.rows.update((name, row) for row in told if row.get("name") == name)
        self.placed = told_of_each(answers)
        self.newest = placements(answers)

    # --- controllers and switches

    def controllers(self) -> Iterator[Cause]:
        for name, answer in self.answers.items():
            if isinstance(answer, AskError):
                yield Cause(f"controller {name}", "gives no answer")
            else:
                if words := other_file(self.digests, name, answer):
                    yield Cause(f"controller {name}", words)
                problems = answer.get("problems") or ()
                yield from (Cause(f"controller {name}", str(words)) for words in problems)

    def planner(self) -> Iterator[Cause]:
        """One that holds the lease and is heard by no controller any more."""
        stores = [store for answer in self.known.values() if (store := answer.get("store"))]
        heard = [(store.get("planner_silent_s"), store["planner"]) for store in stores]
        silent = [(silent_s, name) for silent_s, name in heard if silent_s is not None]
        if silent and (last := min(silent))[0] > PLANNER_S:
            words = f"{last[1]} has said nothing for {duration(last[0])}: no change can be made"
            yield Cause("planner", f"{words} (python -m xenflow.planner)")

    def datapaths(self) -> Iterator[Cause]:
        for name, datapath in self.network.datapaths.items():
            if datapath.controller not in self.known:
                continue
            row = self.rows.get(name)
            if row is None:
                yield Cause(
                    name,
                    f"controller {datapath.controller} does not know it: has it "
                    "another network file?",
                )
                continue
            if not row.get("connected"):
                yield Cause(name, f"the switch is not connected to {datapath.controller}")
            elif not row.get("in_sync"):
                waiting = count(row.get("pending") or 0, "change")
                yield Cause(name, f"catching up, {waiting} to be written")
            for problem in row.get("problems") or ():
                yield Cause(name, str(problem))
            for rule in row.get("sweeping") or ():
                yield Cause(name, f"the operator's rule {rule} takes everything")

    def _port(self, end: End) -> str:
        """What is wrong with a port; "" where nothing is, or nothing is known."""
        row = self.rows.get(end.datapath)
        if row is None or not row.get("connected"):
            return ""
        port = (row.get("ports") or {}).get(end.port)
        if port is None:
            return f"{end} does not exist"
        return "" if port.get("up") else f"{end} has no carrier"

    def cables(self) -> Iterator[Cause]:
        for cable in self.network.cables.values():
            wrong = [words for end in (cable.a, cable.b) if (words := self._port(end))]
            if wrong:
                yield Cause(f"cable {cable.name}", ", ".join(wrong))

    def access(self) -> Iterator[Cause]:
        for link in self.network.links.values():
            for access in link.access:
                if words := self._port(access.end):
                    yield Cause(f"link {link.name}", f"access port {words}")

    # --- routers

    def routers(self) -> Iterator[Cause]:
        left = {row["router"]: row for row in _migrations(self.answers) if not row.get("under_way")}
        for name in self.network.active.routers:
            yield from (Cause(name, words) for words in self._problems(name))
            if name in self.moving:
                continue
            if name in left:
                yield Cause(
                    name,
                    f"a migration by {left[name].get('owner')} was left unfinished "
                    f"(`xenflow recover {name}`)",
                )
            given = self._told(name)
            if not given:
                if self.known:
                    yield Cause(name, "no controller that answered knows it")
                continue
            newest = max(given.values(), key=lambda placement: placement.version)
            yield from self._placed(name, newest, given, name in left)
            yield from self._vm(name, newest)

    def _told(self, router: str) -> dict[str, Placement]:
        """Where the datapaths concerned were told a router is."""
        every = self.placed.get(router, {})
        if not every:
            return {}
        at = self.newest[router]
        described = self.network.routers[router]
        hosts = {*at.hosts, *left_over(every)}
        names = informed(self.network, described, at.mode, hosts, self.newest)
        return {name: placement for name, placement in every.items() if name in names}

    def _problems(self, router: str) -> list[str]:
        """What any controller names of a router, each once."""
        rows = (row for answer in self.known.values() for row in answer.get("routers", ()))
        mine = (row.get("problems") or () for row in rows if row.get("name") == router)
        return list(dict.fromkeys(str(words) for problems in mine for words in problems))

    def _placed(
        self, router: str, newest: Placement, told: Mapping[str, Placement], left: bool
    ) -> Iterator[Cause]:
        wrong = unfinished(told).keys() | astray(
            self.network, self.network.routers[router], newest, told
        )
        others = [
            name
            for name, placement in told.items()
            if name in wrong and replace(placement, version=newest.version) != newest
        ]
        if others:
            yield Cause(
                router,
                f"the switches disagree about where it is: {', '.join(others)} "
                f"{'has' if len(others) == 1 else 'have'} another placement than the newest "
                f"(`xenflow recover {router}`)",
            )
        elif len(newest.hosts) > 1 and not left:
            yield Cause(
                router,
                f"it is between {' and '.join(newest.hosts)}, and nobody moves it "
                f"(`xenflow recover {router}`)",
            )

    def _vm(self, name: str, place: Placement) -> Iterator[Cause]:
        """What is wrong with the VM, as its host sees it."""
        host = self.network.datapaths.get(place.vm)
        answer = self.known.get(host.controller) if host is not None else None
        if answer is None:
            return
        vifs = [
            words
            for interface in self.network.routers[name].interfaces
            if (words := self._port(End(place.vm, interface.vif)))
        ]
        if vifs:
            yield Cause(name, f"its VM is not there, or suspended: {', '.join(vifs)}")
        rows: list[dict[str, Any]] = answer.get("routers", [])
        row = next((r for r in rows if r.get("name") == name), {})
        never = not row or row.get("feed") == "none" or row.get("phase") == "new"
        if place.mode is Mode.NATIVE and (never or row.get("stale")):
            return  # its VM forwards by its own routes, which no controller needs
        if never:
            yield Cause(
                name,
                f"controller {host.controller if host else ''} was never told its "
                "routes: does routerd run in its VM?",
            )
            return
        if row.get("stale"):
            yield Cause(name, f"stale: nothing heard of it for {duration(row.get('age_s'))}")
        if row.get("phase") in ("streaming", "partial", "behind"):
            yield Cause(name, "its routes are not all known yet")
        if row.get("down"):
            yield Cause(name, f"in its VM, nothing is forwarded by {', '.join(row['down'])}")
