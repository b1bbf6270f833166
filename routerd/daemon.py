"""routerd's loop: netlink in, one consistent change after another out.

It reads top to bottom: what the kernel notified of goes into the `KernelView`; where that cannot
follow, tables are dumped again; the difference to what the Rule Table was told becomes one
delta of the `Sender`; the neighbours that next hops need are kept resolved.

An isolated change is sent at once.  After one was sent the next waits `COALESCE_S`, so that a
routing daemon's thousand routes become a few messages, and after a dump the next waits as long as
the last one took, so that a flapping interface cannot keep the VM busy.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from routerd import beyond_routing
from routerd import rtnetlink as rt
from routerd.control_address import ControlAddress
from routerd.kernel_view import KernelView
from routerd.neighbour_keeper import NeighbourKeeper
from routerd.neighbour_tables import NeighbourTables
from routerd.netlink_socket import ABSENT, DumpInterrupted, NetlinkListener, Requests
from routerd.rule_table_link import RuleTableLink, hasten_discovery
from routerd.telling import connected_links
from xenflow.routes.family import V6
from xenflow.routes.messages import MessageError, PackError, Section
from xenflow.routes.router_state import RouterState
from xenflow.routes.sender import Effects, Sender, SenderState

COALESCE_S = 0.004
FIRST_S = 0.02
"""What is told first has so long to pass before a dump keeps a core busy."""
REFUSED_S = 1.0
"""A change that does not fit what was told leads to a dump after so long, and a look that failed to
another one."""
BEYOND_S = 5.0
"""What the kernel does not notify of (iptables, IPsec on old kernels) is looked at this often."""
KEEP_S = 1.0
"""Neighbours are looked after this often."""
EXPIRY_S = 0.05
"""A route's expiry is told in hundredths of a second; it is over for sure so much later."""
_HASH_POLICY = "/proc/sys/net/ipv{}/fib_multipath_hash_policy"
_DRAIN = 256
"""Datagrams read before a change is put together."""
_DRAINS = 64
"""Before a dump it is read so many times, so that a flood cannot hold the dump up."""

log = logging.getLogger("routerd")


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """How routerd was called."""

    control: str
    router: str
    address: str
    dry_run: bool = False
    receive_buffer: int = 32 << 20
    keep_neighbours: bool = True
    carrier_grace_s: float = 5.0


