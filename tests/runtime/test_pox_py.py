"""The launcher: which core, the command line, the listener's address, signals."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launched import LIMIT_S, ROOT, core_options, environment, free_port, pox_checkout

import xenflow


def run(*words: str, folders: tuple[Path, ...] = (), **extra: str) -> subprocess.CompletedProcess:
    """Run `pox.py` to its end."""
    env = {**environment(*folders), "XENFLOW_STAND_IN": "", **extra}
    env = {name: value for name, value in env.items() if value}
    return subprocess.run(
        [sys.executable, str(ROOT / "pox.py"), *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=env,
        cwd=ROOT,
    )


def test_help_is_a_man_page():
    done = run("--help")
    assert done.returncode == 0
    for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "FILES"):
        assert f"\n{heading}\n" in "\n" + done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_help_of_a_component():
    done = run("--stand-in", "xenflow", "--help")
    assert done.returncode == 0
    assert "--controller=NAME  which of the file's controllers this is" in done.stdout


def test_no_network_file_is_a_usage_error(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(xenflow, "NETWORK_FILES", (f"{tmp_path}/a", f"{tmp_path}/b"))
    monkeypatch.delenv("XENFLOW_NETWORK", raising=False)
    with pytest.raises(SystemExit) as end:
        xenflow.launch()
    assert end.value.code == 2
    assert f"neither {tmp_path}/a nor {tmp_path}/b exists" in capsys.readouterr().err


def test_first_line_names_the_core(start):
    assert start("stand-in").first_line == "core: stand-in"
    checkout = pox_checkout()
    if checkout is not None:
        assert start("POX").first_line == f"core: POX 0.8.0 at {checkout.resolve()}"


def test_goes_up_and_down_in_order(core, start):
    for number, status in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        controller = start(core)
        controller.wait_for("from a thread")
        assert controller.stop(number) == status
        controller.wait_for("Down")
        names = [e["event"] for e in controller.events if e["event"] != "from a thread"]
        assert names == ["launch", "GoingUp", "Up", "GoingDown", "Down"]


def test_a_task_that_is_over_ends_quietly(core, start):
    controller = start(core)
    controller.wait_for("task over")
    controller.stop()
    assert not [line for line in controller.log if "StopIteration" in line or "Traceback" in line]


def test_sighup_does_not_end_a_controller(core, tmp_path):
    words = [*core_options(core), "openflow.of_01", f"--port={free_port()}", "xenflow"]
    words += [f"--network={ROOT}/conf/paper.toml", "--controller=edge"]
    words += [f"--manage=ipc://{tmp_path}/manage", f"--routers=ipc://{tmp_path}/{{router}}"]
    log = tmp_path / "log"
    with log.open("w") as written:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "pox.py"), *words],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=written,
        )
    try:
        _until(process, lambda: "placements are not kept" in log.read_text())
        assert re.search(
            r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} WARNING:xenflow:placements",
            log.read_text(),
            re.MULTILINE,
        )
        _until(process, lambda: _handles(process.pid, signal.SIGHUP))
        process.send_signal(signal.SIGHUP)
        _until(process, lambda: "SIGHUP: the network file says nothing new" in log.read_text())
        process.terminate()
        assert process.wait(LIMIT_S) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


def _until(process, condition, limit_s=LIMIT_S):
    """Wait for a condition while a process lives."""
    end = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)


def _handles(pid, number):
    """Whether a process has a handler for a signal (proc(5), SigCgt)."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return caught >> (number - 1) & 1


@pytest.mark.parametrize("port", ["70000", "-1", "many", ""])
def test_a_port_that_is_none_is_a_usage_error(core, port):
    done = run(*core_options(core), "openflow.of_01", f"--port={port}", "recorder")
    assert done.returncode == 2
    assert f"--port={port}: a TCP port is a number from 0 to 65535" in done.stderr


def test_a_listener_that_fails_ends_the_process(core):
    done = run(*core_options(core), "openflow.of_01", "--address=no.such.name", "recorder")
    assert done.returncode == 1
    assert "cannot listen for switches at no.such.name:6633" in done.stderr


def test_port_in_use_ends_the_process(core):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(*core_options(core), "openflow.of_01", f"--port={port}", "recorder")
    assert done.returncode == 1
    assert f"cannot listen for switches at 127.0.0.1:{port}" in done.stderr


def test_listens_on_loopback_unless_told_otherwise(core, start):
    controller = start(core)
    assert f"127.0.0.1:{controller.port}" in _await_listening(controller.port)
    port = free_port()
    words = ["log.level", "--DEBUG", "openflow.of_01", "--address=0.0.0.0", f"--port={port}"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "pox.py"), *core_options(core), *words, "recorder"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout
        while '"Up"' not in (line := process.stdout.readline()):
            assert line, "it has ended"
        assert f"0.0.0.0:{port}" in _await_listening(port)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("controller", ["host-a", "edge", None])
