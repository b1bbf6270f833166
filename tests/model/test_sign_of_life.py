"""Whether a machine lives, by what it does with a connection."""

from __future__ import annotations

import errno
import socket

import pytest

from mgmt.lost import knock
from xenflow.model.sign_of_life import address_of, in_words


@pytest.mark.parametrize(
    ("manage", "address"),
    [
        ("tcp://10.0.0.9:6640", ("10.0.0.9", 6640)),
        ("tcp://[fd00::9]:6640", ("fd00::9", 6640)),
        ("tcp://host-a:1", ("host-a", 1)),
    ],
)
def test_where_a_controller_is_asked(manage: str, address: tuple[str, int]) -> None:
    assert address_of(manage) == address


def test_a_refusal_is_a_sign_of_life_and_silence_is_none() -> None:
    assert in_words(0) == "accepts connections"
    assert in_words(errno.ECONNREFUSED) == "refuses connections"
    assert in_words(errno.EHOSTUNREACH) == in_words(errno.EINPROGRESS) == in_words(None) == ""


def test_a_machine_is_knocked_at() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        assert knock(url) == "accepts connections"
    assert knock(url) == "refuses connections"
    assert knock("tcp://no-such-host.invalid:1") == ""
