"""The recovery's process: what it is given, and what is told of its end."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from xenflow.planner.recover_command import RecoverCommand
from xenflow.store import network_file

PAPER = network_file.load(Path(__file__).parents[2] / "conf" / "paper.toml")


def test_it_fails_in_words_where_no_controller_answers() -> None:
    """It asks controllers how the network lies: its rows have no order, by which trees are laid.
    It asks no server of the store, and its file names none."""
    ports = enumerate(PAPER.controllers.items(), 1)
    silent = {n: replace(c, manage=f"tcp://127.0.0.1:{port}") for port, (n, c) in ports}
    network = replace(PAPER, controllers=dict(reversed(silent.items())))
    command = RecoverCommand("vr1", network)
    while (why := command.ended()) is None:
        time.sleep(0.05)
    assert "no controller answers there" in why, why
