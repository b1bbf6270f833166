"""`python3 -m lab.before_setup PROGRAM --help`: what a program of the lab's says of itself where
the packages that it needs are not installed yet.

Called by `scripts/demo` and those like it, with the system's own Python; the packages are stood in
for by nothing, so the program cannot do more than that.
"""

import runpy
import sys
from importlib.machinery import ModuleSpec
from unittest.mock import MagicMock

PACKAGES = ("zmq", "zmq.utils", "zmq.utils.monitor", "netaddr")
"""What `mgmt.needed` looks for, as far as it is imported."""


def main() -> None:
    """Raises SystemExit, as whatever prints its `--help` does."""
    program = sys.argv.pop(1)
    for name in PACKAGES:
        sys.modules[name] = MagicMock(__spec__=ModuleSpec(name, None))
    runpy.run_module(f"lab.{program}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
