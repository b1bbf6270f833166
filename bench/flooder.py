"""A switch that floods its controller with packet-ins while it is told to, for `flood.py`.

    python -m bench.flooder PORT DPID GATEWAYS...

Reads lines: `begin`, `end` (answers with the packet-ins that were answered a second), and ends with
its input.
"""

from __future__ import annotations

import select
import sys

from bench.fake_switch import FakeSwitch
from bench.packet_in import PORTS, asked, frames, routed_targets


def main(port: int, dpid: int, router: int) -> None:
    """See the module."""
    switch = FakeSwitch(port, dpid, PORTS)
    packets = asked(frames(routed_targets(20_000, 5), 5, router), router)
    switch.settle(1.0)
    print("ready", flush=True)
    while True:
        while not select.select([sys.stdin], [], [], 0)[0]:
            switch.settle(0.05)
        if sys.stdin.readline().strip() != "begin":
            return
        rate = switch.flood(packets, lambda: bool(select.select([sys.stdin], [], [], 0)[0]))
        sys.stdin.readline()
        switch.settle(0.3)
        print(f"{rate:.0f}", flush=True)


if __name__ == "__main__":
    main(*(int(word, 0) for word in sys.argv[1:4]))
