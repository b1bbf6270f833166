"""`xenflow apply`: the network becomes what a file says, by way of the store.

First it is looked whether the network can become that, and every controller that stays is asked how
far it is; what is in the way is said, and nothing is changed.  Then the planner writes the change,
and it is waited for until it is in force on every switch that it concerns.  Where that takes too
long the change stays, and who is missing is named (exit status 5).  So it ends where the change
waits for a move: what a router that is being moved needs stays as it is until then.  For
controllers that follow a store; others read their file with `xenflow reload`.

Without --prune nothing is removed: what the file leaves out is named, and stays.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from mgmt.client import AskError, Unreachable, parted
from mgmt.session import ManagementSession, UsageError, placements
from mgmt.verbs import Exit, add_dry_run, add_json, complain, emit, refusal, seconds
from mgmt.waiting import await_status
from xenflow.model.difference import SIGNS, compare, expected_loss, refusals, rejoined
from xenflow.model.holding import named
from xenflow.model.network import PARTS, Network, NetworkError
from xenflow.store import network_file
from xenflow.store.network_text import to_text

NAME = "apply"
SUMMARY = "the network becomes what a file says, by way of the store"
IN_FORCE_S = 10.0
"""So long the switches are waited for."""
PLACED_S = 5.0
"""So long the planner may take to hear where a router is: controllers tell it each second."""
PLANNED_S = 12.0
"""So long the planner may take to write the change."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a network file")
    parser.add_argument(
        "--confirm",
        metavar="S",
        type=seconds,
        help="it is put back unless `xenflow confirm` is said within S seconds",
    )
    parser.add_argument(
        "--prune", action="store_true", help="what the file leaves out is removed (default: stays)"
    )
    add_dry_run(parser)
    add_json(parser)


def run(args: Namespace, session: ManagementSession) -> int:
    text, after = read(args.file, session.network)
    confirm_s = None if args.confirm is None else max(1, round(args.confirm))
    # What others have added since would be removed, or be left out of what is said here.
    file, last = Path(args.file).name, session.change or None
    if session.change and not args.prune and (left := left_out(session.network, after)):
        names = ", ".join(f"{part}.{name}" for part, names in left.items() for name in names)
        complain(f"not in {file}, and left as it is: {names} (--prune removes it)")
        text, after = _with_left(session.network, after, left, file)
    return carry_out(args, session, text, file, after, last, confirm_s)


def left_out(before: Network, after: Network) -> dict[str, list[str]]:
    """What there is and is not named afterwards: part of a network, names."""
    both = ((part, getattr(before, part), getattr(after, part)) for part in PARTS)
    found = {part: [name for name in old if name not in new] for part, old, new in both}
    return {part: names for part, names in found.items() if names}


def _with_left(
    before: Network, after: Network, left: Mapping[str, list[str]], file: str
) -> tuple[str, Network]:
    """What a file says, and what it leaves out.  Raises UsageError where both do not fit."""
    both: dict[str, Any] = {
        part: getattr(after, part) | {name: getattr(before, part)[name] for name in names}
        for part, names in left.items()
    }
    try:
        return written(replace(after, **both), f"{file}, with what it leaves out", before)
    except UsageError as error:
        raise UsageError(f"{error}\nuse --prune, or name all of it in {file}") from None


def written(wanted: Network, name: str, before: Network) -> tuple[str, Network]:
    """A network as the text of a file of that name, and what everybody will read in it; links lie
    as in the network `before`.  Raises UsageError with all mistakes, a line each, without the lines
    of the text, which nobody has seen."""
    text = to_text(wanted)
    try:
        return text, network_file.parse(text, name, before, in_store=True, unseen=True)[0]
    except NetworkError as error:
        raise UsageError(str(error)) from None


def need_store(session: ManagementSession) -> None:
    """Raises NetworkError where the network has no store, so that no verb changes it."""
    if not session.network.store:
        todo = without_store(session.network)
        raise NetworkError(f"the network lives in its file: change that, then {todo}")


def without_store(network: Network) -> str:
    """What a network becomes another one by where it has no store."""
    if any(host.hypervisor.startswith("lab:") for host in network.hosts.values()):
        return "`xenflow lab reload FILE` (or bring the lab up with --store)"
    return "`xenflow reload`"


def read(file: str, before: Network | None = None) -> tuple[str, Network]:
    """The text of a network file, and what it says; links lie as in the network `before`.

    Raises UsageError with all mistakes, a line each.
    """
    try:
        text = network_file.read_text(file)
        in_store = before is not None and bool(before.store)
        return text, network_file.parse(text, file, before, in_store=in_store)[0]
    except NetworkError as error:
        raise UsageError(str(error)) from None


