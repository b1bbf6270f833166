"""Placements as they travel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenflow.model.network import NetworkError
from xenflow.model.placement import Mode, Placement, at_home, from_json, to_json

HOSTS = st.lists(st.sampled_from(("a", "b", "c")), max_size=3, unique=True).map(tuple)


@given(
    st.builds(
        Placement,
        st.just("vr1"),
        HOSTS,
        st.sampled_from("abc"),
        st.sampled_from("abc"),
        HOSTS,
        st.sampled_from(Mode),
        st.integers(0, 1000),
    )
)
def test_there_and_back(placement: Placement) -> None:
    assert from_json(to_json(placement)) == placement


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("router", 5),
        ("vm", None),
        ("to", []),
        ("forwarders", "host-a"),
        ("also", [1]),
        ("mode", "half"),
        ("version", True),
        ("version", "1"),
    ],
)
def test_what_is_none_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(NetworkError, match=key):
        from_json({**to_json(at_home("vr1", "host-a")), key: value})


def test_every_step_is_newer() -> None:
    first = at_home("vr1", "host-a")
    second = first.step(vm="host-b", also=("host-c",))
    assert second.version == first.version + 1
    assert second.hosts == ("host-a", "host-b", "host-c")
