#!/usr/bin/env python3
"""Starts XenFlow: `./pox.py xenflow [options]`, under POX where there is one, else alone.

POX is the OpenFlow controller noxrepo/pox. Where no checkout of it is found, the component runs
unchanged under `runtime/`, a small stand-in for POX's core. The first line on standard output
says which it is. Nothing is ever written into a POX checkout. `--help` says the rest.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from importlib import import_module

PROGRAM = os.path.realpath(__file__)
ROOT = os.path.dirname(PROGRAM)
COMPONENTS = os.path.join(ROOT, "pox_ext")
STAND_IN = os.path.join(ROOT, "runtime")
GUARD = os.path.join(ROOT, "runtime", "guard")
VENV = os.path.join(ROOT, ".venv")
_OF_PYPIS_POX = (os.path.join("pox", "shutils.py"), "shutils.py")
OLDEST_PYTHON = (3, 11)
NEEDED = ("zmq", "netaddr")
REEXECUTED = "XENFLOW_REEXECUTED"
LISTENER = "openflow.of_01"
LOOPBACK = "--address=127.0.0.1"
USAGE_ERROR = 2
INTERRUPTED = 130

HELP = """\
NAME
    pox.py - start the XenFlow controller of one host

SYNOPSIS
    ./pox.py [OPTION]... COMPONENT [--COMPONENT-OPTION[=VALUE]]... [COMPONENT ...]...

    ./pox.py xenflow --network=FILE
    ./pox.py --stand-in log.level --DEBUG openflow.of_01 --port=6634 xenflow --network=FILE
    ./pox.py --pox ../pox log.level --DEBUG forwarding.l2_learning xenflow --network=FILE

DESCRIPTION
    Runs components under POX, the OpenFlow controller noxrepo/pox (branch halosaur), where a
    checkout of it is found; else under a small stand-in for POX's core, which comes with
    XenFlow. The component xenflow is the same under both. The first line on standard output is
    one of

        core: POX VERSION at DIR
        core: stand-in

    A checkout is looked for in this order: --pox DIR, $POX_DIR, vendor/pox, ../pox (the last two
    beside this file). scripts/get-pox fetches one into vendor/pox. The package named "pox" on
    PyPI is an unrelated file-system library; it is not used.

OPTIONS
    These come before the first component.

    --pox DIR         use the POX checkout in DIR; an error where it is none
    --stand-in        use the stand-in even where a POX checkout is found
    -h, --help        print this help and exit
    --version         print which core would be used, and exit
    --verbose         log more, above all about the start
    --no-openflow     do not load OpenFlow
    --log-config=F    configure logging from a file

    POX takes these last three, and others of its own. For the help of its components:
    ./pox.py help --help; also under the stand-in: ./pox.py xenflow --help.

COMPONENTS
    xenflow           the virtual routers' data plane and its migration
        --network=FILE      the network file (default: $XENFLOW_NETWORK, else
                            /etc/xenflow/network.toml, else /run/xenflow/network.toml)
        --controller=NAME   which of its controllers this is (default: the only one, or the one
                            named as this machine)
        --manage=URL        where `xenflow` reaches it (default: as the file says)
        --state=DIR         where placements and rules are kept over a restart (default:
                            /var/lib/xenflow where the file is in /etc/xenflow, else nowhere)
        --routers=URL       where routers' sockets listen; {vif} and {router} stand for names
        --xenstore=PATH     xenstored's socket (default: /run/xenstored/socket)
    openflow.of_01 [--address=A] [--port=N]
                      where switches connect; may be named several times. Default: where the
                      network file has it (`openflow` of the controller), else 127.0.0.1, port
                      6633
    log.level [--LEVEL] [--NAME=LEVEL]
                      what is logged (DEBUG, INFO, WARNING, ERROR), by all or by one logger

    Under POX also all others of POX's own, such as forwarding.l2_learning. Any Python module
    with a function launch() is a component.

ENVIRONMENT
    POX_DIR           a POX checkout, where --pox is not given
    XENFLOW_STAND_IN  where set, as --stand-in, unless --pox is given

EXIT STATUS
    0                 ended by SIGTERM, or by a component
    1                 a component did not start, or the port for switches is taken
    2                 the command line is wrong, needs POX where there is none, or names no
                      network file where there is none to find
    130               ended by Ctrl-C

    SIGHUP does not end it: xenflow reads its network file anew, as `xenflow reload` has it do.

