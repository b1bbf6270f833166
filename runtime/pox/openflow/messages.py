"""OpenFlow 1.0 messages from switches, over the bytes they came in, parsed where asked.

`PARSERS[type](buffer, offset)` gives `(next offset, message)`, the convention of POX's
`connection.unpackers`. A message keeps the read buffer alive: keep `raw` or `data`, never the
message itself.
Field names are POX's. Formats: OpenFlow Switch Specification 1.0.0, section 5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from pox.lib.addresses import EthAddr

OFP_VERSION = 1
(
    OFPT_HELLO,
    OFPT_ERROR,
    OFPT_ECHO_REQUEST,
    OFPT_ECHO_REPLY,
    OFPT_VENDOR,
    OFPT_FEATURES_REQUEST,
    OFPT_FEATURES_REPLY,
    OFPT_GET_CONFIG_REQUEST,
    OFPT_GET_CONFIG_REPLY,
    OFPT_SET_CONFIG,
    OFPT_PACKET_IN,
    OFPT_FLOW_REMOVED,
    OFPT_PORT_STATUS,
    OFPT_PACKET_OUT,
    OFPT_FLOW_MOD,
    OFPT_PORT_MOD,
    OFPT_STATS_REQUEST,
    OFPT_STATS_REPLY,
    OFPT_BARRIER_REQUEST,
    OFPT_BARRIER_REPLY,
    OFPT_QUEUE_GET_CONFIG_REQUEST,
    OFPT_QUEUE_GET_CONFIG_REPLY,
) = range(22)
OFPST_DESC = 0

ERROR_TYPES = (
    "hello failed",
    "bad request",
    "bad action",
    "flow mod failed",
    "port mod failed",
    "queue operation failed",
)

_HEADER = struct.Struct("!BBHI")
_LENGTH = struct.Struct("!H")
_U32 = struct.Struct("!I")
_PACKET_IN = struct.Struct("!IHHB")
_TWO_U16 = struct.Struct("!HH")
_FEATURES = struct.Struct("!QIB3xII")
_PHY_PORT = struct.Struct("!H6s16sIIIIII")
_FLOW_REMOVED = struct.Struct("!QHBxIIH2xQQ")
_length_at = _LENGTH.unpack_from

PHY_PORT_BYTES = _PHY_PORT.size


class Message:
    """Any message: its header, and all its bytes in `raw`."""

    __slots__ = ("_buffer", "_length", "_offset")

    def __init__(self, buffer: bytes, offset: int, length: int) -> None:
        self._buffer = buffer
        self._offset = offset
        self._length = length

    @property
    def raw(self) -> bytes:
        """The whole message."""
        return self._buffer[self._offset : self._offset + self._length]

    def pack(self) -> bytes:
        """The whole message, under the name that POX's messages have for it."""
        return self.raw

    @property
    def version(self) -> int:
        """The OpenFlow version of the header."""
        return self._buffer[self._offset]

    @property
    def header_type(self) -> int:
        """OFPT_*."""
        return self._buffer[self._offset + 1]

    @property
    def xid(self) -> int:
        """The transaction id."""
        return _U32.unpack_from(self._buffer, self._offset + 4)[0]  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return self._length

    def _rest(self, start: int) -> bytes:
        return self._buffer[self._offset + start : self._offset + self._length]

    def _fields(self, layout: struct.Struct, start: int = 8) -> tuple[Any, ...]:
        return layout.unpack_from(self._buffer, self._offset + start)

    def __str__(self) -> str:
        return f"OpenFlow message of type {self.header_type}, {self._length} bytes"


class Echo(Message):
    """OFPT_ECHO_REQUEST and OFPT_ECHO_REPLY."""

    __slots__ = ()

    @property
    def body(self) -> bytes:
        """What is to be echoed."""
        return self._rest(8)


class Vendor(Message):
    """OFPT_VENDOR, such as Nicira's extensions (vendor 0x2320)."""

    __slots__ = ()

    @property
    def vendor(self) -> int:
        """The vendor id."""
        return self._fields(_U32)[0]  # type: ignore[no-any-return]

    @property
    def data(self) -> bytes:
        """What follows the vendor id."""
        return self._rest(12)


