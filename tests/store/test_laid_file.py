"""The file of laid rows: a line a change, read back whatever became of the last one."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from xenflow.model.network import NetworkError
from xenflow.store.laid_file import LaidFile, LaidRows, to_json
from xenflow.store.network_rows import LAID, Key
from xenflow.store.transaction import StoreRow


def row(table: str, name: str, change: int, gone: bool = False) -> StoreRow:
    return {"name": name, "change": change, "gone": gone, "at": frozenset({table, name})}


def laid(change: int, names: str = "abc") -> LaidRows:
    rows = {t: {(name,): row(t, name, change) for name in names} for t in LAID}
    return LaidRows("one", change, rows)


def lines(folder: Path) -> list[bytes]:
    return (folder / "laid.json").read_bytes().splitlines()


def test_a_change_is_a_line_of_what_it_changed(tmp_path: Path) -> None:
    file, first = LaidFile(tmp_path), laid(1)
    file.keep(first)
    other = row("Laid_Link", "b", 2)
    links: dict[Key, StoreRow] = {**first.rows["Laid_Link"], ("b",): other}
    del links["a",]
    second = LaidRows("one", 2, {**first.rows, "Laid_Link": links})
    file.keep(second)
    _, line = lines(tmp_path)
    assert json.loads(line) == {
        "cluster": "one",
        "change": 2,
        "rows": {"Laid_Link": [{**other, "at": ["Laid_Link", "b"]}]},
        "left": {"Laid_Link": ["a"]},
    }
    assert LaidFile(tmp_path).load() == second


def test_a_line_that_is_not_whole_counts_nothing(tmp_path: Path) -> None:
    file = LaidFile(tmp_path)
    file.keep(laid(1))
    file.keep(laid(2))
    path = tmp_path / "laid.json"
    path.write_bytes(path.read_bytes()[:-1])
    found = LaidFile(tmp_path)
    assert found.load() == laid(1)
    found.keep(laid(3, "ab"))
    assert LaidFile(tmp_path).load() == laid(3, "ab")


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    file = LaidFile(tmp_path)
    file.keep(laid(1))
    with (tmp_path / "laid.json").open("a") as damaged:
        damaged.write("{}\n")
    with pytest.raises(NetworkError, match="laid.json: KeyError: .*: move it away"):
        LaidFile(tmp_path).load()


def test_a_file_of_the_release_before_is_read(tmp_path: Path) -> None:
    """One value, and no line's end after it."""
    value = {"network": "paper", **to_json(laid(7))}
    (tmp_path / "laid.json").write_text(json.dumps(value, separators=(",", ":")))
    assert LaidFile(tmp_path, "paper").load() == laid(7)


def test_whatever_changes_is_read_back(tmp_path: Path) -> None:
    draw, file = Random(5), LaidFile(tmp_path)
    rows: dict[str, dict[Key, StoreRow]] = {table: {} for table in LAID}
    appended = 0
    for change in range(1, 300):
        rows = {table: dict(found) for table, found in rows.items()}
        for _ in range(draw.randrange(1, 4)):
            table, name = draw.choice(LAID), draw.choice("abcdefghijklmnop")
            if draw.random() < 0.3:
                rows[table].pop((name,), None)
            else:
                rows[table][name,] = row(table, name, change, draw.random() < 0.2)
        said = LaidRows("one", change, rows)
        file.keep(said)
        appended += len(lines(tmp_path)) > 1
        assert LaidFile(tmp_path).load() == said
    assert 200 < appended < 299  # the others replaced the file
