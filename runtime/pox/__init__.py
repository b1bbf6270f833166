"""A small stand-in for the core of POX, under POX's own module names.

`pox.py` puts the folder above this one on `sys.path` when it finds no POX checkout, so that the
component's `from pox.core import core` works in both cases. `docs/pox.md` says what a component
may rely on under both cores. Never on `sys.path` together with a genuine POX.
"""

STAND_IN = True
