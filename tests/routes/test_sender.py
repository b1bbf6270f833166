"""routerd's side of the conversation by itself; `test_feed.py` has both sides, wired together."""

from __future__ import annotations

import pytest

from xenflow.routes import messages as m
from xenflow.routes.messages import Op, Section, SectionKind
from xenflow.routes.sender import Sender


def test_what_cannot_be_packed_changes_nothing() -> None:
    sender = Sender("vr1", 7)
    sender.connected(0.0)
    too_great = m.VmInterface(1, 0, 70_000, 0, "eth1")
    with pytest.raises(m.PackError):
        sender.change([Section(SectionKind.INTERFACE, Op.SET, [too_great])], 0.0)
    assert (sender.state.seq, sender.state.interfaces) == (0, {})
    fits = m.VmInterface(1, 0, 1500, 0, "eth1")
    (delta,) = sender.change([Section(SectionKind.INTERFACE, Op.SET, [fits])], 0.0).messages
    assert m.parse_header(delta).seq == sender.state.seq == 1