class Kernel:
    """The kernel of this network namespace, watched: a `KernelView` that is kept up to date."""

    def __init__(
        self, control: str, receive_buffer: int = 32 << 20, carrier_grace_s: float = 0.0
    ) -> None:
        self.view = KernelView(control, carrier_grace_s)
        self.tables, self.telling = self.view.tables, self.view.telling
        self._control_address = ControlAddress()
        self._neighbour_tables = NeighbourTables()
        self._listener = NetlinkListener(rt.NETLINK_ROUTE, rt.GROUPS, receive_buffer)
        self._others = _other_listeners()
        self._requests = Requests()
        self.dump_all = True
        self.dump_others = False
        self.look_first = False
        """Links or next hop objects have changed: what they say now is told before all is dumped
        again, since that takes as long as the table is large."""
        self.look_beyond = True
        self._overruns = 0

    def filenos(self) -> list[int]:
        """To poll for reading."""
        return [listener.fileno() for listener in (self._listener, *self._others)]

    def close(self) -> None:
        """Close all sockets."""
        for listener in (self._listener, *self._others):
            listener.close()
        self._requests.close()

    def read(self) -> None:
        """Take in what has arrived; before a dump all of it, since what is left would be taken for
        younger than the dump: routes that went with a link without a word would come back."""
        for _ in range(_DRAINS):
            found, lost = self._listener.drain(_DRAIN)
            if lost:
                self._overruns += 1
                self.dump_all = True
                log.warning("netlink-overrun count=%d: everything is dumped again", self._overruns)
            for message in found:
                self._hear(message)
            if not (found and self.dump_all):
                break
        for listener in self._others:
            messages, lost = listener.drain(_DRAIN)
            if messages or lost:
                self.look_beyond = True

    def _hear(self, message: rt.NetlinkMessage) -> None:
        if self.dump_all and message.type not in _ALWAYS_HEARD:
            return  # a dump made after this makes it old; carriers come and go quickly
        try:
            self._on_message(message, bool(message.type & 1))
        except rt.NetlinkError as error:
            self.dump_all = True
            words = "unreadable-message type=%d error=%r: everything is dumped again"
            log.warning(words, message.type, str(error))

    def expire(self, now: float) -> float | None:
        """End what was told in spite of a carrier's loss, and look at routes whose time is over;
        returns when the next of it ends."""
        tables = self.tables
        until = self.view.grace.expire(now)
        if tables.dirty_links:
            tables.dirty_links, self.dump_all = False, True
        if tables.expiry is not None and now >= tables.expiry + EXPIRY_S:
            tables.expiry, self.dump_all = None, True
        over = [] if tables.expiry is None else [tables.expiry + EXPIRY_S]
        return min(over if until is None else [until, *over], default=None)

    def needs_dump(self) -> bool:
        """Whether notifications alone do not tell what is true now."""
        return self.dump_all or self.dump_others

    def dump(self) -> None:
        """Dump what is needed.

        Raises NetlinkError; what was needed is needed still, then.
        """
        view, bodies, optional = self.view, self._requests.bodies, self._requests.optional
        if self.dump_all:
            view.dumped_links(bodies(rt.get_all(rt.RTM_GETLINK)), time.monotonic())
            view.dumped_netconf(4, bodies(rt.get_all(rt.RTM_GETNETCONF, rt.AF_INET)))
            view.dumped_netconf(6, optional(rt.get_all(rt.RTM_GETNETCONF, rt.AF_INET6)))
            view.dumped_nexthops(optional(rt.get_all(rt.RTM_GETNEXTHOP)))
            self.tables.hash_policy = _hash_policies()
            self._dump_main()
        view.dumped_rules(4, bodies(rt.get_all(rt.RTM_GETRULE, rt.AF_INET)))
        view.dumped_rules(6, optional(rt.get_all(rt.RTM_GETRULE, rt.AF_INET6)))
        view.begin_others()
        for raw, table in (
            (rt.AF_INET, rt.TABLE_LOCAL),
            (rt.AF_INET, rt.TABLE_DEFAULT),
            (rt.AF_INET6, rt.TABLE_LOCAL),
        ):
            view.dumped_routes(optional(rt.get_routes(raw, table)), time.monotonic())
        if self.dump_all:
            view.dumped_neighbours(
                bodies(rt.get_all(rt.RTM_GETNEIGH, rt.AF_INET))
                + optional(rt.get_all(rt.RTM_GETNEIGH, rt.AF_INET6)),
                time.monotonic(),
            )
        self.dump_all = self.dump_others = self.look_first = False

    def dump_hops(self) -> None:
        """Dump links and next hop objects alone; the work is in proportion to their number.

        Raises NetlinkError.
        """
        view, bodies = self.view, self._requests.bodies
        view.dumped_links(bodies(rt.get_all(rt.RTM_GETLINK)), time.monotonic())
        view.dumped_nexthops(self._requests.optional(rt.get_all(rt.RTM_GETNEXTHOP)))
        self.tables.dirty_policy = True
        self.look_first = False

    def mend_control(self) -> None:
        """Put back the control link's address where it went when the link was switched off."""
        link = self.tables.control_link()
        if link is None:
            return
        bodies = self._requests.optional(rt.get_all(rt.RTM_GETADDR, rt.AF_INET6))
        found = [a for a in map(rt.address, bodies) if a.ifindex == link.ifindex]
        local = [a for a in found if a.scope == rt.RT_SCOPE_LINK]
        on = bool(link.flags & rt.IFF_UP)
        for lost in self._control_address.lacks(link.ifindex, on, local):
            number = self._requests.change(rt.add_address6(lost))
            log.info("control-address put back after the link was off: errno=%d", number)

    def _dump_main(self) -> None:
        for _ in range(5):
            self.view.begin_main()
            with contextlib.suppress(DumpInterrupted):
                # a table that has never had a route; a kernel without IPv6
                self._dump_routes(rt.AF_INET, {errno.ENOENT})
                self._dump_routes(rt.AF_INET6, ABSENT)
                return
        raise DumpInterrupted(errno.EINTR, "the main table never held still")

    def _dump_routes(self, raw: int, absent: set[int]) -> None:
        try:
            for datagram in self._requests.datagrams(rt.get_routes(raw, rt.TABLE_MAIN)):
                self.view.dumped_main(raw, datagram, time.monotonic())
        except rt.NetlinkError as error:
            if error.errno not in absent:
                raise

    def refresh_beyond(self, now: float) -> None:
        """Look at what the kernel does not notify of, or not in full, and note what needs a dump.

        Raises NetlinkError.
        """
        self.look_beyond = False
        tables, bodies = self.tables, self._requests.bodies
        links = filter(None, map(rt.link, bodies(rt.get_all(rt.RTM_GETLINK))))
        if _silent(tables.links.values()) != _silent(links):
            self.dump_all = self.look_first = True
        if tables.hash_policy != _hash_policies():
            self.dump_all = True
        outside = beyond_routing.reasons({link.ifindex: link.name for link in tables.data_links()})
        near = [
            table
            for family in (rt.AF_INET, rt.AF_INET6)
            for body in self._requests.optional(rt.get_all(rt.RTM_GETNEIGHTBL, family))
            if (table := rt.neighbour_table(body)) is not None
        ]
        faults = (*self._neighbour_tables.faults(near, now), *self._duplicates())
        if (outside, faults) != (tables.outside, tables.faults):
            tables.outside, tables.faults = outside, faults
            tables.dirty_policy = True

    def _duplicates(self) -> Iterator[str]:
        """In words: IPv6 addresses that the kernel does not use, since another station has them."""
        names = {link.ifindex: link.name for link in self.tables.data_links()}
        bodies = self._requests.optional(rt.get_all(rt.RTM_GETADDR, rt.AF_INET6))
        for one in map(rt.address, bodies):
            if one.duplicate and one.ifindex in names:
                yield f"{V6.text(one.address)} on {names[one.ifindex]} is another station's"

    def is_dirty(self) -> bool:
        """Whether there is a change that needs no dump."""
        tables = self.tables
        return bool(tables.dirty or tables.dirty_neighbours or tables.dirty_policy)

    def resolve(self, ifindex: int, family: int, address: int, managed: bool) -> int:
        """Have the kernel resolve a neighbour; returns the errno, 0 for done.

        Raises NetlinkError where the kernel does not answer.
        """
        return self._requests.change(rt.keep_neighbour(ifindex, family, address, managed))

    # Notifications; of what is gone the type is odd (rtnetlink(7): RTM_NEW..., RTM_DEL...)

    def _on_message(self, message: rt.NetlinkMessage, gone: bool) -> None:
        match message.type:
            case rt.RTM_NEWROUTE | rt.RTM_DELROUTE:
                self._on_route(message, gone)
            case rt.RTM_NEWNEIGH | rt.RTM_DELNEIGH:
                self._on_neighbour(message.body, gone)
            case rt.RTM_NEWLINK | rt.RTM_DELLINK:
                self._on_link(message.body, gone)
            case rt.RTM_NEWNEXTHOP | rt.RTM_DELNEXTHOP:
                self.dump_all |= self.view.nexthop_changed(rt.nexthop(message.body), gone)
                self.look_first = True
            case rt.RTM_NEWNETCONF | rt.RTM_DELNETCONF:
                self._on_netconf(message.body, gone)
            case rt.RTM_NEWADDR | rt.RTM_DELADDR:
                self.dump_all = True
            case rt.RTM_NEWRULE | rt.RTM_DELRULE:
                self.dump_others = True
            case rt.RTM_NEWQDISC | rt.RTM_DELQDISC:
                self.look_beyond = True

    def _on_link(self, body: bytes, gone: bool) -> None:
        link = rt.link(body)
        if link is None:
            return
        if link.name == self.tables.control:
            self._control_address.switched(bool(link.flags & rt.IFF_UP))
        if self.view.link_changed(link, gone, time.monotonic()):
            self.dump_all = self.look_first = True

    def _on_route(self, message: rt.NetlinkMessage, gone: bool) -> None:
        info = rt.route(message.body)
        if info is None:
            return
        if not self.view.route_changed(info, message.flags, gone, time.monotonic()):
            return
        if info.table == rt.TABLE_MAIN:
            self.dump_all = True
        else:
            self.dump_others = True

    def _on_neighbour(self, body: bytes, gone: bool) -> None:
        entry = rt.neighbour(body)
        if entry is not None:
            mattered = self.view.neighbour_changed(entry, gone, time.monotonic())
            if gone and mattered and self.tables.carrier_grace_s and not self.dump_all:
                self._ask_link(entry.ifindex)

    def _ask_link(self, ifindex: int) -> None:
        """The kernel forgets neighbours before it tells that the carrier went: ask, so that they
        are not told as lost in between."""
        with contextlib.suppress(rt.NetlinkError):
            link = rt.link(self._requests.ask(rt.get_link(ifindex)))
            if link is not None and self.view.link_changed(link, False, time.monotonic()):
                self.dump_all = self.look_first = True

    def _on_netconf(self, body: bytes, gone: bool) -> None:
        conf = rt.netconf(body)
        family = {rt.AF_INET: 4, rt.AF_INET6: 6}.get(body[0])
        if family is not None:
            self.dump_all |= self.view.netconf_changed(family, conf, gone)


