"""What runs in a Domain 0 while the `xl` driver is connected to it: does what it is told there.

Started by `mgmt.hypervisor.dom0`, which sends this text through the connection: the Domain 0 needs
Python 3.9 and `xl`, nothing of XenFlow.  One JSON object a line: requests come in by standard
input, answers and events go out by standard output; `at` is this machine's monotonic clock.

The way back from the receiver of a migration goes through a gate (`rune`): the receiver's word that
it has the whole domain, paused, with its devices, is kept until the management entity says `go`.
Till then `xl` puts everything back by itself when the connection to the receiver ends, so that is
how a migration is given up: by `end`, and by the end of the management entity, of its connection
or of this process.  xl is never killed before it had the time to let the domain run on.

A migration waits for the agents to start, and on a slow machine each imported module costs tenths
of a second: hence neither pathlib nor tempfile nor dataclasses, and ctypes only for `resume`.

Sources: tools/xl/xl_migrate.c and tools/xl/xl.h of Xen 4.17 for what the two xl say to each other.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from xenflow.vm import xenstore_wire as xenstore

READY_BYTES = len("domain received, ready to unpause")
GATE_S = 120.0
"""How long a domain that has arrived waits for `go` before it runs on at the source."""
END_S = 60.0
"""How long xl may take to let a domain run on after its receiver is gone."""
COPIED_EVERY_S = 0.5
ANSWER_S = 20.0
"""How long xenstored may take to answer."""
XENSTORE_SOCKETS = ("/run/xenstored/socket", "/var/run/xenstored/socket", "/dev/xen/xenbus")
BACKENDS = "/local/domain/0/backend/vif"

Tell = Callable[..., None]


class AgentError(Exception):
    """What was asked cannot be done."""


# --- xenstore ------------------------------------------------------------------------------------


class XenstoreWatcher:
    """A connection to xenstored whose watches call back, one after the other in a thread of their
    own.  A call-back that xenstored has not answered is made again: what it missed may be all that
    ever changes there."""

    def __init__(self) -> None:
        self._fd = _open_xenstore()
        self._lock = threading.Lock()
        self._answers: dict[int, xenstore.XenstoreMessage] = {}
        self._arrived = threading.Condition(self._lock)
        self._watches: dict[str, Callable[[str], None]] = {}
        self._events: list[tuple[str, str]] = []
        self._id = 0
        self._over = False
        """The connection has ended."""
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._call_back, daemon=True).start()

    def read(self, path: str) -> str:
        """A value; "" where there is none."""
        answer = self._ask(xenstore.READ, path)
        return "" if answer.type == xenstore.ERROR else answer.payload

    def watch(self, path: str, call: Callable[[str], None]) -> None:
        """`call` gets the path of everything that changes at or below `path`, and once `path`."""
        self._watches[path] = call
        self._ask(xenstore.WATCH, path, path)

    def _ask(self, type: int, *words: str) -> xenstore.XenstoreMessage:
        with self._lock:
            self._id += 1
            id = self._id
            os.write(self._fd, xenstore.request(type, id, *words))
            self._arrived.wait_for(lambda: id in self._answers or self._over, timeout=ANSWER_S)
            if id not in self._answers:
                raise AgentError("xenstored does not answer")
            return self._answers.pop(id)

    def _read(self) -> None:
        reader = xenstore.XenstoreReader()
        try:
            while data := os.read(self._fd, 4096):
                for message in reader.feed(data):
                    with self._lock:
                        if message.type == xenstore.WATCH_EVENT:
                            path, token = message.parts[:2]
                            self._events.append((token, path))
                        else:
                            self._answers[message.request] = message
                        self._arrived.notify_all()
        finally:
            with self._lock:
                self._over = True
                self._arrived.notify_all()

    def _call_back(self) -> None:
        while True:
            with self._lock:
                self._arrived.wait_for(lambda: bool(self._events) or self._over)
                if self._over:
                    return
                token, path = self._events[0]
            try:
                self._watches[token](path)
            except OSError:
                return  # it has ended
            except AgentError as error:
                print(f"{path}: {error}; once more", file=sys.stderr, flush=True)
                continue
            with self._lock:
                del self._events[0]


def _open_xenstore() -> int:
    wanted = os.environ.get("XENSTORED_PATH")
    for path in [wanted] if wanted else XENSTORE_SOCKETS:
        try:
            if path.startswith("/dev/"):
                return os.open(path, os.O_RDWR)
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect(path)
            return connection.detach()
        except OSError:
            continue
    raise AgentError("xenstored cannot be reached: is this a Xen Domain 0?")


# --- processes -----------------------------------------------------------------------------------


def run(argv: list[str], timeout_s: float) -> dict[str, Any]:
    """A program's end: {status, out, err}.  Raises AgentError where it cannot be run at all."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise AgentError(f"{shlex.join(argv)} has not ended within {timeout_s:g} s") from None
    except OSError as error:
        raise AgentError(f"{argv[0]}: {error.strerror}") from None
    return {
        "status": done.returncode,
        "out": done.stdout.decode(errors="replace"),
        "err": done.stderr.decode(errors="replace"),
    }


