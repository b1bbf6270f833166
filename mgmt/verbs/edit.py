"""The verbs that change one thing of a network that lives in a store: `host`, `cable`, ...

Each is a change as `xenflow apply` makes it, which `xenflow undo` takes back.  What it makes of the
network `mgmt.edits` says.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from mgmt.client import AskError
from mgmt.edits import Edit, Places, cables, links, switches
from mgmt.lost import refuse_living
from mgmt.session import ManagementSession, UsageError, placements
from mgmt.verbs import Exit, add_dry_run, add_json, apply, complain
from xenflow.model.difference import refusals
from xenflow.model.network import Network


class EditVerb:
    """The verb of one kind of thing, a `Command`."""

    def __init__(self, kind: str, summary: str, says: str, edits: tuple[Edit, ...]) -> None:
        self.NAME = kind
        self.SUMMARY = f"{summary}, by way of the store"
        self.__doc__ = says
        self._edits = {edit.name: edit for edit in edits}

    def add_arguments(self, parser: ArgumentParser) -> None:
        """A sub-verb for each edit."""
        actions = parser.add_subparsers(dest="change", metavar="VERB", required=True)
        for edit in self._edits.values():
            verb = actions.add_parser(edit.name, help=edit.says, description=edit.says)
            verb.add_argument(self.NAME, metavar=self.NAME.upper(), help="its name")
            for name, about in edit.options:
                verb.add_argument(name, **about)
            add_dry_run(verb)
            add_json(verb)

    def run(self, args: Namespace, session: ManagementSession) -> int:
        """Make the change, and wait for it."""
        apply.need_store(session)
        edit, network = self._edits[args.change], session.network
        if getattr(args, "lost", False):
            refuse_living(session, session.host(args.host).name)
        name = f"{self.NAME} {args.change} {getattr(args, self.NAME)}"
        places = _places(session, args) if edit.places else {}
        wanted = edit.makes(network, args, places)
        shall = wanted if edit.then is None else edit.then(network, args, places)
        if shall != wanted:
            _refuse_second(network, wanted, shall, name)
        done, after = _become(args, session, wanted, name, session.change)
        number = _number(done)
        if shall == wanted or args.dry_run or not number:
            return apply.end(args, *done)
        first = done
        if done[2] is Exit.OK:
            if not args.json:
                apply.end(args, *done)
            done, _ = _become(args, apply.session_of(session, after), shall, name, number)
        if done is first or not _number(done):
            words = f"`xenflow undo {number}` takes it back; then say it again"
            complain(f"{name}: of two steps only the first is made, change {number}: {words}")
        return apply.end(args, *(_joined(first, done) if args.json else done))


def _refuse_second(network: Network, wanted: Network, shall: Network, name: str) -> None:
    """Raises UsageError where the second of two steps cannot be made after the first: it is found
    before anything is changed."""
    _, first = apply.written(wanted, name, network)
    _, second = apply.written(shall, name, first)
    if wrong := refusals(first, second):
        raise UsageError("\n".join(f"{name}, the second of two steps: {words}" for words in wrong))


def _become(
    args: Namespace, session: ManagementSession, wanted: Network, name: str, last: int
) -> tuple[apply.Outcome, Network]:
    """How it ended, and the network that it was to become.  `last`: it is refused where somebody
    has made another change after that one."""
    text, after = apply.written(wanted, name, session.network)
    return apply.change(session, text, name, after, last, dry_run=args.dry_run), after


def _number(outcome: apply.Outcome) -> int:
    """Of the change that was made; 0 where none was."""
    return int(outcome[1].get("change", 0))


def _joined(one: apply.Outcome, other: apply.Outcome) -> apply.Outcome:
    """What came of two steps."""
    if one is other:
        return one
    touched, answer = dict(one[0]), {**one[1], **other[1]}
    changed = {kind: dict(ways) for kind, ways in one[1].get("changed", {}).items()}
    for key, names in other[0].items():
        touched[key] = sorted({*touched.get(key, ()), *names})
    for kind, ways in other[1].get("changed", {}).items():
        for way, names in ways.items():
            known = changed.setdefault(kind, {})
            known[way] = list(dict.fromkeys((*known.get(way, ()), *names)))
    return touched, {**answer, "changed": changed}, other[2], [*one[3], *other[3]]


def _places(session: ManagementSession, args: Namespace) -> Places:
    """Where the routers are.  A controller that does not answer may know better: it is named,
    unless nothing can be there; and of a host that goes, unless it is lost, or had told the store
    all that it had to."""
    answers = session.ask_all("status")
    new = apply.never_heard(session)
    lost = getattr(args, "lost", False) or args.change == "replace"
    gone = session.network.hosts.get(getattr(args, "host", ""))
    for name, answer in answers.items():
        if not isinstance(answer, AskError) or name in new:
            continue
        if gone is None or gone.controller != name:
            raise answer
        if not lost and not apply.has_all_in_force(session, name):
            raise UsageError(f"{answer}: where host {gone.name} is dead, say --lost")
        if not lost:
            words = "its switch keeps what it holds until its controller runs again"
            complain(f"{answer}: it had all in force, and nothing is there; {words}")
    found = placements(answers)
    return {name: frozenset(placement.hosts) for name, placement in found.items()}


VERBS = (
    EditVerb(
        "host",
        "a host comes, is changed or goes",
        "One host more, less, or another.  A host is a machine with a controller and a switch that "
        "can forward\nfor routers.  What is not given is as at the other hosts, where they are all "
        "alike.",
        switches.OF_HOSTS,
    ),
    EditVerb(
        "switch",
        "a plain switch comes, is changed or goes",
        "One plain switch more, less, or another.  What is not given is as at the others, where "
        "they are\nall alike.",
        switches.OF_SWITCHES,
    ),
    EditVerb(
        "cable",
        "a cable comes, is changed or goes",
        "One cable more, less, or another.",
        cables.EDITS,
    ),
    EditVerb(
        "link",
        "a virtual link comes, is changed or goes",
        "One virtual link more, less, or another.  What nobody needs to choose is taken as it "
        "comes: the next\nnumber, and the next VLAN id.",
        links.EDITS,
    ),
)
