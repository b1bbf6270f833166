"""The route messages: packed and parsed as `cases` and docs/messages.md say, rubbish refused."""

from __future__ import annotations

import random
import re
import struct
from contextlib import nullcontext
from itertools import product
from operator import attrgetter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.routes.cases import CASES, DELTAS, MESSAGES, RouteCase
from xenflow.routes import messages as m
from xenflow.routes.family import V4, V6

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "messages.md").read_text()
each_case = pytest.mark.parametrize("case", CASES, ids=attrgetter("name"))


def test_every_message_and_every_section_is_a_case() -> None:
    assert [case.message.header.type for case in MESSAGES] == list(m.RouteMessageType)
    sections = [section for case in DELTAS for section in case.message.sections]
    assert {(s.kind, s.op) for s in sections} == set(product(m.SectionKind, m.Op))
    addressed = m.SectionKind.LOCAL, m.SectionKind.NEXTHOP, m.SectionKind.NEIGHBOUR
    found = {(s.kind, s.op, r.family) for s in sections if s.kind in addressed for r in s.records}
    assert found == set(product(addressed, m.Op, (4, 6)))
    hops = [r.type for s in sections if s.kind is m.SectionKind.NEXTHOP for r in s.records]
    assert set(hops) == set(m.NextHopType)


@each_case
def test_what_is_packed(case: RouteCase) -> None:
    assert m.pack(case.message.header, case.message.sections) == case.frames
    assert m.packed_size(case.message.sections) == sum(map(len, case.frames))


@each_case
def test_what_is_parsed(case: RouteCase) -> None:
    assert m.parse(case.frames) == case.message


@each_case
def test_a_frame_that_is_cut_or_too_long_is_refused(case: RouteCase) -> None:
    for number, frame in enumerate(case.frames):
        for wrong in (*(frame[:cut] for cut in range(len(frame))), frame + b"\0"):
            with pytest.raises(m.MessageError):
                m.parse([*case.frames[:number], wrong, *case.frames[number + 1 :]])


def test_records_are_documented_as_they_are() -> None:
    """docs/messages.md has them in a table: "| number NAME | `format` fields | meaning |"."""
    _, table = DOCUMENTED.split("\n| kind | record | meaning |\n| --- | --- | --- |\n")
    rows = re.findall(r"(?m)^\| (\d+) (\w+) \| `(.+?)` ", table.split("\n\n")[0])
    assert [(int(number), name, form.replace(" ", "")) for number, name, form in rows] == [
        (kind.value, kind.name, m.RECORDS[kind].form.format) for kind in m.SectionKind
    ]


@pytest.mark.parametrize(
    ("name", "form"), [("header", m.HEADER_FORMAT), ("section", m.SECTION_FORMAT)]
)
def test_frames_are_documented_as_they_are(name: str, form: struct.Struct) -> None:
    found = re.search(rf"(?m)^    {name}  +(!.+?)  +(\d+) octets", DOCUMENTED)
    assert found is not None
    assert (found[1].replace(" ", ""), int(found[2])) == (form.format, form.size)


def test_types_are_documented_as_they_are() -> None:
    _, types = DOCUMENTED.split("\n             type ")
    listed = re.findall(r"(\d+) ([A-Z_]+)\b", types.split("\n             part ")[0])
    assert [(int(number), name) for number, name in listed] == [
        (type_.value, type_.name) for type_ in m.RouteMessageType
    ]


def test_types_of_next_hops_are_documented_as_they_are() -> None:
    _, table = DOCUMENTED.split("\n| type of a next hop | packets go |\n| --- | --- |\n")
    rows = re.findall(r"(?m)^\| (.+?) \|", table.split("\n\n")[0])
    listed = re.findall(r"(\d+) ([A-Z]+)\b", " ".join(rows))
    assert [(int(number), name) for number, name in listed] == [
        (type_.value, type_.name) for type_ in m.NextHopType
    ]


def test_reasons_for_the_vm_are_documented_as_they_are() -> None:
    _, table = DOCUMENTED.split("\n| gateway of a next hop of type VM | why the VM decides |\n")
    listed = re.findall(r"(?m)^\| ([\d, ]+) \|", table.split("\n\n")[0])
    assert [*map(int, ", ".join(listed).split(", "))] == [r.value for r in m.VmReason if r]


PREFIX4 = st.integers(0, 32).flatmap(
    lambda plen: st.tuples(
        st.integers(0, (1 << plen) - 1).map(lambda n: n << (32 - plen)),
        st.just(plen),
        st.integers(0, 0xFFFFFFFF),
    )
)
PREFIX6 = st.integers(0, 128).flatmap(
    lambda plen: st.tuples(
        st.integers(0, (1 << plen) - 1).map(lambda n: n << (128 - plen)),
        st.just(plen),
        st.integers(0, 0xFFFFFFFF),
    )
)
U32 = st.integers(1, 0xFFFFFFFF)
MAC = st.integers(0, (1 << 48) - 1)
NAME = st.text("abcdefghij0123456789-.", min_size=1, max_size=15)


