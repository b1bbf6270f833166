"""routerd's command line."""

from __future__ import annotations

import errno

import pytest

from routerd import __main__ as routerd
from routerd import rtnetlink as rt


@pytest.mark.parametrize("options", [["--dump"], ["--dry-run"]])
def test_where_netlink_is_refused_it_is_said_in_a_line(
    options: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> None:
        raise rt.NetlinkError(errno.EPERM, "no")

    monkeypatch.setattr(routerd, "read_once", refused)
    monkeypatch.setattr(routerd, "Daemon", refused)
    assert routerd.main(["--control", "ctl0", "--router", "vr1", *options]) == 1
    assert "netlink-refused" in caplog.text
