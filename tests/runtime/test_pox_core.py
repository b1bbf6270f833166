"""The stand-in's events and registry."""
# ruff: noqa: N802, N815 - the names are POX's

from __future__ import annotations

import ast
from pathlib import Path

import pox.core
import pytest
from pox.lib.revent import Event, EventHalt, EventMixin, EventRemove, ReventError


class Ping(Event):
    def __init__(self, number=0):
        self.number = number


class Other(Event):
    pass


class Source(EventMixin):
    _eventMixin_events = frozenset({Ping})


def test_priority_halt_once_and_removal():
    source, calls = Source(), []
    source.addListener(Ping, lambda e: calls.append("low"))
    source.addListener(Ping, lambda e: calls.append("high"), priority=5)
    source.addListenerByName("Ping", lambda e: calls.append("once"), once=True)
    source.raiseEvent(Ping, 1)
    assert calls == ["high", "low", "once"]
    calls.clear()
    removing = source.addListener(Ping, lambda e: EventRemove)
    halting = source.addListener(Ping, lambda e: EventHalt, priority=1)
    event = source.raiseEvent(Ping, 2)
    assert calls == ["high"] and event.halt
    source.removeListener(halting)
    calls.clear()
    source.raiseEvent(Ping(3))
    assert calls == ["high", "low"]
    assert not source.removeListener(removing)


def test_no_event_is_made_where_nobody_listens():
    assert Source().raiseEvent(Ping, "no", "such", "arguments") is None


def test_undeclared_events_are_refused():
    with pytest.raises(ReventError):
        Source().addListener(Other, print)


def test_errors_are_logged_and_later_handlers_skipped(caplog):
    source, calls = Source(), []
    source.addListener(Ping, lambda e: 1 / 0)
    source.addListener(Ping, calls.append)
    assert source.raiseEventNoErrors(Ping) is None
    assert calls == [] and "Source!Ping" in caplog.text


def test_listeners_by_name_and_prefix():
    class Sink:
        seen = 0

        def _handle_Ping(self, event):
            self.seen += event.number

        def _handle_net_Ping(self, event):
            self.seen += 100 * event.number

    sink, source = Sink(), Source()
    source.addListeners(sink)
    source.addListeners(sink, prefix="net")
    source.raiseEvent(Ping, 2)
    assert sink.seen == 202


def test_components_and_dependencies():
    core = pox.core.StandInCore()

    class Sink:
        met = 0

        def _handle_net_Ping(self, event):
            self.number = event.number

        def _all_dependencies_met(self):
            self.met += 1

    sink = Sink()
    core.listen_to_dependencies(sink, components="store")
    source = Source()
    core.register("net", source)
    assert not sink.met
    core.register("store", object())
    assert sink.met == 1 and sink._net_ is source
    source.raiseEvent(Ping, 7)
    assert sink.number == 7
    assert core.hasComponent("net") and core.net is source
    with pytest.raises(AttributeError):
        core.nothing  # noqa: B018


def test_quit_from_the_loop():
    core = pox.core.StandInCore()
    seen = []
    for name in ("GoingUpEvent", "UpEvent", "GoingDownEvent", "DownEvent"):
        core.addListenerByName(name, lambda event: seen.append(type(event).__name__))
    core.addListenerByName("UpEvent", lambda event: core.quit(4))
    assert core.run() == 4
    assert seen == ["GoingUpEvent", "UpEvent", "GoingDownEvent", "DownEvent"]


def test_of_the_component_the_stand_in_knows_the_messages_alone():
    used = set()
    for path in Path(pox.core.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                used.add(node.module)
            elif isinstance(node, ast.Import):
                used |= {each.name for each in node.names}
    ours = {name for name in used if name.split(".")[0] == "xenflow"}
    assert ours and all(name.startswith("xenflow.openflow") for name in ours)
