"""A network that lives in a store, from one end of its life to the other: everything that may come,
change and go does so, by file and by verb, while packets pass through routers that are not touched.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from lab import operate
from lab.description import Lab
from tests.lab.grown import CAMPUS, GROWN
from tests.lab.live import (
    LIMIT_S,
    LiveTraffic,
    assert_machine_quiet_enough,
    in_sync,
    reaches,
    settle,
    status,
    xenflow,
)
from tests.lab.test_reload import (
    ENDS,
    UNTOUCHED,
    assert_comes_back,
    everything,
    forget_old_address,
)
from tests.lab.test_store_lab import PROGRAMS, rows
from xenflow.store.schema import TABLES, TableKind

pytestmark = [
    pytest.mark.lab,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason=f"needs {', '.join(PROGRAMS)}"),
]
RATE_PPS = 1000
"""In each direction: 2,000 packets/s in all."""
OF_PEOPLE = [name for name, table in TABLES.items() if table.kind is not TableKind.LEDGER]


def done(*words: str) -> int:
    """Carry a command out; the number of the change that it has made, 0 for none."""
    ended = xenflow(*words, "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return int(json.loads(ended.stdout).get("change", 0))


def reload() -> None:
    ended = xenflow("lab", "reload")
    assert ended.returncode == 0, ended.stderr
    assert xenflow("status", "--wait", str(LIMIT_S)).returncode == 0


def stored(lab: Lab) -> dict[str, int]:
    """How many rows each table has that is not the planner's own account."""
    return {table: len(rows(lab, table)) for table in OF_PEOPLE if table != "Placement"}


def test_everything_comes_changes_and_goes(lab_up: Callable[..., Lab], tmp_path: Path) -> None:
    """A host, two cables, two links, two routers and a machine by file; a link and a router by
    verb; addresses, members, an image changed; one change undone; all removed."""
    file = tmp_path / "campus.toml"
    file.write_text(CAMPUS)
    lab = lab_up(str(file), store=True)
    settle(lambda: in_sync(lab), "every switch in sync")
    reaches("m1", "10.2.0.1")
    assert_machine_quiet_enough(RATE_PPS, ends=ENDS)
    before, kept, since = everything(lab), stored(lab), datetime.now()
    with LiveTraffic(RATE_PPS, ENDS) as traffic:
        file.write_text(GROWN)
        reload()
        reaches("m1", "10.4.0.1")  # behind r6 on link six-seven
        reaches("m1", "10.0.4.22")  # m2's new address, at another host
        assert done("link", "create", "spare") > 0
        made = (
            "--interface",
            "eth0:six-seven,10.0.9.30/24",
            "--interface",
            "eth1:spare,10.9.9.1/24",
        )
        assert done("router", "create", "r9", "--on", "host-a", *made) > 0
        reaches("m4", "10.0.9.30")
        for host in ("host-e", "host-b"):
            assert xenflow("migrate", "r9", host).returncode == 0
            reaches("m4", "10.0.9.30")
        done("router", "set", "r9", "--address", "eth0=10.0.9.31/24")
        reaches("m4", "10.0.9.31")
        number = done("router", "set", "r9", "--image", "another", "--memory", "96")
        assert done("undo", str(number)) == number + 1
        settle(lambda: status()["healthy"], "nothing is wrong")
        done("router", "destroy", "r9")
        assert done("link", "destroy", "spare") > 0
        file.write_text(CAMPUS)
        reload()
        reaches("m1", "10.0.4.2")
        settle(lambda: stored(lab) == kept, "the store forgets what has gone")
    traffic.assert_nothing_lost()
    forget_old_address()
    changes = operate.status(since)["neighbour_changes"]
    assert {node: changes[node] for node in UNTOUCHED} == dict.fromkeys(UNTOUCHED, 0)
    assert_comes_back(lab, before)
