"""xenstore's wire format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenflow.vm import xenstore_wire as xenstore
from xenflow.vm.xenstore_wire import XenstoreError, XenstoreMessage, XenstoreReader

WORDS = st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=50))


def test_a_request() -> None:
    packed = xenstore.request(xenstore.READ, 7, "/local/domain/0/name")
    assert packed[:16] == bytes([2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 21, 0, 0, 0])
    assert packed[16:] == b"/local/domain/0/name\0"
    with pytest.raises(ValueError, match="at most 4096"):
        xenstore.request(xenstore.READ, 7, "/" * 4096)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 2**32 - 1), WORDS)), st.data())
def test_put_together_from_any_pieces(
    messages: list[tuple[int, int, list[str]]], data: st.DataObject
) -> None:
    whole = b"".join(xenstore.request(type, id, *words) for type, id, words in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)))))
    reader = XenstoreReader()
    found = [
        message
        for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)
        for message in reader.feed(whole[start:end])
    ]
    assert found == [XenstoreMessage(t, i, "\0".join(words)) for t, i, words in messages]


def test_a_message_that_is_too_long() -> None:
    with pytest.raises(XenstoreError, match="65536 bytes"):
        XenstoreReader().feed(bytes([15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]))
