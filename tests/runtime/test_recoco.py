"""The stand-in's loop: tasks, Select, Sleep, timers, calls from other threads."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest
from pox.lib import recoco
from pox.lib.recoco import Scheduler, Select, Sleep, Task, Timer


@pytest.fixture
def loop():
    return Scheduler()


def turns(loop, until, limit_s=120.0):
    deadline = time.monotonic() + limit_s
    while not until():
        assert time.monotonic() < deadline, "the loop did not get there"
        loop.turn(0.05)


def test_select_reads_writes_and_times_out(loop):
    a, b = socket.socketpair()
    got = []

    def body():
        got.append((yield Select([a], [], [], 0.02)))
        got.append((yield Select([a], None, None)))
        a.recv(10)
        got.append((yield Select([a.fileno()], [a], [], 1)))

    Task(target=body).start()
    turns(loop, lambda: len(got) == 1)
    b.send(b"x")
    turns(loop, lambda: len(got) == 3)
    assert got == [([], [], []), ([a], [], []), ([], [a], [])]


def test_two_sockets_ready_in_one_turn(loop):
    pairs = [socket.socketpair() for _ in range(2)]
    ends = [a for a, _ in pairs]
    got = []

    def body():
        while True:
            ready, _, _ = yield Select(ends, [], [])
            got.extend((ends.index(each), each.recv(10)) for each in ready)

    Task(target=body).start()
    loop.turn(0)
    for _, b in pairs:
        b.send(b"1")
    turns(loop, lambda: len(got) == 2)
    pairs[1][1].send(b"2")
    turns(loop, lambda: len(got) == 3)
    assert sorted(got) == [(0, b"1"), (1, b"1"), (1, b"2")]


def test_closed_descriptor_is_the_tasks_own_affair(loop):
    a, b = socket.socketpair()
    a.close()
    b.close()
    seen = []

    def body():
        try:
            yield Select([a], [], [])
        except (ValueError, OSError) as error:
            seen.append(error)

    Task(target=body).start()
    turns(loop, lambda: seen)


def test_a_descriptor_number_used_again(loop):
    got = []

    def body():
        for _ in range(3):
            a, b = socket.socketpair()
            b.send(b"x")
            got.append((yield Select([a], [], [], 1))[0] == [a])
            a.close()
            b.close()

    Task(target=body).start()
    turns(loop, lambda: len(got) == 3)
    assert all(got)


def test_numbers_sleep_and_false(loop):
    steps = []

    def body():
        steps.append("start")
        yield 0
        steps.append("later")
        yield 0.01
        yield Sleep(0.01)
        steps.append("slept")
        yield False
        steps.append("woken")

    task = Task(target=body)
    task.start()
    turns(loop, lambda: "slept" in steps)
    loop.turn(0)
    assert steps[-1] == "slept"
    loop.schedule(task)
    turns(loop, lambda: "woken" in steps)


def test_subclass_with_run(loop):
    class Count(Task):
        def run(self, *args, **kw):
            self.total = 0
            for _ in range(3):
                self.total += 1
                yield 0

    task = Count()
    task.start()
    turns(loop, lambda: getattr(task, "total", 0) == 3)


def test_timers(loop):
    fired = []
    Timer(0.01, fired.append, args=("once",))
    cancelled = Timer(0.02, fired.append, args=("never",))
    cancelled.cancel()

    def tick():
        fired.append("tick")
        return fired.count("tick") < 3

    Timer(0.01, tick, recurring=True)
    turns(loop, lambda: fired.count("tick") == 3)
    end = time.monotonic() + 0.06
    turns(loop, lambda: time.monotonic() > end)
    assert fired.count("once") == 1 and "never" not in fired and fired.count("tick") == 3


def test_call_from_another_thread_wakes_the_loop(loop, monkeypatch):
    """Else the loop waits for as long as it is told, which is longer than a busy machine stops."""
    monkeypatch.setattr(recoco, "_LONGEST_WAIT_S", 120.0)
    called = []
    started = time.monotonic()
    threading.Timer(0.05, loop.callLater, args=(called.append, 1)).start()
    loop.turn(120)
    turns(loop, lambda: called)
    assert time.monotonic() - started < 60


def test_what_raises_ends_itself_only(loop, caplog):
    done = []

    def bad():
        yield 0
        raise RuntimeError("told to fail")

    def good():
        yield 0
        yield 0
        done.append(1)

    Task(target=bad).start()
    Task(target=good).start()
    loop.callLater(lambda: 1 / 0)
    turns(loop, lambda: done)
    assert "told to fail" in caplog.text and "division by zero" in caplog.text


def test_quit_ends_run(loop):
    threading.Timer(0.05, loop.quit).start()
    loop.run()


def test_zmq_socket(loop):
    zmq = pytest.importorskip("zmq")
    context = zmq.Context.instance()
    server, client = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    port = server.bind_to_random_port("tcp://127.0.0.1")
    client.connect(f"tcp://127.0.0.1:{port}")
    got = []

    def body():
        while True:
            yield Select([server], [], [], 0.2)
            while True:  # its descriptor is edge-triggered
                try:
                    got.append(server.recv_multipart(zmq.NOBLOCK)[-1])
                except zmq.Again:
                    break

    Task(target=body).start()
    loop.turn(0)
    for number in range(100):
        client.send(b"%d" % number)
    turns(loop, lambda: len(got) == 100)
    server.close(0)
    client.close(0)


def test_idle_loop_sleeps(loop):
    before = os.times()
    loop.turn(0.3)
    after = os.times()
    assert after.user + after.system - before.user - before.system < 0.1
