"""The boundary of the management socket: what may be asked, and how it is said in JSON.

The controller calls `parse_request` on every frame that reaches its management socket, and
answers with `reply` or `error_reply`; the `xenflow` command builds its requests with `request`
and reads answers with `parse_answer`.  What a verb *does* is decided elsewhere; here it is only
made sure that nothing malformed, oversized or of the wrong type gets that far.  Whatever bytes
arrive, the outcome is a `Request` or a `ManagementError`, never another exception.

The table `VERBS` is the protocol: docs/messages.md repeats it for people, and a test compares.
"""

from __future__ import annotations

import binascii
import ipaddress
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from xenflow.model.network import NetworkError
from xenflow.model.placement import Placement, from_json, to_json
from xenflow.model.values import (
    BOOLEAN,
    UnfitError,
    Value,
    mac_number,
    mac_text,
    of_type,
    seconds,
    text_of,
    whole,
)

VERSION = 1

MAX_REQUEST = 1 << 20
"""Octets of a request, of any verb but those of which `MAX_IMPORT` speaks."""

MAX_IMPORT = 16 << 20
"""Octets of one part of an import, of one `write-flows` and one `write-held`, and of a request
that brings a network file (`apply`, `reload`)."""

MAX_ANSWER = 32 << 20
"""Octets of an answer; a client refuses to receive more."""

MAX_ID = 128
MAX_PRIORITY = 8999
"""Of a rule among the rules."""
MAX_NAME = 63
MAX_PORT = 0xFEFF
"""The highest number of a switch's port (OFPP_MAX, less one; OpenFlow 1.0, section 5.2.1)."""

_IMPORT_MARK = re.compile(rb'"verb"\s*:\s*"(?:import|write-(?:flows|held)|apply)"')
_MARK_WITHIN = 512
"""A frame over MAX_REQUEST is only parsed if it says this early that it is one that may be."""