FILES
    pox_ext/          the components; on the module search path under both cores
    runtime/          the stand-in
    vendor/pox        where scripts/get-pox puts POX
    .venv/            a virtual environment whose Python is used where this one lacks something

SEE ALSO
    docs/pox.md
"""


class LaunchError(Exception):
    """The command line cannot be carried out: the operator's mistake."""


def use_venv() -> None:
    """Start again under `.venv/bin/python` where this Python is too old or lacks a module."""
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    too_old = sys.version_info < OLDEST_PYTHON
    again = os.environ.pop(REEXECUTED, None) is not None
    if not too_old and not lacking:
        return
    python = os.path.join(VENV, "bin", "python")
    if os.access(python, os.X_OK) and not again:
        os.environ[REEXECUTED] = "1"
        os.execv(python, [python, "-u", PROGRAM, *sys.argv[1:]])
    if too_old:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        raise LaunchError(f"Python {wanted} or later is needed, this is {sys.version.split()[0]}")
    # Without these the component itself will say what it misses; POX alone needs neither.


def is_pox(folder: str) -> bool:
    """Whether a folder is a checkout of the OpenFlow controller."""
    parts = ("boot.py", "core.py", os.path.join("openflow", "of_01.py"))
    return all(os.path.isfile(os.path.join(folder, "pox", part)) for part in parts)


def find_pox(asked: str | None) -> str | None:
    """The POX checkout to use, None where there is none. Raises LaunchError for a wrong one."""
    for origin, folder in (("--pox", asked), ("$POX_DIR", os.environ.get("POX_DIR"))):
        if not folder:
            continue
        if is_pox(folder):
            return os.path.realpath(folder)
        if not os.path.isdir(folder):
            what = "there is no such folder"
        elif any(os.path.isfile(os.path.join(folder, part)) for part in _OF_PYPIS_POX):
            what = "that is PyPI's 'pox', an unrelated file-system library"
        else:
            what = "that is no checkout of POX (noxrepo/pox, branch halosaur)"
        raise LaunchError(f"{origin} {folder}: {what}. scripts/get-pox fetches POX")
    for folder in (os.path.join(ROOT, "vendor", "pox"), os.path.join(ROOT, os.pardir, "pox")):
        if is_pox(folder):
            return os.path.realpath(folder)
    return None


def step_around_other_pox() -> None:
    """Make sure that `import pox` cannot mean PyPI's file-system library of that name."""
    for name in [each for each in sys.modules if each == "pox" or each.startswith("pox.")]:
        del sys.modules[name]
    try:
        found = importlib.util.find_spec("pox")
    except ValueError:
        found = None
    if found is not None and found.origin and os.path.realpath(found.origin) != PROGRAM:
        print(
            f"pox.py: {os.path.dirname(found.origin)} is an unrelated package of the name 'pox'; "
            "it is not used",
            file=sys.stderr,
        )


def read_own_options(words: list[str]) -> tuple[str | None, bool, bool, list[str]]:
    """Take the launcher's options out: `--pox` folder, `--stand-in`, `--version`, the rest."""
    folder: str | None = None
    stand_in = version = False
    rest: list[str] = []
    words = list(words)
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word in ("-h", "--help"):
            print(HELP, end="")
            raise SystemExit(0)
        if word == "--stand-in":
            stand_in = True
        elif word == "--version":
            version = True
        elif word == "--pox":
            if not words:
                raise LaunchError("--pox needs a folder")
            folder = words.pop(0)
        elif word.startswith("--pox="):
            folder = word[len("--pox=") :]
        else:
            rest.append(word)
    if stand_in and folder is not None:
        raise LaunchError("--stand-in and --pox exclude each other")
    if not words and not version:
        raise LaunchError("no component named; try ./pox.py xenflow, or ./pox.py --help")
    return folder, stand_in, version, rest + words


def with_listener(words: list[str]) -> tuple[list[str], list[list[str]]]:
    """A POX command line as its own options, and each component with its options; among them an
    OpenFlow listener: on 127.0.0.1 where the line names no address, where the network file says
    if it names no listener."""
    options: list[str] = []
    components: list[list[str]] = []
    for word in words:
        if not word.startswith("-"):
            components.append([word])
        else:
            (components[-1] if components else options).append(word)
    listeners = [each for each in components if each[0].split(":")[0] == LISTENER]
    for each in listeners:
        check_port(each)
        if not any(word.split("=")[0] == "--address" for word in each):
            each.append(LOOPBACK)
    if not listeners and "--no-openflow" not in options:
        # last: it opens its port when all is launched, wherever it stands
        components.append([LISTENER, *listens_at(components)])
    return options, components


