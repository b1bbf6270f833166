"""The conversation with servers, without a socket: what is said to whom, when, and what is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.store.store_rig import CHANGES, change
from xenflow.store.network_store import RowChange, RowChanges, ViewOverdue, WatchEvent, WholeView
from xenflow.store.ovsdb_session import (
    LONGEST_REST_S,
    NO_TRANSACTION,
    PROBES,
    Dial,
    Effect,
    HangUp,
    OvsdbSession,
    SendOctets,
    Tell,
)
from xenflow.store.transaction import (
    Committed,
    RefusalReason,
    Update,
    WriteOutcome,
    WriteRefused,
    WriteUnknown,
)

REMOTES = ("unix:a", "unix:b", "unix:c")
CLUSTER = "11111111-1111-4111-8111-111111111111"
T1, T2 = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
PATIENCE_S = 18.0
QUIET_S = PATIENCE_S / PROBES


class Conversation:
    """A session, and the part of a server, played by the test."""

    def __init__(self, remotes: tuple[str, ...] = REMOTES, cluster: str = "") -> None:
        self.session = OvsdbSession(remotes, cluster, PATIENCE_S)
        self.now = 100.0
        self.told: list[WriteOutcome | WatchEvent] = []
        self.sent: list[dict[str, Any]] = []
        self.dialled = ""

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Dial(remote):
                    assert not self.dialled
                    self.dialled = remote
                case HangUp():
                    assert self.dialled
                    self.dialled = ""
                case SendOctets(octets):
                    self.sent.append(json.loads(octets))
                case Tell(call, value):
                    call(value)

    def tick(self, later_s: float = 0.0) -> None:
        self.now += later_s
        self.do(self.session.tick(self.now))

    def says(self, **message: Any) -> None:
        self.do(self.session.received(json.dumps(message).encode(), self.now))

    def loses(self, words: str = "gone") -> None:
        """The connection ends."""
        self.dialled = ""
        self.do(self.session.lost(self.now, words))

    def asked(self) -> dict[str, Any]:
        """What was sent last."""
        return self.sent[-1]

    def answers(self, result: Any, error: Any = None) -> None:
        self.says(id=self.asked()["id"], result=result, error=error)

    def connects(self, **database: Any) -> None:
        """The server that is dialled is there, and says what it is."""
        self.tick(LONGEST_REST_S)
        assert self.dialled
        self.do(self.session.dialled(self.now))
        self.answers(said(**database))

    def transact(self, number: int, later_s: float = 50.0) -> None:
        until = self.now + later_s
        self.do(self.session.transact((change(number),), until, self.told.append))

    def watch(self, name: str = "w", later_s: float = 50.0) -> None:
        self.do(self.session.watch(name, (CHANGES,), self.now + later_s, self.told.append))


def said(**database: Any) -> dict[str, Any]:
    row = {
        "name": "XenFlow",
        "model": "clustered",
        "connected": True,
        "leader": True,
        "cid": ["uuid", CLUSTER],
        "schema": '{"version": "1.7.0"}',
        **database,
    }
    return {"Database": {"u": {"new": row}, "v": {"new": {**row, "name": "_Server"}}}}


@pytest.fixture
def served() -> Conversation:
    conversation = Conversation()
    conversation.connects()
    assert conversation.session.state.connected
    return conversation


# --- who is talked to ----------------------------------------------------------------------------


def test_the_leader_is_looked_for_and_stayed_with() -> None:
    conversation = Conversation()
    conversation.connects(leader=False)
    assert conversation.session.state.words == "unix:a does not lead its cluster"
    conversation.tick()
    assert conversation.dialled == "unix:b"
    conversation.loses("Connection refused")
    conversation.connects()
    state = conversation.session.state
    assert (state.connected, state.leader, state.cluster) == (True, "unix:c", CLUSTER)
    conversation.says(method="update", params=["_Server", said(leader=False)], id=None)
    assert not conversation.session.state.connected
    assert conversation.dialled == ""


def test_the_only_one_need_not_lead() -> None:
    """It passes on what is written; else who has its own member would wait until that leads."""
    conversation = Conversation(("unix:a",))
    conversation.connects(leader=False)
    assert conversation.session.state.leader == "unix:a"
    for leads in (True, False):
        conversation.says(method="update", params=["_Server", said(leader=leads)], id=None)
        assert conversation.session.state.connected
    conversation.says(method="update", params=["_Server", said(connected=False)], id=None)
    assert conversation.session.state.words == f"unix:a is not connected to its cluster {CUT_OFF}"


CUT_OFF = "(no majority; or its disk was full: restart it)"


@pytest.mark.parametrize(
    ("database", "words"),
    [
        ({"connected": False}, f"is not connected to its cluster {CUT_OFF}"),
        ({"model": "standalone"}, "is no member of a cluster (standalone)"),
        ({"schema": '{"version": "2.0.0"}'}, "has version 2.0.0 of the schema, and 1.x is needed"),
        ({"name": "Open_vSwitch"}, "has no database XenFlow"),
        ({"cid": ["uuid", T1]}, f"belongs to cluster {T1}, not {CLUSTER}"),
        ({"schema": "{}"}, "says what is not understood: 'version'"),
    ],
)
def test_who_is_of_no_use_is_left_in_words(database: dict[str, Any], words: str) -> None:
    conversation = Conversation(cluster=CLUSTER)
    conversation.connects(**database)
    assert conversation.session.state.words == f"unix:a {words}"
    assert conversation.dialled == ""


def test_a_server_that_changes_its_schema_is_asked_for_the_whole_again(
    served: Conversation,
) -> None:
    served.watch()
    served.answers([False, T1, {}])
    ((_, update), _) = said(schema='{"version": "2.0.0"}')["Database"].items()
    changed = {"Database": {"u": {**update, "old": {"schema": '{"version": "1.7.0"}'}}}}
    served.says(method="update", params=["_Server", changed], id=None)
    assert served.session.state.words == "unix:a has changed its schema"
    served.connects()
    assert served.asked()["params"][3] == NO_TRANSACTION


def test_the_first_cluster_is_the_only_one(served: Conversation) -> None:
    served.loses()
    served.connects(cid=["uuid", T1])
    assert served.session.state.words == f"unix:b belongs to cluster {T1}, not {CLUSTER}"


def test_a_round_over_all_servers_is_followed_by_a_rest_that_grows() -> None:
    conversation = Conversation()
    rests = []
    for _ in range(8):
        for remote in REMOTES:
            conversation.tick()
            assert conversation.dialled == remote
            conversation.loses("Connection refused")
        rests.append(conversation.session.wake_at() - conversation.now)
        conversation.tick()
        assert conversation.dialled == ""
        conversation.now = conversation.session.wake_at()
    assert rests == sorted(rests)
    assert rests[0] < 0.1
    assert rests[-1] == pytest.approx(LONGEST_REST_S)


def test_a_silent_server_is_asked_for_a_word_and_then_left(served: Conversation) -> None:
    served.tick(QUIET_S)
    assert served.asked()["method"] == "echo"
    served.says(id=served.asked()["id"], result=[], error=None)
    for _ in range(PROBES - 1):
        served.tick(QUIET_S)
        assert served.asked()["method"] == "echo"
    served.tick(QUIET_S - 0.1)
    assert served.session.state.connected
    served.tick(0.1)
    assert served.session.state.words == "unix:a has said nothing for 18 s"
    assert served.dialled == ""


def test_one_that_cannot_be_dialled_is_given_up() -> None:
    conversation = Conversation()
    conversation.tick()
    conversation.tick(PATIENCE_S)
    assert conversation.dialled == ""
    conversation.tick()
    assert conversation.dialled == "unix:b"


def test_a_server_is_answered_its_echo(served: Conversation) -> None:
    served.says(method="echo", params=["x"], id="echo")
    assert served.asked() == {"id": "echo", "result": ["x"], "error": None}


@pytest.mark.parametrize(
    "octets",
    [
        b"[]",
        b"{}",
        b'{"method":"steal","params":[],"id":null}',
        b'{"method":"update3","params":["w"],"id":null}',
        b'{"method":' + 100_000 * b"[",
        b'{"method":"update3","params":["w","t",{"Change":{"u":{"modify":{}}}}],"id":null}',
        b'{"method":"update3","params":["w","t",{"Change":{"u":{"insert":{"by":7}}}}],"id":null}',
    ],
)
def test_who_is_not_understood_is_left_and_asked_for_the_whole_again(
    served: Conversation, octets: bytes
) -> None:
    served.watch()
    served.answers([False, T1, {}])
    served.do(served.session.received(octets, served.now))
    assert "says what is not understood" in served.session.state.words
    served.connects()
    assert served.asked()["params"][3] == NO_TRANSACTION


# --- transactions --------------------------------------------------------------------------------


def test_what_was_sent_and_not_answered_is_unknown(served: Conversation) -> None:
    served.transact(1, 50)
    served.transact(2, 5)
    first = served.sent[-2]["id"]
    served.tick(5)
    assert served.told == [WriteUnknown("sent, and not answered in time")]
    served.says(id=served.asked()["id"], result=[{"uuid": ["uuid", T1]}, {}], error=None)
    served.loses("has closed the connection")
    assert served.told[1:] == [WriteUnknown("sent, and then: unix:a has closed the connection")]
    served.connects()
    served.says(id=first, result=[{"uuid": ["uuid", T1]}, {}], error=None)
    assert len(served.told) == 2, "an outcome is told once"


def test_what_was_not_sent_waits_for_a_leader_and_was_not_written() -> None:
    conversation = Conversation()
    conversation.transact(1, 5)
    conversation.transact(2, 50)
    conversation.tick()
    conversation.loses("Connection refused")
    conversation.tick(5)
    words = "not sent in time: unix:a Connection refused"
    assert conversation.told == [WriteRefused(RefusalReason.UNREACHABLE, None, words)]
    conversation.connects()
    assert conversation.asked()["params"][1]["row"]["number"] == 2
    conversation.answers([{"uuid": ["uuid", T1]}, {}])
    assert conversation.told[1:] == [Committed((1,))]


@pytest.mark.parametrize("tag", ["cluster error", "I/O error", "canceled"])
def test_what_the_leader_itself_does_not_know_is_unknown(served: Conversation, tag: str) -> None:
    served.transact(1)
    served.answers([{}, None, {"error": tag, "details": "lost leadership"}])
    assert served.told == [WriteUnknown(f"{tag}: lost leadership")]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("permission error", RefusalReason.RIGHTS),
        ("duplicate uuid", RefusalReason.UUID),
        ("something new", RefusalReason.OTHER),
    ],
)
def test_a_refusal_says_which_operation_and_why(
    served: Conversation, error: str, reason: RefusalReason
) -> None:
    served.transact(1)
    served.answers([{"error": error, "details": "because"}])
    assert served.told == [WriteRefused(reason, 0, f"{error}: because")]
    served.transact(2)
    served.answers(None, {"error": error})
    assert served.told[1:] == [WriteRefused(reason, None, error)]


@pytest.mark.parametrize(
    "result", [[], [{}], [{"count": 1e999}, {}], [{"count": 1}, {}, {}], [None, {}]]
)
def test_an_outcome_that_is_not_understood_is_unknown(served: Conversation, result: Any) -> None:
    update = Update("Change", (), {"by": ""})
    served.do(served.session.transact((update,), served.now + 1, served.told.append))
    served.answers(result)
    (told,) = served.told
    assert isinstance(told, WriteUnknown)
    assert told.words.startswith("sent, and then: unix:a says what is not understood: ")


def test_who_waits_at_the_end_is_told(served: Conversation) -> None:
    served.watch()
    served.answers([False, T1, {}])
    served.watch("late")
    served.transact(1)
    told = len(served.told)
    served.do(served.session.end("the end"))
    assert served.told[told:] == [WriteUnknown("sent, and then: the end"), ViewOverdue("the end")]
    served.transact(2)
    served.watch("later")
    served.do(served.session.end("the end"))
    refused = WriteRefused(RefusalReason.UNREACHABLE, None, "not sent: the end")
    assert served.told[told + 2 :] == [refused, ViewOverdue("the end")]


# --- watches -------------------------------------------------------------------------------------

ROW = {"number": 1, "by": "x", "state": "laid"}


def test_a_watch_goes_on_where_it_was(served: Conversation) -> None:
    served.watch()
    assert served.asked()["method"] == "monitor_cond_since"
    assert served.asked()["params"][3] == NO_TRANSACTION
    served.answers([False, T1, {"Change": {"u": {"initial": ROW}}}])
    assert served.told == [WholeView({"Change": {"u": ROW}})]
    served.says(method="update3", params=["w", T2, {"Change": {"u": {"delete": None}}}], id=None)
    served.loses()
    served.connects()
    assert served.asked()["params"][3] == T2
    served.answers([True, T2, {}])
    assert served.told[1:] == [RowChanges((RowChange("Change", "u", ROW, None),))]
    served.loses()
    served.connects()
    served.answers([True, T1, {"Change": {"v": {"insert": ROW}}}])
    assert served.told[2:] == [RowChanges((RowChange("Change", "v", None, ROW),))]


def test_where_the_server_has_forgotten_the_whole_comes_again(served: Conversation) -> None:
    served.watch()
    served.answers([False, T1, {"Change": {"u": {"initial": ROW}}}])
    served.loses()
    served.connects()
    served.answers([False, T2, {"Change": {"v": {"initial": ROW}}}])
    assert served.told[1:] == [WholeView({"Change": {"v": ROW}})]


def test_a_late_whole_is_said_once_and_still_awaited(served: Conversation) -> None:
    served.watch(later_s=1)
    served.tick(1)
    served.tick(1)
    assert served.told == [ViewOverdue("unix:a has not answered yet")]
    served.answers([False, T1, {}])
    assert served.told[1:] == [WholeView({"Change": {}})]
    served.watch("other", later_s=1)
    served.answers([False, T1, {}])
    served.tick(1)
    assert len(served.told) == 3, "what has come is not late"


NO_COLUMN = {"error": "syntax error", "details": "no column by"}


def test_a_watch_that_is_refused_is_told_so_once_and_harms_nobody(served: Conversation) -> None:
    served.watch(later_s=5)
    served.answers(None, NO_COLUMN)
    served.transact(1)
    served.answers([{}, {}])
    refused = ViewOverdue("unix:a refuses the watch: syntax error: no column by")
    assert served.told == [refused, Committed((1,))]
    for _ in range(3):
        served.loses()
        served.connects()
        served.answers(None, NO_COLUMN)
    served.tick(5)
    assert served.session.state.connected
    assert len(served.told) == 2
    served.loses()
    served.connects()
    served.answers([False, T1, {"Change": {"u": {"initial": ROW}}}])
    assert served.told[2:] == [WholeView({"Change": {"u": ROW}})]
    served.loses()
    served.connects()
    served.answers(None, "unknown database")
    served.loses()
    served.connects()
    assert served.asked()["params"][3] == NO_TRANSACTION, "who was refused is owed the whole"
    assert len(served.told) == 4


@pytest.mark.parametrize("row", [{"state": "a new word"}, {"by": 7}, {"number": 1e999}, 5])
def test_a_row_that_does_not_fit_harms_its_watch_only(served: Conversation, row: Any) -> None:
    """A server whose schema is younger may know a word more."""
    served.watch("other")
    served.answers([False, T1, {}])
    served.watch()
    served.answers([False, T1, {"Change": {"u": {"initial": row}}}])
    assert served.session.state.connected
    assert (served.asked()["method"], served.asked()["params"]) == ("monitor_cancel", ["w"])
    told = served.told[1]
    assert isinstance(told, ViewOverdue)
    assert told.words.startswith("unix:a says of the watch what is not understood: ")
    change = {"Change": {"v": {"insert": ROW}}}
    for name in ("w", "other"):  # the first was under way
        served.says(method="update3", params=[name, T2, change], id=None)
    assert served.told[2:] == [RowChanges((RowChange("Change", "v", None, ROW),))]
    assert served.session.unwatch("w") == [], "it is cancelled already"


def test_what_is_as_it_was_is_not_told(served: Conversation) -> None:
    served.watch()
    served.answers([False, T1, {"Change": {"u": {"initial": ROW}}}])
    same = {"Change": {"u": {"modify": {"by": "x"}}}}
    served.says(method="update3", params=["w", T2, same], id=None)
    assert len(served.told) == 1


def test_a_watch_that_ends_is_cancelled(served: Conversation) -> None:
    served.watch()
    served.answers([False, T1, {}])
    served.do(served.session.unwatch("w"))
    assert (served.asked()["method"], served.asked()["params"]) == ("monitor_cancel", ["w"])
    served.answers({})
    served.says(method="update3", params=["w", T2, {"Change": {"u": {"insert": ROW}}}], id=None)
    assert served.told == [WholeView({"Change": {}})]
    assert served.session.state.connected


def test_a_column_that_is_not_named_has_its_default(served: Conversation) -> None:
    served.watch()
    served.answers([False, T1, {"Change": {"u": {"initial": {"number": 1, "state": "laid"}}}}])
    assert served.told == [WholeView({"Change": {"u": {**ROW, "by": ""}}})]
