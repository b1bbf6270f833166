"""Speaks to the lab's emulated hypervisor: what the lab's own tests ask of it.

A refusal is a `HypervisorError` with the daemon's code; silence is one with the code "silent".
"""

from __future__ import annotations

import time
from typing import Any, Self

from mgmt.hypervisor import HypervisorError
from mgmt.hypervisor.lab import LabDriver


class HypervisorClient:
    """One connection to the daemon at tcp://`url`; `ask` is the management entity's own."""

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self._driver = LabDriver(f"tcp://{url}", timeout_s)
        self.ask, self.close = self._driver.ask, self._driver.close

    def hosts(self) -> list[dict[str, Any]]:
        """[{host, routers}]."""
        found: list[dict[str, Any]] = self.ask("hosts")["hosts"]
        return found

    def domains(self) -> list[dict[str, str]]:
        """[{router, host, state}], state running, paused or suspended."""
        found: list[dict[str, str]] = self.ask("domains")["domains"]
        return found

    def host_of(self, router: str) -> str:
        """Where a router is."""
        return next(d["host"] for d in self.domains() if d["router"] == router)

    def migrate(self, router: str, to: str, pause_s: float | None = None) -> dict[str, Any]:
        """Begin a migration; returns the job."""
        more = {} if pause_s is None else {"pause_s": pause_s}
        return self._job("migrate", router=router, to=to, **more)

    def job(self, id: str) -> dict[str, Any]:
        """{id, router, from, to, state, detail, suspended_s, events [{state, monotonic_s}]}."""
        return self._job("job", id=id)

    def unpause(self, router: str) -> dict[str, Any]:
        """Let a router that has arrived, or was paused, run."""
        return self.ask("unpause", router=router).get("job", {})  # type: ignore[no-any-return]

    def pause(self, router: str) -> None:
        """Stop a router where it is."""
        self.ask("pause", router=router)

    def abort(self, router: str) -> dict[str, Any]:
        """Bring a router that is being migrated back; returns the job."""
        return self._job("abort", router=router)

    def set(self, **settings: Any) -> dict[str, Any]:
        """Change pause_s, precopy_s, resume_after_s or fail_at, also of a move under way that has
        no pause of its own; returns all of them."""
        found: dict[str, Any] = self.ask("set", **settings)["settings"]
        return found

    def await_state(self, id: str, *states: str, limit_s: float = 120.0) -> dict[str, Any]:
        """Poll a job until it is in one of some states or over.

        Raises HypervisorError where that takes longer than the limit.
        """
        end = time.monotonic() + limit_s
        while True:
            job = self.job(id)
            if job["state"] in states or job["state"] in ("running", "failed"):
                return job
            if time.monotonic() > end:
                raise HypervisorError(f"migration {id}: still {job['state']}", "late")
            time.sleep(0.005)

    def move(self, router: str, to: str, pause_s: float | None = None) -> dict[str, Any]:
        """A whole migration: begun, waited for, let run.

        Raises HypervisorError where it fails.
        """
        job = self.await_state(self.migrate(router, to, pause_s)["id"], "moved_paused")
        if job["state"] == "failed":
            raise HypervisorError(f"{router}: {job['detail']}", "failed")
        return self.unpause(router)

    def _job(self, verb: str, **arguments: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(verb, **arguments)["job"]
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
