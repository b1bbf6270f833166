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
        st.dictionaries(st.sampled_from(("left", "right")), st.sampled_from("abc")).map(
            lambda still: tuple(still.items())
        ),
    )
)
def test_there_and_back(placement: Placement) -> None:
    assert from_json(to_json(placement)) == placement


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("router", 5),
        ("vm", None),
        ("leads_to", []),
        ("forwarders", "host-a"),
        ("reaches", [1]),
        ("mode", "half"),
        ("version", True),
        ("version", "1"),
        ("version", -1),
        ("version", 2**63),
        ("unturned", {"left": 1}),
        ("unturned", []),
    ],
)
def test_what_is_none_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(NetworkError, match=key):
        from_json({**to_json(at_home("vr1", "host-a")), key: value})


def test_every_step_is_newer() -> None:
    first = at_home("vr1", "host-a")
    second = first.step(vm="host-b", reaches=("host-c",))
    assert second.version == first.version + 1
    assert second.hosts == ("host-a", "host-b", "host-c")


def test_links_lead_where_most_do_but_for_those_that_are_not_turned_yet() -> None:
    halfway = at_home("vr1", "host-a").step(leads_to="host-b", unturned=(("left", "host-a"),))
    assert halfway.leads("left") == "host-a"
    assert halfway.leads("right") == "host-b"
    assert halfway.hosts == ("host-a", "host-b")