def carry_out(
    args: Namespace,
    session: ManagementSession,
    text: str,
    file: str,
    after: Network,
    last: int | None = None,
    confirm_s: int | None = None,
) -> Exit:
    """Have the network become `after`, which `text` says, and say what came of it."""
    return end(args, *change(session, text, file, after, last, confirm_s, dry_run=args.dry_run))


Outcome = tuple[dict[str, list[str]], dict[str, Any], Exit, list[str]]
"""Whom a change touches, the planner's answer to `apply`, how it ended, and what is wrong."""


def change(
    session: ManagementSession,
    text: str,
    file: str,
    after: Network,
    last: int | None = None,
    confirm_s: int | None = None,
    *,
    dry_run: bool = False,
    lost: Set[str] = frozenset(),
    unmoved: Set[str] = frozenset(),
) -> Outcome:
    """Have the network become `after`, which `text` says.

    file       its name for messages
    last       refused where another change was made after that one
    confirm_s  it is put back unless it is confirmed within so many seconds
    dry_run    it is only looked whether that can be
    lost       controllers that are not asked, nor waited for
    unmoved    as of `look`
    """
    lost |= (unheard := never_heard(session)).keys()
    stay = session.network.controllers.keys() & after.controllers.keys() - lost
    wrong, since = look(session_of(session, session.network, stay), after, unmoved)
    gone = _that_go(session, after, lost)
    if gone and (links := rejoined(session.network, after)):
        words = (
            f"without its switches {', '.join(links)} would be joined otherwise, and packets might "
            "go round: `xenflow host remove` does it in two steps, or stop it, and it may go"
        )
        wrong += [f"controllers.{name}: it runs, and {words}" for name in gone]
    touched = touches(session.network, after) if session.change else {}
    if wrong:
        if not dry_run:
            session.note("change", f"{file}: {wrong[0]}", "refused")
        return touched, {}, Exit.FAILED, wrong
    if gone_hosts := session.network.hosts.keys() - after.hosts.keys():
        _await_emptied(session, gone_hosts, lost)
    if last is not None:
        since["since"] = last
    if confirm_s:
        since["confirm_s"] = confirm_s
    if dry_run:
        return touched, submit(session, text, file, since, dry_run=True), Exit.OK, []
    for name in unheard.keys() & after.controllers.keys():
        complain(f"{unheard[name]}: it was never heard, and is not waited for")
    for words in touched.get("loss", ()):
        complain(f"loss is to be expected: {words}")
    made = "whether the change is made is not known: to apply it again is right in both cases"
    try:
        answer = submit(session, text, file, since, dry_run=False)
        number = answer["change"] or since.get("since", 0)
        made = f"change {number} is made; whether it is in force everywhere is not known"
        new = session_of(session, after, after.controllers.keys() - lost)
        late = await_in_force(new, answer, IN_FORCE_S)
        late += await_status(session, _not_empty, IN_FORCE_S, gone) if gone else []
    except KeyboardInterrupt:
        complain(made)
        raise
    if confirm_s and answer["change"]:
        words = f"it is put back in {confirm_s} s unless you say `xenflow confirm {number}`"
        complain(f"change {number}: {words}")
    return touched, answer, Exit.LATE if late else Exit.OK, late


def touches(before: Network, after: Network) -> dict[str, list[str]]:
    """Which routers and links a change touches, and whose packets it may cost, in words."""
    found = compare(before, after)
    return {
        "routers": sorted(found.dirty_routers),
        "links": sorted(found.dirty_links),
        "loss": expected_loss(before, after, found),
    }


def session_of(
    session: ManagementSession, network: Network, names: Set[str] | None = None
) -> ManagementSession:
    """A session with a network's controllers, or some of them, in its order."""
    some = network.controllers.keys() if names is None else names
    controllers = {n: c for n, c in network.controllers.items() if n in some}
    return ManagementSession(replace(network, controllers=controllers), session.timeout_s)


def never_heard(session: ManagementSession) -> dict[str, AskError]:
    """Controllers that do not answer, and of whose switches the store has never heard: nothing is
    there that a change could harm, so they hold up nobody else."""
    if not session.change:
        return {}
    silent = parted(session.ask_all("network", rows=False))[1]
    quiet = {name: error for name, error in silent.items() if isinstance(error, Unreachable)}
    if not quiet or len(quiet) == len(session.network.controllers):
        return {}
    at = ask_planner(session, "planner")
    return {name: error for name, error in quiet.items() if not _in_force(session, at, name)}


