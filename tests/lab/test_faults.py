"""What fails while routers route: controllers, routerd, switches, routing daemons, floods.

What must hold: what switches have been told goes on being forwarded, and whoever comes back finds
out the difference and writes only that.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from lab import operate, process, switch
from lab.description import PREFIX, ROOT, Lab
from lab.programs import python_path, start_controller, start_routerd
from lab.state import placed
from tests.lab.live import (
    LIMIT_S,
    LiveTraffic,
    RunningCommand,
    SmallStateFolder,
    datapaths,
    difference,
    flow_mods,
    flows,
    hypervisor,
    in_sync,
    kill,
    reaches,
    restart_controller,
    router_row,
    settle,
    xenflow,
)
from tests.lab.needed import needs

PROGRAMS = ("ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "bird", "nft", "tc", "ip")
pytestmark = needs(PROGRAMS)

SPARE = "10.77.0.0/24"
"""A prefix that nobody else uses."""


@pytest.fixture
def paper(lab_up: Callable[..., Lab]) -> Lab:
    lab = lab_up("paper", pause_s=0.1, precopy_s=0.1)
    settle(lambda: in_sync(lab), "every switch in sync")
    return lab


def route(verb: str, prefix: str = SPARE, via: str = "10.0.2.2", router: str = "vr1") -> None:
    """Change a route in a router's kernel."""
    done = operate.run(router, ["ip", "route", verb, prefix, "via", via, "proto", "static"])
    assert done.returncode == 0, done.stderr


def has_flow(lab: Lab, host: str, prefix: str = SPARE) -> bool:
    return has_flows(lab, host, [prefix])


def has_flows(lab: Lab, host: str, prefixes: Iterable[str]) -> bool:
    held = "\n".join(flows(lab, host)[host])
    return all(f"nw_dst={prefix}" in held for prefix in prefixes)


def mods_since(before: dict[str, int]) -> int:
    """Flow changes written since, to all switches together."""
    return sum(flow_mods().values()) - sum(before.values())


# --- a controller --------------------------------------------------------------------------------


@pytest.mark.parametrize("controller", ["host-a", "edge"])
def test_controller_killed(paper: Lab, controller: str) -> None:
    """Nothing is lost; when it is back, and nothing has changed, it writes nothing."""
    before = flows(paper)
    with LiveTraffic() as traffic:
        kill(controller, "controller")
        time.sleep(2.0)
        restart_controller(paper, controller)
        time.sleep(2.0)
    traffic.assert_nothing_lost()
    assert difference(before, flows(paper)) == []
    own = [d.name for d in paper.network.datapaths_of(controller)]
    mods = flow_mods()
    assert {name: mods[name] for name in own} == dict.fromkeys(own, 0)


def test_route_changed_while_the_controller_was_away(paper: Lab) -> None:
    """At most three flow changes for one route."""
    with LiveTraffic() as traffic:
        kill("host-a", "controller")
        route("add")
        time.sleep(0.5)
        restart_controller(paper, "host-a")
        settle(lambda: has_flow(paper, "host-a"), "the new route is a flow")
        time.sleep(1.0)
    traffic.assert_nothing_lost()
    assert 1 <= datapaths()["host-a"]["flow_mods"] <= 3
    kill("host-a", "controller")
    route("del")
    restart_controller(paper, "host-a")
    settle(lambda: not has_flow(paper, "host-a"), "the route is no flow any more")
    time.sleep(1.0)
    assert 1 <= datapaths()["host-a"]["flow_mods"] <= 3


def test_controller_remembers_where_routers_are_or_asks(paper: Lab) -> None:
    """Killed while the router is away from home: its placement is kept, nothing is written.  Who
    finds no state file, or one that is damaged, asks those that have theirs."""
    assert xenflow("migrate", "vr1", "host-b").returncode == 0
    try:
        before = flows(paper)
        with LiveTraffic() as traffic:
            for name in ("host-a", "host-b", "edge"):
                kill(name, "controller")
            (process.STATE_DIR / "host-a" / "state" / "state.json").unlink()
            damaged = process.STATE_DIR / "edge" / "state" / "state.json"
            damaged.write_text('{"placements": {}, "rules": {"edge": 5}}')
            time.sleep(1.0)
            for name in ("host-a", "host-b", "edge"):
                start_controller(paper, name)
            settle(lambda: in_sync(paper), "all controllers are back")
            settle(lambda: router_row("host-b", "vr1")["phase"] == "current", "vr1 has told all")
            time.sleep(1.0)
        traffic.assert_nothing_lost()
        assert difference(before, flows(paper)) == []
        assert set(flow_mods().values()) == {0}
    finally:
        assert xenflow("migrate", "vr1", "host-a").returncode == 0