def addressed(build):
    return st.one_of(
        st.integers(0, 0xFFFFFFFF).flatmap(lambda a: build(4, a)),
        st.integers(0, (1 << 128) - 1).flatmap(lambda a: build(6, a)),
    )


WORDS = st.text("abc äö", max_size=30)
RECORDS = {
    m.SectionKind.INTERFACE: st.builds(
        m.VmInterface, U32, st.integers(0, 7), st.integers(0, 65535), MAC, NAME
    ),
    m.SectionKind.LOCAL: st.one_of(
        st.tuples(PREFIX4, U32, st.booleans()).map(
            lambda t: m.Local(4, t[0][1], t[1], t[0][0], t[2])
        ),
        st.tuples(PREFIX6, U32).map(lambda t: m.Local(6, t[0][1], t[1], t[0][0])),
    ),
    m.SectionKind.NEXTHOP: addressed(
        lambda family, a: st.builds(
            m.NextHop,
            U32,
            st.sampled_from(m.NextHopType),
            st.just(family),
            U32,
            st.just(a),
            MAC,
        )
    ),
    m.SectionKind.LEG: st.builds(
        m.Leg, st.just(7), st.integers(8, 99), st.integers(0, 65535), st.integers(0, 65535)
    ),
    m.SectionKind.NEIGHBOUR: addressed(
        lambda family, a: st.builds(
            m.Neighbour, U32, st.just(family), st.booleans(), st.just(a), MAC
        )
    ),
    m.SectionKind.ROUTE4: PREFIX4,
    m.SectionKind.ROUTE6: PREFIX6.map(lambda r: (r[0], V6.span(r[1]), *r[2:])),
    m.SectionKind.POLICY: st.builds(
        lambda slow, reason, remarks, six: m.Policy(slow, reason, tuple(remarks), *six),
        st.booleans(),
        WORDS,
        st.lists(st.builds(m.Remark, st.booleans(), WORDS), max_size=3),
        st.just(()) | st.tuples(st.booleans(), WORDS),
    ),
}
SECTIONS = st.sampled_from(m.SectionKind).flatmap(
    lambda kind: st.builds(
        m.Section,
        st.just(kind),
        st.sampled_from(m.Op),
        st.lists(RECORDS[kind], max_size=1 if kind is m.SectionKind.POLICY else 5),
    )
)
HEADERS = st.builds(
    m.Header,
    st.sampled_from(m.RouteMessageType),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
    NAME,
    st.integers(0, 65535),
)


@given(HEADERS, st.lists(SECTIONS, max_size=4))
def test_what_is_packed_is_parsed(header, sections):
    frames = m.pack(header, sections)
    assert m.parse(frames) == m.RouteMessage(header, sections)
    assert sum(map(len, frames)) == m.packed_size(sections)


def test_a_full_part_takes_the_bulk_path():
    routes = [(n << 8, 24, n % 7 + 1) for n in range(m.SNAPSHOT_RECORDS)]
    section = m.Section(m.SectionKind.ROUTE4, m.Op.SET, routes)
    frames = m.pack(m.Header(m.RouteMessageType.SNAPSHOT, 1, 2, "vr1"), [section])
    assert m.parse(frames).sections == [section]


@given(st.lists(st.binary(max_size=80), max_size=4))
def test_rubbish_is_a_message_error(frames):
    with pytest.raises(m.MessageError):
        m.parse(frames)


