"""A Rule Table in miniature: one ROUTER socket, one Feed, in a thread of the test.

Runs in the network namespace that the calling thread is in when `start` is called.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import zmq

from xenflow.routes.feed import Feed
from xenflow.routes.messages import RouteMessageType, parse_header
from xenflow.routes.router_state import Changes, RouterState


class RuleTableStub:
    """`feed` belongs to the thread; tests read it under `lock`."""

    def __init__(self, address: str, router: str = "vr1") -> None:
        self.address = address
        self.feed = Feed(router)
        self.lock = threading.Lock()
        self.heard: list[tuple[float, RouteMessageType]] = []
        self.applied: list[tuple[float, Changes]] = []
        self.errors: list[Exception] = []
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self, enter: Callable[[], None] = lambda: None) -> RuleTableStub:
        """Bind and serve; `enter` is called in the thread first (to change its namespace)."""
        self._enter = enter
        self._thread.start()
        assert self._ready.wait(120), "the stub did not bind"
        if self.errors:
            raise self.errors[0]
        return self

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(120)

    def wait(self, condition: Callable[[RouterState], bool], timeout_s: float = 120.0) -> float:
        """Until the state is complete and as it should be; returns when that was seen.

        Raises AssertionError.
        """
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            with self.lock:
                if self.feed.complete and condition(self.feed.state):
                    return time.monotonic()
            time.sleep(0.001)
        raise AssertionError(f"not so after {timeout_s} s: {self.feed.state} {self.feed.phase}")

    def _run(self) -> None:
        context = zmq.Context()
        socket = context.socket(zmq.ROUTER)
        try:
            self._enter()
            socket.setsockopt(zmq.IPV6, 1)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, 100_000)
            socket.bind(self.address)
        except Exception as error:
            self.errors.append(error)
            return
        finally:
            self._ready.set()
        while not self._stop.is_set():
            if socket.poll(20):
                identity, *frames = socket.recv_multipart()
                now = time.monotonic()
                with self.lock:
                    self.heard.append((now, parse_header(frames).type))
                    out = self.feed.receive(frames, now, identity)
                    if out.changes:
                        self.applied.append((time.monotonic(), out.changes))
                    if out.error is not None:
                        self.errors.append(out.error)
            else:
                with self.lock:
                    out = self.feed.tick(time.monotonic())
            for source, reply in out.replies:
                socket.send_multipart([source, *reply])
        socket.close()
        context.term()
