"""What an operator's rule is for, judged before it is a flow.

Asked by the `xenflow` command before it sends a rule, and by the controller for `status`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NARROWS_NOTHING = "/0"


def sweep(match: Mapping[str, Any]) -> str:
    """What a rule's match takes away from everything else on a switch, in words: "every frame",
    or every frame of an EtherType.  "" where it names a port, an address, a VLAN or a protocol.

    Rules stand above what follows from the routers, so such a rule decides for all of them.
    """
    narrow = {
        key: value
        for key, value in match.items()
        if not (key in ("nw_src", "nw_dst") and str(value).endswith(_NARROWS_NOTHING))
    }
    if not narrow:
        return "every frame"
    if narrow.keys() == {"dl_type"}:
        try:
            return f"every frame of type {int(str(narrow['dl_type']), 0):#06x}"
        except ValueError:
            return ""  # no rule: the controller refuses it
    return ""
