"""`xenflow status`: whether the network is well; every controller, switch, router and migration.

The first line is the verdict (`mgmt.health`), which the exit status follows.  Controllers that do
not answer are named and the rest is printed.  With --wait it asks until the network is well.
"""

from __future__ import annotations

import math
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from mgmt import health
from mgmt.client import Answers, AskError, parted
from mgmt.health import Cause
from mgmt.session import ManagementSession, placements
from mgmt.text import count, duration, table
from mgmt.verbs import Exit, add_json, complain, complain_of, emit, seconds
from mgmt.verbs.apply import reached_by
from xenflow.model.difference import compare
from xenflow.model.holding import named
from xenflow.model.network import Datapath, DatapathKind, NetworkError
from xenflow.model.placement import Mode, Placement, to_json
from xenflow.plan.migration import purpose
from xenflow.store import network_file

NAME = "status"
SUMMARY = "controllers, switches, routers and migrations at a glance"


PLANNER_S = 2.0
"""So long the planner may take to say what it is at."""
NAMED = 3
"""So many of what a switch holds up are named."""
ASK_AGAIN_S = 0.5
"""Pause between two questions while --wait waits."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        type=seconds,
        nargs="?",
        const=math.inf,
        metavar="S",
        help="ask until the network is healthy, at most S seconds where S is given",
    )
    add_json(parser)


def run(args: Namespace, session: ManagementSession) -> int:
    answers = session.ask_all("status")
    causes = health.causes(session.network, answers)
    until = time.monotonic() + (args.wait or 0.0)
    said = ""
    while causes and time.monotonic() < until:
        words = health.verdict(session.network, causes, {})
        if words != said:
            complain(f"waiting: {words}")
            said = words
        time.sleep(min(ASK_AGAIN_S, max(0.0, until - time.monotonic())))
        answers = session.ask_all("status")
        causes = health.causes(session.network, answers)
    _show(args, session, answers, causes)
    answered, silent = parted(answers)
    exit = complain_of(silent)
    if silent and not answered:
        return Exit.UNREACHABLE
    return exit or (Exit.UNHEALTHY if causes else Exit.OK)


def _show(
    args: Namespace, session: ManagementSession, answers: Answers, causes: list[Cause]
) -> None:
    places = placements(answers)
    value = {
        "network": session.network.name,
        "healthy": not causes,
        "causes": [{"where": cause.where, "what": cause.what} for cause in causes],
        "controllers": {
            name: {"error": {"code": a.code, "message": str(a)}} if isinstance(a, AskError) else a
            for name, a in answers.items()
        },
        "placements": {name: to_json(place) for name, place in places.items()},
    }
    emit(args, value, _text(session, answers, places, causes))


_OF_A_DATAPATH = ("DATAPATH", "KIND", "CONTROLLER", "STATE", "PIPELINE")
_OF_ITS_FLOWS = ("FLOWS", "PENDING", "LOOKED", "MENDED", "DOWN")


def _text(
    session: ManagementSession, answers: Answers, places: dict[str, Placement], causes: list[Cause]
) -> str:
    answered, _ = parted(answers)
    blocks = [health.verdict(session.network, causes, health.moving(answers))]
    if len(causes) > 1:
        blocks.append("what is wrong\n" + "\n".join(f"  {cause}" for cause in causes))
    if store := [*_store(session, answered), *_other_file(session)]:
        blocks.append("store\n" + "\n".join(f"  {line}" for line in store))
    blocks += [
        table(("CONTROLLER", "STATE", "CORE", "UPTIME", "ADDRESS"), _controllers(session, answers)),
        table((*_OF_A_DATAPATH, *_OF_ITS_FLOWS), _datapaths(session, answers)),
    ]
    if session.network.routers:
        headings = ("ROUTER", "VM", "FORWARDS", "MODE", "ROUTES", "NEXT HOPS", "FED", "AGE", "NOTE")
        blocks.append(table(headings, _routers(session, answered, places)))
    migrations = list(_migrations(answered))
    if migrations:
        rows = "\n".join(f"  {row}" for row in migrations)
        title = "migrations (`xenflow recover` finishes or undoes one left unfinished)"
        blocks.append(f"{title}\n{rows}")
    return "\n\n".join(blocks)


def _store(session: ManagementSession, answered: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Where the network lives in a store: its last change, who has in force what concerns it, and
    what waits for the planner, or for people."""
    known = {name: a["store"] for name, a in answered.items() if a.get("store")}
    if not known:
        return
    planners = {name: store["planner"] for name, store in known.items() if store["planner"]}
    at: dict[str, Any] | AskError = {}
    if planners and session.network.store:
        try:
            at = session.ask(next(iter(planners)), "planner", PLANNER_S)
        except AskError as error:
            at = error
    said: dict[str, Any] = {} if isinstance(at, AskError) else at
    newest = max(said.get("change", 0), *(store["change"] for store in known.values()))
    if newest:
        late = list(_late(known, said.get("concerns", {})))
        whom = "not in force yet where it concerns" if late else "in force where it concerns"
        yield f"change {newest}, {whom}"
        yield from late
    elif any(store["connected"] for store in known.values()):
        yield "it is empty: controllers follow their network file until one is applied"
    else:
        yield "it is not reached: controllers follow their network file"
    yield from (f"{name} follows none" for name in answered if name not in known)
    urls = sorted(set(planners.values()))
    yield f"planner {', '.join(urls)}" if urls else "no planner holds its lease"
    if isinstance(at, AskError):
        yield f"what the planner is at is not known: {at}"
    yield from _pending(session, answered, said)


