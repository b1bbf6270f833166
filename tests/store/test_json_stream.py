"""Objects out of a stream, however it is cut."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import pytest

from xenflow.store import json_stream
from xenflow.store.json_stream import JsonStream

OBJECTS = [
    {"id": 1, "result": [{"a": '}{"\\ü✓'}, []], "error": None},
    {"method": "echo", "params": ["}"], "id": "echo"},
    {},
    {"nested": {"deep": [{}, {"x": "\U0001f600"}]}},
]
OCTETS = b" \n".join(json.dumps(o, ensure_ascii=False).encode() for o in OBJECTS)


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(OCTETS)])
def test_it_does_not_matter_how_it_is_cut(size: int) -> None:
    stream = JsonStream()
    pieces = [OCTETS[i : i + size] for i in range(0, len(OCTETS), size)]
    assert [one for piece in pieces for one in stream.feed(piece)] == OBJECTS


def test_what_is_whole_is_given_once_the_stream_pauses() -> None:
    rng = random.Random(3)
    for _ in range(200):
        stream = JsonStream()
        octets = b"".join(json.dumps(o).encode() for o in rng.choices(OBJECTS, k=5))
        cut = rng.randrange(1, len(octets))
        count = len(stream.feed(octets[:cut])) + len(stream.feed(octets[cut:]))
        assert count == 5


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How long the texts were that were read."""
    lengths: list[int] = []
    whole = json_stream._read

    def counted(text: str) -> tuple[list[dict[str, Any]], str]:
        lengths.append(len(text))
        return whole(text)

    monkeypatch.setattr(json_stream, "_read", counted)
    return lengths


def test_a_large_object_is_read_a_bounded_number_of_times(read: list[int]) -> None:
    octets = json.dumps({"rows": ["x" * 50] * 100_000}).encode()
    stream = JsonStream()
    found = [one for i in range(0, len(octets), 4096) for one in stream.feed(octets[i : i + 4096])]
    assert len(found) == 1
    assert sum(read) < 4 * len(octets)


@pytest.mark.parametrize(
    ("begins", "piece", "ends"),
    [
        (b'{"a": "', b"}", b'"}'),
        (b'{"a": [', b"{},", b"{}]}"),
        (b'{"a": [[', b"{}],[", b"{}]]}"),
        (b'{"a": "', b'\\"', b'"}'),
    ],
)
def test_small_pieces_cost_no_more_than_large_ones(
    read: list[int], begins: bytes, piece: bytes, ends: bytes
) -> None:
    """Each of them could be the end, had nobody counted."""
    octets = begins + 5_000 * piece + ends
    for size in (1, len(piece)):
        stream = JsonStream()
        cuts = [0, *range(len(begins), len(octets), size), len(octets)]
        pieces = [octets[i:j] for i, j in pairwise(cuts)]
        assert [one for each in pieces for one in stream.feed(each)] == [json.loads(octets)]
    assert sum(read) < 8 * len(octets)


@pytest.mark.parametrize("octets", [b"[1]", b"x}", b'"}"', b"\xff}", b'{"a": [}', b"{} {a}", b"}"])
def test_what_is_no_object_is_refused(octets: bytes) -> None:
    with pytest.raises(ValueError, match="expected a JSON object, found|can't decode byte"):
        JsonStream().feed(octets)


def test_an_object_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenflow.store.json_stream.MAX_CHARACTERS", 100)
    with pytest.raises(ValueError, match="without an end"):
        JsonStream().feed(b'{"a": "' + b"x" * 100)
