"""`xenflow reload`: every controller reads its network file anew; the network becomes what it says.

First each is asked what would change.  Where one has another file than this command, does not
answer, or cannot follow, each reason is said and nothing is changed anywhere.  Routers, links,
hosts, switches, cables, ports, interfaces and addresses come, change and go; who has not changed
forwards on.  Done means that every switch holds what it shall.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from mgmt.client import Answers, AskError, Refused, Unreachable, parted
from mgmt.health import Digests, other_file
from mgmt.session import ManagementSession
from mgmt.verbs import Exit, add_dry_run, add_json, apply, complain, emit, refusal
from mgmt.waiting import await_status
from xenflow.model.network import NetworkError

NAME = "reload"
SUMMARY = "the controllers read their network file anew"
IN_FORCE_S = 10.0
"""So long the switches are waited for."""


def add_arguments(parser: ArgumentParser) -> None:
    add_dry_run(parser)
    add_json(parser)


def run(args: Namespace, session: ManagementSession) -> int:
    if session.network.store:
        raise NetworkError("the network lives in a store: use `xenflow apply FILE`")
    looked = session.ask_all("reload", dry_run=True)
    if wrong := list(_wrong(session, looked)):
        return _end(args, looked, Exit.UNREACHABLE if _silent(looked) else Exit.FAILED, wrong)
    if args.dry_run or not any(_changed(looked).values()):
        return _end(args, looked, Exit.OK, [])
    done = session.ask_all("reload")
    if wrong := list(_wrong(session, done)):
        complain("some controllers have read it, and some have not: mend this and do it again")
        return _end(args, done, Exit.UNREACHABLE if _silent(done) else Exit.FAILED, wrong)
    late = await_status(session, _behind, IN_FORCE_S)
    return _end(args, done, Exit.FAILED if late else Exit.OK, late)


def _silent(answers: Answers) -> bool:
    return any(isinstance(answer, Unreachable) for answer in answers.values())


def _wrong(session: ManagementSession, answers: Answers) -> Iterator[str]:
    digests = Digests(session.network)
    for controller, answer in answers.items():
        if isinstance(answer, Refused):
            yield from (f"{controller}: {line}" for line in answer.message.splitlines())
        elif isinstance(answer, AskError):
            yield str(answer)
        elif words := other_file(digests, controller, answer):
            yield f"controller {controller}: {words}"


def _changed(answers: Answers) -> dict[str, Any]:
    return {name: answer["changed"] for name, answer in parted(answers)[0].items()}


def _behind(_: str, answer: dict[str, Any]) -> Iterator[str]:
    """Which switches do not hold yet what they shall, and why that is known."""
    for row in answer["datapaths"]:
        if not row["connected"]:
            yield f"{row['name']}: the switch is not connected"
        elif not row["in_sync"]:
            yield f"{row['name']}: the switch is still catching up"


def _end(args: Namespace, answers: Answers, status: Exit, wrong: list[str]) -> Exit:
    for words in wrong:
        complain(words)
    changed = _changed(answers)
    value = {"ok": status is Exit.OK, "controllers": changed, "errors": wrong}
    if status is not Exit.OK:
        value |= refusal("\n".join(wrong), status)
    if args.json:
        emit(args, value, "")
    elif status is Exit.OK:
        lines = list(dict.fromkeys(line for each in changed.values() for line in apply.lines(each)))
        print("\n".join(lines) or "the network file says nothing new")
    return status
