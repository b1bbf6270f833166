"""What has arrived for a router is counted by all flows that take it in, of whatever link."""

from __future__ import annotations

from typing import Any

import pytest

from tests.control.test_change import CAMPUS, Host
from xenflow.model.network import Pipeline
from xenflow.openflow.flow import Flow, match
from xenflow.tables import cookies, layout


@pytest.mark.parametrize("pipeline", list(Pipeline))
def test_each_flow_that_takes_in_counts(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(CAMPUS.network, pipeline)
    router = CAMPUS.network.routers["r3"]
    links = [i.link for i in router.interfaces]
    assert len(links) > 1
    of_exact = layout.REACTIVE_KIND, router.id
    for port, cookie in enumerate(
        (
            cookies.exact(router.id, 7),
            cookies.of(*of_exact, cookies.QUIET_CHUNK),
            cookies.exact(CAMPUS.network.routers["r1"].id, 7),
        ),
        1,
    ):
        what = match(in_port=port)
        host.wire.tables.add(Flow(layout.INGRESS, layout.Ingress.EXACT, what, (), cookie))
    stats = host.wire._stats

    def counted(message: bytes) -> list[Any]:
        return [each._replace(packets=1) for each in stats(message)]

    monkeypatch.setattr(host.wire, "_stats", counted)
    told: list[object] = []
    host.switch.reader.arrivals(router, told.append)
    host.wire.run()
    assert told == [len(links) + (pipeline is Pipeline.REACTIVE)]
