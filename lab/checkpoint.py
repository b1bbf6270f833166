"""A lesson's state, kept by name, and a lab that is brought back to it.

What is kept: the network file with the files that it names, what the store says beside it, where
routers run, which cables are cut, and how routing daemons are configured.  `reset` goes there by
the same ways as a person would: routers are migrated, the file is followed by `lab reload`, the
store by `xenflow apply --prune`.  Only where the lab cannot follow while it is up is it taken down,
and brought up anew.  Nothing else is put back: not what was done by hand to addresses or flows.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lab import bring_up, operate, routing
from lab.description import COPIES, COPY_HEADER, ROOT, Lab, load_lab
from lab.namespace import LabError
from lab.state import (
    NETWORK_FILE,
    RUN_DIR,
    UP,
    LabOptions,
    current,
    original_text,
    placed,
    read_state,
    write_json,
)
from lab.waiting import await_ends
from mgmt.session import UsageError

CHECKPOINTS = RUN_DIR / "checkpoints"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SETTLED_S = 15.0
"""So long it is waited, in vain perhaps, until the machines reach one another."""
Say = Callable[[str], None]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class CheckpointNameError(LabError, UsageError):
    """There is no checkpoint of a name on the command line, or cannot be."""


def checkpoints() -> list[str]:
    """The names of those that there are."""
    return sorted(path.parent.name for path in CHECKPOINTS.glob("*/state.json"))


def take(name: str) -> None:
    """Keep the state of the lab that is up; one of the same name is replaced.

    Raises LabError where no lab is up, or it cannot be asked.
    """
    if not _NAME.fullmatch(name):
        raise CheckpointNameError(f"{name!r}: expected a name of letters, digits, '.', '_' and '-'")
    lab, state = current()
    if state.phase != UP:
        raise LabError(f"the lab is not whole ({state.phase}): `xenflow lab down` sweeps it")
    folder = CHECKPOINTS / f".{name}.new"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / COPIES).mkdir(parents=True)
    text = original_text(NETWORK_FILE.read_text(), state.options)
    (folder / "network.toml").write_text(f"{COPY_HEADER}{state.source}\n{text}")
    for copy in (RUN_DIR / COPIES).glob("*"):
        shutil.copy(copy, folder / COPIES)
    if state.options.store:
        (folder / "stored.toml").write_text(_xenflow("export"))
    places = {name: host for name, host in placed().items() if name in lab.routers}
    kept = {
        "source": state.source,
        "options": asdict(state.options),
        "cut": state.cut,
        "places": places,
        "daemons": {
            speaker.node: routing.configured(speaker, state.options.daemon)
            for speaker in _speakers(lab)
        },
        "taken": time.time(),
    }
    write_json(folder / "state.json", kept)
    shutil.rmtree(CHECKPOINTS / name, ignore_errors=True)
    folder.rename(CHECKPOINTS / name)


def reset(name: str, *, say: Say = _say) -> None:
    """Bring the lab back to a checkpoint; the lab that is up, or one that is brought up.

    Raises LabError where a step fails: what is done by then stays, and it may be asked for again.
    """
    folder = CHECKPOINTS / name
    if name not in checkpoints():
        names = ", ".join(checkpoints()) or "none"
        raise CheckpointNameError(f"{name}: no such checkpoint; there are: {names}")
    kept = json.loads((folder / "state.json").read_text())
    options = LabOptions(**kept["options"])
    state = read_state()
    if state is None:
        bring_up.up(folder / "network.toml", options, say=say)
    else:
        if state.phase != UP or state.options != options:
            again = "its state is another" if state.phase != UP else "its options were others"
            _anew(folder, options, again, say)
        else:
            for link in state.cut:
                operate.heal(link)
            _move(kept["places"], say)
            found = bring_up.reload(folder / "network.toml", say=say)
            if found.refused:
                _anew(folder, options, "; ".join(found.refused), say)
    lab, state = current()
    replace(state, source=kept["source"]).write()
    if (folder / "stored.toml").exists():
        _xenflow("apply", "--prune", str(folder / "stored.toml"))
    _move(kept["places"], say)
    for speaker in _speakers(lab):
        wanted = kept["daemons"].get(speaker.node)
        if wanted and wanted != routing.configured(speaker, options.daemon):
            say(f"{speaker.node}: the routing daemon is as it was")
            routing.configure_as(speaker, options.daemon, wanted)
    try:
        await_ends(lab, _SETTLED_S)
    except LabError as error:  # which may be where the lesson begins
        say(str(error).partition("\n")[0])
    for link in kept["cut"]:
        operate.cut(link)


def _anew(folder: Path, options: LabOptions, reason: str, say: Say) -> None:
    say(f"taken down and brought up anew: {reason}")
    file = folder / "network.toml"
    load_lab(file)
    bring_up.down(say=say)
    bring_up.up(file, options, say=say)


def _move(places: Mapping[str, str], say: Say) -> None:
    """Routers to where they were, as far as both are there."""
    lab, state = current()
    for router, host in places.items():
        here = placed().get(router)
        if here in (None, host) or router not in lab.routers or host not in lab.hosts:
            continue
        if not state.options.controllers:
            raise LabError(f"{router} is on {here}, and without controllers nobody moves it back")
        say(f"migrate {router} to {host}")
        _xenflow("migrate", router, host)


def _speakers(lab: Lab) -> list[routing.Speaker]:
    own = {*lab.machines, *lab.routers}
    return [speaker for speaker in routing.speakers(lab) if speaker.node in own]


def _xenflow(*words: str) -> str:
    """What the command prints.  Raises LabError with what it complains of."""
    paths = [str(ROOT), str(ROOT / "pox_ext"), os.environ.get("PYTHONPATH", "")]
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": ":".join(filter(None, paths))}
    argv = [sys.executable, "-m", "mgmt", f"--network={NETWORK_FILE}", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise LabError(f"xenflow {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
