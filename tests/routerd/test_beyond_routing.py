"""That nothing decides beside the routing tables is said only where the kernel has said so."""

from __future__ import annotations

import errno

import pytest

from routerd import beyond_routing
from routerd import rtnetlink as rt
from routerd.netlink_socket import DumpInterrupted, Requests


def answers(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    """All that is asked of the kernel fails in this way."""

    def fail(self: Requests, request: rt.Request) -> list[bytes]:
        raise error

    monkeypatch.setattr(Requests, "bodies", fail)
    monkeypatch.setattr(Requests, "ask", fail)


def looks() -> list[object]:
    return [
        *beyond_routing._nftables(),
        *beyond_routing._ipsec(),
        *beyond_routing._traffic_control({1: "lo"}),
    ]


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM])
def test_what_a_kernel_has_not_decides_nothing(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    answers(monkeypatch, rt.NetlinkError(number, "no"))
    assert looks() == []


@pytest.mark.parametrize(
    "error",
    [
        DumpInterrupted(errno.EINTR, "the table never held still"),
        rt.NetlinkError(errno.ETIMEDOUT, "the kernel does not answer"),
        OSError(errno.EMFILE, "too many open files"),
    ],
    ids=["interrupted", "no answer", "no socket"],
)
@pytest.mark.parametrize(
    "look",
    [
        lambda: list(beyond_routing._nftables()),
        lambda: list(beyond_routing._ipsec()),
        lambda: list(beyond_routing._traffic_control({1: "lo"})),
    ],
    ids=["nftables", "ipsec", "traffic control"],
)
def test_what_is_not_known_is_not_taken_for_absent(
    monkeypatch: pytest.MonkeyPatch, error: OSError, look: object
) -> None:
    """Else packets would pass the switch beside a filter."""
    answers(monkeypatch, error)
    with pytest.raises(rt.NetlinkError):
        look()  # type: ignore[operator]
