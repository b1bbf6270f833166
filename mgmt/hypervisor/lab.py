"""The lab's emulated hypervisor: routers are network namespaces, moved by a daemon.

The daemon answers JSON over ZeroMQ (docs/lab.md).  Nothing of the lab is imported: to the
management entity it is a hypervisor like any other, reached over the network.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from ipaddress import ip_interface, ip_network
from typing import Any

import zmq

from mgmt.hypervisor import Claim, Domain, GivenUp, HypervisorError, Job, JobState, Unclaimed
from mgmt.hypervisor import vm as vm_json
from mgmt.hypervisor.vm import OnLinks, RouterVm
from xenflow.model.addresses import OnLink

TIMEOUT_S = 10.0


class LabDriver:
    """The driver for `lab:tcp://ADDRESS:PORT`."""

    name = "lab"
    emulated = True
    changes_live = True

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self.url = url
        self.timeout_s = timeout_s
        self.claim: Claim = Unclaimed()
        self._socket: zmq.Socket[bytes] | None = None
        self.vms = self
        """It makes VMs, too."""

    def domain(self, router: str) -> Domain | None:
        return next((domain for domain in self._domains() if domain.router == router), None)

    def copies(self, host: str, routers: Collection[str]) -> list[str]:
        return [d.router for d in self._domains() if d.host == host and d.router in routers]

    def check(self, router: str, to: str) -> None:
        """The lab's hosts lack nothing."""

    def migrate(self, router: str, to: str) -> Job:
        self.claim.check()
        return self._job(self.ask("migrate", router=router, to=to, **self._owner), router, to)

    def job(self, id: str) -> Job:
        return self._job(self.ask("job", id=id))

    def unpause(self, router: str) -> None:
        self.claim.check()
        self.ask("unpause", router=router, **self._owner)

    def abort(self, router: str, own: bool = False) -> GivenUp:
        self.claim.check()
        self.ask("abort", router=router, **(self._owner if own else {}))
        return GivenUp((f"the migration of {router} was ended",))

    def may_make(self, vm: RouterVm, host: str) -> None:
        """The lab's hosts lack nothing."""

    def keep(self, vm: RouterVm) -> None:
        self.ask("keep", vm=vm_json.to_json(vm))

    def kept(self, router: str) -> RouterVm | None:
        found = self.ask("kept", router=router).get("vm")
        return None if found is None else vm_json.from_json(found)

    def on_links(self, routers: Collection[str]) -> OnLinks:
        """Of everybody in the lab."""
        answer = self.ask("addresses")
        try:
            members = tuple(
                OnLink(str(node), str(name), str(link), ip_interface(address))
                for node, name, link, address in answer["members"]
            )
            reserved = {name: ip_network(net) for name, net in answer["reserved"].items()}
            return OnLinks(members, reserved)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise HypervisorError(f"{self.url}: addresses: unexpected answer: {error!r}") from None

    def create(self, router: str, host: str) -> None:
        self.claim.check()
        self.ask("create", router=router, host=host)

    def stop(self, router: str) -> None:
        self.claim.check()
        self.ask("stop", router=router)

    def forget(self, router: str) -> None:
        self.ask("forget", router=router)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None

    @property
    def _owner(self) -> dict[str, str]:
        """Whose job it is; the daemon keeps it from others."""
        return {"owner": self.claim.owner} if self.claim.owner else {}

    def _domains(self) -> list[Domain]:
        answer = self.ask("domains")
        try:
            return [Domain(d["router"], d["host"], d["state"]) for d in answer["domains"]]
        except (KeyError, TypeError) as error:
            raise HypervisorError(f"{self.url}: domains: unexpected answer: {error!r}") from None

    def _job(self, answer: dict[str, Any], router: str = "", to: str = "") -> Job:
        try:
            found = answer.get("job", answer)
            return Job(
                id=str(found["id"]),
                router=found.get("router", router),
                to=found.get("to", to),
                state=JobState(found["state"]),
                detail=str(found.get("detail") or ""),
                suspended_s=found.get("suspended_s"),
                events=tuple(
                    (str(e["state"]), float(e["monotonic_s"])) for e in found.get("events", ())
                ),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise HypervisorError(f"{self.url}: job: unexpected answer: {error!r}") from None

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """One request, and the daemon's answer."""
        if self._socket is None:
            self._socket = zmq.Context.instance().socket(zmq.REQ)
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.connect(self.url)
        try:
            self._socket.send(json.dumps({"verb": verb, **arguments}).encode())
            if not self._socket.poll(round(self.timeout_s * 1000)):
                raise HypervisorError(
                    f"the lab's hypervisor at {self.url} did not answer {verb} within "
                    f"{self.timeout_s:g} s; is the lab up?",
                    "silent",
                )
            answer = json.loads(self._socket.recv())
        except (HypervisorError, zmq.ZMQError, ValueError) as error:
            self.close()  # a REQ socket without its answer cannot be used again
            if isinstance(error, HypervisorError):
                raise
            raise HypervisorError(
                f"the lab's hypervisor at {self.url}: {error}", "unreachable"
            ) from None
        if not isinstance(answer, dict):
            raise HypervisorError(f"the lab's hypervisor at {self.url}: expected an object")
        if not answer.get("ok", True) or "error" in answer:
            refusal = answer.get("error")
            reason = refusal.get("message") if isinstance(refusal, dict) else refusal
            code = refusal.get("code", "failed") if isinstance(refusal, dict) else "failed"
            raise HypervisorError(f"the lab's hypervisor refused {verb}: {reason}", str(code))
        return answer
