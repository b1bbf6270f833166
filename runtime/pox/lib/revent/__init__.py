"""Events: objects that raise them (`EventMixin`) call the handlers that were added to them.

The subset of POX's `revent` that the component and the stand-in use, with the same calling
conventions. A handler may return `EventHalt` (or True) to keep the event from later handlers,
`EventRemove` (or False) to be removed, or nothing.
Weak references and deferred events are left out.
"""
# ruff: noqa: N802, N803, N815 - the names are POX's

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

Handler = Callable[..., Any]
ListenerId = tuple[type, int]

EventContinue = (False, False)
EventHalt = (True, False)
EventRemove = (False, True)
EventHaltAndRemove = (True, True)

__all__ = [
    "Event",
    "EventContinue",
    "EventHalt",
    "EventHaltAndRemove",
    "EventMixin",
    "EventRemove",
    "ReventError",
    "autoBindEvents",
]

_ids = count(1)


class ReventError(RuntimeError):
    """An event type was used that its source does not declare: the programmer's mistake."""


class Event:
    """Base of all events. `source` is the object that raised it, `halt` stops later handlers."""

    halt = False
    source: Any = None


class EventMixin:
    """Base of objects that raise events; `_eventMixin_events` declares which."""

    _eventMixin_events: Any = frozenset()
    _eventMixin_handlers: dict[type, list[tuple[int, Handler, bool, int]]]

    def _handlers_by_type(self) -> dict[type, list[tuple[int, Handler, bool, int]]]:
        try:
            return self._eventMixin_handlers
        except AttributeError:
            self._eventMixin_handlers = {}
            return self._eventMixin_handlers

    def raiseEvent(self, event: Any, *args: Any, **kw: Any) -> Any:
        """Call the handlers of an event, by falling priority, in the order they were added.

        `event` is an event, or an event class that is made from the arguments when somebody
        listens. Returns the event, or None where none was made. What a handler raises, passes.
        """
        if isinstance(event, type):
            handlers = self._handlers_by_type().get(event)
            if not handlers:
                return None
            event = event(*args, **kw)
            args, kw = (), {}
        else:
            handlers = self._handlers_by_type().get(type(event))
            if not handlers:
                return event
        if event.source is None:
            event.source = self
        for _, handler, once, eid in tuple(handlers) if len(handlers) > 1 else handlers:
            answer = handler(event, *args, **kw)
            if answer is None and not once:
                if event.halt:
                    break
                continue
            if answer is True:
                halt, remove = True, False
            elif isinstance(answer, tuple):
                halt = not answer or bool(answer[0])
                remove = len(answer) > 1 and bool(answer[1])
            else:
                halt, remove = False, answer is False
            if once or remove:
                self.removeListener((type(event), eid))
            if halt:
                event.halt = True
            if event.halt:
                break
        return event

    def raiseEventNoErrors(self, event: Any, *args: Any, **kw: Any) -> Any:
        """As `raiseEvent`, but what a handler raises is logged; the later handlers are skipped."""
        try:
            return self.raiseEvent(event, *args, **kw)
        except Exception:
            name = event.__name__ if isinstance(event, type) else type(event).__name__
            logging.getLogger("core").exception(
                "Exception while handling %s!%s", type(self).__name__, name
            )
            return None

    def addListener(
        self,
        eventType: Any,
        handler: Handler,
        once: bool = False,
        weak: bool = False,
        priority: int = 0,
        byName: bool = False,
    ) -> ListenerId:
        """Add a handler for an event class (or, with `byName`, the class's name).

        Returns what `removeListener` takes. Raises ReventError for an undeclared event.
        """
        if weak:
            raise ReventError("the stand-in has no weak listeners")
        found = None
        for declared in self._eventMixin_events:
            if declared is eventType or (byName and declared.__name__ == eventType):
                found = declared
        if found is None:
            raise ReventError(f"event {eventType} is not raised by {type(self).__name__}")
        eid = next(_ids)
        handlers = self._handlers_by_type().setdefault(found, [])
        handlers.append((priority, handler, once, eid))
        handlers.sort(key=lambda entry: -entry[0])
        return found, eid

    def addListenerByName(self, eventType: str, handler: Handler, **kw: Any) -> ListenerId:
        """`addListener` with the name of the event class."""
        return self.addListener(eventType, handler, byName=True, **kw)

    def add_listener(
        self,
        handler: Handler,
        event_type: type | None = None,
        event_name: str | None = None,
        **kw: Any,
    ) -> ListenerId:
        """`addListener`; the event may follow from a handler's name, `_handle_[...]_EventName`."""
        if event_type is not None:
            return self.addListener(event_type, handler, **kw)
        name = event_name or handler.__name__.rsplit("_", 1)[-1]
        return self.addListener(name, handler, byName=True, **kw)

    def removeListener(self, handlerOrEID: Any, eventType: type | None = None) -> bool:
        """Remove a handler, by what `addListener` returned or by the handler itself."""
        removed = False
        for kind, handlers in self._handlers_by_type().items():
            if eventType is not None and kind is not eventType:
                continue
            if isinstance(handlerOrEID, tuple):
                kept = [h for h in handlers if (kind, h[3]) != handlerOrEID]
            elif isinstance(handlerOrEID, int):
                kept = [h for h in handlers if h[3] != handlerOrEID]
            else:
                kept = [h for h in handlers if h[1] != handlerOrEID]
            removed = removed or len(kept) != len(handlers)
            handlers[:] = kept
        return removed

    def removeListeners(self, listeners: Iterable[Any]) -> bool:
        """Remove several; True when any was there."""
        removed = [self.removeListener(each) for each in listeners]
        return any(removed)

    def addListeners(
        self, sink: Any, prefix: str = "", weak: bool = False, priority: int = 0
    ) -> list[ListenerId]:
        """Add each `_handle_[PREFIX_]EventName` method of `sink` for the event it names."""
        return autoBindEvents(sink, self, prefix, weak, priority)

    def listenTo(self, source: EventMixin, *args: Any, **kw: Any) -> list[ListenerId]:
        """The reverse of `addListeners`: this object's methods listen to `source`."""
        return autoBindEvents(self, source, *args, **kw)

    def clearHandlers(self) -> None:
        """Remove all handlers."""
        self._eventMixin_handlers = {}


def autoBindEvents(
    sink: Any, source: EventMixin, prefix: str = "", weak: bool = False, priority: int = 0
) -> list[ListenerId]:
    """Add the methods of `sink` that are named after events of `source` as handlers."""
    start = f"_handle_{prefix}_" if prefix else "_handle_"
    declared = {each.__name__: each for each in source._eventMixin_events}
    return [
        source.addListener(declared[name[len(start) :]], getattr(sink, name), priority=priority)
        for name in dir(type(sink))
        if name.startswith(start) and name[len(start) :] in declared
    ]