def test_listens_where_the_network_file_says(core, tmp_path, controller):
    text = (ROOT / "conf/paper.toml").read_text()
    port = free_port()
    for where in ("127.0.0.1:6633", "10.254.1.3:6633"):
        assert where in text
    text = text.replace("127.0.0.1:6633", f"127.0.0.2:{port}")
    text = text.replace("10.254.1.3:6633", f"127.0.0.3:{port}")
    (tmp_path / "network.toml").write_text(text)
    words = ["xenflow", f"--network={tmp_path}/network.toml", f"--manage=ipc://{tmp_path}/manage"]
    words += [f"--controller={controller}"] if controller else []
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "pox.py"), *core_options(core), *words],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if controller is None:
            assert process.wait(LIMIT_S) == 1
            assert "which of host-a, host-b, edge is this?" in process.stderr.read()
            return
        wanted = f"127.0.0.{2 if controller == 'host-a' else 3}:{port}"
        listening = _await_listening(port)
        assert wanted in listening
        assert len(listening.splitlines()) == 1
    finally:
        process.kill()
        process.communicate()


def _await_listening(port):
    """Who listens there, once somebody does: POX's listener opens a moment after it is up."""
    command = ["ss", "-Hltn", f"sport = :{port}"]
    end = time.monotonic() + LIMIT_S
    while True:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if found or time.monotonic() > end:
            return found
        time.sleep(0.05)


@pytest.mark.parametrize("wrong", ["missing", "plain", "pypi"])
def test_a_folder_that_is_no_pox_is_refused(tmp_path, wrong):
    folder = tmp_path / wrong
    if wrong != "missing":
        (folder / "pox").mkdir(parents=True)
    if wrong == "pypi":
        (folder / "pox" / "shutils.py").touch()
    for done in (run(f"--pox={folder}", "recorder"), run("recorder", POX_DIR=str(folder))):
        assert done.returncode == 2
        assert done.stdout == ""
        assert str(folder) in done.stderr and "scripts/get-pox" in done.stderr
        assert ("file-system library" in done.stderr) == (wrong == "pypi")


def test_steps_around_the_other_pox(core, tmp_path):
    (tmp_path / "pox").mkdir()
    (tmp_path / "pox" / "__init__.py").write_text("raise SystemExit('the wrong pox')\n")
    words = (*core_options(core), "openflow.of_01", f"--port={free_port()}", "ends_at_once")
    (tmp_path / "ends_at_once.py").write_text(
        "from pox.core import core\n"
        "def launch():\n"
        "    core.addListenerByName('UpEvent', lambda event: core.quit())\n"
    )
    done = run(*words, folders=(tmp_path,))
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/pox is an unrelated package" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["forwarding.l2_learning"], "scripts/get-pox"),
        (["recorder", "--no-such=1"], "no_such"),
        (["--no-such", "recorder"], "unknown option --no-such"),
        ([], "no component named"),
        (["--pox=x", "recorder"], "exclude each other"),
        (["recorder", "recorder"], "only once"),
    ],
)
def test_wrong_command_lines(words, says):
    done = run("--stand-in", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_is_written_into_the_checkout(start):
    checkout = pox_checkout()
    if checkout is None or not (checkout / ".git").exists():
        pytest.skip("no POX checkout under git")
    start("POX").stop()
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=checkout, capture_output=True, text=True
    )
    assert status.stdout == ""


def test_other_components_of_pox_on_the_same_line():
    done = None
    options = core_options("POX")
    port = free_port()
    process = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "pox.py"),
            *options,
            "log.level",
            "--DEBUG",
            "forwarding.l2_learning",
            "openflow.of_01",
            f"--port={port}",
            "recorder",
        ],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(2)]
        assert lines[0].startswith("core: POX")
        assert '"recorder"' in lines[1]
    finally:
        process.terminate()
        done = process.communicate(timeout=LIMIT_S)
    assert "Traceback" not in done[1]
    assert process.returncode in (0, -signal.SIGTERM)


def test_get_pox_where_there_is_none(tmp_path):
    script = str(tmp_path / "scripts" / "get-pox")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "get-pox", script)
    for words, status in ((["--from", "/nonexistent"], 0), (["--from=/x", "--require"], 1)):
        done = subprocess.run([script, *words], capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == status
        assert len(done.stdout.splitlines()) == 1 and done.stderr == ""
    proxy = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(
        [script], capture_output=True, text=True, timeout=LIMIT_S, env={**os.environ, **proxy}
    )
    assert done.returncode == 0 and "cannot be reached" in done.stdout
    assert not (tmp_path / "vendor").exists()


def test_the_benchmarks_witness_starts_beside_other_components(core, start, tmp_path):
    """It asks the core for no more than every core has."""
    witness = ["bench_witness", f"--to={tmp_path / 'witness'}"]
    running = start(core, *witness, folders=(ROOT / "bench" / "components",))
    assert running.stop() == 0
