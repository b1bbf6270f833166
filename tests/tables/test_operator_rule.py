"""Which rules take everything from the routers of a host."""

from __future__ import annotations

from typing import Any

import pytest

from xenflow.tables.operator_rule import sweep


@pytest.mark.parametrize(
    ("match", "says"),
    [
        ({}, "every frame"),
        ({"nw_dst": "0.0.0.0/0"}, "every frame"),
        ({"dl_type": 0x800}, "every frame of type 0x0800"),
        ({"dl_type": "0x800", "nw_src": "0.0.0.0/0"}, "every frame of type 0x0800"),
        ({"dl_type": "what"}, ""),
        ({"dl_type": 0x800, "nw_dst": "10.0.0.0/8"}, ""),
        ({"in_port": "to-gen"}, ""),
        ({"dl_vlan": 0}, ""),
        ({"dl_type": 0x800, "nw_proto": 17}, ""),
    ],
)
def test_what_a_rule_takes(match: dict[str, Any], says: str) -> None:
    assert sweep(match) == says
