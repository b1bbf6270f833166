"""`xenflow store`: makes, starts, shows and stops a member of the store, on this machine.

As `python -m xenflow.store` it is what units and `scripts/install-dom0` run.  What it does is
`server.StoreServer`'s; docs/store.md has the whole way.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from xenflow.store.certificates import Certificates
from xenflow.store.server import StoreServer, StoreServerError

LOOK_S = 2.0
"""So long a member may take to say that it is in touch with a majority."""


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 where it cannot be done, 2 for a wrong argument."""
    try:
        carry_out(parser().parse_args(words))
    except StoreServerError as error:
        print(f"xenflow: store: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line, as units have it."""
    made = argparse.ArgumentParser(
        prog="python -m xenflow.store",
        description="One member of the store's cluster, on this machine: as `xenflow store`.",
        epilog="exit status: 0 done, 1 failed, 2 wrong usage.  docs/store.md has the whole way.",
    )
    add_verbs(made)
    return made


def carry_out(asked: argparse.Namespace) -> None:
    """Do what the command line says.  Raises StoreServerError where that cannot be done."""
    places = getattr(asked, "listen", ())
    member = getattr(asked, "member", "")
    tls = Certificates(asked.tls.absolute()) if getattr(asked, "tls", None) else None
    server = StoreServer(asked.folder.absolute(), member, tuple(map(_listening, places)), tls)
    # The server would run, say so in its log, and be reached by nobody.
    for place in (member, *places):
        if place and server.pid() is None:
            _can_listen(place)
    match asked.change:
        case "init":
            server.create()
            print(f"made: start it with `xenflow store start {asked.folder}`")
        case "join":
            server.join(*asked.others)
            print(f"made: it joins when it is started (`xenflow store start {asked.folder}`)")
        case "start":
            server.start()
            print(f"runs as process {server.pid()}, and listens at {server.remote}", end="")
            print("".join(f" {each}" for each in places))
        case "status":
            print(server.shown())
        case "upgrade":
            upgraded = server.upgrade()
            print("has the tables of this release" + ("" if upgraded else " already"))
        case "backup":
            server.backup(asked.file)
            words = "all of the store, as it is now"
            if not server.takes_part(LOOK_S):
                words = (
                    "what this member has; it reaches no majority: look whether another has more "
                    "(`xenflow store status`)"
                )
            print(f"{asked.file}: {words}")
        case "restore":
            server.restore(asked.file)
            print(
                f"made, as a new store: start it with `xenflow store start {asked.folder}`; then, "
                "on one host after the other, move laid.json out of the controller's state folder "
                "and restart the controller (docs/store.md)"
            )
        case "stop":
            server.stop()
        case "leave":
            server.leave()


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """What the command line may say."""
    verbs = parser.add_subparsers(dest="change", metavar="VERB", required=True)

    def verb(name: str, words: str) -> argparse.ArgumentParser:
        found = verbs.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")
        found.add_argument("folder", metavar="FOLDER", type=Path, help="the member's")
        return found

    init = verb("init", "make the database of a new store, of which this is the first member")
    join = verb("join", "make the database of one more member of a store that runs")
    restore = verb("restore", "make a new store of a backup, of which this is the first member")
    for each in (init, join, restore):
        each.add_argument(
            "--member",
            metavar="ssl:ADDRESS:PORT",
            type=_place,
            required=True,
            help="where the other members reach this one, for good: an address of this machine "
            "(one that begins with 127. no other machine reaches); `tcp:` without TLS",
        )
    join.add_argument(
        "others",
        metavar="MEMBER",
        type=_place,
        nargs="+",
        help="members that there are already: what their --member says",
    )
    start = verb("start", "start the member's server; it listens when this ends")
    start.add_argument(
        "--listen",
        metavar="ssl:ADDRESS:PORT",
        type=_place,
        action="append",
        default=[],
        help="where controllers reach it, as in the network file's `store`; may be repeated.  "
        "`tcp:`: without TLS, and who reaches it may read and write everything",
    )
    start.add_argument(
        "--tls",
        metavar="DIRECTORY",
        type=Path,
        help="where key.pem, certificate.pem and ca.pem are, with which it speaks TLS",
    )
    verb("status", "say who is in the cluster, and who leads it, as this member sees it")
    verb(
        "upgrade",
        "let the store have the tables and rules of this release, while it runs; what is of a "
        "newer one stays",
    )
    backup = verb("backup", "write all of the store into a file, while it runs")
    for each in (backup, restore):
        each.add_argument("file", metavar="FILE", type=Path, help="the backup")
    verb("stop", "stop the member's server; what it has acknowledged is on its disk")
    verb("leave", "have this member leave its cluster for good; its folder is of no use afterwards")


def _place(text: str) -> str:
    kind, _, rest = text.partition(":")
    address, _, port = rest.rpartition(":")
    bracketed = address.startswith("[") and address.endswith("]")
    try:
        if (ip_address(address.strip("[]")).version == 6) is not bracketed:
            raise ValueError
        if kind in ("tcp", "ssl") and 0 < int(port) < 65536:
            return text
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(
        f"found {text!r}, expected ssl:ADDRESS:PORT or tcp:ADDRESS:PORT"
    )


def _can_listen(place: str) -> None:
    """Raises StoreServerError where nobody can listen there on this machine now."""
    address, _, port = place[4:].rpartition(":")
    family = socket.AF_INET6 if address.startswith("[") else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address.strip("[]"), int(port)))
        except OSError as error:
            raise StoreServerError(f"{place}: cannot listen there: {error.strerror}") from None


def _listening(remote: str) -> str:
    """The server's word for listening where clients reach it at `remote`."""
    kind, rest = remote[:3], remote[4:]
    address, _, port = rest.rpartition(":")
    return f"p{kind}:{port}:{address}"


if __name__ == "__main__":
    sys.exit(main())
