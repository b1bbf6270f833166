"""What differs between the kinds of switches.

    kind           speaks               the routes               a router's data
    SwitchKind     Nicira's extensions  are flows                stays in the switch
    ReactiveHost   Nicira's extensions  stay in the controller   comes up, the first of each flow
    PlainHost      OpenFlow 1.0 alone   stay in the controller   comes up, the first of each flow
    PlainSwitch    OpenFlow 1.0 alone   there are none           passes by

A switch is given one (`kind_of`).  Which flows its small tables shall hold `tables.pipeline` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from xenflow.model.network import Datapath, DatapathKind, Link, Network, Pipeline, Router
from xenflow.openflow import build
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Actions, Flow, match
from xenflow.openflow.parse import PacketIn
from xenflow.openflow.wire import FlowModCommand
from xenflow.switch.exact_flows import CookieExactFlows, ExactFlows, KeptExactFlows
from xenflow.switch.reactive import PlainReactive, Reactive
from xenflow.switch.reading import FlowReader, PlainFlowReader
from xenflow.tables import cookies, layout, plain_host, plain_sent_up
from xenflow.tables.ingress import quiet
from xenflow.tables.layout import Reg
from xenflow.tables.plain_switch import flood
from xenflow.tables.sent_up import FromVm, SentUp, sent_up
from xenflow.tables.site import Site
from xenflow.tables.vm import vm_of

NUDGE_TABLE = 63


def _added_and_deleted(pack: Callable[[Flow, FlowModCommand], bytes], flow: Flow) -> bytes:
    return pack(flow, FlowModCommand.ADD) + pack(flow, FlowModCommand.DELETE_STRICT)


class SwitchKind:
    """A proactive host; the other kinds say what is otherwise with them."""

    nicira = True
    """Whether it has Nicira's extensions: tables, ROUTES among them, and flow monitors."""
    small_tables: Sequence[int] = [t for t in range(len(layout.TABLES)) if t != layout.ROUTES]
    """All tables but ROUTES."""
    routes = True
    """Whether routes are written."""
    asks = False
    """Whether the first packet of each flow comes up, to be decided by the controller."""
    greeting = build.enable_table_id() + build.set_packet_in_format_nxm() + build.set_config(0xFFFF)
    """What it is told first."""
    nudge = _added_and_deleted(build.flow_mod, Flow(NUDGE_TABLE, 1, match(), (), cookies.MAGIC))
    """A change that touches no packet."""
    exact_flows: type[ExactFlows] = ExactFlows
    reader = FlowReader
    answers = Reactive
    """Who answers first packets."""
    pack = staticmethod(build.flow_mod)

    def counts(self, reply: Sequence[Any]) -> dict[int, int]:
        """The answer to its reader's `count_request`: flows by table."""
        return {entry.table: entry.flows for entry in reply if entry.table < len(layout.TABLES)}

    def sent_up(
        self,
        network: Network,
        datapath: str,
        ports: Mapping[str, tuple[int, bool]],
        packet: PacketIn,
    ) -> SentUp | None:
        """What a frame is that it has sent up; None where its flows send nothing like it."""
        return sent_up(network, packet)

    def vm_flows(self, site: Site, link: Link) -> Iterable[Flow]:
        """The flows of a link that lead to VMs alone and can be replaced at any time."""
        return vm_of(site, link)

    def quiet(
        self, site: Site, what: FromVm, session: Mapping[str, int], seconds: int
    ) -> Flow | None:
        """The flow by which nothing more of a VM's session is sent up for some seconds."""
        return quiet(site, what, session, seconds)

    def to_vm(self, site: Site, router: Router, link: Link) -> Actions:
        """What brings a frame that the controller has to a router's VM."""
        return f.load(Reg.ROUTER, router.id), f.load(Reg.LINK_IN, link.id), f.resubmit(layout.VM)

    def to_link(self, site: Site, link: Link) -> Actions:
        """What brings a frame that the controller has to everybody on a link."""
        return (
            f.load(Reg.LINK_IN, link.id),
            f.load(Reg.LINK_OUT, link.id),
            f.resubmit(layout.LINKS),
        )


class ReactiveHost(SwitchKind):
    """See the module."""

    routes = False
    asks = True
    exact_flows = CookieExactFlows


class PlainSwitch(SwitchKind):
    """See the module.  It has one table, and can only be asked for all of it."""

    nicira = False
    small_tables = (0,)
    routes = False
    greeting = build.set_config(0xFFFF)
    nudge = _added_and_deleted(
        build.flow_mod_of10, Flow(0, 1, match(dl_type=0x88B5), (), cookies.MAGIC)
    )
    reader = PlainFlowReader
    pack = staticmethod(build.flow_mod_of10)

    def counts(self, reply: Sequence[Any]) -> dict[int, int]:
        return {0: reply[0].flows}

    def sent_up(
        self,
        network: Network,
        datapath: str,
        ports: Mapping[str, tuple[int, bool]],
        packet: PacketIn,
    ) -> SentUp | None:
        return plain_sent_up.sent_up(network, datapath, ports, packet)

    def vm_flows(self, site: Site, link: Link) -> Iterable[Flow]:
        return ()

    def quiet(
        self, site: Site, what: FromVm, session: Mapping[str, int], seconds: int
    ) -> Flow | None:
        return None

    def to_vm(self, site: Site, router: Router, link: Link) -> Actions:
        return plain_host.to_vm(site, router, link)

    def to_link(self, site: Site, link: Link) -> Actions:
        return flood(site, link)


class PlainHost(PlainSwitch):
    """See the module."""

    asks = True
    exact_flows = KeptExactFlows
    answers = PlainReactive


def kind_of(datapath: Datapath) -> SwitchKind:
    """What kind of switch a datapath is."""
    if datapath.kind is DatapathKind.PLAIN:
        return PlainSwitch()
    if not datapath.nicira:
        return PlainHost()
    return ReactiveHost() if datapath.pipeline is Pipeline.REACTIVE else SwitchKind()