def has_all_in_force(session: ManagementSession, controller: str) -> bool:
    """Whether the store has heard of all switches of a controller that they have in force what
    concerns them."""
    at = ask_planner(session, "planner")
    found = _in_force(session, at, controller)
    return bool(found) and all(n >= at["concerns"].get(name, 0) for name, n in found.items())


def _await_emptied(session: ManagementSession, hosts: Set[str], lost: Set[str]) -> None:
    """Wait until the planner has heard, too, that no router is at hosts that go, where the
    controllers say so; where one is there it says so itself."""

    def there(of: Iterable[Collection[str]]) -> bool:
        return any(not hosts.isdisjoint(each) for each in of)

    asked = session.network.controllers.keys() - lost
    known = placements(session.ask_all("status", asked)).values()
    until = time.monotonic() + PLACED_S
    while not there(placement.hosts for placement in known) and time.monotonic() < until:
        if not there(ask_planner(session, "planner").get("placed", {}).values()):
            return
        time.sleep(0.2)


def _in_force(session: ManagementSession, at: Mapping[str, Any], controller: str) -> dict[str, int]:
    """Of a controller's switches that were ever heard how far they are; `at`: what the planner is
    at.  One of the release before says nothing, and each counts as heard."""
    names = [datapath.name for datapath in session.network.datapaths_of(controller)]
    found = at.get("in_force", dict.fromkeys(names, -1))
    return {name: found[name] for name in names if name in found}


def _that_go(session: ManagementSession, after: Network, lost: Set[str]) -> list[str]:
    """Controllers that shall go, and answer."""
    gone = session.network.controllers.keys() - after.controllers.keys() - lost
    return sorted(parted(session.ask_all("status", gone))[0]) if gone else []


def _not_empty(controller: str, answer: dict[str, Any]) -> Iterator[str]:
    """Of a controller that has gone from the network why its switches may hold something still."""
    if answer["store"] and not answer["store"].get("fenced", True):
        yield f"{controller}: it has not heard yet that it is not in the network any more"
    for row in answer["datapaths"]:
        if row["connected"] and not row["in_sync"]:
            yield f"{row['name']}: what it held of the network is not out of it yet"


def look(
    session: ManagementSession, after: Network, unmoved: Set[str] = frozenset()
) -> tuple[list[str], dict[str, Any]]:
    """Why the session's network cannot become another one, as far as it is known; and the last
    change, as arguments of `apply`: what others do meanwhile is found by that.

    unmoved  routers for which more is done than to change the network: while somebody moves one of
             them, what touches it is refused

    Raises AskError where nothing is wrong, and the planner does not say how far it is.
    """
    found = compare(session.network, after)
    wrong = refusals(session.network, after, found)
    answers = session.ask_all("status")
    known, silent = parted(answers)
    wrong += map(str, silent.values())
    dirty = found.dirty_routers & session.network.routers.keys() & unmoved
    for router in sorted(
        dirty & {row["router"] for a in known.values() for row in a["migrations"]}
    ):
        wrong.append(
            f"routers.{router}: it, or a link of its, has changed, and it is being migrated, or "
            "was left half way: wait, or `xenflow recover`"
        )
    for controller, answer in known.items():
        if answer["store"] is None:
            todo = without_store(session.network)
            wrong.append(f"{controller}: it follows no store (--store): use {todo}")
        elif answer["store"]["older"]:
            wrong.append(f"{controller}: {'; '.join(answer['problems'])}")
    if wrong:
        return wrong, {}
    at = ask_planner(session, "planner")
    for controller, answer in known.items():
        wrong += _behind(controller, answer["store"], at)
    return wrong, {"cluster": at["cluster"], "since": at["change"]}


def _behind(controller: str, store: dict[str, Any], at: dict[str, Any]) -> Iterator[str]:
    """What a controller does not have of what the planner has."""
    look = "wait, or look why it does not reach it (`xenflow status`)"
    shall = max((at["concerns"].get(name, 0) for name in store["in_force"]), default=0)
    if store["cluster"] and store["cluster"] != at["cluster"]:
        follows = f"it follows cluster {store['cluster']}"
        yield f"{controller}: {follows}, and the planner's store is {at['cluster']}: {look}"
    elif (reached := reached_by(store)) > at["change"]:
        was = f"it is at change {reached}, and the planner's store is at {at['change']}"
        yield f"{controller}: {was}: was it put back from a copy? (docs/store.md)"
    elif reached < shall:
        yield f"{controller}: it is at change {reached}, and {shall} concerns it: {look}"


