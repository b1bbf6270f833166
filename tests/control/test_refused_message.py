"""A message of a router that is refused is that router's problem until it is known whole again."""

from __future__ import annotations

from tests.written_switch import ROOT, bound
from xenflow.control.rule_table import RuleTable
from xenflow.routes.sender import Effects, Sender
from xenflow.store.network_file import load
from xenflow.switch.clock import Clock


def test_a_refused_message_is_said_until_the_router_is_known_whole() -> None:
    network = load(str(ROOT / "conf/paper.toml"))
    table = RuleTable(network, "host-a", None, Clock(lambda *_: None), bound)
    sender = Sender("vr1", 7)

    def hear(effects: Effects) -> None:
        """Carry what the router says to the Rule Table, and the answers back, until all is said."""
        for frames in effects.messages:
            for _, reply in table.heard("vr1", b"peer", frames, local=True).replies:
                hear(sender.receive(reply, 0.0))

    table.heard("vr1", b"peer", [b"nonsense"], local=True)
    (words,) = table.problems.of("vr1")
    assert words.startswith("its message was refused: header: ")
    hear(sender.connected(0.0))
    assert table.state("vr1") is not None, "a snapshot was taken"
    assert table.problems.of("vr1") == []

    table.heard("vr1", b"peer", [b"nonsense"], local=True)
    assert table.problems.of("vr1") == [words]
    hear(sender.tick(1.0))
    assert table.problems.of("vr1") == [], "a heartbeat says that nothing is missing"

    table.heard("vr1", "mirror", [b"nonsense"], local=False)
    assert table.problems.of("vr1") == [], "that was not said by the router"
