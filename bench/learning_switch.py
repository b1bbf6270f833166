"""The peer of `packet_in_rate`: a learning switch on os-ken, as its tutorial writes one.

PyPI's os-ken has no learning-switch application any more, so this is one: it learns where the
source is, and where the destination is known it installs a flow for the pair of addresses and
sends the packet.  Nothing is logged.

    python -m bench.learning_switch PORT
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from os_ken.base import app_manager
from os_ken.controller import ofp_event
from os_ken.controller.handler import MAIN_DISPATCHER, set_ev_cls
from os_ken.lib.packet import ethernet, packet
from os_ken.ofproto import ofproto_v1_0


class LearningSwitch(app_manager.OSKenApp):  # type: ignore[misc]
    """See the module."""

    OFP_VERSIONS = (ofproto_v1_0.OFP_VERSION,)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ports: dict[int, dict[str, int]] = {}

    @set_ev_cls(ofp_event.EventOFPPacketIn, MAIN_DISPATCHER)  # type: ignore[untyped-decorator]
    def packet_in(self, event: Any) -> None:
        """Learn, then answer."""
        message = event.msg
        datapath = message.datapath
        protocol, parser = datapath.ofproto, datapath.ofproto_parser
        seen = packet.Packet(message.data).get_protocol(ethernet.ethernet)
        known = self.ports.setdefault(datapath.id, {})
        known[seen.src] = message.in_port
        out_port = known.get(seen.dst, protocol.OFPP_FLOOD)
        actions = [parser.OFPActionOutput(out_port)]
        if out_port != protocol.OFPP_FLOOD:
            match = parser.OFPMatch(
                in_port=message.in_port, dl_src=_octets(seen.src), dl_dst=_octets(seen.dst)
            )
            flow = parser.OFPFlowMod(
                datapath=datapath,
                match=match,
                cookie=0,
                command=protocol.OFPFC_ADD,
                idle_timeout=10,
                hard_timeout=0,
                priority=protocol.OFP_DEFAULT_PRIORITY,
                actions=actions,
            )
            datapath.send_msg(flow)
        data = message.data if message.buffer_id == protocol.OFP_NO_BUFFER else None
        out = parser.OFPPacketOut(
            datapath=datapath,
            buffer_id=message.buffer_id,
            in_port=message.in_port,
            actions=actions,
            data=data,
        )
        datapath.send_msg(out)


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def main(port: str) -> None:
    """Serve until killed."""
    from os_ken import cfg
    from os_ken.controller import controller  # noqa: F401 registers its options
    from os_ken.lib import hub

    hub.patch(thread=False)
    logging.disable(logging.CRITICAL)
    cfg.CONF(args=[], project="os_ken")
    cfg.CONF.set_override("ofp_tcp_listen_port", int(port))
    cfg.CONF.set_override("ofp_listen_host", "127.0.0.1")
    app_manager.AppManager.run_apps(["bench.learning_switch"])


if __name__ == "__main__":
    main(sys.argv[1])
