"""Puts the repository and the POX component's directory on the path, as `pox.py` does."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for directory in (ROOT, ROOT / "pox_ext"):
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