@settings(max_examples=300)
@given(HEADERS, st.lists(SECTIONS, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_a_damaged_message_is_a_message_error_or_another_message(header, sections, rnd):
    frames = m.pack(header, sections)
    for _ in range(rnd.randint(1, 4)):
        at = rnd.randrange(len(frames))
        raw = bytearray(frames[at])
        match rnd.randrange(3):
            case 0 if raw:
                raw[rnd.randrange(len(raw))] = rnd.randrange(256)
            case 1:
                del raw[rnd.randrange(len(raw) + 1) :]
            case _:
                raw += rnd.randbytes(rnd.randint(1, 9))
        frames[at] = bytes(raw)
    try:
        again = m.parse(frames)
    except m.MessageError as error:
        assert error.what and error.where
    else:
        assert m.parse(m.pack(again.header, again.sections)) == again


def route_section(*records):
    body = b"".join(struct.pack("!IBI", *record) for record in records)
    return struct.pack("!BBHI", 6, 1, 0, len(records)) + body


def header(**changes):
    return m.pack(
        m.Header(
            **{"type": m.RouteMessageType.DELTA, "epoch": 1, "seq": 1, "router": "a"} | changes
        )
    )


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "no frame"),
        ([b"XFRT"], "4 octets, expected 40"),
        ([b"XFRU" + header()[0][4:]], "magic"),
        ([b"XFRT\x02" + header()[0][5:]], "version 2, this side speaks 1"),
        ([b"XFRT\x01\x63" + header()[0][6:]], "type 99"),
        ([header()[0][:24] + bytes(16)], "name"),
        ([header()[0][:24] + b"\xff" * 16], "not UTF-8"),
        ([header()[0][:24] + b"a\0b".ljust(16, b"\0")], "not printable"),
        ([*header(), b"\1\1"], "section 1: 2 octets"),
        ([*header(), struct.pack("!BBHI", 99, 1, 0, 0)], "kind 99"),
        ([*header(), struct.pack("!BBHI", 6, 3, 0, 0)], "op 3"),
        ([*header(), struct.pack("!BBHI", 6, 1, 1, 0)], "reserved"),
        ([*header(), struct.pack("!BBHI", 6, 1, 0, 0xFFFFFFFF)], "4294967295 records"),
        ([*header(), route_section((0, 33, 1))], "length 33"),
        ([*header(), route_section((0, V6.span(64), 1))], "length 191"),
        ([*header(), struct.pack("!BBHI16sBI", 7, 1, 0, 1, bytes(16), 129, 1)], "length 129"),
        ([*header(), route_section((10 << 24, 24, 1), (1, 24, 1))], "0x1 of length 24"),
        ([*header(), *[route_section()] * 257], "257 sections"),
        ([*header(), bytes(1 << 20)], "at most 1048576"),
    ],
)
def test_the_error_says_what_and_where(frames, words):
    with pytest.raises(m.MessageError, match=words):
        m.parse(frames)


@pytest.mark.parametrize(
    "record",
    [
        m.Section(m.SectionKind.INTERFACE, m.Op.SET, [m.VmInterface(1, 0, 70_000, 0, "e")]),
        m.Section(m.SectionKind.INTERFACE, m.Op.SET, [m.VmInterface(1, 0, 1500, 0, "x" * 17)]),
        m.Section(m.SectionKind.NEXTHOP, m.Op.SET, [m.NextHop(-1, m.NextHopType.VM, 4, 0, 0, 0)]),
        m.Section(
            m.SectionKind.NEXTHOP, m.Op.SET, [m.NextHop(1, m.NextHopType.VM, 4, 0, 1 << 32, 0)]
        ),
        m.Section(m.SectionKind.ROUTE4, m.Op.SET, [(1 << 32, 32, 1)]),
        m.Section(m.SectionKind.ROUTE4, m.Op.SET, [(0, 0, 1)] * 200_000),
    ],
)
def test_what_does_not_fit_is_our_own_mistake(record):
    with pytest.raises(m.PackError):
        m.pack(m.Header(m.RouteMessageType.DELTA, 1, 1, "vr1"), [record])


def test_a_reason_is_cut_at_a_character():
    reason = "ä" * 40 + random.Random(1).choice("xyz")
    section = m.Section(m.SectionKind.POLICY, m.Op.SET, [m.Policy(True, reason)])
    (policy,) = (
        m.parse(m.pack(m.Header(m.RouteMessageType.DELTA, 1, 1, "a"), [section]))
        .sections[0]
        .records
    )
    assert policy == m.Policy(True, "ä" * 32)


def test_a_policy_with_too_many_remarks_is_refused():
    most = tuple(m.Remark(False, "why") for _ in range(m.MAX_REMARKS))
    for remarks, refused in ((most, False), ((*most, most[0]), True)):
        section = m.Section(m.SectionKind.POLICY, m.Op.SET, [m.Policy(False, "", remarks)])
        frames = m.pack(m.Header(m.RouteMessageType.DELTA, 1, 2, "vr1"), [section])
        with pytest.raises(m.MessageError, match="remarks") if refused else nullcontext():
            m.parse(frames)


@pytest.mark.parametrize("families", [(6,), (0, 6), (6, 6, 0), (4, 0), (10, 0)])
def test_a_policy_says_ipv6_once_and_before_the_last_record(families):
    head = m.SECTION_FORMAT.pack(m.SectionKind.POLICY, m.Op.SET, 0, len(families))
    body = b"".join(bytes((0, 0, family, 0)) + bytes(64) for family in families)
    frames = m.pack(m.Header(m.RouteMessageType.DELTA, 1, 2, "vr1"))
    with pytest.raises(m.MessageError, match="only 6 may be said, once"):
        m.parse([*frames, head + body])


@pytest.mark.parametrize(
    ("policy", "four", "six"),
    [
        (m.Policy(False, ""), "", "its routerd says nothing of IPv6"),
        (m.Policy(False, "", (), False), "", ""),
        (m.Policy(True, "ip rule 5", (), False, "old words"), "ip rule 5", ""),
        (m.Policy(False, "old words", (), True, "ip -6 rule 5"), "", "ip -6 rule 5"),
        (m.Policy(True, "", (), True), *["its routerd gives no reason"] * 2),
    ],
)
def test_why_a_family_is_slow(policy, four, six):
    assert (policy.slow_of(V4), policy.slow_of(V6)) == (four, six)
