"""Brings a network up as namespaces on one machine, lets it follow its file, and takes it down.

What is done, and in which order, is a list of steps (`steps.py`, carried out by `changing.py`):
`up` goes from nothing to the network, `reload` from the network that is up to another.  That a lab
is there is written down before it is made (`state.py`), what is started right after (`process.py`),
so that `down` can sweep after a crash at any point.  Nothing is ended or removed that is not on
that list or called `xf-...`.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lab import made, neighbours, process, rooms, routing
from lab.changing import OPERATOR, Change
from lab.description import COPY_HEADER, LABS_OWN, PREFIX, ROOT, Lab, find_file, load_lab, parse_lab
from lab.namespace import NETNS_DIR, LabError, at_least, exists, ip, need_root, sysctl
from lab.state import (
    CHANGING,
    NETWORK_FILE,
    STARTING,
    UP,
    LabOptions,
    State,
    current,
    lock,
    network_text,
    placed,
    read_state,
    write_network_file,
)
from lab.steps import Do, Step, refusals, steps
from lab.telling import tell_hypervisor
from lab.waiting import await_ends, await_in_sync

HOSTS_OWN_FILE = Path("/etc/xenflow/network.toml")
"""What a host's Domain 0 has (docs/xen.md), where the command looks after NETWORK_FILE."""
_GLOBAL_SETTINGS: dict[str, int] = {
    # a switch's sockets take this as their buffer when ports are added
    "net/core/rmem_default": 16 << 20,
}
_MILESTONES = {
    Do.NODE: "{} nodes",
    Do.ROUTERD: "switches, routers and controllers started",
    Do.LINK: "every link passes packets",
}
_SETTLED_S = 10.0
"""Who has something to catch up still has had time for it then."""
Say = Callable[[str], None]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Clock:
    """Says things with the time since it was made."""

    def __init__(self, say: Say) -> None:
        self._begun = time.monotonic()
        self._say = say

    @property
    def passed_s(self) -> float:
        return time.monotonic() - self._begun

    def say(self, text: str) -> None:
        self._say(f"{self.passed_s:5.1f} s  {text}")


# --- up ------------------------------------------------------------------------------------------


def up(
    file_or_name: str | Path, options: LabOptions | None = None, *, say: Say = _say, **changes: Any
) -> Lab:
    """Bring a network up; returns once packets pass between the first and the last machine.

    Where hosts are elsewhere it returns before: `await_ends` waits, once they are there.
    `changes` are fields of `LabOptions`.  Raises NetworkError where the file is wrong, LabError
    where a lab is up already or this one did not come up; everything is swept then unless `keep`.
    """
    need_root()
    options = replace(options or LabOptions(), **changes)
    _refuse_host()
    path = find_file(file_or_name)
    text = network_text(path, store=options.store, members=options.members)
    if options.daemon not in routing.DAEMONS:
        raise LabError(f"daemon {options.daemon}: expected one of {', '.join(routing.DAEMONS)}")
    if options.controllers and not (ROOT / "pox.py").exists():
        raise LabError(f"{ROOT / 'pox.py'} does not exist; --static brings the lab up without it")
    if options.store and not options.controllers:
        raise LabError("a store without controllers: who would follow it?")
    with lock():
        _refuse_second()
        clock = _Clock(say)
        lab = parse_lab(text, str(path))
        try:
            _bring_up(lab, path, text, options, clock)
        except BaseException as error:
            if not options.keep:
                _sweep()
            elif (state := read_state()) is not None:
                replace(state, phase="kept").write()
            hint = f"logs: {process.LOG_DIR}"
            if options.keep:
                hint += f"; kept as it is: {_down_words()} sweeps it"
            if isinstance(error, LabError):
                raise LabError(f"{error}\n{hint}") from None
            raise
        say(f"up in {clock.passed_s:.1f} s: {lab.network.name}")
    return load_lab(NETWORK_FILE)


def _bring_up(lab: Lab, path: Path, text: str, options: LabOptions, clock: _Clock) -> None:
    shutil.rmtree(process.STATE_DIR, ignore_errors=True)
    process.LOG_DIR.mkdir(parents=True)
    state = State(STARTING, str(path.resolve()), lab.network.name, time.time(), options)
    state.write()
    state = _make_room(state, lab, clock)

    def milestone(done: list[Step], _: str) -> None:
        if words := _MILESTONES.get(done[0].do):
            clock.say(words.format(len(done)))

    way = steps(None, lab, controllers=options.controllers)
    Change(None, lab, text, options).carry_out(way, milestone)
    if lab.elsewhere:
        clock.say(f"not waited for: {', '.join(lab.elsewhere)}, not the lab's own")
    else:
        await_ends(lab, options.limit_s)
    replace(state, phase=UP, since=time.time()).write()


def _make_room(state: State, lab: Lab, clock: _Clock) -> State:
    """The kernel's settings that a lab needs; what they have been is kept for `down`."""
    room = neighbours.settings(neighbours.needed(lab))
    before = at_least({**_GLOBAL_SETTINGS, **room})
    state = replace(state, settings_before={**before, **state.settings_before})
    state.write()
    for name, value in before.items():
        if name in room:
            parameter = name.replace("/", ".")
            clock.say(f"{parameter} {value} -> {room[name]}, until `lab down`")
    neighbours.check(lab)
    return state


def _refuse_host() -> None:
    """On a host of a network `xenflow` means that network, and shall go on to do so."""
    if HOSTS_OWN_FILE.exists() and "XENFLOW_ISOLATED" not in os.environ:
        raise LabError(
            f"this machine is a host of a network ({HOSTS_OWN_FILE}), which `xenflow` means: bring "
            "the lab up with a name (--name NAME), or in a shell of its own (`scripts/isolated sh`)"
        )


