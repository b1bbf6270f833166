"""The file of laid rows: a line a change, read back whatever became of the last one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from xenflow.model.network import NetworkError
from xenflow.store.laid_file import LaidFile, LaidRows, to_json
from xenflow.store.network_rows import LAID, Key
from xenflow.store.transaction import StoreRow


def row(table: str, name: str, change: int, gone: bool = False) -> StoreRow:
    return {"name": name, "change": change, "gone": gone, "host": table}


def laid(change: int, names: str = "abc") -> LaidRows:
    rows = {t: {(name,): row(t, name, change) for name in names} for t in LAID}
    return LaidRows("one", change, rows, "h")


def lines(folder: Path) -> list[bytes]:
    return (folder / "laid.json").read_bytes().splitlines()


def test_a_change_is_a_line_of_what_it_changed(tmp_path: Path) -> None:
    file, first = LaidFile(tmp_path), laid(1)
    file.keep(first)
    other = row("Laid_Link", "b", 2)
    links: dict[Key, StoreRow] = {**first.rows["Laid_Link"], ("b",): other}
    del links["a",]
    second = LaidRows("one", 2, {**first.rows, "Laid_Link": links}, "h")
    file.keep(second)
    _, line = lines(tmp_path)
    assert json.loads(line) == {
        "cluster": "one",
        "change": 2,
        "host": "h",
        "rows": {"Laid_Link": [other]},
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
    """One value, and no line's end after it; with whom each row concerns, and of no host: all."""
    value = {"network": "paper", **to_json(laid(7))}
    del value["host"]
    for rows in value["rows"].values():
        rows[:] = [{**row, "at": ["s1"]} for row in rows]
    (tmp_path / "laid.json").write_text(json.dumps(value, separators=(",", ":")))
    assert LaidFile(tmp_path, "paper").load() == replace(laid(7), host="")


def test_what_was_seen_is_kept_beside_the_rows(tmp_path: Path) -> None:
    file = LaidFile(tmp_path)
    file.keep(laid(1))
    file.see({"s1": 1})
    file.keep(laid(2))
    again = LaidFile(tmp_path)
    assert (again.load(), again.seen) == (laid(2), {"s1": 1})
    again.keep(laid(3))  # all of it anew
    assert len(lines(tmp_path)) == 1
    again = LaidFile(tmp_path)
    assert (again.load(), again.seen) == (laid(3), {"s1": 1})


def test_what_is_held_is_kept_beside_what_is_started_from(tmp_path: Path) -> None:
    file, first, second = LaidFile(tmp_path), laid(1), laid(2, "bcd")
    file.keep(first, second)
    again = LaidFile(tmp_path)
    assert (again.load(), again.ahead) == (first, second)
    third = laid(3, "bcde")
    file.keep(first, third)
    file.see({"s1": 1})
    again = LaidFile(tmp_path)
    assert (again.load(), again.ahead, again.seen) == (first, third, {"s1": 1})
    again.keep(second, third)  # all of it anew
    assert len(lines(tmp_path)) == 1
    again = LaidFile(tmp_path)
    assert (again.load(), again.ahead) == (second, third)
    again.keep(third)
    assert (again.ahead, len(lines(tmp_path))) == (None, 1)
    again = LaidFile(tmp_path)
    assert (again.load(), again.ahead) == (third, None)


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
        said = LaidRows("one", change, rows, "h")
        file.keep(said)
        appended += len(lines(tmp_path)) > 1
        assert LaidFile(tmp_path).load() == said
    assert 200 < appended < 299  # the others replaced the file
