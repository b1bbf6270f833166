"""The reactive pipeline in a whole lab: first packets become flows, and routers move."""

from __future__ import annotations

import pytest

from lab import operate, switch
from lab.description import Lab, find_file
from tests.lab.conftest import OneLab
from tests.lab.live import LiveTraffic, bring_home, in_sync, reaches, settle, xenflow
from tests.lab.needed import needs

PROGRAMS = ("ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "bird", "nft", "tc", "ip")
pytestmark = needs(PROGRAMS)
ROUTERS_BETWEEN = {"paper": 1, "path": 2}


@pytest.fixture(scope="module", params=ROUTERS_BETWEEN)
def reactive(
    request: pytest.FixtureRequest, one_lab: OneLab, tmp_path_factory: pytest.TempPathFactory
) -> Lab:
    """A network of ours, its hosts with `pipeline = "reactive"`."""
    copy = tmp_path_factory.mktemp("reactive") / f"{request.param}.toml"
    text = find_file(request.param).read_text()
    copy.write_text(text.replace('kind = "host"\n', 'kind = "host"\npipeline = "reactive"\n'))
    lab = one_lab.up(str(copy), pause_s=0.1, precopy_s=0.1)
    settle(lambda: in_sync(lab), "every switch in sync")
    return lab


def test_first_packets_become_exact_flows(reactive: Lab) -> None:
    reaches("gen", "10.2.0.1")
    done = operate.run("gen", ["ping", "-c2", "-W30", "-t64", "10.2.0.1"])
    ttl = int(done.stdout.split("ttl=")[1].split()[0])
    assert ttl == 64 - ROUTERS_BETWEEN[reactive.network.name]

    def is_exact_flow() -> bool:
        held = switch.ofctl("host-a", "dump-flows", switch.BRIDGE).splitlines()
        return any("idle_timeout=10" in line and "nw_dst=10.2.0.1" in line for line in held)

    settle(is_exact_flow, "the first packet's flow is in the switch")


@pytest.mark.parametrize("mode", ["overlapped", "report"])
def test_moves_lose_nothing(reactive: Lab, mode: str) -> None:
    with LiveTraffic() as traffic:
        for to in ("host-b", "host-a"):
            done = xenflow("migrate", "vr1", to, "--mode", mode)
            assert done.returncode == 0, done.stderr
    traffic.assert_nothing_lost()
    bring_home(reactive)
