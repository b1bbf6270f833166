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
        status, number = _become(args, session, wanted, name, session.change)
        if edit.then is None or args.dry_run or not number:
            return status
        second = 0
        if status is Exit.OK:
            shall = edit.then(network, args)
            status, second = _become(args, apply.session_of(session, shall), shall, name, number)
        if not second:
            words = f"`xenflow undo {number}` takes it back; then say it again"
            complain(f"{name}: of two steps only the first is made, change {number}: {words}")
        return status


def _become(
    args: Namespace, session: ManagementSession, wanted: Network, name: str, last: int
) -> tuple[Exit, int]:
    """How it ended, and the number of the change; 0 where none was made.  `last`: it is refused
    where somebody has made another change after that one."""
    text, after = apply.written(wanted, name, session.network)
    outcome = apply.change(session, text, name, after, last, dry_run=args.dry_run)
    return apply.end(args, *outcome), int(outcome[1].get("change", 0))


def _places(session: ManagementSession, args: Namespace) -> Places:
    """Where the routers are.  A controller that does not answer may know better: it is named,
    unless it is that of the host that is lost."""
    answers = session.ask_all("status")
    lost = getattr(args, "lost", False) or args.change == "replace"
    gone = session.network.hosts.get(getattr(args, "host", ""))
    for name, answer in answers.items():
        if not isinstance(answer, AskError):
            continue
        if gone is None or gone.controller != name:
            raise answer
        if not lost:
            raise UsageError(f"{answer}: where host {gone.name} is dead, say --lost")
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
