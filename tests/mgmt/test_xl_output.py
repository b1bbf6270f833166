"""What `xl` and ssh print, on recorded samples (xl_samples/README.md) and on lines of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgmt.hypervisor import xl_output
from mgmt.hypervisor.xl_output import Config, Info, Listed, Mark, OutputError

SAMPLES = Path(__file__).with_name("xl_samples")


def sample(name: str) -> list[str]:
    """Its lines without the command and the exit status."""
    return (SAMPLES / f"{name}.txt").read_text().splitlines()[1:-1]


def test_list() -> None:
    assert xl_output.domains("\n".join(sample("list"))) == [
        Listed("Domain-0", 0, 256, "r-----"),
        Listed("g1", 1, 32, "-b----"),
    ]


@pytest.mark.parametrize(
    ("flags", "state"),
    [
        ("r-----", "running"),
        ("-b----", "running"),
        ("------", "running"),
        ("--p---", "paused"),
        ("---ss-", "suspended"),
        ("---sr-", "shut down"),
        ("---s--", "shut down"),
        ("---sc-", "crashed"),
        ("-----d", "dying"),
        ("---ssd", "dying"),
    ],
)
def test_states(flags: str, state: str) -> None:
    line = f"vr1--incoming{'':30} 12   128     1     {flags}       0.3"
    (found,) = xl_output.domains(f"Name  ID\n{line}")
    assert (found.name, found.domid, found.state) == ("vr1--incoming", 12, state)
    assert found.is_of("vr1")
    assert not found.is_of("vr")


@pytest.mark.parametrize("text", ["", "g1 is an invalid domain identifier (rc=-6)", "Name\nwhat"])
def test_no_list(text: str) -> None:
    with pytest.raises(OutputError):
        xl_output.domains(text)


def test_config() -> None:
    assert xl_output.config("\n".join(sample("long"))) == Config(32, ("xenbr0",), ())
    wanted = Config(32, ("xenbr0",), ("vif-onlyhere",))
    assert xl_output.config("\n".join(sample("long_with_script"))) == wanted


@given(st.text() | st.sampled_from(["[]", "[1]", '{"config": []}', '{"config": {"b_info": 1}}']))
def test_no_config(text: str) -> None:
    with pytest.raises(OutputError):
        xl_output.config(text)


def test_info() -> None:
    assert xl_output.info("\n".join(sample("info"))) == Info((4, 17), "4.17.5", 214, False)
    more = [line.replace("dom0_mem=256M,max:256M", "") for line in sample("info")]
    assert xl_output.info("\n".join(more)).balloons
    with pytest.raises(OutputError, match="xen_major"):
        xl_output.info("host : xen1")


def test_marks() -> None:
    found = [xl_output.mark(line) for line in sample("migrate_ssh_p")]
    assert [m for m in found if m] == [Mark.COPYING, Mark.HANDED_OVER, Mark.STARTED, Mark.SUCCESS]
    found = [xl_output.mark(line) for line in sample("migrate_nobridge")]
    assert [m for m in found if m] == [Mark.COPYING, Mark.PUT_BACK]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("noroute", "the source cannot reach root@host-b: it does not answer (ssh: connect to"),
        ("refused", "the source cannot reach root@host-b: nothing listens there (ssh"),
        ("noresolve", "the source cannot reach root@host-b: the name cannot be resolved (ssh: C"),
        (
            "hostkey",
            "the source cannot reach root@host-b: its host key is unknown or has changed; "
            "compare it, then log in once by `ssh root@host-b` (No ED25519 host key",
        ),
        ("denied", "the source cannot reach root@host-b: the login was refused; it needs a key"),
        ("noxl", "the destination has no xl (bash: line 1: xxl: command not found)"),
        ("nobridge", "the destination has no bridge onlyhere (libxl: error: libxl_device.c:1337"),
        ("noscript", "the destination has no hotplug script /etc/xen/scripts/vif-onlyhere (libxl"),
        ("scriptfails", "the hotplug script /etc/xen/scripts/vif-onlyhere failed at the dest"),
    ],
)
def test_reasons(name: str, says: str) -> None:
    found = xl_output.reason(sample(f"migrate_{name}"), "root@host-b")
    assert found.startswith(says), found


def test_reasons_that_are_unknown() -> None:
    assert xl_output.reason(["one", "libxl: error: two", "three"], "h") == "libxl: error: two"
    assert xl_output.reason(["one", "two"], "h") == "two"
    assert xl_output.reason([], "h") == "xl said nothing"


@given(st.lists(st.text()))
def test_any_text_has_a_reason(lines: list[str]) -> None:
    assert xl_output.reason(lines, "h")
