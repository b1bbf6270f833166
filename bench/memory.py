"""What processes and the kernel's routes take, in octets resident."""

from __future__ import annotations

from pathlib import Path

_SLABS = ("ip_fib_alias", "ip_fib_trie")
"""Leaves of the trie, and what a prefix leads to (net/ipv4/fib_trie.c).  Its inner nodes are
vmalloc or kmalloc areas that belong to no cache of their own."""


def status_octets(pid: int, field: str) -> int:
    """A field of /proc/PID/status: VmRSS is what is resident now, VmHWM what was at the most."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/{pid}/status has no {field}")


def kernel_route_octets() -> int:
    """What the kernel's slab caches for IPv4 routes take, of all namespaces; inner nodes of the
    trie are not in it.  0 where the kernel merges or does not show its caches."""
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()
    except OSError:
        return 0
    total = 0
    for line in lines:
        words = line.split()
        if words[0] in _SLABS:  # name, active, objects, size, objects a slab, pages a slab
            total += int(words[2]) * int(words[3])
    return total