def test_a_state_folder_that_is_full_in_mid_move(paper: Lab) -> None:
    """The move is given up, since a placement that cannot be kept is not taken; nothing is lost, it
    is said what to do, and with room again `recover` leaves nothing behind."""
    before = flows(paper)
    with (
        LiveTraffic() as traffic,
        SmallStateFolder("host-b") as folder,
        hypervisor(paper) as machine,
    ):
        machine.set(precopy_s=600)
        with RunningCommand("migrate", "vr1", "host-b") as command:
            command.await_text("move the VM to host-b")
            folder.fill()
            machine.set(precopy_s=0)
            assert command.end() == 1
        assert "No space left on device" in command.text, command.text
        assert "run `xenflow recover vr1`" in command.text, command.text
        assert placed()["vr1"] == "host-a"
        assert xenflow("status").returncode != 0
        folder.free()
        done = xenflow("recover", "vr1")
        assert done.returncode == 0, done.stderr
    traffic.assert_nothing_lost()
    assert difference(before, flows(paper)) == []
    assert xenflow("status", "--wait", str(LIMIT_S)).returncode == 0


# --- routerd -------------------------------------------------------------------------------------


def test_routerd_killed(paper: Lab) -> None:
    """Its routes stay and are marked stale; when it is back only the difference is written."""
    before = flows(paper)
    with LiveTraffic() as traffic:
        kill("vr1", "routerd")
        settle(lambda: router_row("host-a", "vr1")["stale"], "vr1 is marked stale")
        assert difference(before, flows(paper)) == []
        mods = flow_mods()
        start_routerd("vr1")
        settle(lambda: not router_row("host-a", "vr1")["stale"], "vr1 is heard again")
        settle(lambda: router_row("host-a", "vr1")["phase"] == "current", "vr1 has told all")
        time.sleep(1.0)
        assert mods_since(mods) == 0
        kill("vr1", "routerd")
        route("add")
        mods = flow_mods()
        start_routerd("vr1")
        settle(lambda: has_flow(paper, "host-a"), "the new route is a flow")
        time.sleep(1.0)
        assert mods_since(mods) <= 3
        route("del")
        settle(lambda: not has_flow(paper, "host-a"), "the route is no flow any more")
    traffic.assert_nothing_lost()
    assert difference(before, flows(paper)) == []


# --- a switch ------------------------------------------------------------------------------------


def test_connection_of_a_switch_is_dropped(paper: Lab) -> None:
    before, mods = flows(paper), flow_mods()
    with LiveTraffic() as traffic:
        done = operate.run("host-a", ["ovs-appctl", "bridge/reconnect", switch.BRIDGE])
        assert done.returncode == 0, done.stderr
        time.sleep(0.2)
        settle(lambda: in_sync(paper), "host-a is back")
    traffic.assert_nothing_lost()
    assert difference(before, flows(paper)) == []
    assert mods_since(mods) == 0


def test_a_full_table_of_routes(paper: Lab) -> None:
    """The VM forwards until there is room; what it says and how often is bounded."""
    node = paper.switch_node("host-a")
    held = sum("table=3" in line for line in flows(paper, "host-a")["host-a"])
    nets = [f"10.78.{n}.0/24" for n in range(200)]
    batch = "".join(f"route {{}} {net} via 10.0.2.2 proto static\n" for net in nets)
    limit = [
        "--id=@full",
        "create",
        "Flow_Table",
        f"flow_limit={held + 50}",
        "overflow_policy=refuse",
        "--",
        "set",
        "Bridge",
        switch.BRIDGE,
        "flow_tables:3=@full",
    ]
    try:
        with LiveTraffic() as traffic:
            switch.finish([switch.vsctl(node, limit)])
            change_routes(batch.format(*["add"] * len(nets)))
            settle(lambda: bool(router_row("host-a", "vr1")["problems"]), "it is said")
            assert "through its VM" in router_row("host-a", "vr1")["problems"][0]
            begun, errors = time.monotonic(), datapaths()["host-a"]["errors"]
            time.sleep(2.0)  # a pause that is judged below, not waited for
            errors, pause_s = datapaths()["host-a"]["errors"] - errors, time.monotonic() - begun
            assert errors <= 2.5 * pause_s
            settle(lambda: in_sync(paper), "but for what is refused all is written")
            switch.finish([switch.vsctl(node, ["clear", "Bridge", switch.BRIDGE, "flow_tables"])])
            settle(lambda: not router_row("host-a", "vr1")["problems"], "there is room")
            settle(lambda: has_flows(paper, "host-a", nets), "every route is a flow")
        traffic.assert_nothing_lost()
    finally:
        switch.finish([switch.vsctl(node, ["clear", "Bridge", switch.BRIDGE, "flow_tables"])])
        change_routes(batch.format(*["del"] * len(nets)))
        settle(lambda: not has_flow(paper, "host-a", nets[-1]), "its routes are gone")


