"""Whether a host is dead, before anything is done that must not be done while it lives.

A VM that is started elsewhere while its host lives runs twice.  So who says that a host is lost is
not believed alone, nor is one look from here: the controllers that stay are asked, too, since who
asks may be cut off.  Silence is no proof; one sign of life is enough to refuse.  Called by the
verbs that take `--lost`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

from mgmt.client import AskError, Unreachable, parted
from mgmt.hypervisor import Drivers, HypervisorError
from mgmt.session import ManagementSession, UsageError
from xenflow.model.network import NetworkError
from xenflow.model.sign_of_life import LIMIT_S, address_of, in_words


def refuse_living(session: ManagementSession, host: str, router: str = "") -> None:
    """Raise UsageError where anybody hears a host still, naming who; `router`: one that shall be
    started elsewhere, whose hypervisor there is asked as well."""
    found = [*_heard(session, host)]
    if router:
        found += [*_of_router(session, host, router)]
    if found:
        raise UsageError(
            f"{host} is not lost: {'; '.join(found)}: end its machine first, so that no VM runs "
            f"there; where it lives, `xenflow empty-host {host}` or `xenflow recover`"
        )


def _heard(session: ManagementSession, host: str) -> Iterator[str]:
    """From here, and from every other controller."""
    controller = session.network.datapaths[host].controller
    try:
        session.ask(controller, "status")
    except Unreachable:
        pass
    except AskError:
        yield f"controller {controller} answers"
    else:
        yield f"controller {controller} answers"
        return
    manage = session.network.controllers[controller].manage
    if words := knock(manage):
        yield f"from here, its machine {words}"
    others = [name for name in session.network.controllers if name != controller]
    for name, answer in session.ask_all("hears", others, manage=manage).items():
        # One that is silent, or of the release before, says nothing.
        if not isinstance(answer, AskError) and answer["hears"]:
            yield f"from {name}, its machine {answer['hears']}"


def knock(url: str) -> str:
    """What a machine does with a connection, in words; "" where it is silent."""
    try:
        socket.create_connection(address_of(url), LIMIT_S).close()
    except OSError as error:
        return in_words(error.errno)
    return in_words(0)


def _of_router(session: ManagementSession, host: str, router: str) -> Iterator[str]:
    """The router's own daemon, and the host's hypervisor."""
    answers, _ = parted(session.ask_all("status", router=router))
    for name, answer in answers.items():
        for row in answer["routers"]:
            if row["name"] == router and row["feed"] == "local" and not row["stale"]:
                yield f"controller {name} hears the routerd of {router}"
    try:
        with Drivers(session.network) as drivers:
            driver = drivers.of(host)
            if not driver.emulated:  # the lab has one for all hosts
                driver.copies(host, (router,))
                yield "its hypervisor answers"
    except (HypervisorError, NetworkError):
        return