def _refuse_second() -> None:
    state = read_state()
    if state is None:
        left = sorted(p.name for p in NETNS_DIR.glob(PREFIX + "*")) if NETNS_DIR.exists() else []
        if left:
            raise LabError(
                f"namespaces of an earlier lab are left ({', '.join(left)}): "
                "`xenflow lab down` sweeps them"
            )
        return
    if state.phase == UP:
        raise LabError(
            f"a lab is up already ({state.network}, from {state.source}): {_down_words()} ends it"
        )
    raise LabError(f"a lab was left behind half up ({state.network}): {_down_words()} sweeps it")


def _down_words() -> str:
    """How the lab that is here is taken down."""
    name = rooms.here()
    return f"`xenflow lab down{f' --name {name}' if name else ''}`"


# --- reload --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reload:
    """What a changed network file means for the lab that is up: `refused` says what cannot be
    changed (then nothing is), `steps` what is to be done."""

    source: Path
    refused: list[str]
    steps: list[Step]


def reload(
    file_or_name: str | Path | None = None, *, dry_run: bool = False, say: Say = _say
) -> Reload:
    """Let the lab that is up follow a network file (None: the one it was brought up from); what
    stays in it is not touched.  Returns once every new link passes packets and what is gone is
    taken away.

    Raises NetworkError where the file is wrong, LabError where no lab is up, or what is begun fails
    half way.
    """
    need_root()
    with lock():
        before, state = current()
        if state.phase != UP:
            raise LabError(f"the lab is not whole ({state.phase}): {_down_words()} sweeps it")
        source = Path(state.source) if file_or_name is None else find_file(file_or_name)
        options = state.options
        text = network_text(source, store=options.store, members=options.members)
        kept = load_lab(NETWORK_FILE) if state.options.store else None
        after, places = parse_lab(text, str(source), kept), placed()
        refused = refusals(before, after, places)
        if state.options.bgp:
            refused.append("lab: BGP is spoken in it: take it down, and bring it up anew")
        refused += _made_otherwise(before, after)
        same = text == NETWORK_FILE.read_text() and after.own == before.own and not made.read()
        if refused or same:
            return Reload(source, refused, [])
        found = Reload(source, [], steps(before, after, controllers=state.options.controllers))
        if not dry_run:
            _reload(Change(before, after, text, state.options, places), found, state, _Clock(say))
    return found


def _made_otherwise(before: Lab, after: Lab) -> list[str]:
    """Routers whose daemon is none of the lab's: it would not become one."""
    own = [name for name, vm in before.made.items() if vm.daemon != LABS_OWN]
    words = "it was made with a configuration of its own: `xenflow router destroy {}` first"
    return [f"routers.{n}: {words.format(n)}" for n in own if n in after.routers]


def _reload(change: Change, found: Reload, state: State, clock: _Clock) -> None:
    def say(done: list[Step], left: str) -> None:
        for words in (*map(str, done), left):
            if words:
                clock.say(words)

    state = replace(state, phase=CHANGING)
    state.write()  # from now on no router moves
    try:
        state = _make_room(state, change.after, clock)
        _ask_everyone(change)
    except BaseException:
        replace(read_state() or state, phase=UP).write()
        raise
    try:
        change.carry_out(found.steps, say)
    except BaseException as error:
        hint = f"the lab is half changed: {_down_words()} sweeps it; logs: {process.LOG_DIR}"
        if isinstance(error, LabError):
            raise LabError(f"{error}\n{hint}") from None
        _say(hint)
        raise
    made.erase_all()  # from now on the lab is what its file says
    network = change.after.network
    cut = tuple(name for name in state.cut if name in {*network.cables, *network.links})
    replace(state, phase=UP, source=str(found.source.resolve()), cut=cut).write()


def _ask_everyone(change: Change) -> None:
    """Whether all who run could follow: of a refusal nothing is left.

    Raises LabError.
    """
    if change.was.routers:
        tell_hypervisor(change.was, dry_run=True)
        # None is being moved now, nor begins to: but one may have been when it was looked where.
        if placed() != change.places:
            raise LabError("a router was moved meanwhile, and nothing was changed: ask again")
    if change.options.controllers and change.was.network.digest != change.after.network.digest:
        await_in_sync(change.was, _SETTLED_S)
        old = NETWORK_FILE.read_text()
        write_network_file(change.text)
        try:
            change.tell_controllers(dry_run=True)
        finally:
            write_network_file(old)


# --- down ----------------------------------------------------------------------------------------


def down(*, say: Callable[[str], None] = _say) -> None:
    """End the lab's processes and remove what it made; also after a crash, also twice.

    The logs stay until the next `up`.  Raises LabError where something does not go away.
    """
    with lock():
        if _sweep():
            say("down")
        else:
            say("no lab was up")


def _sweep() -> bool:
    """Returns whether there was anything."""
    state = None
    with suppress(LabError):
        state = read_state()
    processes = [*process.recorded(), *process.unrecorded()]
    left = {p.name for p in NETNS_DIR.glob(PREFIX + "*")} if NETNS_DIR.exists() else set()
    process.end(processes)
    ip([f"link del {OPERATOR}"] if left else [], force=True)
    ip((f"netns del {name}" for name in sorted(left)), force=True)
    if state is not None:
        sysctl(dict(state.settings_before))
    for path in process.STATE_DIR.glob("*"):
        if path == process.LOG_DIR:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        if NETWORK_FILE.read_text().startswith(COPY_HEADER):
            NETWORK_FILE.unlink()
    still = [name for name in left if exists(name)]
    if still:
        raise LabError(f"not removed: namespaces {', '.join(sorted(still))}")
    return bool(left or processes or state)
