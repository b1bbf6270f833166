"""What a VM brings about again and again is few lines of the log: others' would be displaced."""

from __future__ import annotations

import pytest

from tests.written_switch import PlayedHost
from xenflow.routes.router_state import RouterState
from xenflow.routes.sender import snapshot_messages
from xenflow.switch.problems import LINES


def test_a_router_that_says_all_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand times a second is what it may say (`feed.MESSAGES_PER_S`)."""
    caplog.set_level("INFO")
    host, state = PlayedHost(), RouterState()
    caplog.clear()
    for number in range(1000):
        host.now += 0.001
        state.epoch, state.seq = 7 + number % 2, 1 + number  # now and then it seems restarted
        for frames in snapshot_messages(state, "vr1"):
            assert host.table.heard("vr1", b"peer", frames, local=True).error is None
        host.wire.run()
    assert 1 <= len(caplog.records) <= LINES
    host.now += 60.0
    for frames in snapshot_messages(state, "vr1"):
        host.table.heard("vr1", b"peer", frames, local=True)
    assert caplog.records[-1].message.startswith("vr1: <RouterState epoch")
