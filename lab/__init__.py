"""The lab: a network file brought up on one machine, with real switches and routing daemons.

Each node is a network namespace: physical hosts and switches with an Open vSwitch and a controller
of their own, end machines and virtual routers with a routing daemon, cables as veth pairs.  A
router moves between hosts at the word of an emulated hypervisor, whose every reply says that it is
one.  What is real and what is emulated is told in `docs/lab.md`.

    up, reload, down              bring_up.py, which steps: steps.py, how: changing.py
    what is up                    state.py
    nodes, run, cut, heal, status operate.py
    the command                   cli.py, `xenflow lab ...` or `python -m lab ...`
    traffic that counts its losses  probe.py
"""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
for _path in (str(_ROOT / "pox_ext"), str(_ROOT)):
    if _path not in sys.path:
        sys.path.insert(0, _path)