class Error(Message):
    """OFPT_ERROR; `data` holds at least 64 bytes of the request refused."""

    __slots__ = ()

    @property
    def type(self) -> int:
        """OFPET_*."""
        return self._fields(_TWO_U16)[0]  # type: ignore[no-any-return]

    @property
    def code(self) -> int:
        """The code within the type."""
        return self._fields(_TWO_U16)[1]  # type: ignore[no-any-return]

    @property
    def data(self) -> bytes:
        """The beginning of the request refused, or words."""
        return self._rest(12)

    def __str__(self) -> str:
        kind = ERROR_TYPES[self.type] if self.type < len(ERROR_TYPES) else f"error {self.type}"
        return f"{kind}, code {self.code}, xid {self.xid:#x}, request {self.data[:16].hex()}"

    def show(self) -> str:
        """The error in words."""
        return str(self)


class PhyPort:
    """A port of a switch (ofp_phy_port)."""

    __slots__ = (
        "advertised",
        "config",
        "curr",
        "hw_addr",
        "name",
        "peer",
        "port_no",
        "state",
        "supported",
    )

    def __init__(self, buffer: bytes, offset: int) -> None:
        port_no, mac, name, config, state, curr, advertised, supported, peer = (
            _PHY_PORT.unpack_from(buffer, offset)
        )
        self.port_no: int = port_no
        self.hw_addr = EthAddr(mac)
        self.name: str = name.split(b"\0", 1)[0].decode("utf-8", "replace")
        self.config: int = config
        self.state: int = state
        self.curr: int = curr
        self.advertised: int = advertised
        self.supported: int = supported
        self.peer: int = peer

    def __repr__(self) -> str:
        return f"<port {self.port_no} {self.name} {self.hw_addr}>"


class FeaturesReply(Message):
    """OFPT_FEATURES_REPLY, parsed at once."""

    __slots__ = ("actions", "capabilities", "datapath_id", "n_buffers", "n_tables", "ports")

    def __init__(self, buffer: bytes, offset: int, length: int) -> None:
        super().__init__(buffer[offset : offset + length], 0, length)
        (
            self.datapath_id,
            self.n_buffers,
            self.n_tables,
            self.capabilities,
            self.actions,
        ) = self._fields(_FEATURES)
        self.ports = [
            PhyPort(self._buffer, start)
            for start in range(32, length - PHY_PORT_BYTES + 1, PHY_PORT_BYTES)
        ]


class Configuration(Message):
    """OFPT_GET_CONFIG_REPLY."""

    __slots__ = ()

    @property
    def flags(self) -> int:
        """OFPC_*."""
        return self._fields(_TWO_U16)[0]  # type: ignore[no-any-return]

    @property
    def miss_send_len(self) -> int:
        """How much of a packet is sent here."""
        return self._fields(_TWO_U16)[1]  # type: ignore[no-any-return]


class PacketInMessage(Message):
    """OFPT_PACKET_IN."""

    __slots__ = ()

    @property
    def buffer_id(self) -> int | None:
        """Where the switch keeps the packet; None where it does not."""
        number = self._fields(_U32)[0]
        return None if number == 0xFFFF_FFFF else number

    @property
    def total_len(self) -> int:
        """The frame's length, of which `data` may be the beginning only."""
        return _length_at(self._buffer, self._offset + 12)[0]  # type: ignore[no-any-return]

    @property
    def in_port(self) -> int:
        """The port the frame came in on."""
        return _length_at(self._buffer, self._offset + 14)[0]  # type: ignore[no-any-return]

    @property
    def reason(self) -> int:
        """0: no flow matched; 1: an action sent it."""
        return self._buffer[self._offset + 16]

    @property
    def data(self) -> bytes:
        """The frame."""
        return self._buffer[self._offset + 18 : self._offset + self._length]


