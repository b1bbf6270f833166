"""The daemon in a virtual router: watches what its kernel decides and tells the Rule Table.

It runs from a checkout with nothing installed but Python and pyzmq; the pure code that it shares
with the Rule Table is found beside it, in `pox_ext/`.
"""

from __future__ import annotations

import sys
from pathlib import Path

_PURE = str(Path(__file__).resolve().parents[1] / "pox_ext")
if _PURE not in sys.path:
    sys.path.insert(0, _PURE)
