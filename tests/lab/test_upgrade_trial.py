"""What `scripts/upgrade-trial` judges by: flows as `ovs-ofctl dump-flows` shows them."""

from __future__ import annotations

from lab.upgrade_trial import differing

FLOW = (
    " cookie=0x1, duration={age}s, table=3, n_packets={packets}, n_bytes=9, idle_age=1, "
    "priority=5,ip,nw_dst={to} actions=load:0x1->NXM_NX_REG1[],resubmit(,4)"
)


def flow(to: str, age: float, packets: int = 0) -> str:
    return FLOW.format(to=to, age=age, packets=packets)


def test_a_flow_that_has_only_grown_older_is_the_same() -> None:
    assert differing([flow("10.0.0.0/8", 2.5)], [flow("10.0.0.0/8", 12.6, 700)], 10.0) == []


def test_one_that_was_written_came_or_went_is_not() -> None:
    before = [flow("10.1.0.0/16", 2.5), flow("10.2.0.0/16", 2.5)]
    after = [flow("10.2.0.0/16", 4.0), flow("10.3.0.0/16", 4.0)]
    gone, again, new = differing(before, after, 10.0)
    assert gone.startswith("- cookie") and "10.1.0.0" in gone
    assert again.startswith("written again") and "10.2.0.0" in again
    assert new.startswith("+ cookie") and "10.3.0.0" in new
