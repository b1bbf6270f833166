"""A move in which a routing session would fall is refused: BFD (RFC 5880) of genuine FRR."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import operate, process
from lab.description import PREFIX, Lab
from tests.lab.live import in_sync, settle, xenflow

BFDD = Path("/usr/lib/frr/bfdd")
pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
    pytest.mark.skipif(
        not BFDD.exists() or shutil.which("vtysh") is None or shutil.which("ovs-vswitchd") is None,
        reason="needs FRR and Open vSwitch",
    ),
]


def frr(node: str) -> Path:
    """Where a node's FRR has its sockets."""
    return process.STATE_DIR / node / "frr"


def bfd(node: str, *words: str) -> str:
    """What a node's bfdd answers."""
    socket = str(frr(node))
    done = operate.run(node, ["vtysh", "--vty_socket", socket, "-d", "bfdd", *words])
    return done.stdout


def start_bfd(node: str, peer: str) -> None:
    here = frr(node)
    files = ["-i", here / "bfdd.pid", "-z", here / "zserv.api", "--vty_socket", here]
    process.start(node, "bfdd", [str(BFDD), *map(str, files), "-A", "127.0.0.1"], PREFIX + node)
    process.await_path(here / "bfdd.vty")
    lines = [f"peer {peer}", *(f"{way}-interval 100" for way in ("receive", "transmit"))]
    lines.append("detect-multiplier 9")  # a machine that stops for a moment ends no session
    words = [word for line in ("configure terminal", "bfd", *lines) for word in ("-c", line)]
    bfd(node, *words)


def test_a_bfd_session_of_frr_refuses_the_move(lab_up: Callable[..., Lab]) -> None:
    lab = lab_up("paper", daemon="frr")
    settle(lambda: in_sync(lab), "every switch in sync")
    assert xenflow("plan", "vr1", "host-b").returncode == 0
    start_bfd("vr1", "10.0.1.2")
    start_bfd("gen", "10.0.1.1")
    settle(lambda: "Status: up" in bfd("vr1", "-c", "show bfd peers"), "the session is up")
    session = "BFD 10.0.1.1 - 10.0.1.2 (its neighbour waits 0.9 s)"
    settle(lambda: session in xenflow("plan", "vr1", "host-b").stdout, "the plan names the session")
    refused = xenflow("migrate", "vr1", "host-b")
    assert refused.returncode == 1
    assert session in refused.stderr
    assert xenflow("migrate", "vr1", "host-b", "--pause", "0.2").returncode == 0
