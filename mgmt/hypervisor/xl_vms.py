"""Makes and ends routers' VMs on Xen: `xl` and what `install-dom0` has installed, in each Domain 0.

What a VM is made of is kept on every host (FOLDER), since it may be started on any.  Before one is
created every host is told to have its bridge's ports and the filter of the routers' control links
as the network is now: it may move to any of them, and nothing else filters what it says.

Called by the driver `xl`, which knows the hosts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection

from mgmt.at_once import at_once
from mgmt.hypervisor import Domain, HypervisorError
from mgmt.hypervisor.dom0 import Dom0
from mgmt.hypervisor.vm import OnLinks, RouterVm, addresses_of, from_json, to_json

FOLDER = "/var/lib/xenflow/router"
"""Of every host: the image, and what routers have of their own beside it."""
NETWORK_FILE = "/etc/xenflow/network.toml"
ROUTER_IMAGE = "/opt/xenflow/scripts/router-image"
KERNEL, INITRD = "vmlinuz-router", "initrd-router"
PORTS = "xenflow-ports.service"
"""Makes ports and filter; it is over when they are made."""
NO_DAEMON = "log stderr all;\nrouter id 0.0.0.1;\nprotocol device { }\n"
"""BIRD's configuration of a router without one: it does nothing."""
MEMORY_MIB = 128
CREATE_S = 120.0
SHUTDOWN_S = 10.0
"""So long a VM may take to end by itself."""


class XlVms:
    """A `VmMaker`.

    hosts   those with Xen
    dom0    the connection to one's Domain 0
    domain  where a router's VM is
    check   raises where somebody else may make and end VMs by now
    """

    changes_live = False

    def __init__(
        self,
        hosts: Collection[str],
        dom0: Callable[[str], Dom0],
        domain: Callable[[str], Domain | None],
        check: Callable[[], None],
    ) -> None:
        self._hosts = list(hosts)
        self._dom0 = dom0
        self._domain = domain
        self._check = check

    def may_make(self, vm: RouterVm, host: str) -> None:
        """There must be its image, and BIRD is all there is in that."""
        if vm.daemon == "frr":
            raise HypervisorError(f"{vm.router.name}: the router's image for Xen has BIRD, no FRR")
        if several := [name for name, text in vm.addresses.items() if "," in text]:
            words = "an interface has one address, an IPv4 one, in the router's image for Xen"
            raise HypervisorError(f"{vm.router.name}: {several[0]}: {words}")
        image = vm.router.image or FOLDER
        wanted = [f"{image}/{KERNEL}", f"{image}/{INITRD}", ROUTER_IMAGE]
        for name in self._hosts:
            there = self._dom0(name).ask("look", paths=wanted, folders=[])["there"]
            if missing := [path for path in wanted if path not in there]:
                raise HypervisorError(f"{name} has no {missing[0]}: docs/xen.md, steps 2 and 4")

    def keep(self, vm: RouterVm) -> None:
        """On every host."""
        name, text = vm.router.name, json.dumps(to_json(vm))

        def write(host: str) -> None:
            dom0 = self._dom0(host)
            dom0.ask("write", path=f"{FOLDER}/{name}.json", text=text)
            dom0.ask("write", path=f"{FOLDER}/{name}.bird.conf", text=vm.config or NO_DAEMON)

        at_once(write, self._hosts)

    def kept(self, router: str) -> RouterVm | None:
        """As the first host has it that has anything."""
        for host in self._hosts:
            done = self._dom0(host).run("cat", f"{FOLDER}/{router}.json")
            if not done["status"]:
                return from_json(json.loads(done["out"]))
        return None

    def on_links(self, routers: Collection[str]) -> OnLinks:
        """Of those that were made by verb; what others have is nowhere kept."""
        kept = filter(None, map(self.kept, routers))
        return OnLinks(tuple(one for vm in kept for one in addresses_of(vm)))

    def create(self, router: str, host: str) -> None:
        """Its files are written on every host: it may be started anew on any."""
        vm = self.kept(router)
        if vm is None:
            raise HypervisorError(f"{router}: nothing is kept of it")

        def prepare(name: str) -> None:
            dom0 = self._dom0(name)
            dom0.output("systemctl", "start", PORTS, timeout_s=CREATE_S)
            dom0.output(*_write_files(vm), timeout_s=CREATE_S)

        at_once(prepare, self._hosts)
        self._check()
        self._dom0(host).output("xl", "create", f"{FOLDER}/{router}.cfg", timeout_s=CREATE_S)

    def stop(self, router: str) -> None:
        """Asked first; destroyed where it does not end by itself."""
        there = self._domain(router)
        if there is None:
            return
        dom0 = self._dom0(there.host)
        self._check()
        dom0.run("xl", "shutdown", router)
        until = time.monotonic() + SHUTDOWN_S
        while self._domain(router) is not None:
            if time.monotonic() > until:
                self._check()
                dom0.output("xl", "destroy", router)
                return
            time.sleep(0.5)

    def forget(self, router: str) -> None:
        """On every host."""
        if there := self._domain(router):
            raise HypervisorError(f"{router} is on {there.host}: stop it first")
        paths = [f"{FOLDER}/{router}.{end}" for end in ("cfg", "initrd", "bird.conf", "json")]
        at_once(lambda host: self._dom0(host).output("rm", "-f", *paths), self._hosts)


def _write_files(vm: RouterVm) -> list[str]:
    """The command that writes a router's NAME.cfg and NAME.initrd; the network is the store's."""
    router = vm.router
    words = [ROUTER_IMAGE, "--config", router.name, "--network", NETWORK_FILE]
    words += ["--image", router.image or FOLDER, "--out", FOLDER]
    words += ["--bird", f"{FOLDER}/{router.name}.bird.conf"]
    words += ["--memory", str(router.memory or MEMORY_MIB)]
    for interface, address in vm.addresses.items():
        words += ["--address", f"{interface}={address}"]
    return words
