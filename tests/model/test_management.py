"""The management boundary: whatever arrives, a Request or a ManagementError comes out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenflow.model import management as m
from xenflow.model.placement import at_home, to_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)

GOOD = {
    "status": {"router": "vr1"},
    "reload": {"dry_run": True},
    "network": {},
    "apply": {"text": "[network]", "file": "a.toml", "dry_run": True},
    "grow": {"router": "vr1", "to": "host-b"},
    "confirm": {"change": 3},
    "history": {},
    "events": {"since": 7},
    "hears": {"manage": "tcp://10.0.0.9:6640"},
    "planner": {},
    "laid": {},
    "event": {"what": "migration", "words": "vr1 to host-b", "outcome": "refused"},
    "undone": {"change": 3},
    "routers": {},
    "routes": {"router": "vr1", "match": "10.0.0.0/8", "offset": 5, "limit": 7},
    "nexthops": {"router": "vr1"},
    "links": {},
    "flows": {"datapath": "host-a", "router": "vr1", "table": 1, "limit": 10},
    "trace": {"router": "vr1", "packet": {"nw_dst": "10.0.2.2", "nw_ttl": 64, "link": "left"}},
    "rules": {"datapath": "host-a"},
    "rule-add": {"datapath": "host-a", "rule": {"id": "r", "match": {}, "actions": []}},
    "rule-replace": {"datapath": "host-a", "rule": {"id": "r", "priority": 3}},
    "rule-remove": {"datapath": "host-a", "rule_id": "r"},
    "place": {"placement": at_home("vr1", "h"), "datapaths": ("gen", "recv"), "in_force": False},
    "import": {"router": "vr1", "frames": [b"", b"XFRT\x00"]},
    "mirror": {"router": "vr1", "to": "tcp://10.254.1.12:6640", "on": True},
    "ready": {"router": "vr1", "datapath": "host-a"},
    "read-flows": {"router": "vr1", "datapath": "host-a"},
    "write-flows": {"router": "vr1", "datapath": "host-b", "flows": [b"x"], "ports": {1: 2}},
    "attached": {"router": "vr1", "datapath": "host-a", "wait_s": 2.0},
    "release": {"router": "vr1", "datapath": "host-a", "to": "host-b"},
    "read-held": {"router": "vr1", "link": "left", "passed": 7},
    "write-held": {"router": "vr1", "datapath": "host-b", "link": "left", "frames": [b"x"]},
    "quiet": {"router": "vr1", "datapath": "host-a"},
    "suspending": {"router": "vr1", "datapath": "host-a", "suspended": True},
    "lock": {"router": "vr1", "owner": "me", "lease_s": 30.0, "entry": {"step": 1}},
    "unlock": {"router": "vr1", "owner": "me"},
    "journal": {"router": "vr1", "owner": "me", "entry": {}, "lease_s": 1.0},
}


def test_every_verb_has_an_example() -> None:
    assert set(GOOD) == set(m.VERBS)


@pytest.mark.parametrize("verb", m.VERBS)
def test_what_is_written_is_read_back(verb: str) -> None:
    got = m.parse_request(m.request(verb, "7", **GOOD[verb]))
    assert (got.id, got.verb) == ("7", verb)
    assert {k: v for k, v in got.arguments.items() if k in GOOD[verb]} == GOOD[verb]
    assert set(got.arguments) == set(m.VERBS[verb].arguments)


@pytest.mark.parametrize("verb", m.VERBS)
def test_a_needed_argument_may_not_be_missing(verb: str) -> None:
    for name, argument in m.VERBS[verb].arguments.items():
        if argument.needed:
            fewer = {k: v for k, v in GOOD[verb].items() if k != name}
            with pytest.raises(m.ManagementError, match=name) as raised:
                m.request(verb, "1", **fewer)
            assert raised.value.code == "missing-argument"


def verbs_table() -> dict[str, str]:
    """The table of verbs in docs/messages.md: of each verb what it says of its arguments."""
    text = (Path(__file__).parents[2] / "docs" / "messages.md").read_text()
    _, found = text.split("\n| verb | arguments | result |\n| --- | --- | --- |\n")
    rows = [row.split(" | ") for row in found.split("\n\n")[0].splitlines()]
    return {verb: row[1] for row in rows for verb in row[0].removeprefix("| ").split(", ")}


DOCUMENTED = verbs_table()


def test_documented_verbs() -> None:
    assert set(DOCUMENTED) == set(m.VERBS)


@pytest.mark.parametrize("verb", m.VERBS)
def test_documented(verb: str) -> None:
    words = re.findall(r"\w+", DOCUMENTED[verb])
    missing = [name for name in m.VERBS[verb].arguments if name not in words]
    assert not missing, f"docs/messages.md, {verb}"


def frame(**changes: object) -> bytes:
    return json.dumps({"v": 1, "id": "x", "verb": "routes", "router": "vr1"} | changes).encode()


@pytest.mark.parametrize(
    ("bad", "code", "says"),
    [
        (b"", "malformed", "not JSON"),
        (b"\xff\xfe", "malformed", "not UTF-8 at octet 0"),
        (b"[1]", "malformed", "expected an object, found an array"),
        (b"[" * 100_000, "malformed", "nested too deeply"),
        (b'{"v": 1, "v": 1}', "malformed", "a key occurs twice"),
        (b'{"v": NaN}', "malformed", "NaN is not a number"),
        (b'{"v": 1e999}', "malformed", "out of range"),
        (b'{"v": ' + b"9" * 5000 + b"}", "malformed", "not JSON"),
        (b'{"v": 1, "id": 7}', "malformed", "id: expected text"),
        (b'{"v": 1, "id": "\\ud800"}', "malformed", "id: expected text"),
        (frame(id="i" * 129), "malformed", "id: expected text of at most 128"),
        (frame(by=7), "malformed", "by: expected at most 128 printable characters, found 7"),
        (frame(by="a\nb"), "malformed", "by: expected"),
        (frame(by="a" * 129), "malformed", "by: expected"),
        (frame(v=2), "wrong-version", "speaks version 1, the request 2"),
        (frame(v=True), "wrong-version", "true"),
        (frame(verb="fly"), "unknown-verb", 'no verb "fly"'),
        (frame(verb=[]), "unknown-verb", "an array"),
        (frame(speed=3), "unknown-argument", 'routes: no argument "speed"; arguments: router'),
        (frame(router=None), "missing-argument", "routes: router: expected a name"),
        (frame(router=5), "bad-argument", "routes: router: expected a name .*, found 5"),
        (frame(router=""), "bad-argument", "router"),
        (frame(router="a\nb"), "bad-argument", "router"),
        (frame(match="10.0.0.1/8"), "bad-argument", "without host bits"),
        (frame(match="10.0.0"), "bad-argument", "without host bits"),
        (frame(limit=0), "bad-argument", "limit: expected a whole number from 1 to"),
        (frame(limit=True), "bad-argument", "found true"),
        (frame(limit=10**30), "bad-argument", "a very large number"),
    ],
)
def test_what_is_wrong_is_named(bad: bytes, code: str, says: str) -> None:
    with pytest.raises(m.ManagementError, match=says) as raised:
        m.parse_request(bad)
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("verb", "arguments", "says"),
    [
        ("trace", {"packet": {}}, "either router, or datapath and in_port"),
        ("trace", {"packet": {}, "datapath": "host-a"}, "either router"),
        ("trace", {"packet": {}, "router": "r", "datapath": "d", "in_port": 1}, "either router"),
        ("trace", {"router": "r"}, "expected either packet or frame"),
        ("trace", {"router": "r", "packet": {}, "frame": bytes(14)}, "either packet or frame"),
        ("trace", {"router": "r", "frame": bytes(14)}, "a frame comes in by a port"),
        ("trace", {"datapath": "d", "in_port": 1, "frame": bytes(13)}, "of 14 to 65549 octets"),
        ("trace", {"datapath": "d", "in_port": 1, "frame": "zz" * 14}, "of 14 to 65549 octets"),
        ("trace", {"packet": {"nw_ttl": 256}, "router": "r"}, "packet: nw_ttl: .* found 256"),
        ("trace", {"packet": {"ttl": 2}, "router": "r"}, 'packet: "ttl": not one of dl_src'),
        ("place", {"placement": {"router": "vr1"}}, "placement: mode"),
        ("place", {"placement": {"mode": []}}, "placement: mode"),
        (
            "place",
            {"placement": to_json(at_home("r", "h")) | {"leads_to": 1}},
            "placement: leads_to",
        ),
        ("mirror", {"router": "r", "on": True, "to": "ipc://x"}, "to: expected"),
        ("trace", {"packet": {"nw_dst": "fd00::g"}, "router": "r"}, "expected an IPv4 or IPv6 ad"),
        ("trace", {"packet": {"nw_dst": "fe80::1%2"}, "router": "r"}, "expected an IPv4 or IPv6"),
        (
            "trace",
            {"packet": {"nw_dst": "fd00::1", "nw_src": "10.0.0.1"}, "router": "r"},
            "nw_src and nw_dst are of different families",
        ),
        ("place", {"placement": at_home("r", "h"), "datapaths": ["a", 1]}, "an array of names"),
        ("rule-add", {"datapath": "d", "rule": {}}, "rule: id: missing"),
        ("lock", {"router": "r", "owner": "o", "lease_s": 0}, "lease_s"),
        *(
            (
                "write-flows",
                {"router": "r", "datapath": "d", "flows": [], "ports": ports},
                "ports: expected an object of port numbers, 1 to 65279, by port numbers",
            )
            for ports in (
                {"1": "two"},
                {"one": 2},
                {"1": [2]},
                {"1": True},
                {"1": 0},
                {"1": 65280},
                {"-1": 2},
                {"": 2},
                [1, 2],
            )
        ),
    ],
)
def test_arguments_that_do_not_fit(verb: str, arguments: dict, says: str) -> None:
    with pytest.raises(m.ManagementError, match=says) as raised:
        m.request(verb, "1", **arguments)
    assert raised.value.code == "bad-argument"


def test_frames_must_be_base64() -> None:
    raw = {"v": 1, "id": "1", "verb": "import", "router": "r", "frames": ["a b"]}
    with pytest.raises(m.ManagementError, match="frames: a frame is not base64"):
        m.parse_request(json.dumps(raw).encode())


def test_a_network_file_may_be_large() -> None:
    """That of 10,000 links has more than 1 MiB."""
    text = "x" * (3 << 20)
    assert m.parse_request(m.request("apply", "1", text=text)).arguments["text"] == text
    with pytest.raises(m.ManagementError, match="at most 16777216"):
        m.request("apply", "1", text=text * 6)


def test_only_an_import_may_be_large() -> None:
    large = [b"\x00" * (1 << 20)] * 3
    assert (
        m.parse_request(m.request("import", "1", router="r", frames=large)).arguments["frames"]
        == large
    )
    with pytest.raises(m.ManagementError, match="at most 1048576") as raised:
        m.parse_request(frame(pad="x" * m.MAX_REQUEST))
    assert raised.value.code == "too-large"
    with pytest.raises(m.ManagementError, match="at most 16777216") as raised:
        m.request("import", "1", router="r", frames=large * 5)
    assert raised.value.code == "too-large"


def test_a_refusal_carries_the_id() -> None:
    with pytest.raises(m.ManagementError) as raised:
        m.parse_request(frame(verb="fly"))
    answer = m.parse_answer(m.error_reply(raised.value.id, raised.value))
    assert (answer.id, answer.ok, answer.code) == ("x", False, "unknown-verb")


def test_answers() -> None:
    answer = m.parse_answer(m.reply("1", {"total": 3}))
    assert (answer.ok, answer.result) == (True, {"total": 3})
    assert m.parse_answer(m.part("1")).result == {"more": True}
    for bad in (b"{}", b'{"v":1}', b'{"v":1,"id":"1","ok":false}', b'{"v":2,"id":"1","ok":true}'):
        with pytest.raises(m.ManagementError):
            m.parse_answer(bad)


@given(st.binary())
def test_any_bytes(noise: bytes) -> None:
    for parse in (m.parse_request, m.parse_answer):
        with pytest.raises(m.ManagementError):
            parse(noise)


@settings(max_examples=300)
@given(st.sampled_from(sorted(m.VERBS)), st.data())
def test_any_json(verb: str, data: st.DataObject) -> None:
    arguments = {
        name: data.draw(JSON | st.just(_plain(GOOD[verb].get(name))))
        for name in m.VERBS[verb].arguments
    }
    envelope = {"v": 1, "id": data.draw(JSON | st.just("1")), "verb": verb}
    text = json.dumps(arguments | envelope)
    try:
        got = m.parse_request(text.encode())
    except m.ManagementError as error:
        m.parse_answer(m.error_reply(error.id, error))
        return
    assert set(got.arguments) == set(m.VERBS[verb].arguments)
    m.reply(got.id)


def _plain(value: object) -> object:
    if isinstance(value, list):
        return ["WEZSVA=="]
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, str | int | float | dict) else None


@given(JSON)
def test_any_json_answer(value: object) -> None:
    try:
        m.parse_answer(json.dumps(value).encode())
    except m.ManagementError:
        pass


@given(st.binary(max_size=40), st.sampled_from(sorted(m.VERBS)), st.integers(0, 200))
def test_a_damaged_request(noise: bytes, verb: str, at: int) -> None:
    good = m.request(verb, "1", **GOOD[verb])
    try:
        m.parse_request(good[:at] + noise + good[at + len(noise) :])
    except m.ManagementError:
        pass
