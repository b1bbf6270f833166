"""Connections of a switch, under both cores: what the component sees, and what cannot hurt it."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
import time
from itertools import pairwise

import pytest
from launched import LIMIT_S
from loopback_switch import LoopbackSwitch, message, packet_in, port

STATS_REPLY, VENDOR, PORT_STATUS, FLOW_REMOVED = 17, 4, 12, 11


def test_handshake_and_ports(core, start):
    controller = start(core)
    switch = LoopbackSwitch(controller.port, dpid=0xAB).handshake()
    up = controller.wait_for("ConnectionUp")
    assert up["dpid"] == 0xAB
    assert up["ports"] == {"1": "p1", "2": "p2"}
    assert up["mac"] == "02:00:00:00:00:01"
    assert up["same"] and up["listed"]
    # set_config with the component's miss_send_len, and no flow_mod: nothing is wiped
    kinds = [each[1] for each in switch.seen]
    assert 14 not in kinds
    config = next(each for each in switch.seen if each[1] == 9)
    assert struct.unpack("!HH", config[8:]) == (0, 0xFFFF)
    switch.close()
    assert controller.wait_for("ConnectionDown")["dpid"] == 0xAB


def test_events_carry_what_the_messages_say(core, start):
    controller = start(core)
    switch = LoopbackSwitch(controller.port).handshake()
    controller.wait_for("ConnectionUp")
    switch.send(packet_in(b"hello frame", in_port=7))
    got = controller.wait_for("PacketIn")
    assert got["port"] == 7 and got["data"] == "hello frame"
    assert got["buffer"] is None and got["total"] == 11 and got["reason"] == 0
    switch.receive_type(2)  # what the handler sent

    switch.send(message(PORT_STATUS, 0, struct.pack("!B7x", 0) + port(9)))
    got = controller.wait_for("PortStatus")
    assert got["port"] == 9 and got["what"] == [True, False, False] and got["there"]
    switch.send(message(PORT_STATUS, 0, struct.pack("!B7x", 1) + port(1)))
    got = controller.wait_for("PortStatus")
    assert got["port"] == 1 and got["what"] == [False, True, False] and not got["there"]

    body = bytes(40) + struct.pack("!QHBxIIH2xQQ", 0xC0FFEE, 100, 0, 5, 6, 7, 8, 900)
    switch.send(message(FLOW_REMOVED, 0, body))
    got = controller.wait_for("FlowRemoved")
    assert (got["cookie"], got["idle"], got["packets"]) == (0xC0FFEE, True, 8)
    assert (got["bytes"], got["priority"]) == (900, 100)

    refused = message(14, 0x8000_0007, bytes(64))[:64]
    switch.send(message(1, 0x8000_0007, struct.pack("!HH", 3, 2) + refused))
    assert controller.wait_for("ErrorIn") == {
        "event": "ErrorIn",
        "xid": 0x8000_0007,
        "type": 3,
        "code": 2,
    }
    switch.send(message(19, 0x8000_0009))
    assert controller.wait_for("BarrierIn")["xid"] == 0x8000_0009
    switch.send(message(STATS_REPLY, 0x8000_000A, bytes(4 + 1056)))
    assert controller.wait_for("RawStatsReply")["xid"] == 0x8000_000A
    switch.send(message(2, 77, b"are you there"))
    reply = switch.receive_type(3)
    assert reply[4:] == struct.pack("!I", 77) + b"are you there"


def test_tap_shows_vendor_messages_and_statistics_raw(core, start):
    controller = start(core, "--tap=4,10,17")
    switch = LoopbackSwitch(controller.port).handshake()
    controller.wait_for("ConnectionUp")
    # Nicira flow statistics in two parts: genuine POX would end the connection
    nicira = struct.pack("!II", 0x2320, 0)
    switch.send(message(STATS_REPLY, 5, struct.pack("!HH", 0xFFFF, 1) + nicira + bytes(60_000)))
    switch.send(message(STATS_REPLY, 5, struct.pack("!HH", 0xFFFF, 0) + nicira + bytes(48)))
    assert controller.wait_for("raw")["length"] == 60_020
    assert controller.wait_for("raw")["head"] == "ffff00000000232000000000"
    switch.send(message(VENDOR, 0, struct.pack("!II", 0x2320, 14) + bytes(48)))
    assert controller.wait_for("raw")["type"] == VENDOR
    # what the receiver does not take goes on to the event; what it raises ends nothing
    switch.send(packet_in(b"mine") + message(VENDOR, 0, b"fail") + packet_in(b"yours"))
    assert controller.wait_for("raw")["taken"] is True
    assert controller.wait_for("raw", type=10)["taken"] is False
    assert controller.wait_for("PacketIn")["data"] == "yours"
    assert not [e for e in controller.events if e.get("data") == "mine"]


def test_another_message_in_place_of_one_that_was_taken(core, start):
    """As of a packet-in in Nicira's format, which other components do not know."""
    controller = start(core, "--tap=4")
    switch = LoopbackSwitch(controller.port).handshake()
    switch.send(message(VENDOR, 0, b"swap" + packet_in(b"usual", in_port=7)))
    got = controller.wait_for("PacketIn")
    assert (got["port"], got["data"]) == (7, "usual")


