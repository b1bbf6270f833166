"""A teacher's network of few lines, in a store: it comes up, and traffic passes all its routers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import bring_up, checkpoint, operate, process
from lab.description import ROOT, Lab
from lab.namespace import LabError
from lab.state import placed
from tests.lab.live import reaches, settle, xenflow
from tests.lab.needed import needs

PROGRAMS = ("ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "bird", "nft", "tc", "ip", "ping")
pytestmark = needs(PROGRAMS)


MORE = """
[lab.routers]
r2 = { config = "r2.conf" }
"""
OWN = """
router id 10.255.0.2;
protocol device { }
protocol kernel { ipv4 { import none; export all; }; }
protocol ospf v2 mine {
    ipv4 { import all; export none; };
    area 0 { interface "eth*" { type ptp; hello 1; dead 4; check link no; cost 7; }; };
}
"""


def test_a_class_network_comes_up_in_a_store(lab_up: Callable[..., Lab], tmp_path: Path) -> None:
    """One of its machines without a routing daemon; a router gets a person's own configuration."""
    file = tmp_path / "class.toml"
    text = (ROOT / "conf" / "class.toml").read_text()
    text = text.replace('link = "right" }', 'link = "right", gateway = "r4" }')
    file.write_text(text)
    lab = lab_up(str(file), store=True)
    first, last = lab.machines.values()
    told = operate.run(first.name, ["ping", "-c", "3", "-i", "0.2", str(last.address.ip)]).stdout
    # every router on the way takes one from 64
    assert re.findall(r"ttl=(\d+)", told) == ["60"] * 3
    assert not [one for one in process.recorded() if one.node == last.name]
    assert {path for path in written() if path.parts[:3] != ("/", "run", "xenflow")} == set()

    file.write_text(text + MORE)
    (tmp_path / "r2.conf").write_text(OWN)
    assert not bring_up.reload(say=lambda _: None).refused
    settle(lambda: costs() == {"7"}, "r2's own configuration is in force")
    (tmp_path / "r2.conf").write_text(OWN.replace("cost 7", "cost 9"))
    assert not bring_up.reload(say=lambda _: None).refused  # its own copy says what there was
    settle(lambda: costs() == {"9"}, "what has become of it is in force")

    said: list[str] = []
    checkpoint.take("lesson")
    (process.STATE_DIR / "r2" / "bird.conf").write_text(OWN)
    words = ["birdc", "-s", f"{process.STATE_DIR}/r2/bird.ctl"]
    assert "Reconfigured" in operate.run("r2", [*words, "configure"]).stdout
    operate.run("r2", [*words, "disable", "mine"])
    assert xenflow("migrate", "r1", "h2").returncode == 0
    operate.cut("h3-s2")
    checkpoint.reset("lesson", say=said.append)
    assert "migrate r1 to h1" in said and "r2: the routing daemon is as it was" in said
    assert not [line for line in said if "anew:" in line]  # it was not taken down
    assert operate.status()["cut"] == [] and placed()["r1"] == "h1"
    settle(lambda: costs() == {"9"}, "r2's configuration is that of the checkpoint")
    with pytest.raises(LabError, match="nosuch: no such checkpoint; there are: lesson"):
        checkpoint.reset("nosuch")
    reaches(first.name, str(last.address.ip))


def written() -> set[Path]:
    """The files that the lab's processes have open to write."""
    found = set()
    for one in process.recorded():
        for entry in Path(f"/proc/{one.pid}/fd").iterdir():
            path = Path(os.readlink(entry))
            info = Path(f"/proc/{one.pid}/fdinfo", entry.name).read_text()
            (flags,) = re.findall(r"^flags:\s*(\d+)", info, re.M)
            if int(flags, 8) & os.O_ACCMODE and path.is_file() and path.parts[1] != "proc":
                found.add(path)
    assert found
    return found


def costs() -> set[str]:
    """Those of r2's interfaces, as its BIRD has them now."""
    words = ["birdc", "-s", f"{process.STATE_DIR}/r2/bird.ctl", "show", "ospf", "interface"]
    return set(re.findall(r"Cost: (\d+)", operate.run("r2", words).stdout))
