"""What a datapath's `hypervisor` may say."""

from __future__ import annotations

import pytest

from xenflow.model.hypervisor_spec import LabSpec, LibvirtSpec, Spec, SpecError, XlSpec, parse


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("lab:tcp://10.254.1.2:6650", LabSpec("tcp://10.254.1.2:6650")),
        ("xl:", XlSpec()),
        ("xl:ssh://host-a", XlSpec("host-a")),
        ("xl:ssh://root@10.0.0.1:2222", XlSpec("10.0.0.1", "root", 2222)),
        ("xl:ssh://[fe80::1%25eth0]", XlSpec("fe80::1%25eth0")),
        ("xl:ssh://host-a?transport=over-tcp%20-x", XlSpec("host-a", transport="over-tcp -x")),
        ("libvirt:xen:///system", LibvirtSpec("xen:///system")),
        ("libvirt:qemu+ssh://root@host-a/system", LibvirtSpec("qemu+ssh://root@host-a/system")),
    ],
)
def test_forms(text: str, spec: Spec) -> None:
    assert parse(text) == spec


@pytest.mark.parametrize(
    "text",
    [
        "",
        "xl",
        "xl:host-a",
        "xl:ssh://",
        "xl:ssh://root:secret@host-a",
        "xl:ssh://a/b",
        "xl:ssh://-oProxyCommand=x",
        "xl:ssh://-l@host-a",
        "xl:ssh://host a",
        "xl:ssh://a:0x",
        "xl:ssh://host-a?way=1",
        "lab:",
        "lab:udp://1:2",
        "libvirt:",
        "libvirt:here",
        "vmware:x",
    ],
)
def test_no_forms(text: str) -> None:
    with pytest.raises(SpecError):
        parse(text)