def test_a_port_that_changes_in_the_handshake_is_no_raw_message(core, start):
    controller = start(core, "--tap=12")
    early = message(12, 0, struct.pack("!B7x", 2) + port(7))
    switch = LoopbackSwitch(controller.port).handshake(before_barrier=early)
    assert controller.wait_for("PortStatus")["port"] == 7
    switch.send(message(12, 0, struct.pack("!B7x", 2) + port(8)))
    assert controller.wait_for("raw", type=12)
    assert not [line for line in controller.log if "Exception" in line]


def test_a_handler_that_raises_ends_nothing(core, start):
    controller = start(core)
    switch = LoopbackSwitch(controller.port).handshake()
    switch.send(packet_in(b"fail") + packet_in(b"next"))
    assert controller.wait_for("PacketIn")["data"] == "next"
    controller.wait_for_log("told to fail")


def test_component_disconnects_and_exits(core, start):
    controller = start(core)
    switch = LoopbackSwitch(controller.port, dpid=5).handshake()
    switch.send(packet_in(b"disconnect") + packet_in(b"never seen"))
    assert controller.wait_for("ConnectionDown")["dpid"] == 5
    assert switch.ended()
    switch = LoopbackSwitch(controller.port, dpid=6).handshake()
    switch.send(packet_in(b"exit"))
    controller.wait_for("Down")
    assert controller.process.wait(LIMIT_S) == 3


def test_output_pending_at_the_end_of_a_connection(core, start):
    """A switch that does not read, then goes: others are served as before."""
    controller = start(core, f"--send-bytes={32 << 20}")
    deaf = LoopbackSwitch(controller.port, dpid=1).handshake()
    assert controller.wait_for("unsent")["bytes"] > 1 << 20
    other = LoopbackSwitch(controller.port, dpid=2).handshake()
    deaf.close()
    controller.wait_for("ConnectionDown", dpid=1)
    for _ in range(3):
        other.send(packet_in(b"hello"))
        controller.wait_for("PacketIn", dpid=2)
        other.receive_type(2)
    # and one that reads late gets every byte in order
    late = LoopbackSwitch(controller.port, dpid=1).handshake()
    total = 0
    while total < 32 << 20:
        total += len(late.receive_type(2))
    assert total == 32 << 20


def test_fast_reconnect_keeps_the_new_connection(start):
    controller = start("stand-in")
    old = LoopbackSwitch(controller.port, dpid=3).handshake()
    first = controller.wait_for("ConnectionUp")["con"]
    new = LoopbackSwitch(controller.port, dpid=3).handshake()
    assert controller.wait_for("ConnectionUp")["listed"]
    old.close()
    down = controller.wait_for("ConnectionDown")
    assert down["con"] == first and down["listed"] != first
    new.send(packet_in(b"hello"))
    assert controller.wait_for("PacketIn")["dpid"] == 3


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: switch\r\n\r\n",
        b"\x01\x0a\x00\x04\x00\x00\x00\x00",  # shorter than a header
        b"\x01\xc8\x00\x08\x00\x00\x00\x00",  # unknown type
        b"\x04\x0a\x00\x10" + bytes(12),  # another version, after the handshake
        bytes(64),
    ],
)
def test_garbage_ends_its_own_connection_only(start, garbage):
    controller = start("stand-in")
    good = LoopbackSwitch(controller.port, dpid=1).handshake()
    for dpid in (2, 3):
        bad = LoopbackSwitch(controller.port, dpid=dpid)
        if dpid == 3:
            bad.handshake()
        bad.send(garbage)
        assert bad.ended()
    good.send(packet_in(b"hello"))
    assert controller.wait_for("PacketIn")["dpid"] == 1