def change_routes(batch: str) -> None:
    """Lines for `ip -batch` in vr1."""
    done = operate.run("vr1", ["sh", "-c", f"ip -force -batch - <<'END'\n{batch}END"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("datapath", ["host-a", "gen"])
def test_switch_restarted(paper: Lab, datapath: str) -> None:
    """A restarted switch holds nothing; its controller fills it again."""
    before = flows(paper)
    node = paper.switch_node(datapath)
    kill(node, "ovs-vswitchd")
    settle(lambda: not datapaths()[datapath]["connected"], f"{datapath} is gone")
    (switch.rundir(node) / "ovs-vswitchd.pid").unlink(missing_ok=True)
    switch.start_daemon(node, PREFIX + node)
    settle(lambda: in_sync(paper), f"{datapath} is back")
    settle(lambda: difference(before, flows(paper)) == [], "flows as before")
    reaches("gen", "10.2.0.1")
    with LiveTraffic() as traffic:
        time.sleep(1.0)
    traffic.assert_nothing_lost()


@pytest.mark.parametrize("datapath", ["host-a", "gen"])
def test_flows_deleted_by_somebody_else(paper: Lab, datapath: str) -> None:
    """They are written back while the connection stands, and status says so."""
    before = flows(paper)
    mended = datapaths()[datapath]["audit"]["mended"]
    node = paper.switch_node(datapath)
    done = operate.run(node, ["ovs-ofctl", "del-flows", switch.BRIDGE])
    assert done.returncode == 0, done.stderr
    settle(lambda: difference(before, flows(paper)) == [], "flows as before")
    settle(lambda: datapaths()[datapath]["audit"]["mended"] > mended, "status says so")
    assert datapaths()[datapath]["connected"]


# --- routing -------------------------------------------------------------------------------------


def test_bird_restarted(paper: Lab) -> None:
    """Routes are withdrawn and come back, and so do their flows."""
    before = flows(paper)
    kill("vr1", "bird-output", signal.SIGTERM)
    settle(lambda: not has_flow(paper, "host-a", "10.2.0.1"), "its routes are withdrawn")
    here = process.STATE_DIR / "vr1"
    process.start(
        "vr1",
        "bird-output",
        ["bird", "-f", "-c", str(here / "bird.conf"), "-s", str(here / "bird.ctl")],
        PREFIX + "vr1",
    )
    settle(lambda: difference(before, flows(paper)) == [], "flows as before")
    reaches("gen", "10.2.0.1")


def test_route_flaps(paper: Lab) -> None:
    """A route that comes and goes a hundred times: others are not disturbed, the end is right.
    What happened before the last route has been told before it."""
    before, last = flows(paper), "10.77.1.0/24"
    script = f"""
        for i in $(seq 100); do
            ip route add {SPARE} via 10.0.2.2 proto static; ip route del {SPARE}
        done
        ip route add {SPARE} via 10.0.2.2 proto static
        ip route add {last} via 10.0.2.2 proto static
    """
    with LiveTraffic() as traffic:
        mods = flow_mods()
        assert operate.run("vr1", ["sh", "-c", script]).returncode == 0
        settle(lambda: has_flow(paper, "host-a", last), "the last route is a flow")
        settle(lambda: has_flow(paper, "host-a"), "the route is a flow")
        time.sleep(1.0)
        assert has_flow(paper, "host-a")
        assert mods_since(mods) <= 206
        for prefix in (SPARE, last):
            route("del", prefix)
            settle(lambda prefix=prefix: not has_flow(paper, "host-a", prefix), "it is no flow")
    traffic.assert_nothing_lost()
    assert difference(before, flows(paper)) == []


# --- a flood -------------------------------------------------------------------------------------

FLOOD = """
import os, signal, sys, time, zmq
from xenflow.routes.messages import Header, RouteMessageType, pack
garbage, least = sys.argv[1] == "garbage", int(sys.argv[2])
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
sockets = []
for _ in range(4):
    one = zmq.Context.instance().socket(zmq.DEALER)
    one.ipv6, one.linger = 1, 0
    one.connect("tcp://[fe80::1%ctl0]:6641")
    sockets.append(one)
print("begun", flush=True)
end = time.monotonic() + 120
sent = 0
while (not ended or sent <= least) and time.monotonic() < end:
    epoch = int.from_bytes(os.urandom(8), "big")
    frames = [os.urandom(40), os.urandom(500)] if garbage else pack(
        Header(RouteMessageType.HELLO, epoch, sent, "vr1"))
    for one in sockets:
        try:
            one.send_multipart(frames, zmq.NOBLOCK)
            sent += 1
        except zmq.Again:
            time.sleep(0.001)
print(sent, flush=True)
"""
"""Floods the Rule Table from inside vr1, with what looks like messages of vr1 or with garbage, at
least so many."""
LEAST = 4000
BOUND_S = 2.0
"""How long a neighbour's route change may take meanwhile; on a slow machine ten times as long as
without a flood."""


def test_a_host_on_the_way_falls_quiet_under_traffic(lab_up: Callable[..., Lab]) -> None:
    """vr2's links lead on through host-c, which it leaves: what recv goes on sending to it there is
    switched, not routed, so that the move can finish."""
    lab = lab_up("path", pause_s=0.1, precopy_s=0.1)
    settle(lambda: in_sync(lab), "every switch in sync")
    with LiveTraffic() as traffic:
        for to in ("host-a", "host-c"):
            done = xenflow("migrate", "vr2", to)
            assert done.returncode == 0, done.stderr
    traffic.assert_nothing_lost()


@pytest.fixture
def shared_host(lab_up: Callable[..., Lab]) -> Iterator[Lab]:
    """`path` with vr1 on host-c, beside vr2: both routers have one Rule Table."""
    lab = lab_up("path", pause_s=0.1, precopy_s=0.1)
    settle(lambda: in_sync(lab), "every switch in sync")
    moved = xenflow("migrate", "vr1", "host-c")
    assert moved.returncode == 0, moved.stderr
    yield lab
    back = xenflow("migrate", "vr1", "host-a")
    assert back.returncode == 0, back.stderr


@pytest.mark.parametrize("kind", ["messages", "garbage"])
def test_flood_does_not_starve_another_router(shared_host: Lab, kind: str) -> None:
    """Its neighbour's route changes still become flows within a bound, and data is not touched."""

    def seconds_for_a_change() -> float:
        route("add", via="10.0.3.2", router="vr2")
        begun = time.monotonic()
        settle(lambda: has_flow(shared_host, "host-c"), "vr2's route is a flow")
        took = time.monotonic() - begun
        route("del", via="10.0.3.2", router="vr2")
        settle(lambda: not has_flow(shared_host, "host-c"), "vr2's route is no flow any more")
        return took

    quiet_s = max(seconds_for_a_change() for _ in range(3))
    bound_s = max(BOUND_S, 10 * quiet_s)
    with LiveTraffic() as traffic:
        flood = operate.popen(
            "vr1",
            [sys.executable, "-c", FLOOD, kind, str(LEAST)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=python_path(),
        )
        assert flood.stdout is not None
        assert flood.stdout.readline() == "begun\n"
        time.sleep(0.5)
        times = [seconds_for_a_change() for _ in range(3)]
        for _ in range(2):  # another program may have held one up
            if max(times[-3:]) >= bound_s:
                times += [seconds_for_a_change() for _ in range(3)]
        flood.terminate()
        said = int(flood.communicate()[0])
    traffic.assert_nothing_lost()
    assert said > LEAST, "that was no flood"
    assert max(times[-3:]) < bound_s, f"{times} under flood, {quiet_s} without"
    # And the router whose link was flooded is heard again afterwards.
    settle(lambda: router_row("host-c", "vr1")["phase"] == "current", "vr1 has told all again")
    route("add", via="10.0.2.2")
    settle(lambda: has_flow(shared_host, "host-c"), "vr1's route is a flow")
    route("del", via="10.0.2.2")
    settle(lambda: not has_flow(shared_host, "host-c"), "vr1's route is no flow any more")