def processes() -> Iterator[tuple[int, int, list[str]]]:
    """Every process: its id, its parent's and its words.

    Where $XENSTORED_PATH says which xenstored is meant, those that mean another are passed over.
    """
    mine = os.environ.get("XENSTORED_PATH")
    mark = f"\0XENSTORED_PATH={mine}\0".encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mine and mark not in b"\0" + _read(f"/proc/{name}/environ"):
                continue
            words = _read(f"/proc/{name}/cmdline").decode(errors="replace").split("\0")[:-1]
            parent = int(_read(f"/proc/{name}/stat").rpartition(b")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        if words:
            yield int(name), parent, words


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _is_xl(words: list[str], verb: str) -> bool:
    """A program may be run by an interpreter: then its own name comes second."""
    for index, word in enumerate(words[:2]):
        if os.path.basename(word) == "xl":
            return verb in words[index + 1 :]
    return False


def _is_saver(words: list[str]) -> bool:
    return any(os.path.basename(word) == "libxl-save-helper" for word in words[:2])


def _is_monitor(pid: int) -> bool:
    """A receiver's standard input is its connection, a monitor's is nothing."""
    try:
        return os.readlink(f"/proc/{pid}/fd/0") == os.devnull
    except OSError:
        return True  # it has ended


def _below(pid: int, all_of_them: list[tuple[int, int, list[str]]]) -> list[int]:
    """The descendants of a process, but for libxl's own helper."""
    found: list[int] = []
    for child, parent, words in all_of_them:
        if parent == pid and not _is_saver(words):
            found += [child, *_below(child, all_of_them)]
    return found


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _await_end(pids: list[int], limit_s: float) -> list[int]:
    """Those that still run after the time."""
    deadline = time.monotonic() + limit_s
    while pids and time.monotonic() < deadline:
        pids = [pid for pid in pids if _runs(pid)]
        time.sleep(0.02)
    return pids


def _runs(pid: int) -> bool:
    try:
        return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def end_senders(domain: str) -> list[int]:
    """End every `xl migrate` of a domain, whoever began it: its connection to the receiver first,
    so that it lets the domain run on; what is left of it after a while, by force."""
    everything = list(processes())
    senders = [p for p, _, words in everything if _is_xl(words, "migrate") and domain in words]
    for pid in senders:
        _signal(_below(pid, everything), signal.SIGTERM)
    for pid in _await_end(senders, END_S):
        _signal([p for p, parent, w in processes() if parent == pid and _is_saver(w)], 9)
        _signal([pid], signal.SIGKILL)
    _await_end(senders, 5.0)
    return senders


def end_receivers(patience_s: float, certain: Callable[[], bool]) -> list[int]:
    """End the `xl migrate-receive` that there is, unless it ends by itself; none where there are
    several, or where it is not `certain` then whose it is: another's may have had no domain yet.
    The processes of that name that xl leaves behind to look after each domain that has arrived
    (`do_daemonize`) are none."""
    found = [
        p for p, _, words in processes() if _is_xl(words, "migrate-receive") and not _is_monitor(p)
    ]
    if len(found) != 1:
        return []
    late = _await_end(found, patience_s)
    if late and not certain():
        return []
    savers = [p for p, parent, words in processes() if parent in late and _is_saver(words)]
    _signal([*savers, *late], signal.SIGTERM)
    for pid in _await_end(late, 5.0):
        _signal([pid], signal.SIGKILL)
    return found


def arriving() -> list[int]:
    """The domains that are being received here, or were left so."""
    lines = run(["xl", "list"], 20.0)["out"].splitlines()
    words = [line.split() for line in lines if line.strip()]
    return [int(number) for name, number, *_ in words if name.endswith("--incoming")]


# --- a migration ---------------------------------------------------------------------------------


def rune(receiver: str, gate: str) -> str:
    """The shell command that xl runs to reach the receiver.

    A session of its own, so that it can be ended as a whole.  What comes back passes the gate: the
    banner at once, "ready" after a line from the pipe `gate`.  Its end means no, also where this
    process has been killed: then the transport ends itself, or xl would wait for ever.
    """
    script = f"""
        echo "xenflow: transport $$" >&2
        exec 9<{shlex.quote(gate)}
        {{ {receiver}
           echo "xenflow: gone" >&2
        }} 9<&- | {{
            trap '' PIPE
            IFS= read -r banner && printf '%s\\n' "$banner" || exit 1
            ready=$(head -c {READY_BYTES})
            [ "${{#ready}}" -eq {READY_BYTES} ] || exit 1
            echo "xenflow: received" >&2
            read -r go <&9 || {{ kill 0; exit 1; }}
            printf %s "$ready"
            exec cat
        }}"""
    return f"exec setsid sh -c {shlex.quote(script)}"


class XlMigrate:
    """One `xl migrate`."""

    def __init__(
        self, domain: str, domid: int, receiver: str, store: XenstoreWatcher, tell: Tell
    ) -> None:
        self._tell = tell
        self._store = store
        self._domid = domid
        place = os.environ.get("TMPDIR", "/tmp")
        self._folder = os.path.join(place, f"xenflow-xl-{os.urandom(8).hex()}")
        os.mkdir(self._folder, 0o700)
        self._transport = 0
        self._went = False
        self._given_up = False
        self._suspended = False
        self._order: str | None = None
        self._lock = threading.Lock()
        self._control = f"/local/domain/{domid}/control/shutdown"
        self._fifo = os.path.join(self._folder, "gate")
        os.mkfifo(self._fifo, 0o600)
        self._gate = os.open(self._fifo, os.O_RDWR)
        store.watch(self._control, self._shutdown_changed)
        self._xl = subprocess.Popen(
            ["xl", "migrate", "-s", "", domain, rune(receiver, self._fifo)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._read_lines)
        self._reader.start()
        threading.Thread(target=self._await_end).start()
        threading.Thread(target=self._watch_copying, daemon=True).start()

    def go(self) -> None:
        """The receiver may have the domain; to say it again changes nothing.  Raises AgentError
        where it is too late for that."""
        with self._lock:
            if self._went:
                return
            if self._gate < 0:
                raise AgentError("the receiver is gone")
            self._went = True
            os.write(self._gate, b"go\n")

    def end(self) -> None:
        """Give it up, unless `go` was said; returns when xl has ended."""
        with self._lock:
            if self._went:
                raise AgentError("the destination has the domain already")
            self._given_up = True
            self._close_gate()
            self._cut()
        if not self._ended.wait(END_S):
            raise AgentError(f"xl has not ended within {END_S:g} s")

    def left_alone(self) -> None:
        """The management entity is gone."""
        try:
            self.end()
        except AgentError:
            self._ended.wait(END_S)

    def _cut(self) -> None:
        """End the connection to the receiver; xl notices and lets the domain run on."""
        if self._transport:
            with suppress(ProcessLookupError):
                os.killpg(self._transport, signal.SIGTERM)

    def _close_gate(self) -> None:
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1

    def _shutdown_changed(self, path: str) -> None:
        """A guest empties the node as soon as it has read it, maybe before it is read here: that it
        has changed is enough, but for the first time, which says that it is watched."""
        at = time.monotonic()
        order, before = self._store.read(path), self._order
        self._order = order
        if not self._suspended and (order == "suspend" or order == before == ""):
            self._suspended = True
            self._tell("suspended", at=at)

    def _read_lines(self) -> None:
        assert self._xl.stdout is not None
        for line in _lines(self._xl.stdout.fileno()):
            kind, _, rest = line.partition(": ")
            if kind != "xenflow":
                self._tell("line", text=line)
            elif rest == "received":
                self._tell("received")
                threading.Thread(target=self._limit_gate, daemon=True).start()
            elif rest == "gone":
                with self._lock:
                    self._close_gate()  # xl then finds that nobody is there
            elif rest.startswith("transport "):
                with self._lock:
                    self._transport = int(rest.split()[1])
                    if self._given_up:
                        self._cut()

    def _await_end(self) -> None:
        """xl's end; where it was killed, what it started would go on."""
        status = self._xl.wait()
        with self._lock:
            self._given_up = True
            self._close_gate()
            if status:
                self._cut()
        self._reader.join(END_S)
        with suppress(OSError):  # somebody has tidied up /tmp
            os.unlink(self._fifo)
            os.rmdir(self._folder)
        self._ended.set()
        self._tell("ended", status=status)

    def _limit_gate(self) -> None:
        if not self._ended.wait(GATE_S) and not self._went:
            with suppress(AgentError):
                self.end()

    def _watch_copying(self) -> None:
        """How much libxl's helper has sent so far, and when that is all."""
        before = 0
        helper = 0
        while not self._ended.wait(COPIED_EVERY_S):
            helper = helper or next(
                (p for p, parent, w in processes() if parent == self._xl.pid and _is_saver(w)), 0
            )
            copied = _written(helper) if helper else 0
            if copied > before:
                before = copied
                self._tell("copied", bytes=copied)
            elif helper and not _runs(helper):
                self._tell("sent")
                return


def _lines(fd: int) -> Iterator[str]:
    """What a program prints, line by line; a carriage return ends one, too."""
    rest = b""
    while data := os.read(fd, 4096):
        *whole, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
        yield from (line.decode(errors="replace") for line in whole if line.strip())
    if rest.strip():
        yield rest.decode(errors="replace")


def _written(pid: int) -> int:
    try:
        text = _read(f"/proc/{pid}/io")
    except OSError:
        return 0
    return next((int(x.split()[1]) for x in text.splitlines() if x.startswith(b"wchar:")), 0)


# --- libxl ---------------------------------------------------------------------------------------


def resume(domid: int) -> None:
    """Let a domain run on that was suspended and not moved.

    `xl` has a verb for that from Xen 4.20 on, libxl always had the call.  Source:
    libxl_domain_resume in tools/include/libxl.h.  Raises AgentError.
    """
    if "\n resume " in run(["xl", "help"], 20.0)["out"]:
        done = run(["xl", "resume", str(domid)], 60.0)
        if done["status"]:
            raise AgentError(f"xl resume {domid}: {done['err'].strip()}")
        return
    import ctypes.util

    library = ctypes.util.find_library("xenlight")
    toollog = ctypes.util.find_library("xentoollog")
    if library is None or toollog is None:
        raise AgentError("libxenlight is missing: is this a Xen Domain 0?")
    libxl, log = ctypes.CDLL(library), ctypes.CDLL(toollog)
    log.xtl_createlogger_stdiostream.restype = ctypes.c_void_p
    stderr = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stderr")
    logger = ctypes.c_void_p(log.xtl_createlogger_stdiostream(stderr, 5, 0))
    context = ctypes.c_void_p()
    if libxl.libxl_ctx_alloc(ctypes.byref(context), 0, 0, logger):
        raise AgentError("libxl cannot be used")
    try:
        status = libxl.libxl_domain_resume(context, ctypes.c_uint32(domid), 1, None)
    finally:
        libxl.libxl_ctx_free(context)
    if status:
        raise AgentError(f"libxl could not resume domain {domid} (rc={status})")


# --- requests ------------------------------------------------------------------------------------


class Agent:
    """Answers requests, each in a thread of its own."""

    def __init__(self) -> None:
        self._out = threading.Lock()
        self._store: XenstoreWatcher | None = None
        self._move: XlMigrate | None = None
        self._begins = threading.Lock()
        self._over = False

    def serve(self) -> None:
        """Until the management entity's end of the connection is closed."""
        with suppress(OSError, ValueError):  # the last line may have been cut off
            for line in sys.stdin.buffer:
                asked = json.loads(line)
                threading.Thread(target=self._answer, args=(asked,), daemon=True).start()
        if self._move is not None:
            self._move.left_alone()

    def _answer(self, asked: dict[str, Any]) -> None:
        id, verb = asked.pop("id"), asked.pop("do")
        try:
            found = getattr(self, f"do_{verb}")(**asked)
            self._write({"id": id, "ok": True, **(found or {})})
        except (AgentError, OSError, xenstore.XenstoreError) as error:
            self._write({"id": id, "ok": False, "error": str(error)})

    def _tell(self, event: str, **more: Any) -> None:
        self._write({"event": event, "at": time.monotonic(), **more})

    def _write(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode() + b"\n"
        with self._out:
            try:
                while data:
                    data = data[os.write(1, data) :]
            except OSError:
                return  # nobody listens any more; what was begun is ended in order

    def _xenstore(self) -> XenstoreWatcher:
        if self._store is None:
            self._store = XenstoreWatcher()
        return self._store

    def do_run(self, argv: list[str], timeout_s: float) -> dict[str, Any]:
        """A program's end."""
        return run(argv, timeout_s)

    def do_write(self, path: str, text: str) -> None:
        """Replace a file, whole or not at all; it is for root alone."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        new = f"{path}.new"
        with suppress(FileNotFoundError):
            os.unlink(new)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        os.rename(new, path)

    def do_look(self, paths: list[str], folders: list[str]) -> dict[str, Any]:
        """Which paths exist, and how many bytes are free where."""
        free = {}
        for folder in folders:
            with suppress(OSError):
                found = os.statvfs(folder)
                free[folder] = found.f_bavail * found.f_frsize
        return {"there": [path for path in paths if os.path.exists(path)], "free": free}

    def do_migrate(self, domain: str, domid: int, receiver: str) -> None:
        """Begin a migration; events tell how it goes on."""
        with self._begins:
            if self._over:
                raise AgentError("this migration was given up before it began")
            if self._move is not None:
                raise AgentError("this connection has a migration already")
            self._move = XlMigrate(domain, domid, receiver, self._xenstore(), self._tell)

    def do_go(self) -> None:
        """Let the migration come to its end."""
        if self._move is None:
            raise AgentError("there is no migration here")
        self._move.go()

    def do_end(self) -> None:
        """Give the migration up; one that has not begun yet does not begin any more."""
        with self._begins:
            self._over = True
        if self._move is not None:
            self._move.end()

    def do_watch(self, domain: str) -> None:
        """From now on tell each state of a vif's backend of a domain that arrives here."""
        store = self._xenstore()

        def changed(path: str) -> None:
            at = time.monotonic()
            words = path[len(BACKENDS) + 1 :].split("/")
            if len(words) == 3 and words[2] == "state":
                name = store.read(f"/local/domain/{words[0]}/name")
                if name in (domain, f"{domain}--incoming"):
                    state = store.read(path)
                    self._tell("vif", at=at, domid=words[0], vif=words[1], state=state)

        store.watch(BACKENDS, changed)

    def do_sweep(self, domain: str) -> dict[str, Any]:
        """End every migration of a domain from here."""
        return {"ended": end_senders(domain)}

    def do_sweep_receivers(self, domid: int, patience_s: float) -> dict[str, Any]:
        """End the receiver of a domain here, if it does not end by itself."""
        return {"ended": end_receivers(patience_s, lambda: arriving() == [domid])}

    def do_resume(self, domid: int) -> None:
        """Let a suspended domain run on."""
        resume(domid)


def main() -> None:
    """Serve until standard input ends."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
    Agent().serve()
    os._exit(0)
