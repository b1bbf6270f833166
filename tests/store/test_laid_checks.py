"""Rows that can be read one by one, and make no network together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenflow.model.network import Network, NetworkError
from xenflow.store import network_file
from xenflow.store.laid_checks import misfits
from xenflow.store.network_rows import laid, laid_entries

CONF = Path(__file__).parents[2] / "conf"
CAMPUS = network_file.load(CONF / "campus.toml")
NOTHING = Network("", {}, {}, {}, {}, {})
Row = dict[str, Any]


def rows() -> dict[str, dict[Any, Row]]:
    return {
        table: {key: {**row, "change": 1, "gone": False} for key, row in found.items()}
        for table, found in laid(CAMPUS).items()
    }


def inside(column: str, change: Callable[[Any], Any]) -> Callable[[Row], None]:
    """What changes the JSON in a column."""

    def changed(row: Row) -> None:
        row[column] = json.dumps(change(json.loads(row[column])))

    return changed


def gone(row: Row) -> None:
    row["gone"] = True


def to_nowhere(ends: list[list[str]]) -> list[list[str]]:
    return [["nowhere", ends[0][1]], ends[1]]


def looped(up: dict[str, str | None]) -> dict[str, str | None]:
    """The switches of a cable lead to each other, and another one is the root."""
    (root,) = (name for name, cable in up.items() if cable is None)
    below = next(n for n, c in up.items() if c and root in CAMPUS.cables[c].far(n).datapath)
    other = next(name for name in up if name not in (root, below))
    return {**up, root: up[below], other: None}


MAC = "02:00:00:00:00:02"
WRONG: list[tuple[str, str, Callable[[Row], None], str]] = [
    ("Laid_Switch", "s1", lambda row: row.update(host="nobody"), "there is no controller nobody"),
    ("Laid_Cable", "a-s1", inside("ends", to_nowhere), "there is no datapath nowhere"),
    ("Laid_Cable", "a-s1", gone, "a-s1"),
    ("Laid_Switch", "s2", gone, "there is no datapath s2"),
    ("Laid_Link", "left", gone, "there is no link left"),
    ("Laid_Link", "left", inside("tree", looped), "links.left: its tree has a loop"),
    ("Laid_Link", "left", inside("tree", lambda up: {**up, "x": "a-s1"}), "no datapath x"),
    ("Laid_Link", "left", inside("tree", lambda up: {**up, "s1": "c-s2"}), "does not lead from s1"),
    ("Laid_Link", "left", inside("labels", lambda _: [9999, "x"]), "9999 is no VLAN id"),
    ("Laid_Link", "left", inside("access", lambda _: [["x", "p", []]]), "does not reach x:p"),
    ("Laid_Link", "left", inside("access", lambda _: [["s1", 7, []]]), "7 is no text"),
    ("Laid_Element", "r1", lambda row: row.update(home="s1"), "there is no host s1"),
    ("Laid_Element", "r1", inside("interfaces", lambda _: [["e", "x", MAC, "v"]]), "no link x"),
    ("Laid_Element", "r1", inside("interfaces", lambda _: [["e", "x", MAC, [1]]]), "is no text"),
    ("Laid_Element", "r1", inside("interfaces", lambda _: [["e", "x", "2", "v"]]), "is no MAC add"),
]


@pytest.mark.parametrize(("table", "name", "change", "words"), WRONG)
def test_what_does_not_fit_is_named_and_not_taken(
    table: str, name: str, change: Callable[[Row], None], words: str
) -> None:
    found = rows()
    change(found[table][(name,)])
    with pytest.raises(NetworkError, match=words):
        laid_entries(found, NOTHING)


@pytest.mark.parametrize("file", sorted(CONF.glob("*.toml")), ids=lambda file: file.stem)
def test_every_network_of_a_file_fits(file: Path) -> None:
    assert list(misfits(network_file.load(file))) == []
