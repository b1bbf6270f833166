"""The names of OpenFlow errors, for people."""

from __future__ import annotations

# OpenFlow 1.0.0, 5.4.4, and Open vSwitch's ofp-errors.h for the codes from 256 on.
_TYPES = (
    "hello failed",
    "bad request",
    "bad action",
    "flow_mod failed",
    "port_mod failed",
    "queue operation failed",
)

_CODES = {
    (0, 0): "incompatible version",
    (0, 1): "not permitted",
    (1, 0): "version not supported",
    (1, 1): "type not supported",
    (1, 2): "statistics type not supported",
    (1, 3): "vendor not supported",
    (1, 4): "vendor subtype not supported",
    (1, 5): "not permitted",
    (1, 6): "wrong length",
    (1, 7): "buffer already used",
    (1, 8): "no such buffer",
    (2, 0): "unknown action",
    (2, 1): "wrong length",
    (2, 2): "unknown vendor",
    (2, 3): "unknown vendor action",
    (2, 4): "bad output port",
    (2, 5): "bad argument",
    (2, 6): "not permitted",
    (2, 7): "too many actions",
    (2, 8): "bad queue",
    (3, 0): "tables full",
    (3, 1): "overlapping flow",
    (3, 2): "not permitted",
    (3, 3): "bad emergency timeout",
    (3, 4): "unknown command",
    (3, 5): "action list not supported",
    (4, 0): "no such port",
    (4, 1): "wrong hardware address",
    (5, 0): "no such port",
    (5, 1): "no such queue",
    (5, 2): "not permitted",
}
NX_ERROR = 0xB0C2
"""The type of an error whose own type and code follow a vendor's number (ofp-errors.h)."""

_NX_CODES = {
    (0, 263): "unsupported match field",
    (1, 256): "invalid match",
    (1, 257): "unknown match field",
    (1, 258): "unsupported match value",
    (1, 259): "unsupported match mask",
    (1, 260): "match prerequisite not met",
    (1, 261): "match field given twice",
    (1, 262): "unsupported wildcard",
    (1, 512): "no such table",
    (1, 513): "invalid role",
    (1, 514): "no such port",
    (1, 515): "must-be-zero field is not zero",
    (1, 522): "action does not fit the match",
    (1, 523): "action uses an unsupported field",
    (1, 524): "action reaches past its field's end",
    (1, 525): "action sets an invalid value or a read-only field",
    (2, 256): "must-be-zero action argument is not zero",
    (3, 258): "unknown flags",
    (5, 256): "hardware error",
    (5, 257): "no such table",
}


def name_of(kind: int, code: int, nicira: bool) -> str:
    """An error's type and code; `nicira`: of those that Nicira added."""
    if nicira:
        what = _NX_CODES.get((kind, code), f"Nicira code {code}")
    else:
        what = _CODES.get((kind, code), f"code {code}")
    return f"{_TYPES[kind] if kind < len(_TYPES) else f'error type {kind}'}: {what}"
