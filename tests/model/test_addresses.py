"""Which addresses on virtual links nobody may have."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_interface

import pytest

from xenflow.model.addresses import OnLink, unfit

ON = (
    ("m1", "left", "10.0.1.254/24"),
    ("vr1", "left", "10.0.1.1/24"),
    ("vr1", "right", "10.0.2.1/31"),
    ("vr1", "far", "10.255.0.1/32"),
    ("vr1", "other", "10.255.0.1/32"),
    ("m2", "far", "10.253.0.9/32"),
    ("m3", "other", "10.253.0.8/32"),
    ("m4", "three", "10.0.3.4/24"),
    ("m1", "left", "2001:db8:1::ffff/64"),
    ("vr1", "left", "2001:db8:1::1/64"),
    ("vr1", "left", "2001:db8:9::1/64"),
    ("vr1", "left", "10.7.0.1/24"),
    ("m2", "far", "2001:db8:5::/127"),
)


def told(node: str, link: str, address: str) -> list[str]:
    everybody = [
        OnLink(name, "eth0", on, ip_interface(text))
        for name, on, text in (*ON, (node, link, address))
    ]
    found = [*unfit(everybody, {"the management network": IPv4Network("10.254.1.0/24")})]
    return [f"{wrong.who.node} {wrong.found}: {wrong.expected}" for wrong in found]


def test_what_there_is_fits() -> None:
    assert told("vr9", "left", "10.0.1.9/24") == []


@pytest.mark.parametrize(
    ("link", "address"),
    [
        ("right", "10.0.2.0/31"),
        ("new", "10.0.9.1/24"),
        ("new", "10.0.9.0/31"),
        ("left", "2001:db8:1::9/64"),
        ("new", "2001:db8:4::9/64"),
        ("far", "2001:db8:5::1/127"),
    ],
)
def test_both_addresses_of_two_ends_are_somebodys(link: str, address: str) -> None:
    assert told("vr9", link, address) == []


@pytest.mark.parametrize(
    ("link", "address", "expected"),
    [
        ("left", "10.0.1.1/24", "an address of its own: vr1 has it on link left"),
        ("left", "10.0.1.254/24", "an address of its own: m1 has it on link left"),
        ("left", "10.0.7.9/24", "an address in 10.0.1.0/24, as others on link left"),
        ("left", "10.0.1.9/25", "an address in 10.0.1.0/24, as others on link left"),
        ("left", "10.0.1.0/24", "an address in 10.0.1.0/24 that is not its own"),
        ("left", "10.0.1.255/24", "an address in 10.0.1.0/24 that is not its own"),
        ("new", "10.0.7.255/24", "an address in 10.0.7.0/24 that is not its own"),
        ("new", "10.0.1.9/25", "a subnet that link left (10.0.1.0/24) has no part of"),
        ("new", "10.254.1.9/24", "a subnet that the management network (10.254.1.0/24) has no"),
        ("far", "10.253.0.7/32", "a subnet: link far has not two ends"),
        ("new", "10.253.0.7/32", "a subnet: link new has not two ends"),
        ("left", "2001:db8:1::1/64", "an address of its own: vr1 has it on link left"),
        ("left", "2001:db8:7::9/64", "an address in 2001:db8:1::/64, as others on link left"),
        ("left", "2001:db8:1::/64", "an address in 2001:db8:1::/64 that is not its own"),
        ("new", "2001:db8:1:0:1::9/80", "a subnet that link left (2001:db8:1::/64) has no part of"),
        ("new", "2001:db8:9::9/64", "a subnet that link left (2001:db8:9::/64) has no part of"),
        ("new", "10.7.0.9/24", "a subnet that link left (10.7.0.0/24) has no part of"),
        ("new", "2001:db8:4::9/128", "a prefix of at most 127 bits"),
        ("new", "fe80::9/64", "a global address, or a unique local one"),
        ("new", "ff02::9/64", "a global address, or a unique local one"),
    ],
)
def test_what_nobody_may_have(link: str, address: str, expected: str) -> None:
    assert any(
        words.startswith("vr9 ") and expected in words for words in told("vr9", link, address)
    )
