"""A controller for tests: the real boundary (`xenflow.model.management`), canned answers behind it.

`verbs` maps a verb to a result, or to a function of the request that returns one (or raises
ManagementError).  It runs in a thread of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Self

import zmq

from xenflow.model import management
from xenflow.model.management import ManagementError, Request

Behaviour = dict[str, Any] | Callable[[Request], Any]


class FakeController:
    def __init__(self, verbs: dict[str, Behaviour]) -> None:
        self.verbs = verbs
        self.answers = threading.Event()
        """While it is not set nothing is answered."""
        self.answers.set()
        self.asked: list[Request] = []
        self.dies_at: str | None = None
        self.answers_garbage = False
        socket = zmq.Context.instance().socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        self.url = f"tcp://127.0.0.1:{port}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(socket,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.answers.set()
        self._thread.join()

    def asked_for(self, verb: str) -> list[Request]:
        return [request for request in self.asked if request.verb == verb]

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        while not self._stop.is_set():
            if not socket.poll(20):
                continue
            sender, empty, frame = socket.recv_multipart()
            self.answers.wait()
            try:
                request = management.parse_request(frame)
                self.asked.append(request)
                if request.verb == self.dies_at:
                    break
                answers = self._answers(request)
            except ManagementError as error:
                answers = [management.error_reply(error.id or request.id, error)]
            for answer in answers:
                socket.send_multipart([sender, empty, answer])
        socket.close(0)

    def _answers(self, request: Request) -> list[bytes]:
        if self.answers_garbage:
            return [b"{}"]
        behaviour = self.verbs.get(request.verb)
        if behaviour is None:
            raise ManagementError("refused", f"{request.verb}: not in this test", request.id)
        result = behaviour(request) if callable(behaviour) else behaviour
        return [management.reply(request.id, result)]
