"""The `xenflow` command: one management entity for the whole network, from any node.

Everything it does is a verb (`mgmt/verbs/`, one file each); the table `VERBS` is the program.
It needs the network file and the controllers' management addresses, and no switch tools; what moves
virtual machines (plan, migrate, empty-host, recover) a login on the hosts, where the hypervisor is
Xen's.
"""

from __future__ import annotations

import logging
import os
import sys
from argparse import (
    REMAINDER,
    SUPPRESS,
    Action,
    ArgumentError,
    ArgumentParser,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, cast

from mgmt import needed  # noqa: F401  # first
from mgmt.client import TIMEOUT_S, AskError, BadAnswer, NotSent, Refused, Unreachable
from mgmt.hypervisor import HypervisorError
from mgmt.session import ManagementSession, UsageError, learn
from mgmt.text import run_program
from mgmt.verbs import (
    Command,
    Exit,
    apply,
    check,
    complain,
    confirm,
    diff,
    edit,
    empty_host,
    events,
    export,
    flows,
    history,
    links,
    migrate,
    mode,
    nexthops,
    plan,
    print_refusal,
    recover,
    refuse,
    reload,
    router,
    routers,
    routes,
    rule,
    rules,
    seconds,
    status,
    store,
    topology,
    trace,
    undo,
)
from xenflow.model.management import ManagementError
from xenflow.model.network import EMPTY, NetworkError
from xenflow.model.release import RELEASE
from xenflow.store import network_file

_LOOKING = (status, topology, routers, routes, nexthops, links, flows, trace, rules)
_LOOKING_AT_FILES = (check, diff, history, events, export)
_MOVING = (plan, migrate, empty_host, mode, recover)
_CHANGING = (rule, *_MOVING, reload, apply, confirm, undo, store, router)
VERBS = cast(tuple[Command, ...], _LOOKING + _LOOKING_AT_FILES + _CHANGING + edit.VERBS)

NETWORK_FILES = (Path("/etc/xenflow/network.toml"), Path("/run/xenflow/network.toml"))
"""Where the network file is looked for, after --network and $XENFLOW_NETWORK: what is installed on
this machine goes before a lab on it.  Where a lab is alone it goes before (`scripts/isolated`)."""

_EPILOG = f"""\
The network file is FILE of --network, else $XENFLOW_NETWORK, else the first that exists of
{" and ".join(map(str, NETWORK_FILES))}; with --lab NAME (or $XENFLOW_LAB) that of a lab.

exit status:
  0    done
  1    refused or failed, or only a part could be shown; standard error says why
  2    the command line or the network file is wrong; nothing was changed
  3    a controller that was needed did not answer
  4    `status`: everybody answered, and the network is not healthy
  5    by way of the store: the change is made, and not in force everywhere yet
  130  interrupted (Ctrl-C)

`xenflow VERB --help` explains a verb; docs/cli.md all of them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status.  Raises SystemExit for --help and usage errors."""
    argv = sys.argv[1:] if argv is None else argv
    return run_program("xenflow", lambda: _main(argv))


def _main(argv: Sequence[str]) -> int:
    try:
        args = build_parser(with_lab="lab" in argv).parse_args(argv)
        _log(args.verbose)
        return _run(args)
    except KeyboardInterrupt:
        complain("interrupted")
        return Exit.INTERRUPTED


def _run(args: Namespace) -> int:
    if args.module is None:
        return _run_lab(args)
    try:
        if args.lab:
            _enter(args.lab)
        network, change, file = EMPTY, 0, None
        if args.module not in (check, store):
            file = find_network_file(args.network_file)
            network = network_file.load(file)
            network, change = learn(network, args.timeout)
    except NetworkError as error:
        return refuse(args, error, Exit.USAGE)
    session = ManagementSession(network, args.timeout, change, file)
    module: Command = args.module
    try:
        return module.run(args, session)
    except Unreachable as error:
        return refuse(args, error, Exit.UNREACHABLE)
    except BadAnswer as error:
        return refuse(args, f"{error}; is the same release installed there?", Exit.FAILED)
    except (NotSent, ManagementError) as error:  # an argument that no controller would take
        return refuse(args, error.message, Exit.USAGE)
    except UsageError as error:
        return refuse(args, error, Exit.USAGE)
    except (AskError, HypervisorError, NetworkError) as error:
        # an argument that only a controller could judge, as the name of a port
        wrong = isinstance(error, Refused) and error.code == "bad-argument"
        return refuse(args, error, Exit.USAGE if wrong else Exit.FAILED)
    finally:
        session.close()


def _run_lab(args: Namespace) -> int:
    try:
        return int(args.run(args))
    except NetworkError as error:
        return refuse(args, error, Exit.USAGE if isinstance(error, UsageError) else Exit.FAILED)


def _enter(lab: str) -> None:
    """Go on where the lab of a name is.  Raises NetworkError where there is none."""
    try:
        from lab.cli import enter
    except ImportError as error:
        raise NetworkError(f"--lab: the lab is not installed here: {error}") from None
    enter(lab, sys.orig_argv)


def find_network_file(given: str | None) -> Path:
    """The file to read.  Raises NetworkError where there is none."""
    named = given or os.environ.get("XENFLOW_NETWORK")
    if named:
        return Path(named)
    alone = "XENFLOW_ISOLATED" in os.environ
    for path in NETWORK_FILES[::-1] if alone else NETWORK_FILES:
        if path.exists():
            return path
    places = " nor ".join(map(str, NETWORK_FILES))
    raise NetworkError(
        f"no network file: neither {places} exists; name one with --network or $XENFLOW_NETWORK"
    )


class _Parser(ArgumentParser):
    """Of a word that is none of those there are it says which one may be meant; verbs, and all
    below them, are parsed by the same class."""

    _words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._words = args or ()
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        print_refusal(Namespace(json="--json" in self._words), message, Exit.USAGE)
        super().error(message)

    def _check_value(self, action: Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except ArgumentError as error:
            names = [str(choice) for choice in action.choices or ()]
            close = get_close_matches(str(value), names, n=1)
            meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
            raise ArgumentError(action, f"unknown: {value}, {meant}") from error


def build_parser(with_lab: bool = True) -> ArgumentParser:
    """The whole command line; without `with_lab` the lab is only named, which is quicker."""
    parser = _Parser(
        prog="xenflow",
        description="Look at and change a XenFlow network.",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    release = f"xenflow {RELEASE}"
    parser.add_argument(
        "--version", action="version", version=release, help="print the release and exit"
    )
    _add_common(parser, None, TIMEOUT_S, 0, os.environ.get("XENFLOW_LAB", ""))
    parser.set_defaults(module=None)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, title="verbs")
    for module in VERBS:
        verb = verbs.add_parser(
            module.NAME,
            help=module.SUMMARY,
            description=_description(module),
            formatter_class=RawDescriptionHelpFormatter,
        )
        module.add_arguments(verb)
        # Given before or after the verb; SUPPRESS keeps the latter from undoing the former.
        for inner in (verb, *_inner_parsers(verb)):
            _add_common(inner, SUPPRESS, SUPPRESS, SUPPRESS, SUPPRESS)
        verb.set_defaults(module=module)
    if with_lab:
        _add_lab(verbs)
    else:
        verbs.add_parser("lab", help=_LAB_SUMMARY)
    return parser


def _description(module: Command) -> str:
    """A verb's docstring, without the `xenflow VERB:` it begins with."""
    text = (cast(Any, module).__doc__ or module.SUMMARY).strip()
    if text.startswith(f"`xenflow {module.NAME}"):
        text = text.partition("`: ")[2]
    return text[:1].upper() + text[1:]


def _inner_parsers(parser: ArgumentParser) -> list[ArgumentParser]:
    groups = [a for a in parser._actions if hasattr(a, "choices") and isinstance(a.choices, dict)]
    return [inner for group in groups for inner in cast(Any, group).choices.values()]


def _add_common(
    parser: ArgumentParser, network_file: Any, timeout: Any, verbose: Any, lab: Any
) -> None:
    """The options of every verb, and what they are where they are not given."""
    common = parser.add_argument_group("for every verb")
    common.add_argument(
        "--network",
        dest="network_file",
        metavar="FILE",
        default=network_file,
        help="the network file",
    )
    common.add_argument("--lab", metavar="NAME", default=lab, help="the lab of that name")
    common.add_argument(
        "--timeout",
        type=seconds,
        metavar="S",
        default=timeout,
        help=f"how long a controller may take to answer, in seconds ({TIMEOUT_S:g})",
    )
    common.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=verbose,
        help="say what is asked of whom, on standard error",
    )


_LAB_SUMMARY = "a whole network of namespaces on this machine"


def _add_lab(verbs: Any) -> None:
    """`lab` is a part of its own that an installation may leave out."""
    try:
        from lab.cli import add_parser
    except ImportError as error:
        reason = str(error)
        stub = verbs.add_parser("lab", help=_LAB_SUMMARY)
        stub.add_argument("rest", nargs=REMAINDER)
        stub.set_defaults(run=lambda _: _no_lab(reason))
        return
    add_parser(verbs)


def _no_lab(reason: str) -> int:
    complain(f"lab: not installed here: {reason}")
    return Exit.FAILED


def _log(verbose: int) -> None:
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, stream=sys.stderr, format="xenflow: %(message)s")
