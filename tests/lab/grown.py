"""`conf/campus.toml` with more in it, and some of it changed: what a lab is let follow.

A host, two cables (one of them between two switches that are there already), two links, two routers
(one of them on the new host) and a machine are new; r3 has an interface more; m2 has another
address, at an access port of another host.

                     s1 === s2 - host-e - m4      m1 - r1 - r2 - r3 - r4 - r5 - m3
                                                              |  \\
                                                             m2   r6 - r7, m4
"""

from __future__ import annotations

import re

from lab.description import find_file

CAMPUS = find_file("campus").read_text()

_NEW = """
[controllers.host-e]
openflow = "127.0.0.1:6633"
manage = "tcp://10.254.1.15:6640"

[datapaths.host-e]
kind = "host"
dpid = "00000000000000e1"
controller = "host-e"
hypervisor = "lab:tcp://10.254.1.2:6650"
proof = "revalidator"
other = "drop"

[links.three-six]
id = 8
vlan = 108
root = "host-c"

[links.six-seven]
id = 9
vlan = 109
root = "host-b"
cables = ["b-s1", "s1-s2-more", "e-s2", "a-s1", "c-s2", "d-s2"]
access = [{ at = "host-e:m4", macs = ["02:00:00:00:09:02"] }]

[routers.r6]
id = 6
home = "host-b"
control_vif = "r6.ctl"
interfaces = [
    { name = "eth0", link = "three-six", mac = "02:00:00:06:08:01", vif = "r6.0" },
    { name = "eth1", link = "six-seven", mac = "02:00:00:06:09:01", vif = "r6.1" },
]

[routers.r7]
id = 7
home = "host-e"
control_vif = "r7.ctl"
interfaces = [
    { name = "eth0", link = "six-seven", mac = "02:00:00:07:09:01", vif = "r7.0" },
]

[lab.machines.m4]
access = "host-e:m4"
mac = "02:00:00:00:09:02"
address = ["10.0.9.2/24", "2001:db8:9::2/64"]
stub = ["10.4.0.1/32", "2001:db8:f4::1/128"]

[lab.routers.r6.addresses]
eth0 = ["10.0.8.16/24", "2001:db8:8::16/64"]
eth1 = ["10.0.9.16/24", "2001:db8:9::16/64"]

[lab.routers.r7]
addresses = { eth0 = ["10.0.9.17/24", "2001:db8:9::17/64"] }
"""


def ipv4_alone(text: str) -> str:
    """A network file without what it says of IPv6."""
    return re.sub(r'\["([^":]+)", "[^"]*:[^"]*"\]', r'"\1"', text)


def changed(text: str, *changes: tuple[str, str]) -> str:
    """A network file with other words in some places, each of which is there once."""
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
        text = text.replace(old, new)
    return text


GROWN = (
    changed(
        CAMPUS,
        (
            'b-c = ["host-b:to-c", "host-c:to-b"]',
            'b-c = ["host-b:to-c", "host-c:to-b"]\n'
            'e-s2 = ["host-e:to-s2", "s2:to-e"]\n'
            's1-s2-more = ["s1:to-s2-more", "s2:to-s1-more"]',
        ),
        ('access = [{ at = "host-b:m2"', 'root = "host-b"\naccess = [{ at = "host-c:m2"'),
        (
            'vif = "r3.2" },',
            'vif = "r3.2" },\n'
            "    "
            '{ name = "eth3", link = "three-six", mac = "02:00:00:03:08:01", vif = "r3.3" },',
        ),
        ('host-d = "10.254.1.14"', 'host-d = "10.254.1.14", host-e = "10.254.1.15"'),
        ('access = "host-b:m2"', 'access = "host-c:m2"'),
        ('["10.0.4.2/24", "2001:db8:4::2/64"]', '["10.0.4.22/24", "2001:db8:4::22/64"]'),
        (
            '["10.0.5.13/24", "2001:db8:5::13/64"] }',
            '["10.0.5.13/24", "2001:db8:5::13/64"], eth3 = ["10.0.8.13/24", "2001:db8:8::13/64"] }',
        ),
    )
    + _NEW
)
