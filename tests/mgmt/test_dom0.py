"""A connection to a Domain 0, at its end and where something else than the agent speaks."""

from __future__ import annotations

import gc
import sys
import time
from typing import Any

import pytest

from mgmt.hypervisor import HypervisorError, dom0
from mgmt.hypervisor.dom0 import Dom0
from xenflow.model.hypervisor_spec import XlSpec


def connected(monkeypatch: pytest.MonkeyPatch, script: str, heard: list[Any]) -> Dom0:
    """To a shell that runs a script."""
    monkeypatch.setattr(dom0, "_command", lambda spec: ["sh", "-c", script])
    return Dom0("host-a", XlSpec(), heard.append)


def test_what_was_to_be_told_to_one_that_is_gone_is_left_to_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    heard: list[Any] = []
    made = connected(monkeypatch, "exec sleep 600", heard)
    process = made._process
    process.kill()
    process.wait(20.0)
    with pytest.raises(HypervisorError, match="the connection has ended") as raised:
        made.ask("run", argv=["true"], timeout_s=1.0)
    assert raised.value.code == "unreachable" and made.lost
    for reader in made._readers:
        reader.join(20.0)
    assert [event["event"] for event in heard] == ["lost"]
    assert process.stdin and process.stdout and process.stderr
    assert process.stdin.closed and process.stdout.closed and process.stderr.closed
    del made, raised
    gc.collect()
    assert complaints == []


def test_one_that_has_never_answered_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ssh to a host that is silent: it would try for 20 s, whoever presses Ctrl-C."""
    made = connected(monkeypatch, "exec sleep 600", [])
    begun = time.monotonic()
    made.close()
    assert time.monotonic() - begun < dom0.CLOSE_S / 2
    assert made._process.wait(20.0) < 0


@pytest.mark.parametrize("greeting", ["hello", "42", "null", '"event"', "[]"])
def test_a_shells_greeting_is_no_answer(monkeypatch: pytest.MonkeyPatch, greeting: str) -> None:
    answer = '{"id": 1, "ok": true, "status": 0}'
    script = f"read -r sources; read -r asked; echo '{greeting}'; echo '{answer}'; cat >/dev/null"
    made = connected(monkeypatch, script, [])
    assert made.run("true", timeout_s=20.0)["status"] == 0
    made.close()
