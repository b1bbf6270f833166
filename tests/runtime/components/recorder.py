"""A component for tests: prints what it sees of OpenFlow, one JSON object a line."""
# ruff: noqa: N802 - the names are POX's

import json
import struct
import threading
import time

import openflow_tap
from pox.core import core
from pox.lib.recoco import Sleep, Task

log = core.getLogger("recorder")


def say(what, /, **fields):
    print(json.dumps({"event": what, **fields}), flush=True)


class Recorder:
    def __init__(self, tap, send_bytes, tick):
        self.tap = tap
        self.send_bytes = send_bytes
        self.packets = 0
        core.openflow.miss_send_len = 0xFFFF
        core.listen_to_dependencies(self)
        if tick:
            self.tick()

    def short(self):
        yield Sleep(0.01)
        core.call_delayed(0.05, say, "task over")

    def tick(self):
        say("tick", at=time.monotonic(), packets=self.packets)
        core.call_delayed(0.05, self.tick)

    def _handle_core_GoingUpEvent(self, event):
        say("GoingUp")

    def _handle_core_UpEvent(self, event):
        say("Up")
        Task(target=self.short).start()
        threading.Thread(target=core.call_later, args=(say, "from a thread"), daemon=True).start()

    def _handle_core_GoingDownEvent(self, event):
        say("GoingDown")

    def _handle_core_DownEvent(self, event):
        say("Down")

    def _handle_openflow_ConnectionUp(self, event):
        con = event.connection
        ports = {str(no): con.ports[no].name for no in con.ports.keys()}  # noqa: SIM118
        say(
            "ConnectionUp",
            dpid=event.dpid,
            con=con.ID,
            ports=ports,
            mac=str(con.ports["p1"].hw_addr),
            same=con.features.datapath_id == con.dpid == event.dpid,
            listed=core.openflow.connections[event.dpid] is con,
        )
        for kind in self.tap:
            openflow_tap.tap(con, kind, self.raw)
        if self.send_bytes and event.dpid == 1:
            piece = b"\x01\x02\x04\x00\x80\x00\x00\x01".ljust(1024, b"\0")
            for _ in range(self.send_bytes // 65536):
                con.send(piece * 64)
            core.call_later(lambda: say("unsent", bytes=openflow_tap.unsent_bytes(con)))

    def _handle_openflow_ConnectionDown(self, event):
        listed = core.openflow.connections.get(event.dpid)
        say(
            "ConnectionDown",
            dpid=event.dpid,
            con=event.connection.ID,
            listed=listed.ID if listed else None,
        )

    def raw(self, con, raw):
        if raw[1] == 4 and raw[8:12] == b"fail":
            raise RuntimeError("told to fail")
        if raw[1] == 4 and raw[8:12] == b"swap":
            openflow_tap.instead(con, raw[12:])
        taken = raw[1] != 10 or raw[18:22] == b"mine"
        say("raw", type=raw[1], length=len(raw), head=raw[8:20].hex(), taken=taken)
        return taken

    def _handle_openflow_PacketIn(self, event):
        self.packets += 1
        if event.data.startswith(b"quiet"):
            return
        if event.data.startswith(b"fail"):
            raise RuntimeError("told to fail")
        if event.data.startswith(b"disconnect"):
            event.connection.disconnect()
            return
        if event.data.startswith(b"exit"):
            core.quit(3)
            return
        say(
            "PacketIn",
            dpid=event.dpid,
            port=event.port,
            data=event.data.decode("latin-1"),
            buffer=event.ofp.buffer_id,
            reason=event.ofp.reason,
            total=event.ofp.total_len,
        )
        event.connection.send(struct.pack("!BBHI", 1, 2, 8, 0x8000_0000))

    def _handle_openflow_PortStatus(self, event):
        say(
            "PortStatus",
            port=event.port,
            name=event.ofp.desc.name,
            what=[event.added, event.deleted, event.modified],
            there=event.port in event.connection.ports,
        )

    def _handle_openflow_FlowRemoved(self, event):
        ofp = event.ofp
        say(
            "FlowRemoved",
            cookie=ofp.cookie,
            idle=event.idleTimeout,
            packets=ofp.packet_count,
            bytes=ofp.byte_count,
            priority=ofp.priority,
        )

    def _handle_openflow_ErrorIn(self, event):
        say("ErrorIn", xid=event.xid, type=event.ofp.type, code=event.ofp.code)
        event.should_log = False

    def _handle_openflow_BarrierIn(self, event):
        say("BarrierIn", xid=event.xid)

    def _handle_openflow_RawStatsReply(self, event):
        say("RawStatsReply", xid=event.ofp.xid, type=event.ofp.type)


def launch(tap="", send_bytes=0, tick=False):
    import sys

    say("launch", name=__name__, core=type(core).__name__, xenflow="xenflow" in sys.modules)
    kinds = [int(each) for each in str(tap).split(",") if each]
    core.register("Recorder", Recorder(kinds, int(send_bytes), tick))
