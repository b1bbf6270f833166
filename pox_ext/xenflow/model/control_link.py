"""The link between a router and the Rule Table of the host it runs on: its names and addresses.

The same at every host, so that a router that has been moved finds the local Rule Table where it
found the one before.  Used by whoever makes such a link: the lab (`lab/wire.py`), the router's
image and its domain's configuration (`xen/image/router_config.py`), Domain 0 (`xen/dom0/`).
"""

from __future__ import annotations

from xenflow.model.network import Router

INTERFACE = "ctl0"
"""The control link's name in the router."""
RULE_TABLE_ADDRESS = "fe80::1"
RULE_TABLE_MAC = "02:58:46:00:00:01"
RULE_TABLE_PORT = 6641


def mac(router: Router) -> str:
    """The MAC address of a router's end of its control link."""
    return f"02:58:46:01:{router.id >> 8:02x}:{router.id & 255:02x}"


def address(router: Router) -> str:
    """The link-local address of a router's end of its control link."""
    return f"fe80::1:{router.id:x}"
