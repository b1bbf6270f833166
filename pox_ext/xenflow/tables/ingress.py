"""Table INGRESS: which virtual link did a frame arrive on?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations, product

from xenflow.model.network import Interface, Link, Pipeline, Router
from xenflow.model.placement import Mode
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Flow, match
from xenflow.tables import cookies
from xenflow.tables.frames import HELLOS, SESSIONS, TAGGED, UNTAGGED, VIRTUAL_ROUTERS, VLAN_MASK
from xenflow.tables.layout import ADMISSION, INGRESS, LINKS, REACTIVE_PRIORITY, VM
from xenflow.tables.links import out_by
from xenflow.tables.sent_up import FromVm
from xenflow.tables.site import Site, interfaces, vif_ports
from xenflow.tables.stations import port_of


def ingress_flows(site: Site) -> Iterator[Flow]:
    own = cookies.of(INGRESS)
    for link in site.network.links.values():
        tagged: tuple[int, int] = (TAGGED | link.vlan, VLAN_MASK)
        if site.native(link):
            yield from bridged(site, link)
            yield from _beside_the_bridge(site, link)
            continue
        for port in site.tree_ports(link):
            yield Flow(
                INGRESS,
                300,
                match(in_port=port, vlan_tci=tagged),
                (f.strip_vlan(), f.load("reg3", link.id), f.resubmit(ADMISSION)),
                own,
            )
        for port, tag in product(site.access_ports(link), UNTAGGED):
            yield Flow(
                INGRESS,
                300,
                match(in_port=port, vlan_tci=tag),
                (f.strip_vlan(), f.load("reg3", link.id), f.resubmit(ADMISSION)),
                own,
            )
        for router, interface in site.network.members(link.name):
            yield from detours(site, link, router, interface)
            if interface.vif in site.ports:
                yield from _from_vif(site, link, router, interface)
    if site.datapath.pipeline is Pipeline.REACTIVE:
        yield from _ttl_guards(site)
    if site.datapath.other == "normal":
        for link in site.network.links.values():
            for vlan in (link.vlan, link.detour_vlan):
                stray = match(vlan_tci=(TAGGED | vlan, VLAN_MASK))
                yield Flow(INGRESS, 200, stray, (), own)
    yield other(site)


def _ttl_guards(site: Site) -> Iterator[Flow]:
    """An exact flow must not catch the packet whose TTL runs out: that one takes the tables."""
    for router, interface, link in interfaces(site):
        if not site.forwards(router.name) or site.native(link):
            continue
        tables = (f.strip_vlan(), f.load("reg3", link.id), f.resubmit(ADMISSION))
        arrivals: list[tuple[int, int | tuple[int, int]]] = [
            *((port, (TAGGED | link.vlan, VLAN_MASK)) for port in site.tree_ports(link)),
            *((port, 0) for port in site.access_ports(link)),
            *(
                (site.ports[i.vif], 0)
                for r, i in site.network.members(link.name)
                if r is not router and i.vif in site.ports
            ),
        ]
        for port, tag in arrivals:
            for ttl in (0, 1):
                expiring = match(
                    in_port=port, vlan_tci=tag, dl_dst=interface.mac, dl_type=f.IPV4, nw_ttl=ttl
                )
                yield Flow(
                    INGRESS, REACTIVE_PRIORITY + 1, expiring, tables, cookies.of(INGRESS, router.id)
                )


def _from_vif(site: Site, link: Link, router: Router, interface: Interface) -> Iterator[Flow]:
    """What a VM sends.  The controller gets its hellos, whole, to repeat them; and of a vif that
    takes nothing yet all, because the first frame says that the VM is there."""
    own, port = cookies.of(INGRESS, router.id), site.ports[interface.vif]
    onward = (f.load("reg3", link.id), f.load("reg2", link.id), f.resubmit(LINKS))
    told = (f.controller(128),) if interface.vif in site.silent else ()
    for tag in UNTAGGED:
        bare = (f.strip_vlan(),) if tag else ()
        for source in (interface.mac, *VIRTUAL_ROUTERS):
            sender: dict[str, int | tuple[int, int]] = {
                "in_port": port,
                "vlan_tci": tag,
                "dl_src": source,
            }
            yield Flow(INGRESS, 300, match(**sender), (*bare, *told, *onward), own)
        for hello in HELLOS:
            heard = match(in_port=port, vlan_tci=tag, dl_src=interface.mac, **hello)
            yield Flow(INGRESS, 310, heard, (*bare, f.controller(), *onward), own)
    for kind in SESSIONS:
        session = match(in_port=port, vlan_tci=0, dl_src=interface.mac, **kind)
        yield Flow(INGRESS, 305, session, (f.controller(), *onward), own)
    tagged = match(in_port=port, vlan_tci=(TAGGED, TAGGED))
    yield Flow(INGRESS, 295, tagged, (), cookies.refusing(router.id, cookies.REFUSED_TAG))
    yield Flow(
        INGRESS, 290, match(in_port=port), (), cookies.refusing(router.id, cookies.REFUSED_SOURCE)
    )


def quiet(site: Site, what: FromVm, session: Mapping[str, int], seconds: int) -> Flow:
    """A flow by which nothing more of a session is sent up for some seconds."""
    link = site.network.links[what.interface.link]
    sender = match(
        in_port=site.ports[what.interface.vif], vlan_tci=0, dl_src=what.interface.mac, **session
    )
    onward = (f.load("reg3", link.id), f.load("reg2", link.id), f.resubmit(LINKS))
    own = cookies.of(cookies.REACTIVE_KIND, what.router.id, cookies.QUIET_CHUNK)
    return Flow(INGRESS, 308, sender, onward, own, hard_timeout=seconds)


def detours(site: Site, link: Link, router: Router, interface: Interface) -> Iterator[Flow]:
    """What is meant for the VM and reached a forwarder without it crosses to the VM's host.

    Both directions between every two of its hosts are laid, so that they need no change at the
    moment the VM moves; which end sends into the detour is decided in table VM.
    """
    placement = site.placements.get(router.name)
    if placement is None or placement.mode is Mode.NATIVE:
        return
    tree = link.tree
    tagged: tuple[int, int] = (TAGGED | link.detour_vlan, VLAN_MASK)
    own = cookies.of(INGRESS, router.id)
    for start, end in permutations(placement.hosts, 2):
        path = tree.path(start, end)
        if site.name not in path[1:]:
            continue
        came = site.toward(link, path[path.index(site.name) - 1])
        leave = None if site.name == end else site.toward(link, end)
        if came is None:
            continue
        frame = match(in_port=came, vlan_tci=tagged, dl_dst=interface.mac)
        if site.name in placement.hosts:
            arrive = (
                f.strip_vlan(),
                f.load("reg1", router.id),
                f.load("reg3", link.id),
                f.load("reg4", 1),
                f.resubmit(VM),
            )
            yield Flow(INGRESS, 320, frame, arrive, own)
        elif leave is not None:
            yield Flow(INGRESS, 320, frame, (f.output(leave),), own)


def bridged(site: Site, link: Link) -> Iterator[Flow]:
    """Native mode: one learning bridge for the link, on the ports of its tree only."""
    own = cookies.of(INGRESS)
    tagged: tuple[int, int] = (TAGGED | link.vlan, VLAN_MASK)
    for port in site.tree_ports(link):
        yield Flow(INGRESS, 300, match(in_port=port, vlan_tci=tagged), (f.normal(),), own)
    for port, tag in product((*site.access_ports(link), *vif_ports(site, link)), UNTAGGED):
        yield Flow(INGRESS, 300, match(in_port=port, vlan_tci=tag), (f.normal(),), own)


def _beside_the_bridge(site: Site, link: Link) -> Iterator[Flow]:
    """On a bridged link, what is for another router that this switch forwards for is its, as
    ever; or, where the links lead elsewhere, in transit."""
    own = cookies.of(INGRESS)
    arrive = (f.load("reg3", link.id), f.resubmit(ADMISSION))
    tagged: tuple[int, int] = (TAGGED | link.vlan, VLAN_MASK)
    ports: list[tuple[int, int | tuple[int, int]]] = [
        *((port, tagged) for port in site.tree_ports(link)),
        *product((*site.access_ports(link), *vif_ports(site, link)), UNTAGGED),
    ]
    for router, interface in site.network.members(link.name):
        if not site.forwards(router.name):
            continue
        pass_on = out_by(link, port_of(site, link, interface.mac), site.access_ports(link))
        for port, tag in ports:
            frame = match(in_port=port, vlan_tci=tag, dl_dst=interface.mac)
            admitted = site.admits(router.name, link, port)
            actions = (f.strip_vlan(), *arrive) if admitted else pass_on
            yield Flow(INGRESS, 310, frame, actions, own)


def other(site: Site) -> Flow:
    actions = (f.normal(),) if site.datapath.other == "normal" else ()
    return Flow(INGRESS, 0, match(), actions, cookies.of(INGRESS))
