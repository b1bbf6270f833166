"""Where a domain of libvirt's is and what brings it to run at one host, from what the hosts say."""

from __future__ import annotations

from itertools import product

import pytest

from mgmt.hypervisor import UnclearError, libvirt_settle
from mgmt.hypervisor.libvirt_settle import Copy, LibvirtSettlement

RUNS, PAUSED, LEAVING = Copy("running"), Copy("paused"), Copy("paused", leaving=True)


def settled(a: Copy | None, b: Copy | None, *silent: str) -> LibvirtSettlement:
    copies = {host: copy for host, copy in (("a", a), ("b", b)) if copy is not None}
    return libvirt_settle.settle("v", copies, silent)


@pytest.mark.parametrize(
    ("a", "b", "silent", "wanted"),
    [
        (RUNS, None, "", LibvirtSettlement("a", (), False)),
        (RUNS, PAUSED, "", LibvirtSettlement("a", ("b",), False)),
        (PAUSED, RUNS, "", LibvirtSettlement("b", ("a",), False)),
        (None, PAUSED, "", LibvirtSettlement("b", (), True)),
        (LEAVING, None, "", LibvirtSettlement("a", (), True)),
        # between the end of the copying and the source's confirmation
        (LEAVING, PAUSED, "", LibvirtSettlement("b", ("a",), True)),
        (RUNS, None, "c", LibvirtSettlement("a", (), False)),
        (RUNS, PAUSED, "c", LibvirtSettlement("a", ("b",), False)),
    ],
)
def test_it_runs_at_one_host(
    a: Copy | None, b: Copy | None, silent: str, wanted: LibvirtSettlement
) -> None:
    assert settled(a, b, *silent) == wanted


@pytest.mark.parametrize(
    ("a", "b", "silent", "says", "code"),
    [
        (RUNS, RUNS, "", "v exists on a and b: destroy the one", "unclear"),
        (PAUSED, PAUSED, "", "v exists on a and b: destroy the one", "unclear"),
        (None, None, "", "no host has a domain v that is not shut off$", "unclear"),
        (None, None, "c", "shut off; c did not answer and may have it", "unreachable"),
        (None, PAUSED, "a", "v is paused on b; a did not answer and may have it", "unreachable"),
        (LEAVING, PAUSED, "c", "v is paused on a and paused on b; c did not", "unreachable"),
    ],
)
def test_unclear(a: Copy | None, b: Copy | None, silent: str, says: str, code: str) -> None:
    with pytest.raises(UnclearError, match=says) as raised:
        settled(a, b, *silent)
    assert raised.value.code == code


def test_whoever_is_silent_changes_nothing_that_is_done() -> None:
    """What is decided while a host is silent is decided with its answer, unless it has another
    that runs."""
    for a, b in product((None, RUNS, PAUSED, LEAVING), repeat=2):
        try:
            found = libvirt_settle.settle("v", {"a": a} if a is not None else {}, ["b"])
        except UnclearError:
            continue
        if b != RUNS:
            whole = settled(a, b)
            assert (whole.host, whole.resume) == (found.host, found.resume)