def check_port(listener: list[str]) -> None:
    """Raises LaunchError where a listener's port is none: the cores would fail later, or not
    say."""
    for word in listener[1:]:
        option, _, value = word.partition("=")
        # isdecimal also takes digits of other scripts, and so does int
        if option == "--port" and not (value.isdecimal() and int(value) <= 65535):
            raise LaunchError(f"{listener[0]} {word}: a TCP port is a number from 0 to 65535")


def listens_at(components: list[list[str]]) -> list[str]:
    """The listener's options, by the network file that `xenflow` is given."""
    options = next((each[1:] for each in components if each[0] == "xenflow"), None)
    if options is None:
        return [LOOPBACK]
    given = dict(word.removeprefix("--").partition("=")[::2] for word in options)
    try:
        from xenflow import switches_connect_to

        address, port = switches_connect_to(given.get("network", ""), given.get("controller", ""))
    except ImportError:  # the component itself will say what it misses
        return [LOOPBACK]
    return [f"--address={address}", f"--port={port}"]


def run_stand_in(words: list[str]) -> int:
    """Run the stand-in. Returns the exit status."""
    step_around_other_pox()
    sys.path[:0] = [STAND_IN, COMPONENTS]
    sys.path.append(ROOT)  # last: this file must not be what `import pox` finds
    print("core: stand-in", flush=True)
    from pox.boot import boot

    return boot(*with_listener(words))


def run_pox(folder: str, words: list[str]) -> int:
    """Run POX from a checkout. Returns the exit status."""
    places = (os.path.join(folder, place, "xenflow") for place in ("ext", "pox"))
    shadow = next(filter(os.path.exists, places), None)
    if shadow and os.path.realpath(shadow) != os.path.join(COMPONENTS, "xenflow"):
        raise LaunchError(f"{shadow} would be loaded in place of this XenFlow: remove it")
    step_around_other_pox()
    # POX takes its own folder from sys.path[0], and puts its ext/ and pox/ before it.
    sys.path[:0] = [folder, COMPONENTS, GUARD]
    sys.path.append(ROOT)
    sys.dont_write_bytecode = True  # nothing is written into the checkout
    from pox.core import POXCore

    boot = import_module("pox.boot")
    version = ".".join(map(str, POXCore.version))
    print(f"core: POX {version} at {folder}", flush=True)

    interrupted = False

    def on_interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, on_interrupt)
    options, components = with_listener(words)
    # The guard is launched before all others: docs/pox.md says what it does.
    guarded = [*options, "xenflow_pox_guard", *(word for each in components for word in each)]
    launch = boot._do_launch

    def launch_or_end(words: list[str]) -> bool:
        """POX forgets the status of a component that ends the process as it is launched, and
        waits for the threads of those launched before."""
        try:
            return bool(launch(words))
        except SystemExit as end:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(_status(end))

    boot._do_launch = launch_or_end
    status = 0
    try:
        boot.boot(guarded)
    except SystemExit as end:
        status = _status(end)
    return INTERRUPTED if interrupted else status


def _status(end: SystemExit) -> int:
    """What the process that this ends returns."""
    if end.code is None:
        return 0
    return end.code if isinstance(end.code, int) else 1


def main() -> int:
    """Choose the core and run it. Returns the exit status."""
    try:
        folder, stand_in, version, words = read_own_options(sys.argv[1:])
        use_venv()
        if sys.path and os.path.realpath(sys.path[0] or ".") == ROOT:
            del sys.path[0]  # this file must not be what `import pox` finds
        stand_in = stand_in or (folder is None and bool(os.environ.get("XENFLOW_STAND_IN")))
        checkout = None if stand_in else find_pox(folder)
        if version:
            print(f"core: POX at {checkout}" if checkout else "core: stand-in")
            return 0
        if checkout is None:
            return run_stand_in(words)
        return run_pox(checkout, words)
    except LaunchError as error:
        print(f"pox.py: {error}", file=sys.stderr)
        return USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())
