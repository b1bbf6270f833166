"""`core`: where components register and find each other, and how the process goes up and down.

The subset of POX's core that `docs/pox.md` lists. `pox.boot` makes it before it loads the first
component. `call_later` and `quit` may be called from any thread, all else from the loop's only.
"""
# ruff: noqa: N802, N815 - the names are POX's

from __future__ import annotations

import inspect
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


class ComponentRegistered(Event):
    """A component was registered under `name`."""

    def __init__(self, name: str, component: Any) -> None:
        self.name = name
        self.component = component


class _Waiter:
    """A callback that waits for components."""

    def __init__(
        self, callback: Callable[..., Any], components: list[str], args: Any, kw: Any, name: str
    ) -> None:
        self.callback = callback
        self.components = components
        self.args = args
        self.kw = kw
        self.name = name


class StandInCore(EventMixin):
    """The registry of components, and the life of the process."""

    _eventMixin_events = frozenset(
        {UpEvent, DownEvent, GoingUpEvent, GoingDownEvent, RereadConfiguration, ComponentRegistered}
    )
    version = (0, 8, 0)  # of the POX whose conventions these are
    version_name = "stand-in"

    def __init__(self) -> None:
        self.components: dict[str, Any] = {"core": self}
        self.debug = False
        self.running = True
        self.starting_up = True
        self.up = False
        self.scheduler = recoco.Scheduler()
        self._exit_code = 0
        self._waiters: list[_Waiter] = []

    @property
    def version_string(self) -> str:
        """What is running, for the log."""
        return "XenFlow's stand-in for POX"

    @property
    def banner(self) -> str:
        """What is running, for people."""
        return self.version_string

    # ---- components ------------------------------------------------------------------------

    def register(self, name: Any, component: Any = None) -> None:
        """Make `component` available as `core.NAME`; without a name, under its class's name."""
        if component is None:
            component = name
            name = getattr(component, "_core_name", type(component).__name__)
        if name in self.components:
            log.warning("Registered '%s' multiple times", name)
        self.components[name] = component
        self.raiseEventNoErrors(ComponentRegistered, name, component)
        self._try_waiters()

    def registerNew(self, component_class: Callable[..., Any], *args: Any, **kw: Any) -> Any:
        """Make an object and register it under its `_core_name` or its class's name."""
        component = component_class(*args, **kw)
        self.register(getattr(component, "_core_name", component_class.__name__), component)
        return component

    def hasComponent(self, name: str) -> bool:
        """Whether something is registered under this name."""
        return name in self.components

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["components"][name]
        except KeyError:
            raise AttributeError(f"'{name}' not registered") from None

    def call_when_ready(
        self,
        callback: Callable[..., Any],
        components: str | Iterable[str] = (),
        name: str | None = None,
        args: tuple[Any, ...] = (),
        kw: dict[str, Any] | None = None,
    ) -> None:
        """Call back, now or later, once all these components are registered."""
        wanted = [components] if isinstance(components, str) else list(components)
        label = name or str(getattr(callback, "__name__", callback))
        self._waiters.append(_Waiter(callback, wanted, args, kw or {}, label))
        self._try_waiters()

    def _try_waiters(self) -> None:
        for waiter in list(self._waiters):
            if waiter not in self._waiters:
                continue
            if all(each in self.components for each in waiter.components):
                self._waiters.remove(waiter)
                try:
                    waiter.callback(*waiter.args, **waiter.kw)
                except Exception:
                    log.exception("Exception while trying to notify %s", waiter.name)

    def listen_to_dependencies(
        self,
        sink: Any,
        components: str | Iterable[str] | None = None,
        attrs: bool = True,
        short_attrs: bool = False,
        listen_args: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        """Add `sink`'s methods `_handle_COMPONENT_Event` as handlers once the components exist.

        Then `sink._COMPONENT_` is each component, and `sink._all_dependencies_met()` is called.
        """
        wanted = {components} if isinstance(components, str) else set(components or ())
        for name in dir(sink):
            if name.startswith("_handle_") and name.count("_") >= 3:
                wanted.add("_".join(name.split("_")[2:-1]))

        def met() -> None:
            for each in wanted:
                component = self.components[each]
                if short_attrs:
                    setattr(sink, each, component)
                elif attrs:
                    setattr(sink, f"_{each}_", component)
                if isinstance(component, EventMixin):
                    extra = (listen_args or {}).get(each, {})
                    component.addListeners(sink, prefix=each, **extra)
            getattr(sink, "_all_dependencies_met", lambda: None)()

        self.call_when_ready(met, wanted, name=type(sink).__name__)

    def getLogger(self, name: str | None = None) -> logging.Logger:
        """A logger; without a name, one named after the calling module."""
        if name is None:
            frame = inspect.currentframe()
            caller = frame.f_back if frame else None
            name = str(caller.f_globals.get("__name__", "")) if caller else ""
            name = name.removeprefix("pox.")
        return logging.getLogger(name)

    # ---- calls -----------------------------------------------------------------------------

    def call_later(self, func: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """Call a function from the loop soon. Safe from any thread."""
        self.scheduler.callLater(func, *args, **kw)

    def call_delayed(
        self, seconds: float, func: Callable[..., Any], *args: Any, **kw: Any
    ) -> recoco.Timer:
        """Call a function after some seconds; the timer returned can be cancelled."""
        return recoco.Timer(seconds, func, args=args, kw=kw, scheduler=self.scheduler)

    callLater = call_later
    callDelayed = call_delayed

    def raiseLater(self, source: EventMixin, *args: Any, **kw: Any) -> None:
        """Raise an event on `source` from the loop soon. Safe from any thread."""
        self.scheduler.callLater(source.raiseEvent, *args, **kw)

    # ---- up and down -----------------------------------------------------------------------

    def goUp(self) -> None:
        """All components are launched: raise GoingUpEvent, and UpEvent from the loop."""
        self.starting_up = False
        self.raiseEvent(GoingUpEvent())
        self.call_later(self._is_up)

    def _is_up(self) -> None:
        if not self.running:
            return
        self.up = True
        self.raiseEventNoErrors(UpEvent())
        if self._waiters:
            missing = {c for w in self._waiters for c in w.components if c not in self.components}
            log.warning("Still waiting on %d component(s): %s", len(missing), ", ".join(missing))
        log.info("%s is up.", self.version_string)

    def quit(self, exit_code: int | None = None) -> None:
        """End the process in order. Safe from any thread and from signal handlers."""
        if exit_code is not None:
            self._exit_code = exit_code
        self.scheduler.callLater(self._go_down)

    def reread_configuration(self) -> None:
        """Say that SIGHUP has come.  Safe from any thread and from signal handlers."""
        self.scheduler.callLater(self.raiseEventNoErrors, RereadConfiguration())

    def _go_down(self) -> None:
        if not self.running:
            return
        self.running = False
        log.info("Going down...")
        self.raiseEventNoErrors(GoingDownEvent())
        self.scheduler.quit()

    def went_down(self) -> int:
        """The loop has ended: raise DownEvent. Returns the exit status."""
        self.running = False
        self.raiseEventNoErrors(DownEvent())
        log.info("Down.")
        return self._exit_code


core: Any = None


def initialize() -> StandInCore:
    """Make the one core of this process."""
    global core
    made = core = StandInCore()
    return made
