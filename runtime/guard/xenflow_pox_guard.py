"""A component that `pox.py` launches first under genuine POX: it mends what would hurt XenFlow.

Nothing of POX is changed on disk. docs/pox.md tells of each fault.

1. A listener that cannot bind, or dies, ends the process (POX logs it and goes on without).
2. `core.openflow.clear_flows_on_connect` is False before any switch can connect.
3. A connection that ends with output pending no longer ends POX's thread for pending output.
4. ConnectionDown is raised in POX's co-operative thread, never in the one for pending output.
5. A message that says it is shorter than its own header ends its connection; POX would read it
   again and again, for ever.
6. TCP_NODELAY on each connection: two small sends in a row took 40 ms to be answered.
7. A task whose function has come to its end ends quietly: since PEP 479 POX prints a traceback.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from typing import Any

from pox.core import core
from pox.lib.recoco import recoco

log = core.getLogger("xenflow.guard")

HEADER = 8
"""Octets of an OpenFlow header, the shortest message."""


def launch() -> None:
    """Called by POX before the other components are launched."""
    recoco.Task.run = run_to_the_end
    if not core.hasComponent("openflow"):
        return  # --no-openflow
    core.openflow.clear_flows_on_connect = False
    from pox.openflow import of_01

    guard_listener(of_01)
    guard_deferred_sender(of_01)
    guard_unpackers(of_01)
    core.openflow.addListenerByName("ConnectionHandshakeComplete", send_at_once, priority=1000)


def run_to_the_end(task: Any) -> Generator[Any, Any, None]:
    """A task of a function that yields what it waits for."""
    yield from task.target(*task.args, **task.kwargs)


def send_at_once(event: Any) -> None:
    """No waiting for the acknowledgement of what was sent before (Nagle's algorithm)."""
    event.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def guard_listener(of_01: Any) -> None:
    """The end of a listener's task while POX runs ends POX, with status 1."""
    listen = of_01.OpenFlow_01_Task.run

    def run(self: Any) -> Generator[Any, Any, None]:
        try:
            yield from listen(self)
        except Exception:
            log.exception("the listener failed")
        if core.running:
            log.critical("cannot listen for switches at %s:%s", self.address, self.port)
            core.quit(1)

    of_01.OpenFlow_01_Task.run = run


def guard_unpackers(of_01: Any) -> None:
    """What an unpacker raises ends the connection."""

    def guarded(unpack: Any) -> Any:
        def checked(buffer: bytes, offset: int) -> Any:
            length = buffer[offset + 2] << 8 | buffer[offset + 3]
            if length < HEADER:
                raise ValueError(f"no OpenFlow: a message of length {length}")
            return unpack(buffer, offset)

        return checked

    of_01.unpackers[:] = [each and guarded(each) for each in of_01.unpackers]


def guard_deferred_sender(of_01: Any) -> None:
    """The thread that sends what a socket did not take at once survives a socket's end.

    After an error on one socket `sending` stays True, so that all output of all connections
    goes through that thread, 4,096 bytes at a time. The thread selects on sockets: one that was
    closed meanwhile would make select() raise and end the thread, and nothing would ever be sent
    again to any switch. It also ends broken connections itself, whose handlers would then run
    beside the component's other code.
    """
    send_pending = of_01.DeferredSender.run

    def run(self: Any) -> None:
        while core.running:
            try:
                send_pending(self)
            except (ValueError, OSError) as error:
                log.warning("a connection ended with output pending (%s)", error)
            drop_ended(self)

    def drop_ended(sender: Any) -> None:
        with sender._lock:
            pending = sender._dataForConnection
            for connection in [each for each in pending if each.disconnected]:
                del pending[connection]
            sender.sending = bool(pending)

    disconnect = of_01.Connection.disconnect

    def disconnect_in_turn(self: Any, *args: Any, **kw: Any) -> None:
        if threading.current_thread() is of_01.deferredSender and core.running:
            core.call_later(disconnect, self, *args, **kw)
        else:
            disconnect(self, *args, **kw)

    of_01.DeferredSender.run = run
    of_01.Connection.disconnect = disconnect_in_turn

    def connection_down(event: Any) -> None:
        if of_01.deferredSender is not None:
            drop_ended(of_01.deferredSender)

    core.openflow.addListenerByName("ConnectionDown", connection_down)
