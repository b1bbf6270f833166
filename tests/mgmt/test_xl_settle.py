"""Where a domain is and what brings it to run at one host, from what `xl list` shows."""

from __future__ import annotations

from itertools import product

import pytest

from mgmt.hypervisor import UnclearError, xl_settle
from mgmt.hypervisor.xl_output import Listed
from mgmt.hypervisor.xl_settle import Settling, XlSettlement


def listed(text: str) -> list[Listed]:
    """`text` is "NAME STATE, ..." with the domain ids 1, 2, ..."""
    flags = {"runs": "-b----", "paused": "--p---", "suspended": "---ss-", "halted": "---s--"}
    words = [entry.split() for entry in text.split(",") if entry.strip()]
    return [Listed(name, n, 32, flags[state]) for n, (name, state) in enumerate(words, 1)]


def settled(a: str, b: str, *silent: str) -> XlSettlement:
    return xl_settle.settle("v", {"a": listed(a), "b": listed(b)}, silent)


def test_nothing_to_do() -> None:
    assert settled("v runs, other runs", "") == XlSettlement("a", ())


@pytest.mark.parametrize(
    ("a", "b", "host", "kinds"),
    [
        ("v runs", "v--incoming paused", "a", [Settling.DESTROY]),
        ("v suspended", "v--incoming paused", "a", [Settling.DESTROY, Settling.RESUME]),
        ("v suspended", "", "a", [Settling.RESUME]),
        (
            "v--migratedaway suspended",
            "v--incoming paused",
            "a",
            [Settling.DESTROY, Settling.RENAME, Settling.RESUME],
        ),
        ("v--migratedaway suspended", "", "a", [Settling.RENAME, Settling.RESUME]),
        ("v--migratedaway suspended", "v runs", "b", [Settling.DESTROY]),
        ("v--migratedaway suspended", "v paused", "b", [Settling.DESTROY, Settling.UNPAUSE]),
        ("", "v paused", "b", [Settling.UNPAUSE]),
    ],
)
def test_steps(a: str, b: str, host: str, kinds: list[Settling]) -> None:
    found = settled(a, b)
    assert (found.host, [step.do for step in found.steps]) == (host, kinds)
    # a host that is silent may have anything but another that runs
    if " v " in f" {a} {b} ":
        unsure = settled(a, b, "c")
        assert unsure.host == host
        assert unsure.left == ("c did not answer: a copy may be left there",)


@pytest.mark.parametrize(
    ("a", "b", "silent", "says"),
    [
        ("v runs", "v paused", "", "v exists on a .domain 1. and b .domain 1."),
        ("", "", "", "no host has a domain v"),
        ("", "", "c", "no host has a domain v; c did not answer and may have it"),
        ("", "v--incoming paused", "", "there is no domain v, only v--incoming on b"),
        ("v--migratedaway suspended", "", "c", "only v--migratedaway on a; c did not answer"),
        ("v halted", "", "", "v on a is shut down: it must be started anew"),
    ],
)
def test_unclear(a: str, b: str, silent: str, says: str) -> None:
    with pytest.raises(UnclearError, match=says):
        settled(a, b, *silent)


def test_never_destroys_the_last_copy() -> None:
    """Whatever is seen: one copy stays, and it is the one that can have run last."""
    copies = [
        "",
        "v runs",
        "v paused",
        "v suspended",
        "v--incoming paused",
        "v--migratedaway suspended",
    ]
    for a, b in product(copies, repeat=2):
        try:
            found = settled(a, b)
        except UnclearError:
            continue
        gone = {step.host for step in found.steps if step.do is Settling.DESTROY}
        assert found.host not in gone
        assert not any(
            "v " in f"{text} " and text.startswith("v ") and host in gone
            for host, text in (("a", a), ("b", b))
        )
