"""What `xenflow lab up` and `reload` refuse, and what is said where they fail; no lab is up."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import bring_up, process, state
from lab.description import Lab, find_file, load_lab
from lab.namespace import LabError
from lab.steps import Step
from lab.switch import rundir
from tests.lab.grown import CAMPUS, GROWN, changed
from xenflow.model.difference import compare
from xenflow.model.network import NetworkError
from xenflow.store.network_file import parse, read_text

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root")


@AS_ROOT
def test_none_on_a_host_whose_own_network_it_would_hide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "network.toml"
    own.touch()
    monkeypatch.setattr(bring_up, "HOSTS_OWN_FILE", own)
    monkeypatch.setattr(bring_up, "find_file", lambda name: pytest.fail("it was not refused"))
    monkeypatch.delenv("XENFLOW_ISOLATED", raising=False)
    with pytest.raises(LabError, match="scripts/isolated"):
        bring_up.up("paper")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(process, "LOG_DIR", tmp_path)
    monkeypatch.setattr(process, "_RECORD", tmp_path / "processes.jsonl")
    monkeypatch.setattr(process, "_MARK_FILE", tmp_path / "mark")
    return tmp_path


def test_what_is_started_does_not_hold_what_the_caller_has_open(folders: Path) -> None:
    """A lock that a shell holds over `lab up` is free when the shell has ended."""
    lock = folders / "lock"
    with lock.open("w") as held:
        os.set_inheritable(held.fileno(), True)
        fcntl.flock(held, fcntl.LOCK_EX)
        started = process.start("node", "sleep", ["sleep", "600"], None)
    try:
        program = Path(f"/proc/{started.pid}/comm")
        end = time.monotonic() + 120
        while program.read_text() != "sleep\n" and time.monotonic() < end:
            time.sleep(0.001)
        with lock.open() as again:
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        process.end([started])


def test_what_is_started_has_the_files_it_was_given(folders: Path) -> None:
    """A machine of the Xen bed has its network cards as descriptors."""
    told = folders / "told"
    with told.open("w") as file:
        say = ["sh", "-c", f"echo through it >/proc/self/fd/{file.fileno()}"]
        started = process.start("node", "sh", say, None, files=(file.fileno(),))
    try:
        end = time.monotonic() + 120
        while not told.read_text() and time.monotonic() < end:
            time.sleep(0.01)
        assert told.read_text() == "through it\n"
    finally:
        process.end([started])


def test_what_a_killed_starter_did_not_record_is_found(folders: Path) -> None:
    assert process.unrecorded() == []
    one, other = (process.start(n, "sleep", ["sleep", "600"], None) for n in ("one", "other"))
    assert process.unrecorded() == []
    process.forget([one])
    try:
        [found] = process.unrecorded()
        assert (found.pid, found.started) == (one.pid, one.started)
    finally:
        process.end([one, other])
    assert process.unrecorded() == []


def test_what_is_ended_is_forgotten(folders: Path) -> None:
    one, other = (process.start(n, "sleep", ["sleep", "600"], None) for n in ("one", "other"))
    process.end([one])
    process.forget([one])
    assert process.recorded() == [other]
    process.end([other])


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("INFO:core:up\nINFO:core:Going down...\n", ""),
        (
            "INFO:core:up\nERROR:core:Exception calling f\nTraceback (most recent call last):\n"
            '  File "x.py", line 1, in f\n    boom()\nxenflow.Odd: no such thing\nINFO:core:on\n',
            "xenflow.Odd: no such thing",
        ),
        (
            "2026-11-28T17:42:12Z|00072|ofproto|ERR|failed to open datapath br0\n"
            "2026-11-28T17:42:42Z|00080|memory|INFO|46636 kB peak\n",
            "2026-11-28T17:42:12Z|00072|ofproto|ERR|failed to open datapath br0",
        ),
        (
            "2026-11-28 17:42 <INFO> Started\n2026-11-28 17:42 <ERR> Socket error\n",
            "2026-11-28 17:42 <ERR> Socket error",
        ),
    ],
)
def test_what_a_log_complains_of(log: str, said: str) -> None:
    assert process.complaint(log) == said


# --- the lab's copy of the file ------------------------------------------------------------------


def test_what_the_lab_forwards_by_is_what_the_file_says() -> None:
    """So the very file that a lab was brought up from can be applied to it."""
    paper = find_file("paper")
    copy = parse(state.network_text(paper, store=True), "copy")[0]
    assert copy.store
    assert not compare(parse(read_text(paper), "paper")[0], copy)
    three = parse(state.network_text(paper, store=True, members=3), "copy")[0].store
    assert len(set(three)) == 3 and three[0] == copy.store[0]


def test_where_the_switch_is_that_a_controller_elsewhere_proves(tmp_path: Path) -> None:
    file = tmp_path / "plain.toml"
    text = read_text(find_file("paper")).replace(
        'proof = "bound"\nproof_bound_s = 0.35', 'proof = "revalidator"'
    )
    file.write_text(text)
    datapaths = parse(state.network_text(file), "copy")[0].datapaths
    assert {name: d.ovs_rundir for name, d in datapaths.items()} == {
        "host-a": "",  # its controller runs there
        "host-b": "",
        "gen": str(rundir("gen-sw")),
        "recv": str(rundir("recv-sw")),
    }


# --- reload --------------------------------------------------------------------------------------


class Up:
    """A lab that is up by what is written down, and no more; `carried_out` is what was done."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = folder / "campus.toml"
        self.file.write_text(CAMPUS)
        self.copy = folder / "network.toml"
        self.carried_out: list[str] = []
        self.refusing = ""
        self.moves_meanwhile = False
        for name in ("state", "bring_up"):
            monkeypatch.setattr(f"lab.{name}.NETWORK_FILE", self.copy)
        monkeypatch.setattr(state, "_STATE_FILE", folder / "state.json")
        monkeypatch.setattr(state, "_DOMAINS_FILE", folder / "domains.json")
        monkeypatch.setattr(state, "_LOCK_FILE", folder / "lab.lock")
        monkeypatch.setattr(bring_up, "at_least", lambda settings: {})
        monkeypatch.setattr(bring_up.neighbours, "check", lambda lab: None)
        monkeypatch.setattr(bring_up, "tell_hypervisor", self._tell_hypervisor)
        monkeypatch.setattr(bring_up, "await_in_sync", lambda lab, limit_s: None)
        monkeypatch.setattr(bring_up.Change, "tell_controllers", self._ask())
        monkeypatch.setattr(bring_up.Change, "carry_out", self._carry_out())
        lab = load_lab(self.file)
        state.write_network_file(state.network_text(self.file))
        state.State(state.UP, str(self.file), "campus", 0.0, state.LabOptions()).write()
        homes = {n: {"host": r.home, "state": "running"} for n, r in lab.routers.items()}
        state.write_domains(homes)

    def _tell_hypervisor(self, lab: Lab, *, dry_run: bool) -> None:
        assert dry_run and self.phase == state.CHANGING
        if self.moves_meanwhile:
            name = next(iter(lab.routers))
            state.write_domains(
                {**state.read_domains(), name: {"host": "host-d", "state": "running"}}
            )

    def _ask(self) -> Callable[..., None]:
        def ask(change: bring_up.Change, *, dry_run: bool) -> None:
            assert dry_run and self.copy.read_text() == change.text, "asked of the new file"
            if self.refusing:
                raise LabError(self.refusing)

        return ask

    def _carry_out(self) -> Callable[..., None]:
        def carry_out(
            change: bring_up.Change, steps: list[Step], done: Callable[[list[Step], str], None]
        ) -> None:
            assert self.phase == state.CHANGING
            done(steps[:1], "not so")
            self.carried_out = [str(step) for step in steps]
            state.write_network_file(change.text)

        return carry_out

    @property
    def phase(self) -> str:
        found = state.read_state()
        assert found is not None
        return found.phase


