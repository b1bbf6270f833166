"""Odd values anywhere in a network file: refused with file and line, in one line each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.description import ROOT, load_lab
from xenflow.model.network import NetworkError
from xenflow.store.network_file import load, read_text

ODD = (
    "1.5",
    "-1",
    "true",
    "[]",
    "{}",
    "[[1]]",
    '""',
    '"x\\ny"',
    "nan",
    "1979-05-27",
    '"a\\u0000b"',
    '"10.254.0.0/8"',
)
VALUE = re.compile(r'[=\[,] *("(?:[^"\\\n]|\\.)*"|\d+)(?= *[,\]}\n])')


def places(text: str) -> list[tuple[int, int]]:
    """Where each text and number of a file stands."""
    found = (m.span(1) for m in VALUE.finditer(text))
    return [at for at in found if "#" not in text[text.rfind("\n", 0, at[0]) + 1 : at[0]]]


@pytest.mark.parametrize(("name", "at_least", "each"), [("paper", 60, 2), ("class", 34, 4)])
def test_any_odd_value_is_refused_by_line_or_taken(
    tmp_path: Path, name: str, at_least: int, each: int
) -> None:
    text = (ROOT / "conf" / f"{name}.toml").read_text()
    path = tmp_path / "odd.toml"
    spans = places(text)
    assert len(spans) > at_least
    for number, (start, end) in enumerate(spans):
        ending = text[start:end][:-1] + '\\n"'
        for odd in (
            *(ODD[(number + n * len(ODD) // each) % len(ODD)] for n in range(each)),
            ending,
        ):
            if odd[0] != '"' and odd.endswith('"'):
                continue
            path.write_text(text[:start] + odd + text[end:])
            try:
                load_lab(path)
            except NetworkError as error:
                for line in str(error).splitlines():
                    assert re.match(rf"{re.escape(str(path))}:\d+: ", line), str(error)


@pytest.mark.parametrize("odd", ["1.5", "5", "true", "[1]", "{ a = 1 }", '"10.254.1.2:66000"'])
def test_the_labs_hypervisor(tmp_path: Path, odd: str) -> None:
    text = (ROOT / "conf" / "paper.toml").read_text()
    path = tmp_path / "odd.toml"
    path.write_text(text.replace('hypervisor = "10.254.1.2:6650"', f"hypervisor = {odd}"))
    with pytest.raises(NetworkError, match=r"lab\.hypervisor: found .*ADDRESS:PORT"):
        load_lab(path)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    text = (ROOT / "conf" / "paper.toml").read_text()
    path = tmp_path / "marked.toml"
    path.write_text(text, encoding="utf-8-sig")
    assert load(path).name == "paper" and load_lab(path).machines
    assert read_text(path) == text
