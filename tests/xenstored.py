"""A xenstored with a real socket and the real wire format, for tests: nodes, watches, no rights.

It is told what to change from outside (`put`, `remove`, `release`), as libxl and guests would, or
by a client that writes.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path

HEADER = struct.Struct("=IIII")
DIRECTORY, READ, WATCH, UNWATCH, WRITE, EVENT, ERROR = 1, 2, 4, 5, 11, 15, 16


@dataclass(eq=False)
class XenstoreClient:
    """One connection and its watches: (path, token)."""

    sock: socket.socket
    watches: list[tuple[str, str]] = field(default_factory=list)

    def say(self, type_: int, request: int, payload: bytes) -> None:
        with contextlib.suppress(OSError):
            self.sock.sendall(HEADER.pack(type_, request, 0, len(payload)) + payload)


class Xenstored:
    """Serves one socket until `close`."""

    def __init__(self, path: Path) -> None:
        self.nodes: dict[str, str] = {}
        self.clients: list[XenstoreClient] = []
        self.lock = threading.RLock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """End all connections, as where xenstored goes away."""
        with self.lock:
            for client in self.clients:
                with contextlib.suppress(OSError):
                    client.sock.shutdown(socket.SHUT_RDWR)
            self.clients.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                client = XenstoreClient(sock)
                with self.lock:
                    self.clients.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: XenstoreClient) -> None:
        with contextlib.suppress(OSError), client.sock.makefile("rb") as stream:
            while len(head := stream.read(HEADER.size)) == HEADER.size:
                type_, request, _, length = HEADER.unpack(head)
                self._answer(client, type_, request, stream.read(length))
        with self.lock, contextlib.suppress(ValueError):  # not there after `drop`
            self.clients.remove(client)

    def _answer(self, client: XenstoreClient, type_: int, request: int, payload: bytes) -> None:
        texts = [text.decode() for text in payload.split(b"\0")]
        path = texts[0]
        with self.lock:
            if type_ == READ and path in self.nodes:
                client.say(READ, request, self.nodes[path].encode())
            elif type_ == DIRECTORY and (children := self._children(path)):
                client.say(DIRECTORY, request, b"".join(c.encode() + b"\0" for c in children))
            elif type_ == WATCH:
                client.watches.append((path, texts[1]))
                client.say(WATCH, request, b"OK\0")
                client.say(EVENT, 0, f"{path}\0{texts[1]}\0".encode())
            elif type_ == UNWATCH:
                client.watches.remove((path, texts[1]))
                client.say(UNWATCH, request, b"OK\0")
            elif type_ == WRITE:
                client.say(WRITE, request, b"OK\0")
                self.put(path, texts[1])
            else:
                client.say(ERROR, request, b"ENOENT\0")

    def _children(self, path: str) -> list[str]:
        below = path + "/"
        found = {n.removeprefix(below).split("/")[0] for n in self.nodes if n.startswith(below)}
        return sorted(found)

    def _fire(self, path: str) -> None:
        for client in self.clients:
            for watched, token in client.watches:
                if path == watched or path.startswith(watched + "/"):
                    client.say(EVENT, 0, f"{path}\0{token}\0".encode())

    # --- what happens in xenstore -----------------------------------------------------------------

    def put(self, path: str, value: str) -> None:
        """Write a node."""
        with self.lock:
            self.nodes[path] = value
            self._fire(path)

    def remove(self, path: str) -> None:
        """Remove a node and all below it; the watches of the node fire."""
        with self.lock:
            for name in [n for n in self.nodes if n == path or n.startswith(path + "/")]:
                del self.nodes[name]
            self._fire(path)

    def release(self) -> None:
        """Some domain has stopped or is gone."""
        with self.lock:
            self._fire("@releaseDomain")
