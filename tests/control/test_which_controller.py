"""Which of a network's controllers a process is, and where its switches connect."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.conftest import ROOT
from xenflow import DEFAULT_OPENFLOW, switches_connect_to, this_controller
from xenflow.model.network import NetworkError
from xenflow.store.network_file import load

PAPER = ROOT / "conf" / "paper.toml"
NETWORK = load(PAPER)


def test_it_is_the_one_asked_for_the_only_one_or_the_one_named_like_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert this_controller(NETWORK, "host-b") == "host-b"
    only = replace(NETWORK, controllers={"edge": NETWORK.controllers["edge"]})
    assert this_controller(only, "") == "edge"
    node = os.uname_result(("Linux", "host-a", "", "", ""))
    monkeypatch.setattr(os, "uname", lambda: node)
    assert this_controller(NETWORK, "") == "host-a"


@pytest.mark.parametrize(
    ("controllers", "wanted", "says"),
    [
        (NETWORK.controllers, "host-z", "unknown controller host-z: the network has host-a, "),
        (NETWORK.controllers, "", "which of host-a, host-b, edge is this"),
        ({}, "", "is this"),
    ],
)
def test_where_nothing_says_so_it_is_none(controllers: dict, wanted: str, says: str) -> None:
    with pytest.raises(NetworkError, match=says):
        this_controller(replace(NETWORK, controllers=controllers), wanted)


def test_switches_connect_where_the_file_says() -> None:
    assert switches_connect_to(str(PAPER), "edge") == ("10.254.1.3", 6633)
    for file, name in ((str(PAPER), "host-z"), ("/nowhere.toml", "edge")):
        assert switches_connect_to(file, name) == DEFAULT_OPENFLOW
