"""Events: objects that raise them (`EventMixin`) call the handlers that were added to them.

The subset of POX's `revent` that docs/pox.md lists, with the same calling conventions. A handler
may return `EventHalt` (or True) to keep the event from later handlers, `EventRemove` (or False) to
be removed, or nothing.
"""
# ruff: noqa: N802, N803, N815 - the names are POX's

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from types import MappingProxyType
from typing import Any

Handler = Callable[..., Any]
ListenerId = tuple[type, int]

EventHalt = (True, False)
EventRemove = (False, True)

__all__ = ["Event", "EventHalt", "EventMixin", "EventRemove", "ReventError"]

_ids = count(1)


class ReventError(RuntimeError):
    """An event type was used that its source does not declare: the programmer's mistake."""


class Event:
    """Base of all events. `halt` stops later handlers."""

    halt = False


class EventMixin:
    """Base of objects that raise events; `_eventMixin_events` declares which."""

    _eventMixin_events: Any = frozenset()
    _eventMixin_handlers: Any = MappingProxyType({})
    """For each event priority, handler, whether once, and number; an object's own once it has any.
    """

    def raiseEvent(self, event: Any, *args: Any, **kw: Any) -> Any:
        """Call the handlers of an event, by falling priority, in the order they were added.

        `event` is an event, or an event class that is made from the arguments when somebody
        listens. Returns the event, or None where none was made. What a handler raises, passes.
        """
        kind = event if isinstance(event, type) else type(event)
        handlers = self._eventMixin_handlers.get(kind)
        if not handlers:
            return None if kind is event else event
        if kind is event:
            event = kind(*args, **kw)
        for _, handler, once, eid in tuple(handlers):
            answer = handler(event)
            if answer is None and not once and not event.halt:
                continue
            if once or answer is False or answer == EventRemove:
                self.removeListener((kind, eid))
            if answer is True or answer == EventHalt:
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
        *,
        priority: int = 0,
    ) -> ListenerId:
        """Add a handler for an event class.

        Returns what `removeListener` takes. Raises ReventError for an undeclared event.
        """
        if eventType not in self._eventMixin_events:
            raise ReventError(f"event {eventType} is not raised by {type(self).__name__}")
        if not self._eventMixin_handlers:
            self._eventMixin_handlers = {}
        eid = next(_ids)
        handlers = self._eventMixin_handlers.setdefault(eventType, [])
        handlers.append((priority, handler, once, eid))
        handlers.sort(key=lambda entry: -entry[0])
        return eventType, eid

    def addListenerByName(self, eventType: str, handler: Handler, **kw: Any) -> ListenerId:
        """`addListener` with the name of the event class."""
        named = (each for each in self._eventMixin_events if each.__name__ == eventType)
        return self.addListener(next(named, eventType), handler, **kw)

    def removeListener(self, handlerOrEID: Any) -> bool:
        """Remove a handler, by what `addListener` returned or by the handler itself."""
        removed = False
        for kind, handlers in self._eventMixin_handlers.items():
            kept = [h for h in handlers if handlerOrEID not in (h[1], (kind, h[3]))]
            removed = removed or len(kept) != len(handlers)
            handlers[:] = kept
        return removed

    def addListeners(self, sink: Any, prefix: str = "", *, priority: int = 0) -> list[ListenerId]:
        """Add each `_handle_[PREFIX_]EventName` method of `sink` for the event it names."""
        start = f"_handle_{prefix}_" if prefix else "_handle_"
        return [
            self.addListener(each, getattr(sink, start + each.__name__), priority=priority)
            for each in self._eventMixin_events
            if hasattr(sink, start + each.__name__)
        ]
