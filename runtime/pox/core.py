"""`core`: where components register and find each other, and how the process goes up and down.

The subset of POX's core that `docs/pox.md` lists. `pox.boot` makes it before it loads the first
component. `call_later` and `quit` may be called from any thread, all else from the loop's only.
"""
# ruff: noqa: N802, N815 - the names are POX's

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from pox.lib import recoco
from pox.lib.revent import Event, EventMixin

log = logging.getLogger("core")


class GoingUpEvent(Event):
    """All components have been launched; listeners open now."""


class UpEvent(Event):
    """Everything is up."""


class GoingDownEvent(Event):
    """The process is about to end; connections are still open and what is sent now leaves."""


class DownEvent(Event):
    """The loop has ended."""


class RereadConfiguration(Event):
    """SIGHUP has come."""


class StandInCore(EventMixin):
    """The registry of components, and the life of the process."""

    _eventMixin_events = frozenset(
        {UpEvent, DownEvent, GoingUpEvent, GoingDownEvent, RereadConfiguration}
    )
    version_string = "XenFlow's stand-in for POX"

    def __init__(self) -> None:
        self.components: dict[str, Any] = {"core": self}
        self.running = True
        self.scheduler = recoco.Scheduler()
        self._exit_code = 0
        self._waiters: list[tuple[set[str], Callable[[], Any]]] = []

    # ---- components ------------------------------------------------------------------------

    def register(self, name: str, component: Any) -> None:
        """Make `component` available as `core.NAME`."""
        if name in self.components:
            log.warning("Registered '%s' multiple times", name)
        self.components[name] = component
        self._call_ready()

    def hasComponent(self, name: str) -> bool:
        """Whether something is registered under this name."""
        return name in self.components

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["components"][name]
        except KeyError:
            raise AttributeError(f"'{name}' not registered") from None

    def call_when_ready(self, callback: Callable[[], Any], components: str | Iterable[str]) -> None:
        """Call back, now or later, once all these components are registered."""
        wanted = {components} if isinstance(components, str) else set(components)
        self._waiters.append((wanted, callback))
        self._call_ready()

    def _call_ready(self) -> None:
        for waiter in list(self._waiters):
            wanted, callback = waiter
            if waiter in self._waiters and wanted <= self.components.keys():
                self._waiters.remove(waiter)
                try:
                    callback()
                except Exception:
                    log.exception("Exception while trying to notify %s", callback)

    def listen_to_dependencies(self, sink: Any, components: str | Iterable[str] = ()) -> None:
        """Add `sink`'s methods `_handle_COMPONENT_Event` as handlers once the components exist.

        Then `sink._COMPONENT_` is each component, and `sink._all_dependencies_met()` is called.
        """
        wanted = {components} if isinstance(components, str) else set(components)
        for name in dir(sink):
            if name.startswith("_handle_") and name.count("_") >= 3:
                wanted.add("_".join(name.split("_")[2:-1]))

        def met() -> None:
            for each in wanted:
                component = self.components[each]
                setattr(sink, f"_{each}_", component)
                if isinstance(component, EventMixin):
                    component.addListeners(sink, prefix=each)
            getattr(sink, "_all_dependencies_met", lambda: None)()

        self.call_when_ready(met, wanted)

    def getLogger(self, name: str) -> logging.Logger:
        """A logger."""
        return logging.getLogger(name)

    # ---- calls -----------------------------------------------------------------------------

    def call_later(self, func: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """Call a function from the loop soon. Safe from any thread."""
        self.scheduler.callLater(func, *args, **kw)

    def call_delayed(
        self, seconds: float, func: Callable[..., Any], *args: Any, **kw: Any
    ) -> recoco.Timer:
        """Call a function after some seconds; the timer returned can be cancelled."""
        return recoco.Timer(seconds, func, args=args, kw=kw)

    def raiseLater(self, source: EventMixin, *args: Any, **kw: Any) -> None:
        """Raise an event on `source` from the loop soon. Safe from any thread."""
        self.call_later(source.raiseEvent, *args, **kw)

    # ---- up and down -----------------------------------------------------------------------

    def run(self) -> int:
        """All components are launched: go up, serve until `quit`, and go down. Returns the exit
        status."""
        self.raiseEvent(GoingUpEvent())
        self.call_later(self._is_up)
        self.scheduler.run()
        self.raiseEventNoErrors(DownEvent())
        log.info("Down.")
        return self._exit_code

    def _is_up(self) -> None:
        if not self.running:
            return
        self.raiseEventNoErrors(UpEvent())
        missing = {name for wanted, _ in self._waiters for name in wanted - set(self.components)}
        if missing:
            log.warning("Still waiting for components: %s", ", ".join(sorted(missing)))
        log.info("%s is up.", self.version_string)

    def quit(self, exit_code: int | None = None) -> None:
        """End the process with an exit status. Safe from any thread and from signal handlers."""
        if exit_code is not None:
            self._exit_code = exit_code
        self.call_later(self._go_down)

    def _go_down(self) -> None:
        if not self.running:
            return
        self.running = False
        log.info("Going down...")
        self.raiseEventNoErrors(GoingDownEvent())
        self.scheduler.quit()


core: Any = None


def initialize() -> StandInCore:
    """Make the one core of this process."""
    global core
    made = core = StandInCore()
    return made
