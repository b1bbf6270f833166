"""A teacher's network of few lines, in a store: it comes up, and traffic passes all its routers."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable

import pytest

from lab import operate
from lab.description import Lab

PROGRAMS = ("ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "bird", "nft", "tc", "ip", "ping")
pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason=f"needs {', '.join(PROGRAMS)}"),
]


def test_a_class_network_comes_up_in_a_store(lab_up: Callable[..., Lab]) -> None:
    lab = lab_up("class", store=True)
    first, last = lab.machines.values()
    told = operate.run(first.name, ["ping", "-c", "3", "-i", "0.2", str(last.address.ip)]).stdout
    # every router on the way takes one from 64
    assert re.findall(r"ttl=(\d+)", told) == ["60"] * 3
