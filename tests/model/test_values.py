"""Values as people and messages write them."""

from __future__ import annotations

import pytest

from xenflow.model.values import UnfitError, mac_number, mac_text


@pytest.mark.parametrize("text", ["00:16:3e:00:00:0a", "00-16-3E-00-00-0A", "0:16:3e:0:0:a"])
def test_a_mac_address_in_each_form(text: str) -> None:
    assert mac_number(text) == 0x00163E00000A
    assert mac_text(mac_number(text)) == "00:16:3e:00:00:0a"


@pytest.mark.parametrize(
    "text", ["", "00163e00000a", "00:16:3e:00:00", "00:16:3e:00:00:0a:", "00:16:3e:00:00:100", "x"]
)
def test_what_is_no_mac_address(text: str) -> None:
    with pytest.raises(UnfitError, match="is no MAC address"):
        mac_number(text)