def _late(known: dict[str, dict[str, Any]], concerns: dict[str, int]) -> Iterator[str]:
    """The switches that do not have in force what concerns them, and for whom each waits."""
    for controller, store in known.items():
        for name, reached in store["in_force"].items():
            shall = concerns.get(name, store["change"])
            if reached < shall:
                at = reached_by(store)
                who = f"its switch has to prove change {at}"
                if at < shall:
                    who = f"controller {controller} is at change {at}"
                elif (held := store.get("held")) and store["but_held"].get(name, 0) >= shall:
                    who = f"{named(held['names'])}: held by the move of {', '.join(held['by'])}"
                yield f"{name} is at change {reached}, and change {shall} concerns it: {who}"


def _pending(
    session: ManagementSession, answered: dict[str, dict[str, Any]], at: dict[str, Any]
) -> Iterator[str]:
    """What waits for the planner, or for people, as the planner says."""
    for one in at.get("waiting", ()):
        yield f"{one['file']} (by {one['by'] or 'somebody'}) waits for its turn"
    if unconfirmed := at.get("unconfirmed"):
        number = unconfirmed["change"]
        yield (
            f"change {number} is put back in {duration(unconfirmed['left_s'])} unless you say "
            f"`xenflow confirm {number}`"
        )
    for one in at.get("remembering", ()):  # a planner of the release before says none
        yield _held_up(session.network.datapaths.get(one["switch"]), answered, one)


def _held_up(
    datapath: Datapath | None, answered: dict[str, dict[str, Any]], one: Mapping[str, Any]
) -> str:
    """Which ids and VLAN ids nobody is given, because of whom, and what to do."""
    first, more = one["names"][:NAMED], len(one["names"]) - NAMED
    names = ", ".join(first) + (f" and {count(more, 'other')}" if more > 0 else "")
    told = answered.get(datapath.controller, {}).get("datapaths", ()) if datapath else ()
    todo = "it is connected, and has to prove that they are gone"
    if not any(row.get("connected") for row in told if row.get("name") == one["switch"]):
        kind = "host" if datapath is not None and datapath.kind is DatapathKind.HOST else "switch"
        todo = f"connect it; where it is dead: `xenflow {kind} remove {one['switch']} --lost`"
    return (
        f"{one['switch']} may have flows of what went since change {one['since']} ({names}), whose "
        f"ids and VLAN ids nobody gets: {todo}"
    )


def _other_file(session: ManagementSession) -> Iterator[str]:
    """What the network file of this command says otherwise than the store."""
    if session.file is None or not session.change:
        return
    try:
        text = network_file.read_text(session.file)
        said = network_file.parse(text, str(session.file), session.network, in_store=True)[0]
    except NetworkError:  # as where a number that it leaves out fits no more
        yield f"{session.file} does not fit what the store has (`xenflow diff {session.file}`)"
        return
    if found := compare(session.network, said):
        prune = " --prune" if any(part.removed for _, part in found.parts()) else ""
        todo = f"`xenflow apply {session.file}{prune}` makes it so"
        words = f"{session.file} says otherwise: {found.words()}"
        yield f"{words} ({todo}; `xenflow export` prints what there is)"


