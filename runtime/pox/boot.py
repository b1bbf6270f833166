"""Starts the stand-in: launches the components of a POX command line, runs the loop.

Called by `pox.py`.
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
from types import FrameType
from typing import Any

import pox.core

USAGE_ERROR = 2
INTERRUPTED = 130


class CommandLineError(Exception):
    """The command line cannot be carried out: the operator's mistake."""


def read(words: list[str]) -> dict[str, Any]:
    """Options: `--name=value`, or `--name`, which is True."""
    split = (word.lstrip("-").partition("=") for word in words)
    return {name.replace("-", "_"): value if equals else True for name, equals, value in split}


def find(component: str) -> Any:
    """A component's launch function: of a module of the stand-in's, or else of any of that name."""
    for name in (f"pox.{component}", component):
        try:
            found = importlib.util.find_spec(name)
        except (ModuleNotFoundError, ValueError):
            found = None
        if found is not None:
            launch = getattr(importlib.import_module(name), "launch", None)
            if inspect.isfunction(launch):
                return launch
    raise CommandLineError(
        f"the stand-in for POX has no component '{component}'. POX has many: "
        "scripts/get-pox fetches it"
    )


def launch(component: str, function: Any, words: list[str], several: bool) -> None:
    """Launch a component with its options; as under POX, one that takes `__INSTANCE__` may be named
    several times."""
    options = read(words)
    signature = inspect.signature(function)
    if several and "__INSTANCE__" not in signature.parameters:
        raise CommandLineError(f"component '{component}' can be named only once")
    try:
        signature.bind(**options)
    except TypeError as error:
        known = [f"--{each.replace('_', '-')}" for each in signature.parameters if each[0] != "_"]
        raise CommandLineError(
            f"component '{component}': {error}. It takes: {' '.join(known) or 'no options'}"
        ) from None
    function(**options)


def set_up(words: list[str]) -> bool:
    """Apply POX's own options. Returns whether OpenFlow is wanted."""
    options = read(words)
    logging.basicConfig(format=logging.BASIC_FORMAT, level=logging.INFO)
    if options.pop("verbose", False):
        logging.getLogger().setLevel(logging.DEBUG)
    path = options.pop("log_config", None)
    if path is not None:
        if not os.path.exists(str(path)):
            raise CommandLineError(f"no such logging configuration: {path}")
        logging.config.fileConfig(path)
    openflow = not options.pop("no_openflow", False)
    for name in options:
        raise CommandLineError(f"unknown option --{name.replace('_', '-')}")
    return openflow


def _handle_signals(core: Any) -> None:
    def on_signal(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and not core.running:
            os._exit(INTERRUPTED)  # the second Ctrl-C does not wait
        core.quit(INTERRUPTED if number == signal.SIGINT else None)

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    reread = pox.core.RereadConfiguration
    signal.signal(signal.SIGHUP, lambda *_: core.raiseLater(core, reread))


def boot(options: list[str], components: list[list[str]]) -> int:
    """Run components until the process is to end. Returns the exit status.

    `options` are POX's own, `components` each a name and its options.
    """
    core = pox.core.initialize()
    names = [each[0] for each in components]
    try:
        if set_up(options):
            from pox.openflow import OpenFlowNexus

            core.register("openflow", OpenFlowNexus(core))
        found = [find(name) for name in names]
        for (_, *words), function in zip(components, found, strict=True):
            if "--help" in words:
                print(inspect.getdoc(function))
                return 0
        for (name, *words), function in zip(components, found, strict=True):
            launch(name, function, words, names.count(name) > 1)
    except CommandLineError as error:
        print(f"pox.py: {error}", file=sys.stderr)
        return USAGE_ERROR
    except Exception:
        logging.getLogger("boot").exception("a component did not start")
        return 1
    _handle_signals(core)
    return core.run()