_ALWAYS_HEARD = {rt.RTM_NEWLINK, rt.RTM_DELLINK, rt.RTM_DELNEIGH}
_ALWAYS_HEARD |= {rt.RTM_NEWNEXTHOP, rt.RTM_DELNEXTHOP}


def _silent(links: Iterable[rt.LinkInfo]) -> set[tuple[int, bool, int]]:
    """What may change of links without a notification: XDP programs, and what IPv6 sets."""
    return {(link.ifindex, link.xdp, link.mtu6) for link in links}


def _hash_policies() -> dict[int, int]:
    """What chooses the leg of a route that has several (ip-sysctl.rst), by family; 0, by the
    addresses, where the kernel does not say."""
    found = {4: 0, 6: 0}
    for family in found:
        with contextlib.suppress(OSError, ValueError):
            found[family] = int(Path(_HASH_POLICY.format(family)).read_text())
    return found


def _other_listeners() -> list[NetlinkListener]:
    """Notifications of packet filters and IPsec policies, where the kernel has them."""
    found = []
    for protocol, group in (
        (rt.NETLINK_NETFILTER, rt.NFNLGRP_NFTABLES),
        (rt.NETLINK_XFRM, rt.XFRMNLGRP_POLICY),
    ):
        with contextlib.suppress(OSError):
            found.append(NetlinkListener(protocol, (group,), 1 << 20))
    return found