class FlowRemovedMessage(Message):
    """OFPT_FLOW_REMOVED. The match is left as its 40 bytes."""

    __slots__ = ()

    @property
    def match(self) -> bytes:
        """The flow's ofp_match, 40 bytes; under POX it is an object."""
        return self._rest(8)[:40]

    @property
    def cookie(self) -> int:
        """The flow's cookie."""
        return self._fields(_FLOW_REMOVED, 48)[0]  # type: ignore[no-any-return]

    @property
    def priority(self) -> int:
        """The flow's priority."""
        return self._fields(_FLOW_REMOVED, 48)[1]  # type: ignore[no-any-return]

    @property
    def reason(self) -> int:
        """OFPRR_*."""
        return self._fields(_FLOW_REMOVED, 48)[2]  # type: ignore[no-any-return]

    @property
    def duration_sec(self) -> int:
        """How long the flow lived, whole seconds."""
        return self._fields(_FLOW_REMOVED, 48)[3]  # type: ignore[no-any-return]

    @property
    def duration_nsec(self) -> int:
        """How long the flow lived, the rest in nanoseconds."""
        return self._fields(_FLOW_REMOVED, 48)[4]  # type: ignore[no-any-return]

    @property
    def idle_timeout(self) -> int:
        """The flow's idle timeout, seconds."""
        return self._fields(_FLOW_REMOVED, 48)[5]  # type: ignore[no-any-return]

    @property
    def packet_count(self) -> int:
        """Packets that the flow matched."""
        return self._fields(_FLOW_REMOVED, 48)[6]  # type: ignore[no-any-return]

    @property
    def byte_count(self) -> int:
        """Bytes that the flow matched."""
        return self._fields(_FLOW_REMOVED, 48)[7]  # type: ignore[no-any-return]


class PortStatusMessage(Message):
    """OFPT_PORT_STATUS."""

    __slots__ = ()

    @property
    def reason(self) -> int:
        """OFPPR_*."""
        return self._buffer[self._offset + 8]

    @property
    def desc(self) -> PhyPort:
        """The port, as it is now or was last."""
        return PhyPort(self._buffer, self._offset + 16)


class StatsReply(Message):
    """OFPT_STATS_REPLY, one part. The body is left as bytes (under POX some are objects)."""

    __slots__ = ()

    @property
    def type(self) -> int:
        """OFPST_*; 0xffff is a vendor's, whose id begins the body."""
        return self._fields(_TWO_U16)[0]  # type: ignore[no-any-return]

    @property
    def flags(self) -> int:
        """Bit 0: more parts follow."""
        return self._fields(_TWO_U16)[1]  # type: ignore[no-any-return]

    @property
    def is_last_reply(self) -> bool:
        """Whether no more parts follow."""
        return not self.flags & 1

    @property
    def body(self) -> bytes:
        """What follows the flags."""
        return self._rest(12)


class Description:
    """A switch's description (OFPST_DESC)."""

    __slots__ = ("dp_desc", "hw_desc", "mfr_desc", "serial_num", "sw_desc")

    def __init__(self, body: bytes) -> None:
        fields = struct.unpack_from("!256s256s256s32s256s", body)
        texts = [each.split(b"\0", 1)[0].decode("utf-8", "replace") for each in fields]
        self.mfr_desc, self.hw_desc, self.sw_desc, self.serial_num, self.dp_desc = texts


Parser = Callable[[bytes, int], tuple[int, Any]]


class MalformedMessageError(ValueError):
    """A switch sent a message shorter than its type allows: the peer's mistake."""


def _parser(kind: type[Message], shortest: int) -> Parser:
    def parse(buffer: bytes, offset: int) -> tuple[int, Any]:
        length = _length_at(buffer, offset + 2)[0]
        if length < shortest:
            raise MalformedMessageError(
                f"{kind.__name__} of {length} bytes, at least {shortest} needed"
            )
        return offset + length, kind(buffer, offset, length)

    return parse


PARSERS: list[Parser] = [_parser(Message, 8)] * 22
for _kind, _class, _shortest in (
    (OFPT_ERROR, Error, 12),
    (OFPT_ECHO_REQUEST, Echo, 8),
    (OFPT_ECHO_REPLY, Echo, 8),
    (OFPT_VENDOR, Vendor, 12),
    (OFPT_FEATURES_REPLY, FeaturesReply, 32),
    (OFPT_GET_CONFIG_REPLY, Configuration, 12),
    (OFPT_PACKET_IN, PacketInMessage, 18),
    (OFPT_FLOW_REMOVED, FlowRemovedMessage, 88),
    (OFPT_PORT_STATUS, PortStatusMessage, 64),
    (OFPT_STATS_REPLY, StatsReply, 12),
):
    PARSERS[_kind] = _parser(_class, _shortest)


def request(kind: int, xid: int, body: bytes = b"", version: int = OFP_VERSION) -> bytes:
    """An OpenFlow message: header and body."""
    return _HEADER.pack(version, kind, 8 + len(body), xid) + body
