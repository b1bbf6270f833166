"""A component for tests: installs flows in a real switch, asks it all kinds of things."""

import json
import struct
import time

import openflow_tap
from openflow_tap import FIRST_XID
from pox.core import core

NICIRA = 0x2320
OUTPUT_CONTROLLER = struct.pack("!HHHH", 0, 8, 0xFFFD, 0xFFFF)


def message(kind, xid, body=b""):
    return struct.pack("!BBHI", 1, kind, 8 + len(body), FIRST_XID + xid) + body


def nicira(subtype, xid, body):
    return message(4, xid, struct.pack("!II", NICIRA, subtype) + body)


def flow_mod(xid, table, register, actions=b"", flags=0, idle_s=0):
    """NXT_FLOW_MOD that matches NXM_NX_REG0."""
    match = struct.pack("!HBBI", 1, 0, 4, register)
    head = struct.pack(
        "!QHHHHIHHH6x", xid, table << 8, idle_s, 0, 100, 0xFFFFFFFF, 0xFFFF, flags, len(match)
    )
    return nicira(13, xid, head + match + actions)


def ask(con, flows):
    con.send(nicira(12, 1, struct.pack("!I", 2)) + nicira(15, 2, struct.pack("!B7x", 1)))
    for start in range(0, flows, 256):
        con.send(b"".join(flow_mod(100 + i, 1, i) for i in range(start, min(start + 256, flows))))
    con.send(message(18, 3))
    con.send(message(16, 4, struct.pack("!HH", 0, 0)))
    con.send(message(16, 5, struct.pack("!HHH6x", 4, 0, 0xFFFF)))
    con.send(message(16, 6, struct.pack("!HHI36xBxH", 1, 0, 0x3FFFFF, 1, 0xFFFF)))
    # NXST_FLOW: any out port, no match, table 1
    con.send(message(16, 7, struct.pack("!HHII4xHHB3x", 0xFFFF, 0, NICIRA, 0, 0xFFFF, 0, 1)))
    con.send(flow_mod(9, 0, 77, flags=1, idle_s=1))
    con.send(flow_mod(10, 0, 78, actions=struct.pack("!HHHH", 0, 9, 1, 1)))
    con.send(message(2, 11, b"echo"))
    head = struct.pack("!IHH", 0xFFFFFFFF, 0xFFFF, len(OUTPUT_CONTROLLER))
    con.send(message(13, 12, head + OUTPUT_CONTROLLER + bytes(1400)))
    con.send(message(18, 13))


def launch(flows="10"):
    core.openflow.miss_send_len = 0xFFFF
    replies = {}
    started = time.monotonic()

    def receive(con, raw):
        xid = struct.unpack_from("!I", raw, 4)[0]
        kind = raw[1]
        key = kind, xid
        parts, length = replies.get(key, (0, 0))
        replies[key] = (
            parts + 1,
            length + len(raw) - (24 if kind == 17 and raw[8:10] == b"\xff\xff" else 12),
        )
        if kind == 17 and struct.unpack_from("!H", raw, 10)[0] & 1:
            return True
        print(
            json.dumps(
                {
                    "event": "raw",
                    "type": kind,
                    "xid": xid - FIRST_XID,
                    "parts": parts + 1,
                    "body": replies[key][1],
                    "head": raw[8:16].hex(),
                    "at": time.monotonic() - started,
                }
            ),
            flush=True,
        )
        return True

    def up(event):
        for kind in (1, 3, 4, 10, 12, 17, 19):
            openflow_tap.tap(event.connection, kind, receive)
        at = time.monotonic() - started
        print(json.dumps({"event": "ConnectionUp", "at": at}), flush=True)
        ask(event.connection, int(flows))

    core.openflow.addListenerByName("ConnectionUp", up)
    core.addListenerByName("UpEvent", lambda event: print('{"event": "Up"}', flush=True))
