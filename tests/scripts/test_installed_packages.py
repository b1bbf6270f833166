"""What is installed is all that there is: no package is forgotten in pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACES = {"lab": ROOT, "mgmt": ROOT, "routerd": ROOT, "xenflow": ROOT / "pox_ext"}


def test_every_package_is_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = {
        ".".join(file.parent.relative_to(above).parts)
        for name, above in PLACES.items()
        for file in (above / name).rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == found
