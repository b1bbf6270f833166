"""Room for a lab's neighbours in the kernel's table, which cannot be enlarged everywhere."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from lab import namespace, neighbours
from lab.description import Lab, find_file, load_lab
from lab.namespace import LabError

THIRD = "net/ipv4/neigh/default/gc_thresh3"


def star(leaves: int, together: int = 2, *, ipv6: bool = False) -> Lab:
    """A router with so many links, each with so many members."""
    links = [f"l{n}" for n in range(leaves)]
    network = SimpleNamespace(name="star", links=links)
    nodes = dict.fromkeys(map(str, range(leaves + 2)))
    members = {"members": lambda _: range(together), "management": nodes, "ipv6": ipv6}
    return cast(Lab, SimpleNamespace(network=network, **members))


def test_what_is_needed_grows_with_the_lab() -> None:
    assert neighbours.needed(load_lab(find_file("paper"))) < 1024
    many = neighbours.needed(star(501))
    assert many > 1024  # what a kernel takes unless it is told otherwise
    assert neighbours.settings(many)[THIRD] == 32768
    assert 2 * 200 * 199 > neighbours.needed(star(1, 200)) > 200 * 199
    assert neighbours.needed(star(1, 200, ipv6=True)) > 2 * 200 * 199  # link-local ones, too
    assert neighbours.settings(50_000)[THIRD] == 200_000


def test_a_lab_that_needs_more_than_there_is_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = star(501)
    entries = neighbours.needed(lab)
    monkeypatch.setattr(neighbours, "most", lambda: entries)
    neighbours.check(lab)
    monkeypatch.setattr(neighbours, "most", lambda: 1024)
    with pytest.raises(LabError, match=f"up to {entries} neighbours.*takes 1024.*gc_thresh3=32768"):
        neighbours.check(lab)


def test_the_kernel_says_how_many_it_takes_in_any_namespace() -> None:
    assert neighbours.most() >= 1


def test_parameters_are_raised_never_lowered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("low", "128\n"), ("high", "4096\n"), ("word", "bbr\n")):
        (tmp_path / name).write_text(value)
    monkeypatch.setattr(namespace, "Path", lambda _, name: tmp_path / name)
    wanted = {"low": 1024, "high": 1024, "word": 1024, "missing": 1024}
    assert namespace.at_least(wanted) == {"low": "128"}
    assert (tmp_path / "low").read_text() == "1024"
    assert (tmp_path / "high").read_text() == "4096\n"
