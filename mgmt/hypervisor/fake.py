"""A hypervisor for tests: each look at a job moves it one state on."""

from __future__ import annotations

from dataclasses import replace

from mgmt.hypervisor import Claim, Domain, Ended, HypervisorError, Job, JobState, Unclaimed

_NEXT = {JobState.PRECOPY: JobState.SUSPENDED, JobState.SUSPENDED: JobState.MOVED_PAUSED}


class Fake:
    """`hosts`: router -> host.  `fail_in`: the state in which a migration fails instead of going
    on.  `calls` is what it was told, in order."""

    name = "fake"
    emulated = True

    def __init__(self, hosts: dict[str, str], fail_in: JobState | None = None) -> None:
        self.hosts = dict(hosts)
        self.fail_in = fail_in
        self.claim: Claim = Unclaimed()
        self.calls: list[tuple[str, ...]] = []
        self._jobs: dict[str, Job] = {}

    def domain(self, router: str) -> Domain | None:
        return Domain(router, self.hosts[router], "running") if router in self.hosts else None

    def check(self, router: str, to: str) -> None:
        pass

    def migrate(self, router: str, to: str) -> Job:
        self.calls.append(("migrate", router, to))
        if router not in self.hosts:
            raise HypervisorError(f"no domain {router}")
        job = Job(str(len(self._jobs) + 1), router, to, JobState.PRECOPY)
        self._jobs[job.id] = job
        return job

    def job(self, id: str) -> Job:
        job = self._jobs[id]
        if job.state in _NEXT:
            if job.state is self.fail_in:
                job = replace(job, state=JobState.FAILED, detail="as the test wanted")
            else:
                job = replace(job, state=_NEXT[job.state])
            if job.state is JobState.MOVED_PAUSED:
                self.hosts[job.router] = job.to
            self._jobs[id] = job
        return job

    def unpause(self, router: str) -> None:
        self.calls.append(("unpause", router))
        for id, job in self._jobs.items():
            if job.router == router and job.state is JobState.MOVED_PAUSED:
                self._jobs[id] = replace(job, state=JobState.RUNNING)

    def abort(self, router: str, own: bool = False) -> Ended:
        self.calls.append(("abort", router))
        for id, job in self._jobs.items():
            if job.router == router and job.state in _NEXT:
                self._jobs[id] = replace(job, state=JobState.FAILED, detail="aborted")
        return Ended()

    def close(self) -> None:
        pass
