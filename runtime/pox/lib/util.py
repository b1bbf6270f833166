"""Small conversions that POX offers in `pox.lib.util`: datapath ids and command-line booleans."""
# ruff: noqa: N816 - the names are POX's

from __future__ import annotations


def str_to_bool(text: object) -> bool:
    """Whether a command-line value means yes: true, yes, on, enable(d), 1, t, y, or no value."""
    return str(text).strip().lower() in {
        "true",
        "t",
        "yes",
        "y",
        "on",
        "enable",
        "enabled",
        "1",
    }


def dpid_to_str(dpid: int | None) -> str:
    """A 64-bit datapath id as POX prints it: `00-00-00-00-00-0a`, with `|N` for high bits N."""
    if dpid is None:
        return "None"
    low = (dpid & 0xFFFF_FFFF_FFFF).to_bytes(6, "big").hex("-")
    high = dpid >> 48
    return f"{low}|{high}" if high else low


def str_to_dpid(text: str) -> int:
    """The datapath id that `dpid_to_str` printed. Raises ValueError for anything else."""
    low, _, high = text.partition("|")
    return int(low.replace("-", "").replace(":", ""), 16) | (int(high or "0") << 48)


dpidToStr = dpid_to_str
strToDPID = str_to_dpid