def test_malformed_messages_are_dropped_and_logged(start):
    controller = start("stand-in")
    switch = LoopbackSwitch(controller.port).handshake()
    for kind in (1, 6, 10, 11, 12, 17):
        switch.send(message(kind, 0, b"\0"))
    switch.send(packet_in(b"hello"))
    assert controller.wait_for("PacketIn")["data"] == "hello"
    controller.wait_for_log("malformed OpenFlow message of type 17")
    assert sum("malformed OpenFlow message" in line for line in controller.log) == 6
    switch.send(message(10, 0, b"\0") * 20)
    assert switch.ended()
    controller.wait_for("ConnectionDown")


def test_messages_in_pieces(start):
    controller = start("stand-in")
    switch = LoopbackSwitch(controller.port).handshake()
    for byte in packet_in(b"piecemeal"):
        switch.send(bytes([byte]))
    assert controller.wait_for("PacketIn")["data"] == "piecemeal"
    longest = packet_in(b"x" * (65535 - 18))
    switch.send((longest + packet_in(b"quiet")) * 5 + packet_in(b"end"))
    for _ in range(5):
        assert len(controller.wait_for("PacketIn")["data"]) == 65535 - 18
    assert controller.wait_for("PacketIn")["data"] == "end"


def test_other_versions_are_told_and_logged(start):
    controller = start("stand-in")
    # OpenFlow 1.3 only: it refuses our hello, in its own version or (Open vSwitch 3.1) in ours
    words = b"We support version 0x04, you support version 0x01, no common versions."
    for version, why in ((4, "it speaks version 0x04"), (1, "no common versions")):
        switch = LoopbackSwitch(controller.port, hello=message(0, version=4))
        switch.receive_type(0)
        switch.send(message(1, 0, bytes(4) + words, version=version))
        error = switch.receive_type(1)
        assert error[0] == 1 and struct.unpack_from("!HH", error, 8) == (0, 0)
        assert switch.ended()
        assert "protocols=OpenFlow10" in controller.wait_for_log(why)
    # a switch that speaks 1.0 too
    bitmap = struct.pack("!HHI", 1, 8, 1 << 4 | 1 << 1)
    switch = LoopbackSwitch(controller.port, hello=message(0, 0, bitmap, version=4)).handshake()
    controller.wait_for("ConnectionUp")


def test_a_flood_starves_neither_timers_nor_another_switch(start):
    controller = start("stand-in", "--tick")
    other = LoopbackSwitch(controller.port, dpid=2).handshake()
    controller.wait_for("ConnectionUp", dpid=2)
    seen = []
    for attempt in range(8):  # another program may hold one up
        loud = LoopbackSwitch(controller.port, dpid=10 + attempt).handshake()
        controller.wait_for("ConnectionUp", dpid=10 + attempt)
        seen.append(_under_a_flood(controller, loud, other))
        loud.close()
        answer_s, gap_s, stopped_s = seen[-1]
        if answer_s < 0.3 + 2 * stopped_s and gap_s < 0.5 + 2 * stopped_s:
            return
    raise AssertionError(seen)


def _under_a_flood(controller, loud, other):
    """The longest time until the other switch is answered, between two ticks, and that the machine
    kept a process of ours, which only sleeps, from running meanwhile."""
    sleeper = subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True)
    sleeper.stdout.readline()
    flood = packet_in(b"quiet".ljust(60)) * 2000
    worst_s = 0.0
    loud.sock.settimeout(0.2)
    begin = time.monotonic()
    end = begin + 1.5

    def shout():
        try:
            while time.monotonic() < end:
                loud.sock.sendall(flood)
        except OSError:
            pass

    thread = threading.Thread(target=shout)
    thread.start()
    while time.monotonic() < end - 0.2:
        before = time.monotonic()
        other.send(packet_in(b"hello"))
        other.receive_type(2)
        worst_s = max(worst_s, time.monotonic() - before)
    thread.join()
    ticks = [begin]
    while ticks[-1] < end:
        ticks.append(max(begin, controller.wait_for("tick")["at"]))
    stopped_s = float(sleeper.communicate()[0])
    return worst_s, max(b - a for a, b in pairwise(ticks)), stopped_s


STOPPED = """
import time
print("begun", flush=True)
begun = last = time.monotonic()
longest_s = 0.0
while last < begun + 2.0:
    time.sleep(0.005)
    last, before = time.monotonic(), last
    longest_s = max(longest_s, last - before - 0.005)
print(longest_s)
"""
