"""What the command cannot run without, looked for before anything imports it.

Imported first by `mgmt.cli`, for its effect: where a package is missing it ends the program with a
line that says how to get it, in place of a traceback.
"""

import sys
from importlib.util import find_spec

DEBIAN = {"zmq": "python3-zmq", "netaddr": "python3-netaddr"}
"""Python package -> Debian package."""

if missing := [debian for name, debian in DEBIAN.items() if find_spec(name) is None]:
    sys.exit(
        f"xenflow: missing for {sys.executable}: apt-get install {' '.join(missing)}, or, in the "
        "sources, scripts/setup"
    )
