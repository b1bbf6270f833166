"""`xenflow router create|set|start|stop|destroy|rename`: one router, and its VM.

The network is changed as `xenflow apply` does it, by way of the store; once that is in force, the
hypervisor of the host makes the VM, and it is waited for until its routerd is heard.  What was
begun and not finished goes on when the same is said again: each step looks whether it is done.

A VM is made, and ended, under the router's lease, so that nobody moves it meanwhile, and of two who
start, stop or create it at once one is refused.  The store decides first: of two changes at once it
takes one.  A router that is stopped, or is no more, has no place, so its lease is every
controller's then; and while somebody holds it no controller takes a change of that router.

A router that is stopped stays in the network, with its number and all that is kept of its VM;
switches know nothing of it meanwhile.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

from mgmt.client import AskError, Unreachable, parted
from mgmt.edits import routers, without
from mgmt.hypervisor import UNKNOWN, Domain, Drivers, Hypervisor, HypervisorError, Unclaimed
from mgmt.hypervisor.vm import RouterVm, VmMaker, addresses_of
from mgmt.lease import RouterLease
from mgmt.lost import refuse_living
from mgmt.session import ManagementSession, UsageError, learn
from mgmt.verbs import Exit, add_dry_run, add_json, apply, complain, emit, refusal
from xenflow.model.addresses import unfit
from xenflow.model.network import Network, Router
from xenflow.store import laid_file

NAME = "router"
SUMMARY = "a router, and its VM, comes, changes, starts, stops or goes; by way of the store"
HEARD_S = 120.0
"""So long a VM may take until its routerd is heard: one on Xen boots."""
LOOK_S = 0.2
ENDED_S = 10.0
"""So long a VM that was ended may be seen still."""


class Maker(Hypervisor, Protocol):
    """A driver, with what of it makes VMs."""

    @property
    def vms(self) -> VmMaker:
        """That."""


def add_arguments(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="change", metavar="VERB", required=True)

    def verb(name: str, says: str) -> ArgumentParser:
        made = actions.add_parser(name, help=says, description=says[:1].upper() + says[1:])
        made.add_argument("router", metavar="ROUTER", help="its name")
        return made

    create = verb("create", "a router more; its VM is made, and waited for")
    create.add_argument("--on", metavar="HOST", required=True, help="where it runs")
    create.add_argument(
        "--interface",
        metavar=routers.FORM,
        action="append",
        required=True,
        help="an interface (may be repeated); a MAC address that is not given follows from names",
    )
    create.add_argument("--image", help="what its VM starts from (default: its hypervisor's)")
    create.add_argument("--memory", type=int, metavar="MIB", help="memory of its VM, in MiB")
    create.add_argument(
        "--config",
        metavar="FILE",
        default="",
        help="bird.conf or frr.conf, by its name (default: no daemon, its addresses' routes only)",
    )
    create.add_argument("--id", type=int, metavar="N", help="its number (default: the next)")
    change = verb("set", "a router changes; what its VM has at its start only comes then")
    change.add_argument(
        "--address",
        metavar="IF=ADDRESS/PREFIX[,ADDRESS/PREFIX...]",
        action="append",
        default=[],
        help="an interface's addresses, IPv4's and others (may be repeated)",
    )
    change.add_argument(
        "--mac",
        metavar="IF=MAC",
        action="append",
        default=[],
        help="an interface's MAC address, of a router that is stopped (may be repeated)",
    )
    change.add_argument("--image", help="what its VM starts from")
    change.add_argument("--memory", type=int, metavar="MIB", help="memory of its VM, in MiB")
    change.add_argument("--home", metavar="HOST", help="where it is started, if nothing is said")
    start = verb("start", "its VM is made of what is kept of it, and waited for")
    start.add_argument("--on", metavar="HOST", help="where (default: its home)")
    start.add_argument("--lost", metavar="OLD", help="the host where it ran, which is dead")
    verb("stop", "its VM ends; it stays in the network, and is started again")
    verb("destroy", "its VM ends, and it is no more")
    rename = verb("rename", "a router that is stopped has another name")
    rename.add_argument("new", metavar="NEW", help="the name it gets")
    for made in actions.choices.values():
        add_dry_run(made)
        add_json(made)


def run(args: Namespace, session: ManagementSession) -> int:
    apply.need_store(session)
    with Drivers(_without_host(session, getattr(args, "lost", None))) as drivers:
        work = _Work(args, session, drivers, lost=frozenset(apply.never_heard(session)))
        try:
            _DO[args.change](work)
        except _EndedError as error:
            return work.end(error.status, error.wrong)
        except (AskError, HypervisorError) as error:
            again = f"say it again to go on, once that is mended (made so far: {work.said})"
            status = Exit.UNREACHABLE if isinstance(error, Unreachable) else Exit.FAILED
            return work.end(status, [str(error), *([again] if work.did else [])])
        return work.end(Exit.OK, [])


def _without_host(session: ManagementSession, lost: str | None) -> Network:
    """The network without a host that is dead, of whose hypervisor nothing is asked."""
    network = session.network
    if lost is None:
        return network
    session.host(lost)
    return replace(network, datapaths=without(network.datapaths, lost))


class _EndedError(Exception):
    """It ends here."""

    def __init__(self, status: Exit, wrong: list[str]) -> None:
        super().__init__(*wrong)
        self.status, self.wrong = status, wrong


@dataclass
class _Work:
    """What is asked for, and what was done."""

    args: Namespace
    session: ManagementSession
    drivers: Drivers
    did: list[str] = field(default_factory=list)
    change: int = 0
    changed: dict[str, Any] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()
    """Controllers that are not asked: their host is dead, or they were never heard."""

    @property
    def name(self) -> str:
        return str(self.args.router)

    @property
    def network(self) -> Network:
        return self.session.network

    @property
    def said(self) -> str:
        return "; ".join(self.did) or "nothing"

    def done(self, words: str) -> None:
        """One step is."""
        self.did.append(words)
        if not self.args.json:
            print(words, flush=True)

    def end(self, status: Exit, wrong: list[str]) -> Exit:
        """Say what came of it."""
        for words in wrong:
            complain(words)
        value = {
            "ok": status is Exit.OK,
            "router": self.name,
            "change": self.change,
            "changed": self.changed,
            "did": self.did,
            "errors": wrong,
        }
        if status is not Exit.OK:
            value |= refusal("\n".join(wrong), status)
        if self.args.json:
            emit(self.args, value, "")
        elif not self.did and status is Exit.OK:
            print("nothing is to be done")
        return status

    def driver(self, host: str) -> Maker:
        """Who makes VMs at a host.  Raises NetworkError where the network names nobody."""
        return cast(Maker, self.drivers.of(host))

    def become(self, wanted: Network, dry_run: bool = False) -> None:
        """Have the network become another one, and wait until it is in force.

        Raises _EndedError where it does not.
        """
        file = f"router {self.args.change} {self.name}"
        text, after = apply.written(wanted, file, self.network)
        dry_run = dry_run or self.args.dry_run
        last = self.session.change
        _, answer, status, wrong = apply.change(
            self.session,
            text,
            file,
            after,
            last,
            dry_run=dry_run,
            lost=self.lost,
            unmoved={self.name},
        )
        if dry_run and not wrong:
            self.changed = answer.get("changed", {})
            return
        if answer.get("change"):
            self.change, self.changed = answer["change"], answer["changed"]
            said = "; ".join(apply.lines(self.changed))
            self.done(f"change {self.change}: {said}")
            self.session = ManagementSession(after, self.session.timeout_s, self.change)
        if status is not Exit.OK:
            again = ["say it again to go on, once that is mended"] if self.change else []
            raise _EndedError(status, [*wrong, *again])

    @contextmanager
    def holding(self, name: str, driver: Maker, doing: str) -> Iterator[None]:
        """Hold the lease of a router, or of a name; the driver asks for it before what it does.

        Raises AskError where somebody else has it, or has left a move unfinished, and _EndedError
        where the router has become another one.
        """
        entry = {"words": f"{doing} {name}", "brief": True}
        ask, holders = self.session.ask, self._holders(name)
        with RouterLease(ask, holders, name, entry, takes_over=False) as lease:
            now, _ = learn(self.network, self.session.timeout_s)
            known, found = (n.routers.get(name) for n in (self.network, now))
            if (known is None) is not (found is None) or (known and found and _other(known, found)):
                words = f"somebody else has changed {name} meanwhile (`xenflow history`)"
                raise _EndedError(Exit.FAILED, [f"{words}: look, and say it again"])
            driver.claim = lease
            try:
                yield
            finally:
                driver.claim = Unclaimed()

    def _holders(self, name: str) -> list[str]:
        """The controllers of where a router is, and has its home: of them any two who want it have
        one in common, and one who moves it has that of where it is.  Of one that is nowhere all."""
        network, router = self.network, self.network.routers.get(name)
        holders = list(network.controllers)
        if router is not None and router.running:
            hosts = {router.home, self.session.whereabouts(name).placement.vm}
            of_hosts = {network.datapaths[host].controller for host in hosts}
            holders = [controller for controller in holders if controller in of_hosts]
        return [controller for controller in holders if controller not in self.lost]

    def run_on(self, host: str, vm: RouterVm | None = None) -> None:
        """Have its VM run on a host, made of this or else of what is kept, and wait until its
        routerd is heard there."""
        driver = self.driver(host)
        if not self._runs_on(driver, host):
            with self.holding(self.name, driver, "a start of"):
                if not self._runs_on(driver, host):
                    self._make(driver, host, vm)
        self.await_heard(host)

    def _runs_on(self, driver: Maker, host: str) -> bool:
        there = driver.domain(self.name)
        if there is not None and there.host != host:
            raise HypervisorError(
                f"{self.name} is on {there.host} already, {there.state}: look there first"
            )
        return there is not None

    def _make(self, driver: Maker, host: str, vm: RouterVm | None) -> None:
        """Make its VM, and see that it is there."""
        if vm is None:
            _keep_anew(self, driver)
        else:
            driver.vms.keep(vm)
            for words in routers.lines(vm):
                self.done(words)
        failed = HypervisorError(
            f"{self.name} is not on {host}, though its VM was made: look there"
        )
        try:
            driver.vms.create(self.name, host)
        except HypervisorError as error:
            if error.code not in UNKNOWN:
                raise
            failed = error
        if not self._runs_on(driver, host):
            raise failed
        self.done(f"its VM is made on {host}")

    def end_vm(self, host: str, forget: bool = False) -> None:
        """End its VM, if there is one, and see that it is gone; `forget`: what is kept goes too."""
        driver = self.driver(host)
        if self.args.dry_run:
            self.done(f"its VM on {host} ends")
            return
        if not forget and driver.domain(self.name) is None:
            return
        with self.holding(self.name, driver, "an end of"):
            if there := driver.domain(self.name):
                with _if_moved():  # by somebody who was killed, and holds nothing any more
                    driver.abort(self.name)
                was = there.host
                driver.vms.stop(self.name)
                until = time.monotonic() + ENDED_S
                while there := driver.domain(self.name):
                    if time.monotonic() > until:
                        raise HypervisorError(f"{self.name} is on {there.host} still: look there")
                    time.sleep(LOOK_S)
                self.done(f"its VM on {was} is ended")
            if forget:
                driver.vms.forget(self.name)
                self.done("nothing of it is kept")

    def await_heard(self, host: str) -> None:
        """Raises _EndedError where it is not heard."""
        until = time.monotonic() + HEARD_S
        while True:
            answer = self.session.ask_datapath(host, "status", router=self.name)
            rows: list[dict[str, Any]] = answer["routers"]
            row = next((r for r in rows if r["name"] == self.name), {})
            if row.get("feed") == "local" and row["phase"] == "current" and not row["stale"]:
                self.done(f"its routerd is heard on {host}")
                return
            if time.monotonic() > until:
                words = (
                    f"{self.name} runs on {host}, and its routerd is not heard after {HEARD_S:g} s"
                )
                raise _EndedError(Exit.LATE, [f"{words}: look at it, and say it again to wait on"])
            time.sleep(LOOK_S)

    def buried(self) -> set[int]:
        """The numbers of routers that are gone, and not forgotten by all."""
        found: set[int] = set()
        for answer in parted(self.session.ask_all("network"))[0].values():
            try:
                rows = laid_file.from_json(answer).rows.get("Laid_Element", {})
            except laid_file.MISREAD:
                continue  # another release's; the planner looks again
            found |= {
                row["id"] for row in rows.values() if row["gone"] and isinstance(row["id"], int)
            }
        return found

    def home(self) -> str:
        """Where a router's VM is, as far as the switches were told; of one that is stopped, its
        home."""
        router = self.session.router(self.name)
        return self.session.whereabouts(self.name).placement.vm if router.running else router.home


# --- the verbs -----------------------------------------------------------------------------------


def _create(work: _Work) -> None:
    args, network = work.args, work.network
    host = work.session.destination(args.on).name
    there = network.routers.get(work.name)
    if there is not None and not (routers.is_as_asked(there, args) and there.running):
        raise UsageError(
            f"there is a router {work.name} already, another one: `xenflow router set` or `start`, "
            "or destroy it first"
        )
    for link in (routers.interface(text).link for text in args.interface):
        work.session.link(link)
    wanted = network if there is not None else routers.created(network, args, work.buried())
    vm = routers.vm_of(wanted, wanted.routers[work.name], args)
    driver = work.driver(host)
    driver.vms.may_make(vm, host)
    _refuse_unfit(work, driver, vm, dict.fromkeys(vm.addresses, "--interface"))
    runs = driver.domain(work.name) is not None
    if there is not None and runs and not _made_of(vm, driver.vms.kept(work.name)):
        raise UsageError(
            f"{work.name} runs already, with other addresses or another --config: `xenflow router "
            "set`, or destroy it first"
        )
    if args.dry_run:
        if there is None:
            work.become(wanted)
        for words in (*routers.lines(vm), f"its VM is made on {host}, and waited for"):
            work.done(words)
        return
    if there is None:
        work.become(wanted)
    work.run_on(host, replace(vm, router=work.network.routers[work.name]))


def _made_of(vm: RouterVm, kept: RouterVm | None) -> bool:
    """Whether what is kept of a VM, if anything, is what is asked for; of what the network does not
    say."""
    inside = ("addresses", "daemon", "config")
    return kept is None or all(getattr(kept, key) == getattr(vm, key) for key in inside)


def _refuse_unfit(work: _Work, driver: Maker, vm: RouterVm, options: Mapping[str, str]) -> None:
    """Raises UsageError where an address of a VM does not fit those that there are.

    options  by interface the option that says it; what none says is as it was
    """
    links = {interface.link for interface in vm.router.interfaces}
    near = {router.name for link in links for router, _ in work.network.members(link)} - {work.name}
    known = driver.vms.on_links(sorted(near))
    others = [one for one in known.members if one.node != work.name]
    wrong = [
        f"{options[one.who.interface]} {one.who.interface} on {one.who.link}: found {one.found}, "
        f"expected {one.expected}"
        for one in unfit([*others, *addresses_of(vm)], known.reserved)
        if one.who.node == work.name and one.who.interface in options
    ]
    if wrong:
        raise UsageError("\n".join(wrong))


def _stop(work: _Work) -> None:
    at = work.home()
    if work.network.routers[work.name].running:
        work.become(routers.changed(work.network, work.name, running=False))
    work.end_vm(at)


@contextmanager
def _if_moved() -> Iterator[None]:
    """There may be no migration to be given up."""
    try:
        yield
    except HypervisorError as error:
        if error.code not in ("no-migration", "too-late"):
            raise


def _start(work: _Work) -> None:
    args, router = work.args, work.session.router(work.name)
    if args.lost:
        work.lost |= _lost_controllers(work)
    at = work.home() if router.running and not args.lost else ""
    host = work.session.destination(args.on or at or router.home).name
    driver = work.driver(host)
    if driver.vms.kept(work.name) is None:
        raise UsageError(f"nothing is kept of {work.name}'s VM: it was not made by `router create`")
    there = driver.domain(work.name)
    on_lost = there is not None and there.host == args.lost
    if router.running and not on_lost and (there is not None or at == host):
        host = _goes_on(router, there, at, args.on)
    else:
        if router.running:  # the place of before is none that anybody may go back to
            work.become(routers.changed(work.network, work.name, running=False))
        if on_lost:  # one hypervisor for all hosts, as in the lab
            work.end_vm(host)
        shall = routers.changed(work.network, work.name, running=True, home=host)
        if not (args.dry_run and router.running):
            work.become(shall)
    if args.dry_run:
        work.done(f"its VM is made on {host}, and waited for")
        return
    work.run_on(host)


def _goes_on(router: Router, there: Domain | None, at: str, asked: str | None) -> str:
    """Where a router that shall run is, or is made again."""
    host = there.host if there is not None else at
    if asked is not None and asked != host:
        raise UsageError(f"{router.name} runs on {host}: `xenflow migrate {router.name} {asked}`")
    return host


def _lost_controllers(work: _Work) -> frozenset[str]:
    """The controller of a host that is dead.  Raises UsageError where it is not, or the router ran
    elsewhere."""
    lost, session, router = work.args.lost, work.session, work.session.router(work.name)
    if not work.args.on or work.args.on == lost:
        raise UsageError("--lost OLD goes with --on HOST, another one")
    name = session.host(lost).controller
    refuse_living(session, lost, work.name)
    if router.running and (at := work.home()) != lost:
        raise UsageError(f"{work.name} is at {at}, as far as any controller knows, not at {lost}")
    return frozenset((name,))


def _keep_anew(work: _Work, driver: Maker) -> None:
    """What is kept of its VM names the router as it is now."""
    router, kept = work.network.routers[work.name], driver.vms.kept(work.name)
    if kept is not None and not _same(kept.router, router):
        driver.vms.keep(replace(kept, router=router))


def _same(one: Router, other: Router) -> bool:
    return replace(one, running=True) == replace(other, running=True)


def _other(one: Router, other: Router) -> bool:
    """Whether a router has become another one; by which change it runs does not matter."""
    return replace(one, started=0) != replace(other, started=0)


def _set(work: _Work) -> None:
    args, router = work.args, work.session.router(work.name)
    other: dict[str, Any] = {}
    if args.mac:
        other["interfaces"] = routers.with_macs(router, args.mac).interfaces
        if router.running and other["interfaces"] != router.interfaces:
            raise UsageError(f"--mac: {work.name} runs with the ones it has: stop it first")
    if args.image is not None:
        other["image"] = args.image
    if args.memory is not None:
        other["memory"] = args.memory
    if args.home is not None:
        other["home"] = work.session.destination(args.home).name
    addresses = dict(routers.given(router, "--address", args.address))
    addresses = {name: routers.checked(name, text) for name, text in addresses.items()}
    if not other and not addresses:
        raise UsageError("nothing to be changed: --address, --mac, --image, --memory or --home")
    driver = work.driver(work.home())
    kept = driver.vms.kept(work.name)
    if kept is None and (addresses or other.keys() - {"home"}):
        raise UsageError(f"nothing is kept of {work.name}'s VM: it was not made by `router create`")
    shall = routers.changed(work.network, work.name, **other)
    if kept is not None and addresses:
        vm = replace(kept, addresses={**kept.addresses, **addresses})
        _refuse_unfit(work, driver, vm, dict.fromkeys(addresses, "--address"))
    if shall != work.network:
        work.become(shall)
    if kept is None or args.dry_run:
        return
    vm = replace(
        kept, router=work.network.routers[work.name], addresses={**kept.addresses, **addresses}
    )
    if vm != kept:
        driver.vms.keep(vm)
        runs = driver.domain(work.name) is not None
        later: list[str] = [name for name in ("image", "memory") if name in other]
        later += ["addresses"] if addresses and not driver.vms.changes_live else []
        when = f"; from its next start on: {', '.join(later)}" if runs and later else ""
        work.done(f"what is kept of its VM is changed{when}")


def _destroy(work: _Work) -> None:
    if work.name not in work.network.routers and (keeper := _keeper(work)):
        work.end_vm(keeper, forget=True)
        return
    at = work.home()
    work.become(routers.destroyed(work.network, work.name))
    work.end_vm(at, forget=True)


def _keeper(work: _Work) -> str | None:
    """A host whose hypervisor has something of a router that is in the network no more: a verb was
    broken off."""
    hosts = {
        host.name: work.driver(host.name) for host in work.network.hosts.values() if host.hypervisor
    }
    for name, driver in hosts.items():
        if driver.vms.kept(work.name) is not None or driver.domain(work.name) is not None:
            return name
    return None


def _rename(work: _Work) -> None:
    args, renamed = work.args, work.network.routers.get(work.args.new)
    if renamed is not None and work.name not in work.network.routers:
        driver = work.driver(renamed.home)
        kept, new = driver.vms.kept(work.name), driver.vms.kept(args.new)
        if kept is not None and _made_of(kept, new):  # it was broken off
            _keep_renamed(work, driver, kept)
            return
    router = work.session.router(work.name)
    if router.running:
        raise UsageError(
            f"{work.name} runs, and its VM, its vifs and its link to the Rule Table are called so: "
            f"that cannot change without loss: `xenflow router stop {work.name}` first"
        )
    driver = work.driver(router.home)
    kept = driver.vms.kept(work.name)
    work.become(routers.renamed(work.network, work.name, args.new, work.buried()))
    if kept is not None and not args.dry_run:
        _keep_renamed(work, driver, kept)


def _keep_renamed(work: _Work, driver: Maker, kept: RouterVm) -> None:
    new = work.args.new
    if not work.args.dry_run:
        with work.holding(new, driver, "a renaming to"):
            driver.vms.keep(replace(kept, router=work.network.routers[new]))
        with work.holding(work.name, driver, "a renaming of"):
            driver.vms.forget(work.name)
    work.done(f"what is kept of its VM is {new}'s")


_DO: dict[str, Callable[[_Work], None]] = {
    "create": _create,
    "set": _set,
    "start": _start,
    "stop": _stop,
    "destroy": _destroy,
    "rename": _rename,
}