class Daemon:
    """routerd."""

    def __init__(self, options: DaemonOptions) -> None:
        self.options = options
        self.kernel = Kernel(options.control, options.receive_buffer, options.carrier_grace_s)
        self.keeper = NeighbourKeeper()
        epoch = int.from_bytes(os.urandom(8), "big") or 1
        self.sender = Sender(options.router, epoch)
        self.link = None if options.dry_run else RuleTableLink(options.address)
        self._stopped = False
        self._send_after = 0.0
        self._dump_after = 0.0
        self._beyond_at = 0.0
        self._keep_at = 0.0
        self._unsent = False
        self._grace_until: float | None = None

    def stop(self, *_: object) -> None:
        """End the loop; may be called by a signal handler."""
        self._stopped = True

    def run(self) -> None:
        """Until `stop`.

        Raises OSError when the kernel refuses netlink altogether.
        """
        log.info(
            "started router=%s control=%s rule-table=%s epoch=%016x",
            self.options.router,
            self.options.control,
            self.options.address if self.link else "none (dry run)",
            self.sender.state.epoch,
        )
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        try:
            while not self._stopped:
                self._wait(woken)
                self._turn(time.monotonic())
        finally:
            signal.set_wakeup_fd(-1)
            os.close(woken)
            os.close(wake)
            self._end()

    def _wait(self, woken: int) -> None:
        poll = select.poll()
        for fileno in (*self.kernel.filenos(), *(self.link.filenos() if self.link else ()), woken):
            poll.register(fileno, select.POLLIN)
        now = time.monotonic()
        for fileno, _ in poll.poll(max(0.0, self._next(now) - now) * 1000):
            if fileno == woken:
                with contextlib.suppress(BlockingIOError):
                    os.read(woken, 512)

    def _next(self, now: float) -> float:
        due = [self._beyond_at, self._keep_at, self.sender.next_tick(now)]
        if self._grace_until is not None:
            due.append(self._grace_until)
        if self._tells_first():
            due.append(self._send_after)
        if self.kernel.needs_dump():
            due.append(self._dump_after)
        elif self.kernel.is_dirty():
            due.append(self._send_after)
        if self._unsent:
            due.append(now + 0.002)
        return min(due)

    def _turn(self, now: float) -> None:
        self.kernel.read()
        self._grace_until = self.kernel.expire(now)
        self._settle(now)
        if now >= self._beyond_at or self.kernel.look_beyond:
            self._beyond_at = now + BEYOND_S
            try:
                self.kernel.refresh_beyond(now)
            except rt.NetlinkError as error:
                self._beyond_at = now + REFUSED_S
                log.warning("look-failed error=%r: tried again", str(error))
            self._settle(now)
        if self.link is not None:
            self._converse(self.link, time.monotonic())
        if now >= self._keep_at:
            self._keep_at = now + KEEP_S
            self._keep(now)

    def _settle(self, now: float) -> None:
        """Tell what changed, if it is time."""
        kernel, told = self.kernel, self.sender.state
        if self._tells_first():
            self._tell_first(now)
            if kernel.look_first:
                return
        if kernel.needs_dump():
            if now < self._dump_after:
                return
            try:
                kernel.dump()
            except rt.NetlinkError as error:
                self._dump_after = time.monotonic() + 0.2
                log.warning("dump-failed error=%r: tried again", str(error))
                return
            self._tell_all(kernel.telling.state())
            if not self.options.dry_run:
                hasten_discovery(self.options.control)
                with contextlib.suppress(rt.NetlinkError):
                    kernel.mend_control()
            took = time.monotonic() - now
            self._dump_after = time.monotonic() + min(took, 5.0)
            log.debug("dumped routes=%d ms=%.1f", len(kernel.tables.routes), took * 1000)
        elif kernel.is_dirty() and now >= self._send_after:
            sections = kernel.telling.sections(told)
            if sections:
                self._tell(sections)

    def _tells_first(self) -> bool:
        """Whether something has to be told before everything is dumped."""
        kernel = self.kernel
        return kernel.look_first and bool(self.sender.state.nexthops or not kernel.needs_dump())

    def _tell_first(self, now: float) -> None:
        """Tell what links and next hop objects say, while the routes are as they were told."""
        kernel, told = self.kernel, self.sender.state
        if now < self._send_after:
            return
        try:
            kernel.dump_hops()
        except rt.NetlinkError as error:
            log.warning("dump-failed error=%r: everything is dumped again", str(error))
            kernel.look_first, kernel.dump_all = False, True
            return
        objects, unclear = kernel.telling.object_sections(told)
        kernel.dump_all |= unclear
        sections = kernel.telling.link_sections(told) + objects
        if sections:
            self._tell(sections)
            self._dump_after = max(self._dump_after, now + FIRST_S)

    def _tell_all(self, state: RouterState) -> None:
        """Tell what a dump has brought."""
        if self.options.dry_run:
            sections = self.sender.state.sections_to(state)
            if sections:
                self._tell(sections)
            return
        now = time.monotonic()
        try:
            effects = self.sender.become(state, now)
        except PackError as error:
            effects = self._through_vm(error, now)
        if self.link is not None:
            self._carry_out(self.link, effects, now)
        self._send_after = now + COALESCE_S
        self._keep_at = 0.0
        # Nothing of a full table is ever garbage in a circle: looking through it for some, again
        # and again, would hold up what happens meanwhile for a tenth of a second.
        gc.freeze()

    def _through_vm(self, error: PackError, now: float) -> Effects:
        """No message holds what there is to tell; each value is made to fit one, so that this is a
        mistake of ours.  The router lives on by its VM."""
        log.error("untellable error=%r: everything passes through the VM", str(error))
        return self.sender.become(self.kernel.telling.through_vm("routerd cannot tell all"), now)

    def _tell(self, sections: list[Section]) -> None:
        now = time.monotonic()
        try:
            effects = self.sender.change(sections, now)
        except (MessageError, PackError) as error:
            # Nothing has changed; what a dump says is never more than may be told.
            log.warning("change-refused error=%r: everything is dumped again", str(error))
            self.kernel.dump_all = True
            self._dump_after = max(self._dump_after, now + REFUSED_S)
            return
        self._send_after = now + COALESCE_S
        if self.link is not None:
            self._carry_out(self.link, effects, now)
        elif self.options.dry_run:
            print_sections(sections)
        log.debug("change seq=%d %s", self.sender.state.seq, describe(sections))
        if any(section.kind.name in ("NEXTHOP", "INTERFACE") for section in sections):
            self._keep_at = 0.0

    def _converse(self, link: RuleTableLink, now: float) -> None:
        for connected in link.events():
            if connected:
                log.info("connected to=%s seq=%d", link.address, self.sender.state.seq)
                self._carry_out(link, self.sender.connected(now), now)
            elif self.sender.link is not SenderState.DOWN:
                log.info("disconnected from=%s", link.address)
                self.sender.disconnected()
        for frames in link.received():
            self._carry_out(link, self.sender.receive(frames, now), now)
        self._carry_out(link, self.sender.tick(now), now)
        self._unsent = not link.flush()

    def _carry_out(self, link: RuleTableLink, effects: Effects, now: float) -> None:
        if effects.note:
            log.info("rule-table %s seq=%d", effects.note, self.sender.state.seq)
        try:
            sent = link.send(effects.messages)
        except PackError as error:  # a snapshot is packed while it is sent
            self._carry_out(link, self._through_vm(error, now), now)
            return
        if not sent:
            log.warning("backlog too long: beginning again")
            self.sender.disconnected()
            link.reopen()
        if effects.reconnect:
            link.reopen()

    def _keep(self, now: float) -> None:
        if self.options.dry_run or not self.options.keep_neighbours:
            return
        tables, told = self.kernel.tables, self.sender.state
        connected = connected_links(told.nexthops.values())
        gateways = tables.gateways(told)
        wanted = list(self.keeper.requests(gateways, connected, tables.neighbours, now))
        for (ifindex, family, address), managed in wanted:
            try:
                number = self.kernel.resolve(ifindex, family, address, managed)
            except rt.NetlinkError as error:
                log.warning("neighbour-failed error=%r: tried again", str(error))
                return
            if number in (errno.EINVAL, errno.EOPNOTSUPP) and managed:
                self.keeper.managed = False
                log.warning("this kernel manages no neighbours (5.16 does): probing them instead")
                return
            words = "neighbour ifindex=%d address=%x managed=%s errno=%d"
            log.debug(words, ifindex, address, managed, number)

    def _end(self) -> None:
        if not self.options.dry_run and self.options.keep_neighbours:
            for ifindex, family, address in self.keeper.ours(self.kernel.tables.neighbours):
                with contextlib.suppress(OSError):
                    self.kernel.resolve(ifindex, family, address, False)
        if self.link is not None:
            self.link.close()
        self.kernel.close()
        log.info("ended seq=%d", self.sender.state.seq)


def describe(sections: list[Section]) -> str:
    """A delta in a few words, for the log."""
    return " ".join(f"{s.kind.name}-{s.op.name}={len(s.records)}" for s in sections).lower()


def print_sections(sections: list[Section]) -> None:
    """A delta in full, for a dry run."""
    for section in sections:
        for record in section.records:
            print(section.op.name.lower(), section.kind.name.lower(), record, flush=True)


def read_once(control: str) -> RouterState:
    """The router's state as of now.

    Raises OSError.
    """
    with contextlib.closing(Kernel(control)) as kernel:
        kernel.dump()
        kernel.refresh_beyond(time.monotonic())
        return kernel.telling.state()
