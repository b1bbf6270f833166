"""Starts the stand-in: reads a POX command line, launches the components, runs the loop.

`POX options, then COMPONENT [--option[=value] ...] ...`, as under POX. Called by `pox.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import logging.config
import os
import signal
import sys
import threading
import traceback
from types import FrameType, ModuleType
from typing import Any

import pox.core
from pox.lib.util import str_to_bool

log = logging.getLogger("boot")

USAGE_ERROR = 2
INTERRUPTED = 130


class UsageError(Exception):
    """The command line cannot be carried out: the operator's mistake."""


class Component:
    """A component as the command line names it: `NAME[:FUNCTION][=FIRST]` and its options."""

    def __init__(self, word: str) -> None:
        self.word, equals, self.first = word.partition("=")
        self.name, _, function = self.word.partition(":")
        self.function = function or "launch"
        self.arguments = (self.first,) if equals else ()
        self.options: dict[str, Any] = {}


def parse(words: list[str]) -> tuple[dict[str, Any], list[Component]]:
    """Split a command line into POX's own options and the components with theirs."""
    options: dict[str, Any] = {}
    components: list[Component] = []
    target = options
    for word in words:
        if word.startswith("-"):
            key, equals, value = word.lstrip("-").partition("=")
            target[key.replace("-", "_")] = value if equals else True
        else:
            components.append(Component(word))
            target = components[-1].options
    return options, components


def find(component: Component) -> ModuleType:
    """Import a component: a module of the stand-in's, or else any module of that name."""
    for name in (f"pox.{component.name}", component.name):
        try:
            found = importlib.util.find_spec(name)
        except (ModuleNotFoundError, ValueError):
            found = None
        if found is not None:
            module = importlib.import_module(name)
            if inspect.isfunction(getattr(module, component.function, None)):
                return module
    raise UsageError(
        f"the stand-in for POX has no component '{component.word}'. POX has many: "
        "scripts/get-pox fetches it"
    )


def launch(component: Component, module: ModuleType, instance: tuple[int, int, bool]) -> None:
    """Call a component's launch function with its options."""
    function = getattr(module, component.function)
    parameters = inspect.signature(function).parameters
    options = dict(component.options)
    if "__INSTANCE__" in parameters:
        options["__INSTANCE__"] = instance
    elif instance[1] != 1:
        raise UsageError(f"component '{component.name}' can be named only once")
    try:
        inspect.signature(function).bind(*component.arguments, **options)
    except TypeError as error:
        known = [f"--{each.replace('_', '-')}" for each in parameters if each != "__INSTANCE__"]
        raise UsageError(
            f"component '{component.name}': {error}. It takes: {' '.join(known) or 'no options'}"
        ) from None
    if function(*component.arguments, **options) is False:
        raise UsageError(f"component '{component.name}' refused to start")


def set_up(options: dict[str, Any]) -> bool:
    """Apply POX's own options. Returns whether OpenFlow is wanted."""
    openflow = True
    logging.basicConfig(format=logging.BASIC_FORMAT, level=logging.INFO)
    for name, value in options.items():
        match name:
            case "verbose":
                if str_to_bool(value):
                    logging.getLogger().setLevel(logging.DEBUG)
            case "no_openflow":
                openflow = not str_to_bool(value)
            case "enable_openflow":
                openflow = str_to_bool(value)
            case "log_config":
                path = "logging.cfg" if value is True else value
                if not os.path.exists(path):
                    raise UsageError(f"no such logging configuration: {path}")
                logging.config.fileConfig(path)
            case "unthreaded_sh" | "epoll_sh" | "threaded_selecthub" | "epoll_selecthub":
                pass  # this loop has one kind of waiting
            case _:
                raise UsageError(f"unknown option --{name.replace('_', '-')}")
    return openflow


def _handle_signals(core: Any) -> None:
    def on_signal(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and not core.running:
            os._exit(INTERRUPTED)  # the second Ctrl-C does not wait
        core.quit(INTERRUPTED if number == signal.SIGINT else None)

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGHUP, lambda *_: core.reread_configuration())


def boot(words: list[str]) -> int:
    """Run the stand-in with a command line until it ends. Returns the exit status."""
    core = pox.core.initialize()
    try:
        options, components = parse(words)
        openflow_wanted = set_up(options)
        if openflow_wanted:
            from pox.openflow import OpenFlowNexus

            core.register("openflow", OpenFlowNexus(core))
            if not any(each.name == "openflow.of_01" for each in components):
                components.append(Component("openflow.of_01"))
        modules = [find(each) for each in components]
        names = [each.word for each in components]
        for index, (component, module) in enumerate(zip(components, modules, strict=True)):
            nth, total = names[:index].count(component.word), names.count(component.word)
            launch(component, module, (nth, total, nth + 1 == total))
    except UsageError as error:
        print(f"pox.py: {error}", file=sys.stderr)
        return USAGE_ERROR
    except Exception:
        traceback.print_exc()
        print("pox.py: a component did not start, see above", file=sys.stderr)
        return 1
    _handle_signals(core)
    core.goUp()
    core.scheduler.run()
    status: int = core.went_down()
    sys.stdout.flush()
    if any(each.is_alive() and not each.daemon for each in threading.enumerate()[1:]):
        log.debug("waiting for threads of components")
    return status