def reached_by(store: Mapping[str, Any]) -> int:
    """The change that a controller is at, but for what is held, by its `status`."""
    return int(store.get("reached", store["taken"]))  # one of the release before holds nothing


def submit(
    session: ManagementSession, text: str, file: str, since: dict[str, Any], *, dry_run: bool
) -> dict[str, Any]:
    """Have the planner make a change, where there was no other since what `look` says; returns its
    answer to `apply` (docs/messages.md).

    Raises AskError where it does not, or no controller can be asked.
    """
    return ask_planner(session, "apply", text=text, file=file, dry_run=dry_run, **since)


def ask_planner(session: ManagementSession, verb: str, **arguments: Any) -> dict[str, Any]:
    """One verb of the planner, by way of the first controller that answers.

    Raises AskError where it does not do it, or no controller can be asked.
    """
    error: AskError | None = None
    for controller in session.network.controllers:
        try:
            return session.ask(controller, verb, timeout_s=PLANNED_S, **arguments)
        except Unreachable as unreachable:
            if unreachable.sent:  # it may be under way
                raise
            error = error or unreachable
    assert error is not None
    raise error


def await_in_force(
    session: ManagementSession, made: Mapping[str, Any], limit_s: float
) -> list[str]:
    """Which switches do not have a change in force after some time, in words; [] where all have.
    What is held of other changes is not waited for.

    made  the planner's answer to `apply`.  Of what it concerns a switch that the session knows not,
          or whose controller it has not, is not waited for
    """
    concerns: Mapping[str, int] = made["concerns"]
    changed = {part: {*chain(*ways.values())} for part, ways in made["changed"].items()}
    waits: dict[str, dict[str, int]] = {}
    for name in concerns.keys() & session.network.datapaths.keys():
        waits.setdefault(session.network.datapaths[name].controller, {})[name] = concerns[name]

    def missing(controller: str, answer: dict[str, Any]) -> Iterator[str]:
        store, change = answer["store"], max(waits[controller].values())
        if store is None:
            yield f"{controller}: it follows no store"
            return
        if reached_by(store) < change:
            words = [w for w in answer["problems"] if "change " in w]
            yield f"{controller}: {words[0] if words else f'change {change} has not come there'}"
            return
        held = store.get("held") or {"names": {}}
        mine = {part: changed.get(part, set()) & {*names} for part, names in held["names"].items()}
        if not changed:  # it was made before, and all of it is to be in force
            mine = held["names"]
        whole = not held["names"] or any(mine.values())
        reached = store["in_force"] if whole else store["but_held"]
        for name, change in waits[controller].items():
            if reached.get(name, 0) < change and any(mine.values()):
                by = f"{named(mine)}: held by the move of {', '.join(held['by'])}"
                yield f"{name}: change {change} is in force there when that has ended: {by}"
            elif reached.get(name, 0) < change:
                yield f"{name}: change {change} is not in force there"

    asked = [name for name in session.network.controllers if name in waits]
    return await_status(session, missing, limit_s, asked) if asked else []


def end(
    args: Namespace,
    touched: dict[str, list[str]],
    answer: dict[str, Any],
    status: Exit,
    wrong: list[str],
) -> Exit:
    """Say what came of a `change`."""
    for words in wrong:
        complain(words)
    changed = answer.get("changed", {})
    value = {
        "ok": status is Exit.OK,
        "change": answer.get("change", 0),
        "changed": changed,
        "touches": touched,
        "errors": wrong,
    }
    if status is not Exit.OK:
        value |= refusal("\n".join(wrong), status)
    if args.json:
        emit(args, value, "")
    elif answer:
        done = f"change {answer['change']}" if answer["change"] else ""
        said = (*lines(changed), *(_touched(args, touched) if changed else ()), done)
        nothing = "the file says nothing new" if "file" in args else "nothing is to be done"
        print("\n".join(filter(None, said)) or nothing)
    return status


def _touched(args: Namespace, touched: Mapping[str, list[str]]) -> Iterator[str]:
    """For people; of what was done, the loss has been said before it was."""
    if touched:
        who = [f"{n} {', '.join(touched[n])}" for n in ("routers", "links") if touched[n]]
        loss = touched["loss"]
        yield f"touches {'; '.join(who) or 'no router and no link'}" + (
            "" if loss else ": no loss is expected"
        )
        if args.dry_run:
            yield from (f"loss is to be expected: {words}" for words in loss)


def lines(changed: Mapping[str, Mapping[str, list[str]]]) -> Iterator[str]:
    """What has changed, for people."""
    for kind, ways in changed.items():
        yield f"{kind}: " + ", ".join(f"{SIGNS[w]} {n}" for w, names in ways.items() for n in names)
