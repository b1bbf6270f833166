"""Prefixes of both families as two integers."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenflow.routes.family import FAMILIES, V4, V6, family_of, length_of, netmask, prefix_text


@given(st.sampled_from((V4, V6)), st.data())
def test_a_span_says_family_and_length(family, data) -> None:
    length = data.draw(st.integers(0, family.bits))
    span = family.span(length)
    assert (family_of(span), length_of(span)) == (family, length)
    address = data.draw(st.integers(0, (1 << family.bits) - 1)) & netmask(span)
    network = ip_network((address, length)) if family is V4 else ip_network(f"::/{length}")
    assert int(network.netmask) == netmask(span)
    assert ip_network(prefix_text(address, span)).prefixlen == length
    assert int(ip_network(prefix_text(address, span)).network_address) == address


def test_no_two_prefix_lengths_share_a_span() -> None:
    spans = [family.span(n) for family in FAMILIES.values() for n in range(family.bits + 1)]
    assert len(set(spans)) == len(spans) == 33 + 129 and max(spans) == 0xFF


@pytest.mark.parametrize("odd", [-1, 33, 126, 256])
def test_between_the_families_is_no_span(odd: int) -> None:
    with pytest.raises(ValueError, match=f"{odd} is no span"):
        family_of(odd)
