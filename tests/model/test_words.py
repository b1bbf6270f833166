"""One name for one concept: no class of the product has the name of another (docs/words.md)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("pox.py", "pox_ext", "mgmt", "routerd", "lab", "xen", "bench", "runtime")
ALLOWED = {"FlowRemoved", "PacketIn", "PortStatus"}
"""OpenFlow's own messages: values in `xenflow.openflow`, and what POX calls so in its stand-in."""


def classes(paths: Iterable[Path]) -> dict[str, list[str]]:
    """The files that define each class, by its name; a class inside another is its own affair."""
    found = defaultdict(list)
    for path in paths:
        for name in re.findall(r"(?m)^class (\w+)", path.read_text()):
            found[name].append(str(path))
    return found


def doubles(paths: Iterable[Path]) -> dict[str, list[str]]:
    """The classes that are defined more than once."""
    return {name: where for name, where in sorted(classes(paths).items()) if len(where) > 1}


def sources() -> list[Path]:
    """The product's modules."""
    named = [ROOT / name for name in PRODUCT]
    return [*filter(Path.is_file, named), *(file for one in named for file in one.rglob("*.py"))]


def test_no_class_has_the_name_of_another() -> None:
    found = doubles(sources())
    assert {name: where for name, where in found.items() if name not in ALLOWED} == {}
    assert set(found) == ALLOWED, "no longer double: take it from the list"


def test_a_double_is_found(tmp_path: Path) -> None:
    for name in ("one.py", "other.py"):
        (tmp_path / name).write_text(f"class Kind: ...\nclass Of_{name[:-3]}: ...\n")
    assert list(doubles(tmp_path.glob("*.py"))) == ["Kind"]
