"""Two genuine Xen hosts on one machine: Xen and Domain 0 under QEMU, joined to a lab.

    python -m tests.xen.bed up              hosts, lab and router; then `xenflow` works on it
    python -m tests.xen.bed sh host-a CMD   a command in a Domain 0
    python -m tests.xen.bed down

The processor is emulated (no KVM is needed), everything above it is the real thing: the hypervisor,
Domain 0's kernel with Open vSwitch's module, `xl`, the router as a Domain U.  Edge machines and
switches between hosts are the lab's (`lab/`), whose hosts of other hypervisors are left to us.

    cache.py     what is built once and kept
    build.py     Domain 0's root image, hypervisor and kernel
    payload.py   what differs from run to run: XenFlow itself, the network file, the router
    machine.py   one host: its QEMU and its cables
    dom0.py      commands in a Domain 0
    router.py    the routers, from image to running domain
    bed.py       all of it, up and down
"""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]
for _path in (str(_ROOT / "pox_ext"), str(_ROOT)):
    if _path not in sys.path:
        sys.path.insert(0, _path)
