"""Table INGRESS: which virtual link did a frame arrive on?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations

from xenflow.model.network import Interface, Link, Pipeline, Router
from xenflow.model.placement import Mode
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Action, Actions, Flow, match
from xenflow.tables import cookies
from xenflow.tables.families import MATCHED
from xenflow.tables.frames import (
    HELLOS,
    HELLOS6,
    SESSIONS,
    TAGGED,
    UNTAGGED,
    VIRTUAL_ROUTERS,
    Tag,
    tagged,
)
from xenflow.tables.layout import ADMISSION, INGRESS, LINKS, REACTIVE_KIND, VM, Ingress, Reg
from xenflow.tables.links import out_by
from xenflow.tables.sent_up import FromVm, heard
from xenflow.tables.site import Site
from xenflow.tables.stations import port_of, ways_in


def ingress_of(site: Site, link: Link) -> Iterator[Flow]:
    """What arrives on a link."""
    if site.datapath.pipeline is Pipeline.REACTIVE:
        yield from _ttl_guards(site, link)
    if site.native(link):
        yield from bridged(site, link)
        yield from _beside_the_bridge(site, link)
        return
    own = cookies.of_link(INGRESS, link.id)
    for port, tag in ways_in(site, link):
        arrival = match(in_port=port, vlan_tci=tag)
        yield Flow(INGRESS, Ingress.ARRIVAL, arrival, _arrive(link), own)
    for router, interface in site.network.members(link.name):
        yield from detours(site, link, router, interface)
        if interface.vif in site.ports:
            yield from _from_vif(site, link, router, interface)


def _arrive(link: Link) -> Actions:
    return (f.strip_vlan(), f.load(Reg.LINK_IN, link.id), f.resubmit(ADMISSION))


def _ttl_guards(site: Site, link: Link) -> Iterator[Flow]:
    """An exact flow must not catch the packet whose TTL runs out: that one takes the tables.  Of
    what a vif sends only that which is taken from it anyway: from a bridged one, everything."""
    native, members = site.native(link), site.network.members(link.name)
    here = [(router, interface) for router, interface in members if site.forwards(router.name)]
    arrivals: list[tuple[int, Mapping[str, Tag]]] = [
        *((port, {"vlan_tci": tagged(link.vlan)}) for port in site.tree_ports(link)),
        *((port, {"vlan_tci": 0}) for port in site.access_ports(link)),
    ]
    for sender, vif in members:
        if vif.vif not in site.ports or not here:
            continue
        port, source = site.ports[vif.vif], {} if native else {"dl_src": vif.mac}
        arrivals.append((port, {"vlan_tci": 0, **source}))
        for virtual in () if native else VIRTUAL_ROUTERS:
            own = cookies.of_link(INGRESS, link.id, sender.id)
            yield from _expiring(link, own, in_port=port, vlan_tci=0, dl_src=virtual)
    for router, interface in here:
        own = cookies.of_link(INGRESS, link.id, router.id)
        for port, came in arrivals:
            elsewhere = native and not site.admits(router.name, link, port)
            if port != site.ports.get(interface.vif) and not elsewhere:
                yield from _expiring(link, own, in_port=port, **came, dl_dst=interface.mac)


def _expiring(link: Link, own: int, **came: Tag) -> Iterator[Flow]:
    for of in MATCHED.values():
        for ttl in (0, 1):
            what = match(**came, dl_type=of.dl_type, nw_ttl=ttl)
            yield Flow(INGRESS, Ingress.EXPIRING, what, _arrive(link), own)


def _from_vif(site: Site, link: Link, router: Router, interface: Interface) -> Iterator[Flow]:
    """What a VM sends.  The controller gets its hellos, whole, to repeat them; and of a vif that
    takes nothing yet all, because the first frame says that the VM is there."""
    own, port = cookies.of_link(INGRESS, link.id, router.id), site.ports[interface.vif]
    silent = interface.vif in site.suspended
    onward = _onward(link, *(heard(router, 128) if silent else ()))
    heard_onward = _onward(link, *heard(router))
    for tag in UNTAGGED:
        came: dict[str, Tag] = {"in_port": port, "vlan_tci": tag}
        bare = (f.strip_vlan(),) if tag else ()
        for source in (interface.mac, *VIRTUAL_ROUTERS):
            sender = match(**came, dl_src=source)
            yield Flow(INGRESS, Ingress.ARRIVAL, sender, (*bare, *onward), own)
        for hello in (*HELLOS, *HELLOS6):
            said = match(**came, dl_src=interface.mac, **hello)
            yield Flow(INGRESS, Ingress.HELLO, said, (*bare, *heard_onward), own)
    for kind in SESSIONS:
        session = match(in_port=port, vlan_tci=0, dl_src=interface.mac, **kind)
        yield Flow(INGRESS, Ingress.SESSION, session, heard_onward, own)
    with_tag = match(in_port=port, vlan_tci=(TAGGED, TAGGED))
    refusing = cookies.refusing(link.id, router.id, cookies.REFUSED_TAG)
    yield Flow(INGRESS, Ingress.TAGGED, with_tag, (), refusing)
    refusing = cookies.refusing(link.id, router.id, cookies.REFUSED_SOURCE)
    yield Flow(INGRESS, Ingress.FOREIGN_SOURCE, match(in_port=port), (), refusing)


def _onward(link: Link, *up: Action) -> Actions:
    """What a VM sends is in transit at once; `up` sends it to the controller as well."""
    return (f.load(Reg.LINK_IN, link.id), *up, f.load(Reg.LINK_OUT, link.id), f.resubmit(LINKS))


def quiet(site: Site, what: FromVm, session: Mapping[str, int], seconds: int) -> Flow:
    """A flow by which nothing more of a session is sent up for some seconds."""
    link = site.network.links[what.interface.link]
    sender = match(
        in_port=site.ports[what.interface.vif], vlan_tci=0, dl_src=what.interface.mac, **session
    )
    own = cookies.of(REACTIVE_KIND, what.router.id, cookies.QUIET_CHUNK)
    return Flow(INGRESS, Ingress.QUIET, sender, _onward(link), own, hard_timeout=seconds)


def detours(site: Site, link: Link, router: Router, interface: Interface) -> Iterator[Flow]:
    """What is meant for the VM and reached a forwarder without it crosses to the VM's host.

    Both directions between every two of its hosts are laid, so that they need no change at the
    moment the VM moves; which end sends into the detour is decided in table VM.
    """
    placement = site.placements.get(router.name)
    if placement is None or placement.mode is Mode.NATIVE:
        return
    own = cookies.of_link(INGRESS, link.id, router.id)
    for start, end in permutations(placement.hosts, 2):
        path = link.tree.path(start, end)
        if site.name not in path[1:]:
            continue
        came = site.toward(link, path[path.index(site.name) - 1])
        leave = None if site.name == end else site.toward(link, end)
        if came is None:
            continue
        frame = match(in_port=came, vlan_tci=tagged(link.detour_vlan), dl_dst=interface.mac)
        if site.name in placement.hosts:
            arrive = (
                f.strip_vlan(),
                f.load(Reg.ROUTER, router.id),
                f.load(Reg.LINK_IN, link.id),
                f.load(Reg.DETOURED, 1),
                f.resubmit(VM),
            )
            yield Flow(INGRESS, Ingress.DETOUR, frame, arrive, own)
        elif leave is not None:
            yield Flow(INGRESS, Ingress.DETOUR, frame, (f.output(leave),), own)


def bridged(site: Site, link: Link) -> Iterator[Flow]:
    """Native mode: one learning bridge for the link, on the ports of its tree only."""
    own = cookies.of_link(INGRESS, link.id)
    for port, tag in ways_in(site, link, *site.vif_ports(link)):
        arrival = match(in_port=port, vlan_tci=tag)
        yield Flow(INGRESS, Ingress.ARRIVAL, arrival, (f.normal(),), own)


def _beside_the_bridge(site: Site, link: Link) -> Iterator[Flow]:
    """On a bridged link, what is for another router that this switch forwards for is its, as
    ever; or, where the links lead elsewhere, in transit."""
    own = cookies.of_link(INGRESS, link.id)
    for router, interface in site.network.members(link.name):
        if not site.forwards(router.name):
            continue
        pass_on = out_by(link, port_of(site, link, interface.mac), site.access_ports(link))
        for port, tag in ways_in(site, link, *site.vif_ports(link)):
            frame = match(in_port=port, vlan_tci=tag, dl_dst=interface.mac)
            actions = _arrive(link) if site.admits(router.name, link, port) else pass_on
            yield Flow(INGRESS, Ingress.BESIDE_THE_BRIDGE, frame, actions, own)


def strays(site: Site, link: Link) -> Iterator[Flow]:
    """Beside a bridge of other people's, what comes with a VLAN of ours where its link is not."""
    if site.datapath.other == "normal":
        for vlan in (link.vlan, link.detour_vlan):
            stray = match(vlan_tci=tagged(vlan))
            yield Flow(INGRESS, Ingress.STRAY, stray, (), cookies.of_link(INGRESS, link.id))


def other(site: Site) -> Flow:
    """What belongs to no virtual link."""
    actions = (f.normal(),) if site.datapath.other == "normal" else ()
    return Flow(INGRESS, Ingress.OTHER, match(), actions, cookies.of(INGRESS))
