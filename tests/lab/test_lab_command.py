"""The words of `xenflow lab`, where no lab has to be up."""

from __future__ import annotations

import os
import shlex

import pytest

from lab import cli as lab_cli
from mgmt import cli

CHANGING = (
    "up paper",
    "reload",
    "down",
    "exec gen -- true",
    "cut gen-a",
    "heal gen-a",
    "status",
    "checkpoint begin",
    "reset begin",
    "enter a",
)


@pytest.mark.parametrize("words", CHANGING)
def test_who_is_not_root_is_told_so(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    monkeypatch.delenv("XENFLOW_LAB", raising=False)
    assert cli.main(["lab", *shlex.split(words)]) == 1
    said = "xenflow: the lab needs root: its nodes are network namespaces\n"
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(
    ("words", "lab"),
    [
        ("lab nodes", ""),
        ("lab nodes --name b", "b"),
        ("lab nodes --lab b", "b"),
        ("--lab b lab nodes", "b"),
        ("--lab c lab nodes --name b", "b"),
    ],
)
def test_a_lab_is_named_before_or_after_the_verb(
    words: str, lab: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XENFLOW_LAB", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    asked = []

    def carry_out(name: str, verb: str) -> int:
        asked.append((name, verb))
        return 0

    monkeypatch.setattr(lab_cli.rooms, "carry_out", carry_out)
    assert cli.main(words.split()) == 0
    assert asked == [(lab, "nodes")]
    monkeypatch.setenv("XENFLOW_LAB", "d")
    assert cli.main(words.split()) == 0
    assert asked[1] == (lab or "d", "nodes")