class ManagementError(ValueError):
    """A request that is not carried out; nothing was changed.

    `code` is one of the words of docs/messages.md, for programs; `message` says what, where and
    what to do, for people.  `id` is the request's, where it could be read, else "".
    """

    def __init__(self, code: str, message: str, id: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.id = id

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


@dataclass(frozen=True, slots=True)
class Request:
    """One request that is well formed.

    `arguments` has every argument of the verb: what was left out has its default (None where
    the table names no other).  `by`: who asks, as the asker says; for the log.
    """

    id: str
    verb: str
    arguments: dict[str, Any]
    by: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: `result` where `ok`, else `code` and `message`."""

    id: str
    ok: bool
    result: dict[str, Any]
    code: str = ""
    message: str = ""


# --- types of arguments: `read` returns the value the controller works with ----------------------


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a verb."""

    kind: Value
    needed: bool = False
    default: Any = None


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb.  `check` looks at arguments that only fit together."""

    arguments: dict[str, Argument]
    check: Callable[[Mapping[str, Any]], None] | None = None


_object: Callable[[Any], dict[str, Any]] = of_type(dict)
_list: Callable[[Any], list[Any]] = of_type(list)


def _is_text(value: Any, longest: int) -> str:
    text = text_of(value)
    if len(text) > longest:
        raise UnfitError
    text.encode()  # a lone surrogate is no text: UnicodeEncodeError is a ValueError
    return text


def _name(value: Any) -> str:
    if not _is_text(value, MAX_NAME) or not value.isprintable():
        raise UnfitError
    return str(value)


def _destination(value: Any) -> str:
    """An IPv4 or IPv6 address, or a prefix whose host bits are zero; as Python writes it."""
    text = _is_text(value, 64)
    found = ipaddress.ip_network(text)
    return str(found if "/" in text else found.network_address)


def _address(value: Any) -> str:
    """An address, as Python writes it.  Which link a link-local one is on, it does not say."""
    text = _is_text(value, 64)
    if "%" in text:
        raise UnfitError
    return str(ipaddress.ip_address(text))


def _mac(value: Any) -> str:
    return mac_text(mac_number(_is_text(value, 17)))


_TCP_URL = re.compile(r"tcp://[A-Za-z0-9:\[][A-Za-z0-9.:%;\[\]_*-]*:[0-9]{1,5}")
"""What libzmq connects to (src/socket_base.cpp, connect_internal); it raises for others."""


def _tcp_url(value: Any) -> str:
    if not _TCP_URL.fullmatch(_is_text(value, 256)):
        raise UnfitError
    return str(value)


def _port(value: Any) -> str | int:
    """A port by its name or its OpenFlow number."""
    if isinstance(value, str):
        return _name(value)
    number: int = whole(0, 0xFFFF).read(value)
    return number


def _ports(value: Any) -> dict[int, int]:
    """Port numbers by port numbers, which JSON's keys are as text."""
    number = whole(1, MAX_PORT).read
    return {number(int(key)): number(found) for key, found in _object(value).items()}


def _frames(value: Any) -> list[bytes]:
    frames = []
    for frame in _list(value):
        try:
            frames.append(b64decode(text_of(frame), validate=True))
        except binascii.Error as error:
            raise UnfitError(f"a frame is not base64: {error}") from None
    return frames


def _frame(value: Any) -> bytes:
    frame = bytes.fromhex(_is_text(value, 2 * 65549))
    if len(frame) < 14:
        raise UnfitError
    return frame


def _placement(value: Any) -> Placement:
    try:
        return from_json(value)
    except NetworkError as error:
        raise UnfitError(str(error)) from None


def _record(fields: dict[str, Argument]) -> Callable[[Any], dict[str, Any]]:
    """An object whose keys are known; what was left out stays out."""

    def read(value: Any) -> dict[str, Any]:
        found = _object(value)
        for key in found:
            if key not in fields:
                raise UnfitError(f"{_quote(key)}: not one of {', '.join(fields)}")
        result = {}
        for key, field in fields.items():
            if key not in found:
                if field.needed:
                    raise UnfitError(f"{key}: missing")
                continue
            try:
                result[key] = field.kind.read(found[key])
            except (ValueError, RecursionError):
                expected = f"expected {field.kind.expected}, found {_quote(found[key])}"
                raise UnfitError(f"{key}: {expected}") from None
        return result

    return read


NAME = Value(f"a name of 1 to {MAX_NAME} characters", _name)
TEXT = Value("text", lambda value: _is_text(value, MAX_REQUEST))
FILE = Value("the text of a network file", lambda value: _is_text(value, MAX_IMPORT))
OBJECT = Value("an object", _object)
ADDRESS = Value("an IPv4 or IPv6 address", _address)
DESTINATION = Value("an address, or a prefix without host bits", _destination)
MAC = Value('a MAC address such as "02:00:00:01:01:01"', _mac)
URL = Value('"tcp://ADDRESS:PORT"', _tcp_url)
PORT = Value("a port's name or number", _port)
PORTS = Value(f"an object of port numbers, 1 to {MAX_PORT}, by port numbers", _ports)
NAMES = Value("an array of names", lambda value: tuple(_name(n) for n in _list(value)), list)
FRAMES = Value(
    "an array of base64 texts", _frames, lambda value: [b64encode(f).decode() for f in value]
)
FRAME = Value("a frame of 14 to 65549 octets in hexadecimal", _frame, bytes.hex)
PLACEMENT = Value(
    "a placement", _placement, lambda value: value if isinstance(value, dict) else to_json(value)
)

PACKET_FIELDS: dict[str, Argument] = {
    "dl_src": Argument(MAC),
    "dl_dst": Argument(MAC),
    "dl_type": Argument(whole(0, 0xFFFF)),
    "dl_vlan": Argument(whole(0, 4095)),
    "nw_src": Argument(ADDRESS),
    "nw_dst": Argument(ADDRESS),
    "nw_proto": Argument(whole(0, 255)),
    "nw_tos": Argument(whole(0, 255)),
    "nw_ttl": Argument(whole(0, 255)),
    "tp_src": Argument(whole(0, 0xFFFF)),
    "tp_dst": Argument(whole(0, 0xFFFF)),
    "fragment": Argument(BOOLEAN),
    "link": Argument(NAME),
}
"""A packet to trace; `link` is the virtual link it arrives from at the router.  The addresses are
of one family."""

PACKET = Value(f"an object of {', '.join(PACKET_FIELDS)}", _record(PACKET_FIELDS))

RULE_FIELDS: dict[str, Argument] = {
    "id": Argument(NAME, needed=True),
    "priority": Argument(whole(0, MAX_PRIORITY)),
    "match": Argument(OBJECT),
    "actions": Argument(Value("an array", _list)),
}
RULE = Value("an object of id, priority, match, actions", _record(RULE_FIELDS))


def rule_fault(value: Any) -> str:
    """What makes a value no rule, in words; "" where it is one."""
    try:
        RULE.read(value)
    except ValueError as error:
        return f"expected {RULE.expected}: {error or type(value).__name__}"
    return ""


# --- the verbs -----------------------------------------------------------------------------------


def _trace_has_one_start(arguments: Mapping[str, Any]) -> None:
    at_port = arguments["in_port"] is not None
    half = at_port and arguments["datapath"] is None
    if half or at_port == (arguments["router"] is not None):
        raise UnfitError("expected either router, or datapath and in_port")
    if (arguments["packet"] is None) == (arguments["frame"] is None):
        raise UnfitError("expected either packet or frame")
    ends = [(arguments["packet"] or {}).get(key) for key in ("nw_src", "nw_dst")]
    if len({":" in end for end in ends if end}) > 1:
        raise UnfitError("packet: nw_src and nw_dst are of different families")
    if arguments["frame"] is not None and not at_port:
        raise UnfitError("a frame comes in by a port: expected datapath and in_port with it")


def _needed(kind: Value) -> Argument:
    return Argument(kind, needed=True)


def _limit(default: int) -> Argument:
    return Argument(whole(1, 100_000), default=default)


_NAME, _NAMED = Argument(NAME), _needed(NAME)
_ON_SWITCH = {"router": _NAMED, "datapath": _NAMED}
_FLAG = Argument(BOOLEAN, default=False)
_LEASE = Argument(seconds(86400))

VERBS: dict[str, Verb] = {
    "status": Verb({"router": _NAME}),
    "routers": Verb({}),
    "routes": Verb(
        {
            "router": _NAMED,
            "match": Argument(DESTINATION),
            "offset": Argument(whole(0, 1 << 32), default=0),
            "limit": _limit(10_000),
        }
    ),
    "nexthops": Verb({"router": _NAMED}),
    "links": Verb({}),
    "flows": Verb(
        {
            "datapath": _NAMED,
            "router": _NAME,
            "table": Argument(whole(0, 254)),
            "limit": _limit(1_000),
        }
    ),
    "trace": Verb(
        {
            "router": _NAME,
            "datapath": _NAME,
            "in_port": Argument(PORT),
            "packet": Argument(PACKET),
            "frame": Argument(FRAME),
        },
        _trace_has_one_start,
    ),
    "rules": Verb({"datapath": _NAME}),
    "reload": Verb({"dry_run": _FLAG}),
    "network": Verb({"rows": Argument(BOOLEAN, default=True)}),
    "apply": Verb(
        {
            "text": _needed(FILE),
            "file": Argument(NAME, default="the file"),
            "dry_run": _FLAG,
            "cluster": Argument(TEXT, default=""),
            "since": Argument(whole(0, 1 << 53)),
            "confirm_s": Argument(whole(1, 86400)),
        }
    ),
    "grow": Verb({"router": _NAMED, "to": _NAMED}),
    "confirm": Verb({"change": Argument(whole(1, 1 << 62))}),
    "history": Verb({}),
    "events": Verb({"since": Argument(whole(0, 1 << 53), default=0)}),
    "planner": Verb({}),
    "hears": Verb({"manage": _needed(URL)}),
    "laid": Verb({}),
    "event": Verb({"what": _NAMED, "words": _needed(TEXT), "outcome": _NAMED}),
    "undone": Verb({"change": _needed(whole(1, 1 << 62))}),
    "rule-add": Verb({"datapath": _NAMED, "rule": _needed(RULE)}),
    "rule-replace": Verb({"datapath": _NAMED, "rule": _needed(RULE)}),
    "rule-remove": Verb({"datapath": _NAMED, "rule_id": _NAMED}),
    "place": Verb(
        {
            "placement": _needed(PLACEMENT),
            "datapaths": Argument(NAMES, default=()),
            "in_force": Argument(BOOLEAN, default=True),
            "owner": _NAME,
        }
    ),
    "import": Verb({"router": _NAMED, "frames": _needed(FRAMES)}),
    "mirror": Verb({"router": _NAMED, "to": _needed(URL), "on": _needed(BOOLEAN), "owner": _NAME}),
    "ready": Verb(_ON_SWITCH),
    "read-flows": Verb(_ON_SWITCH),
    "write-flows": Verb(
        {**_ON_SWITCH, "flows": _needed(FRAMES), "ports": _needed(PORTS), "owner": _NAME}
    ),
    "suspending": Verb({**_ON_SWITCH, "suspended": _needed(BOOLEAN)}),
    "attached": Verb({**_ON_SWITCH, "wait_s": Argument(seconds(600), default=10.0)}),
    "release": Verb({**_ON_SWITCH, "to": _NAME, "owner": _NAME}),
    "read-held": Verb(
        {
            "router": _NAMED,
            "link": _NAMED,
            "passed": Argument(whole(0, 1 << 53), default=0),
            "owner": _NAME,
        }
    ),
    "write-held": Verb({**_ON_SWITCH, "link": _NAMED, "frames": _needed(FRAMES), "owner": _NAME}),
    "quiet": Verb(_ON_SWITCH),
    "lock": Verb(
        {
            "router": _NAMED,
            "owner": _NAMED,
            "lease_s": _LEASE,
            "entry": Argument(OBJECT),
            "term": Argument(whole(1, 1 << 53)),
        }
    ),
    "unlock": Verb({"router": _NAMED, "owner": _NAMED, "unfinished": _FLAG, "untouched": _FLAG}),
    "journal": Verb(
        {"router": _NAMED, "owner": _NAME, "lease_s": _LEASE, "entry": Argument(OBJECT)}
    ),
}

OWNED = frozenset(("place", "mirror", "write-flows", "release", "read-held", "write-held"))
"""The verbs that change something for a router: only who holds its lease may, or anybody while
nobody does."""

_ENVELOPE = frozenset(("v", "id", "verb", "by"))
"""Keys of a request beside its arguments."""


# --- requests ------------------------------------------------------------------------------------


def request(verb: str, id: str, /, **arguments: Any) -> bytes:
    """A request's frame.  Arguments that are None are left out.

    Raises ManagementError as the controller would: a request that leaves is well formed.
    """
    value: dict[str, Any] = {"v": VERSION, "id": id, "verb": verb}
    known = VERBS[verb].arguments if verb in VERBS else {}
    for name, argument in arguments.items():
        if argument is None:
            continue
        if name in known:
            try:
                argument = known[name].kind.write(argument)
            except (AttributeError, TypeError):
                _refuse_argument(verb, name, known[name].kind, argument, "")
        value[name] = argument
    try:
        frame = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ManagementError("bad-argument", f"{verb}: not JSON: {error}") from None
    parse_request(frame)
    return frame


def parse_request(frame: bytes) -> Request:
    """The request in a frame.

    Raises ManagementError, its `code` too-large, malformed, wrong-version, unknown-verb,
    missing-argument, unknown-argument or bad-argument; never anything else.
    """
    _check_size(frame)
    value = _parse_object(frame)
    id = value.get("id")
    try:
        id = _is_text(id, MAX_ID)
    except ValueError:
        raise ManagementError(
            "malformed", f"id: expected text of at most {MAX_ID} characters, found {_quote(id)}"
        ) from None
    try:
        return _read_request(value, id)
    except ManagementError as error:
        error.id = id
        raise


def _check_size(frame: bytes) -> None:
    limit = MAX_IMPORT if _IMPORT_MARK.search(frame[:_MARK_WITHIN]) else MAX_REQUEST
    if len(frame) > limit:
        words = f"the request has {len(frame)} octets, at most {limit} are read"
        raise ManagementError("too-large", words)


def _parse_object(frame: bytes) -> dict[str, Any]:
    """The JSON object of a frame; stricter than Python's (RFC 8259, unique keys)."""
    try:
        value = json.loads(
            frame.decode(),
            object_pairs_hook=_unique_keys,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise ManagementError("malformed", f"not UTF-8 at octet {error.start}") from None
    except RecursionError:
        raise ManagementError("malformed", "not JSON: nested too deeply") from None
    except ValueError as error:
        raise ManagementError("malformed", f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ManagementError("malformed", f"expected an object, found {_quote(value)}")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:  # 1e999 is infinite, which no JSON text can say
        raise ValueError(f"{text[:20]} is out of range")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _read_request(value: dict[str, Any], id: str) -> Request:
    version = value.get("v")
    if version != VERSION or isinstance(version, bool):
        raise ManagementError(
            "wrong-version", f"this side speaks version {VERSION}, the request {_quote(version)}"
        )
    name = value.get("verb")
    if not isinstance(name, str) or name not in VERBS:
        raise ManagementError("unknown-verb", f"no verb {_quote(name)}; verbs: {', '.join(VERBS)}")
    given = {key: v for key, v in value.items() if key not in _ENVELOPE}
    by = value.get("by", "")
    if not isinstance(by, str) or len(by) > MAX_ID or not by.isprintable():
        raise ManagementError(
            "malformed", f"by: expected at most {MAX_ID} printable characters, found {_quote(by)}"
        )
    return Request(id, name, _read_arguments(name, VERBS[name], given), by)


def _read_arguments(name: str, verb: Verb, given: dict[str, Any]) -> dict[str, Any]:
    for key in given:
        if key not in verb.arguments:
            allowed = ", ".join(verb.arguments) or "none"
            raise ManagementError(
                "unknown-argument", f"{name}: no argument {_quote(key)}; arguments: {allowed}"
            )
    arguments = {}
    for key, argument in verb.arguments.items():
        if given.get(key) is None:
            if argument.needed:
                expected = argument.kind.expected
                raise ManagementError("missing-argument", f"{name}: {key}: expected {expected}")
            arguments[key] = argument.default
            continue
        try:
            arguments[key] = argument.kind.read(given[key])
        except (ValueError, RecursionError) as error:
            detail = str(error) if isinstance(error, UnfitError) else ""
            _refuse_argument(name, key, argument.kind, given[key], detail)
    if verb.check is not None:
        try:
            verb.check(arguments)
        except UnfitError as error:
            raise ManagementError("bad-argument", f"{name}: {error}") from None
    return arguments


def _refuse_argument(verb: str, key: str, kind: Value, value: Any, detail: str) -> NoReturn:
    wrong = detail or f"expected {kind.expected}, found {_quote(value)}"
    raise ManagementError("bad-argument", f"{verb}: {key}: {wrong}") from None


def _quote(value: Any) -> str:
    """A value as a message shows it, shortened."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 64:
        return "a very large number"
    shown = json.dumps(value[:60] if isinstance(value, str) else value, default=repr)
    return shown if len(shown) <= 60 else shown[:57] + "..."


# --- answers -------------------------------------------------------------------------------------


def reply(id: str, result: Mapping[str, Any] | None = None) -> bytes:
    """The frame of an answer.  `result` must not use the keys v, id and ok."""
    value = {**(result or {}), "v": VERSION, "id": id, "ok": True}
    return json.dumps(value, separators=(",", ":")).encode()


def part(id: str) -> bytes:
    """Word that an answer is still to come."""
    return reply(id, {"more": True})


def error_reply(id: str, error: ManagementError) -> bytes:
    """The frame of a refusal."""
    value = {
        "v": VERSION,
        "id": id,
        "ok": False,
        "error": {"code": error.code, "message": error.message},
    }
    return json.dumps(value, separators=(",", ":")).encode()


def parse_answer(frame: bytes) -> Answer:
    """The answer in a frame.

    Raises ManagementError: malformed, too-large or wrong-version; never anything else.
    """
    if len(frame) > MAX_ANSWER:
        raise ManagementError(
            "too-large", f"the answer has {len(frame)} octets, at most {MAX_ANSWER} are read"
        )
    value = _parse_object(frame)
    version = value.pop("v", None)
    if version != VERSION or isinstance(version, bool):
        raise ManagementError(
            "wrong-version", f"this side speaks version {VERSION}, the controller {_quote(version)}"
        )
    id, ok = value.pop("id", None), value.pop("ok", None)
    if not isinstance(id, str) or not isinstance(ok, bool):
        raise ManagementError("malformed", "expected id (text) and ok (true or false)")
    if ok:
        return Answer(id, True, value)
    error = value.get("error")
    said = error if isinstance(error, dict) else {}
    code, message = said.get("code"), said.get("message")
    if not isinstance(code, str) or not isinstance(message, str):
        raise ManagementError("malformed", "expected error with code and message", id)
    return Answer(id, False, {}, code, message)
