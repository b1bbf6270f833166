"""XenFlow's Rule Table as a POX component: `./pox.py xenflow --network=FILE --controller=NAME`.

`launch` is what POX, or the stand-in, calls.  The packages, from the outside in: `control` (POX,
sockets, the Rule Table), `vm` (what is held for VMs), `switch` (what is written), `store` (files);
and without input or output every decision: `tables`, `plan`, `routes`, `openflow`, `model`.
"""

from __future__ import annotations

import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from xenflow.model.network import Network, NetworkError

if TYPE_CHECKING:
    from xenflow.control.component import StoreOptions

NETWORK_FILES = ("/etc/xenflow/network.toml", "/run/xenflow/network.toml")
USAGE_ERROR = 2
DEFAULT_OPENFLOW = ("127.0.0.1", 6633)

log = logging.getLogger("xenflow")


def launch(
    network: str = "",
    controller: str = "",
    manage: str = "",
    state: str = "",
    routers: str = "",
    xenstore: str = "",
    store: str = "",
) -> None:
    """Start the Rule Table of one controller.

    --network=FILE     the network's description (default: $XENFLOW_NETWORK, then
                       /run/xenflow/network.toml, then /etc/xenflow/network.toml)
    --controller=NAME  which of the file's controllers this is (default: the only one, or the one
                       named like this machine)
    --manage=URL       where the management socket listens (default: as the file says)
    --state=DIR        where placements and rules are kept over a restart (default: with a network
                       file in /etc/xenflow /var/lib/xenflow, else nowhere)
    --routers=URL      where routers' sockets listen; {vif} and {router} stand for the names
    --xenstore=PATH    xenstored's socket, where the hypervisor is Xen (default:
                       /run/xenstored/socket)
    --store=SERVERS    follow the store at these servers, with commas between them: unix:PATH,
                       ssl:ADDRESS:PORT (the file's `tls` names the certificates), on the loopback
                       tcp:ADDRESS:PORT (default: as the file says; needs --state)
    """
    path = _network_file(network)
    if not path:
        places = " nor ".join(NETWORK_FILES)
        _stop(
            f"no network file: neither {places} exists; name one with --network=FILE or "
            "$XENFLOW_NETWORK",
            USAGE_ERROR,
        )
    import zmq
    from pox.core import core

    from xenflow.control import router_sockets
    from xenflow.control.component import Component
    from xenflow.store.network_checks import is_open
    from xenflow.store.network_file import load
    from xenflow.store.transaction import StoreMistakeError
    from xenflow.vm.xenstore import socket_path

    _stamp_log()
    try:
        described, name = _described(path, controller)
    except (NetworkError, OSError) as error:
        _stop(str(error))
    url = manage or described.controllers[name].manage
    if not state and path.startswith("/etc/xenflow/"):
        state = "/var/lib/xenflow"
    if not state:
        log.warning("placements are not kept over a restart (--state=DIR)")
    options: StoreOptions | None = None
    remotes = tuple(store.split(",")) if store else described.store
    if store and any(map(is_open, remotes)):
        _stop(f"--store={store}: expected ssl:, or tcp: on the loopback", USAGE_ERROR)
    if remotes:
        described, options = _stored(described, name, remotes, state)
    version = getattr(core, "version_string", "POX")
    try:
        component = Component(
            described,
            partial(load, path),
            name,
            url,
            Path(state) if state else None,
            routers or router_sockets.ADDRESS,
            version,
            xenstore or socket_path(),
            options,
        )
    except StoreMistakeError as error:
        _stop(f"the store: {error}", USAGE_ERROR)
    except (OSError, zmq.ZMQError) as error:
        _stop(
            f"management: cannot listen on {url}: {error.strerror or error}: "
            "is another controller running? (--manage=URL)"
        )
    core.register("xenflow", component)


def _stored(
    network: Network, controller: str, remotes: tuple[str, ...], state: str
) -> tuple[Network, StoreOptions]:
    """The network as the store last laid it, and what to follow the store with."""
    from xenflow.control.component import StoreOptions
    from xenflow.store.certificates import Certificates
    from xenflow.store.laid_file import LaidFile

    if not state:
        _stop(
            "a store needs a folder where its rows are kept: name one with --state=DIR", USAGE_ERROR
        )
    file = LaidFile(Path(state), network.name)
    try:
        laid = file.load()
        if laid is not None:
            network = file.network(laid, network, controller)
    except NetworkError as error:
        _stop(str(error))
    tls = Certificates(Path(network.tls)) if network.tls else None
    return network, StoreOptions(remotes, file, laid, tls)


def switches_connect_to(network: str, controller: str) -> tuple[str, int]:
    """Where the switches of a controller connect: address and port, as the network file says;
    (127.0.0.1, 6633) where it does not, or is wrong, which `launch` will say.

    `network` and `controller` are as for `launch`.  Called by `pox.py`, which starts the listener.
    """
    try:
        described, name = _described(_network_file(network), controller)
    except (NetworkError, OSError):
        return DEFAULT_OPENFLOW
    return described.controllers[name].openflow


def _network_file(named: str) -> str:
    """The path of the network file: the one named, or where it is looked for; "" for none."""
    path = named or os.environ.get("XENFLOW_NETWORK", "")
    alone = "XENFLOW_ISOLATED" in os.environ  # a lab goes before what is installed on the machine
    places = NETWORK_FILES[::-1] if alone else NETWORK_FILES
    return path or next((name for name in places if os.path.exists(name)), "")


def _described(path: str, controller: str) -> tuple[Network, str]:
    """The network, and which of its controllers this is."""
    from xenflow.store.network_file import load

    described = load(path)
    return described, this_controller(described, controller)


def this_controller(network: Network, wanted: str) -> str:
    """Which of the network's controllers this is: the one asked for, the only one, or the one
    named like this machine.

    Raises NetworkError where that does not say.
    """
    known = network.controllers
    if wanted:
        if wanted not in known:
            raise NetworkError(f"unknown controller {wanted}: the network has {', '.join(known)}")
        return wanted
    if len(known) == 1:
        return next(iter(known))
    node = os.uname().nodename
    if node in known:
        return node
    raise NetworkError(f"which of {', '.join(known)} is this? (--controller=NAME)")


def _stamp_log() -> None:
    """Give the log's lines a time, where nobody has chosen a format: not the journal, which has
    its own."""
    if "JOURNAL_STREAM" in os.environ:
        return
    for handler in logging.getLogger().handlers:
        if getattr(handler.formatter, "_fmt", None) == logging.BASIC_FORMAT:
            handler.setFormatter(
                logging.Formatter(
                    f"%(asctime)s.%(msecs)03d {logging.BASIC_FORMAT}", "%Y-%m-%d %H:%M:%S"
                )
            )


def _stop(reason: str, status: int = 1) -> NoReturn:
    print(f"xenflow: {reason}", file=sys.stderr, flush=True)
    sys.exit(status)