@pytest.fixture
def lab_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Up:
    return Up(tmp_path, monkeypatch)


@AS_ROOT
def test_the_lab_follows_its_own_file(lab_up: Up) -> None:
    assert bring_up.reload(say=lambda _: None).steps == []
    lab_up.file.write_text(GROWN)
    asked = bring_up.reload(dry_run=True, say=lambda _: None)
    assert lab_up.carried_out == [] and lab_up.copy.read_text().endswith(CAMPUS[-200:])
    said: list[str] = []
    found = bring_up.reload(say=said.append)
    assert [line.split("  ")[-1] for line in said] == [str(found.steps[0]), "not so"]
    assert found == asked
    assert (
        lab_up.carried_out == list(map(str, found.steps))
        and "make node host-e" in lab_up.carried_out
    )
    assert lab_up.phase == state.UP
    assert bring_up.reload(say=lambda _: None).steps == []


@AS_ROOT
def test_another_file_is_the_labs_own_from_then_on(lab_up: Up, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(GROWN)
    bring_up.reload(other, say=lambda _: None)
    found = state.read_state()
    assert found is not None and found.source == str(other)


@AS_ROOT
def test_what_is_refused_has_changed_nothing(lab_up: Up) -> None:
    lab_up.file.write_text(changed(CAMPUS, ("vlan = 101", "vlan = 111")))
    before = lab_up.copy.read_text()
    found = bring_up.reload(say=lambda _: None)
    assert "links.left: vlan 101 cannot become 111" in found.refused[0]
    assert (lab_up.carried_out, lab_up.copy.read_text(), lab_up.phase) == ([], before, state.UP)


@AS_ROOT
def test_so_has_what_a_controller_refuses(lab_up: Up) -> None:
    lab_up.file.write_text(GROWN)
    lab_up.refusing = "controller host-a refuses"
    before = lab_up.copy.read_text()
    with pytest.raises(LabError, match="controller host-a refuses$"):
        bring_up.reload(say=lambda _: None)
    assert (lab_up.carried_out, lab_up.copy.read_text(), lab_up.phase) == ([], before, state.UP)


@AS_ROOT
def test_so_has_a_move_that_ends_while_it_begins(lab_up: Up) -> None:
    """Where the routers were looked for before no more could be moved."""
    lab_up.file.write_text(GROWN)
    lab_up.moves_meanwhile = True
    before = lab_up.copy.read_text()
    with pytest.raises(LabError, match="a router was moved meanwhile, and nothing was changed"):
        bring_up.reload(say=lambda _: None)
    assert (lab_up.carried_out, lab_up.copy.read_text(), lab_up.phase) == ([], before, state.UP)
    lab_up.moves_meanwhile = False
    bring_up.reload(say=lambda _: None)
    assert lab_up.carried_out


@AS_ROOT
def test_a_failure_half_way_says_who_sweeps(lab_up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise LabError("cable e-s2: no")

    monkeypatch.setattr(bring_up.Change, "carry_out", fail)
    lab_up.file.write_text(GROWN)
    with pytest.raises(LabError, match="cable e-s2: no\n.*half changed: `xenflow lab down` sweeps"):
        bring_up.reload(say=lambda _: None)
    assert lab_up.phase == state.CHANGING
    with pytest.raises(LabError, match="not whole"):
        bring_up.reload(say=lambda _: None)


@AS_ROOT
def test_a_wrong_file_is_named_by_its_lines(lab_up: Up) -> None:
    lab_up.file.write_text(changed(CAMPUS, ('["10.0.1.2/24", "2001:db8:1::2/64"]', '"here"')))
    with pytest.raises(NetworkError, match=r"campus.toml:\d+: lab.machines.m1.address"):
        bring_up.reload(say=lambda _: None)
    assert lab_up.phase == state.UP