def _controllers(session: ManagementSession, answers: Answers) -> Iterator[tuple[Any, ...]]:
    for name, answer in answers.items():
        url = session.network.controllers[name].manage
        if isinstance(answer, AskError):
            yield name, answer.code, None, None, url
        else:
            yield name, "up", answer.get("core"), duration(answer.get("uptime_s")), url


def _datapaths(session: ManagementSession, answers: Answers) -> Iterator[tuple[Any, ...]]:
    for name, datapath in session.network.datapaths.items():
        start = name, datapath.kind.value, datapath.controller
        answer = answers[datapath.controller]
        if isinstance(answer, AskError):
            yield *start, "unknown", *[None] * 6
            continue
        found = next((d for d in answer.get("datapaths", ()) if d.get("name") == name), None)
        if found is None:
            yield *start, "unknown to it", *[None] * 6
            continue
        state = (
            "not connected"
            if not found.get("connected")
            else "in sync"
            if found.get("in_sync")
            else "catching up"
        )
        ports = found.get("ports") or {}
        down = [port for port, p in ports.items() if not p.get("up")]
        audit = found.get("audit") or {}
        looked, mended = duration(audit.get("looked_s")), audit.get("mended") or 0
        if mended:
            mended = f"{mended} ({duration(audit.get('mended_s'))} ago)"
        yield (
            *start,
            state,
            found.get("pipeline"),
            found.get("flows"),
            found.get("pending"),
            looked,
            mended,
            down,
        )


def _routers(
    session: ManagementSession, answered: dict[str, dict[str, Any]], places: dict[str, Placement]
) -> Iterator[tuple[Any, ...]]:
    for name, router in session.network.routers.items():
        place = places.get(name)
        found = best_view(name, answered)
        notes = []
        if not router.running:
            notes.append(f"stopped (`xenflow router start {name}`)")
        elif place is None:
            notes.append("no controller that answered knows it")
        needless = place is not None and place.mode is Mode.NATIVE and found.get("feed") == "none"
        if found.get("stale") and not needless:
            notes.append("stale")
        if found.get("slow"):
            notes.append(f"the VM forwards: {found['slow']}")
        if found.get("through_vm"):
            notes.append(f"through the VM: {', '.join(found['through_vm'])}")
        if found.get("down"):
            notes.append(f"down: {', '.join(found['down'])}")
        if (found.get("held") or {}).get("now"):
            notes.append(f"{found['held']['now']} packets held")
        yield (
            name,
            place.vm if place else None,
            place.forwarders if place else None,
            place.mode.value if place else None,
            found.get("routes"),
            found.get("nexthops"),
            found.get("feed"),
            duration(found.get("age_s")),
            "; ".join(notes),
        )


def best_view(router: str, answered: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the controller nearest to a router says of it (empty where none knows it)."""
    nearest = ("local", "mirror", "none")
    views = [
        r
        for answer in answered.values()
        for r in answer.get("routers", ())
        if r.get("name") == router
    ]
    ranked = [(nearest.index(v["feed"]) if v.get("feed") in nearest else 9, v) for v in views]
    return min(ranked, key=lambda ranked_view: ranked_view[0])[1] if ranked else {}


def _migrations(answered: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A row for each, and the last thing that its journal says; several controllers know it."""
    kept: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = {}
    for name, answer in answered.items():
        for row in answer.get("migrations", ()):
            if row:
                kept.setdefault((str(row.get("router")), str(row.get("owner"))), []).append(
                    (name, row)
                )
    for (router, owner), rows in kept.items():
        journals = [row.get("journal") or [] for _, row in rows]
        longest = max(journals, key=len)
        since = duration(max(row.get("since_s", 0.0) for _, row in rows))
        state = "left unfinished"
        if any(row.get("under_way") for _, row in rows):
            state = f"under way for {since}"
        line = (
            f"{purpose(router, longest[0] if longest else None)}: {state}, by {owner}, "
            f"lock at {', '.join(name for name, _ in rows)}"
        )
        if len(longest) > 1 and isinstance(longest[-1], dict) and "words" in longest[-1]:
            line += f"; last begun: {longest[-1]['words']}"
        yield line
