"""What a living network does without its store: it goes on, and who asks for a change is told.

Real servers, a real planner, and what follows the store at each controller."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from mgmt.client import AskError
from tests.planner.living import LivingNetwork, living, more, start_again
from tests.store.store_rig import Way, kill, needs_server

pytestmark = needs_server

ENDS_S = 10.0


def is_refused(network: LivingNetwork, text: str, *words: str) -> None:
    """A change is, within the time, and says why."""
    asked = network.applying(text)
    network.run(lambda: asked.done)
    assert asked.took_s <= ENDS_S
    assert asked.refusal.code in ("refused", "unknown")
    said = asked.refusal.message
    assert any(each in said for each in words), said
    assert any(each in said for each in ("xenflow store status", "apply it again", "ask there"))


def goes_on(network: LivingNetwork, links: set[str]) -> None:
    """A controller that starts again has its rows, and says that the store is away."""
    controller = network.controllers["edge"]
    controller.start()
    network.run(lambda: any("the store is away" in words for words in controller.problems.of()))
    assert controller.network.links.keys() == links
    assert controller.follower.status()["taken"] == 2


def test_without_a_majority_it_goes_on_and_nothing_is_changed(tmp_path: Path) -> None:
    """Nor where the store is gone altogether."""
    with living(tmp_path, members=3) as network:
        assert network.apply(more(301))["change"] == 2
        network.run(lambda: network.is_everywhere(2))
        *some, last = network.site.servers
        for server in some:
            kill(server)
        words = ("the store cannot be written to", "the planner is at", "the store does not answer")
        is_refused(network, more(301, 302), *words)
        goes_on(network, {"left", "right", "l301"})
        kill(last)
        goes_on(network, {"left", "right", "l301"})
        start_again(network.site)
        # Whatever was said of it: looked at, it is there once.
        network.resolve(more(301, 302))
        assert network.ask("history")["changes"][0]["changed"] == {"links": {"added": ["l302"]}}
        network.run(lambda: network.is_everywhere(3))
        assert all("l302" in c.network.links for c in network.controllers.values())
        network.run(lambda: not network.controllers["edge"].problems.of())


@contextmanager
def small_disk(folder: Path, octets: int) -> Iterator[None]:
    folder.mkdir(parents=True)
    size = f"size={octets}"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=False)
    if done.returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_disk_that_is_full_refuses_changes_and_loses_none(tmp_path: Path) -> None:
    with small_disk(tmp_path / "store", 4 << 20), living(tmp_path) as network:
        assert network.apply(more(301))["change"] == 2
        network.run(lambda: network.is_everywhere(2))
        wanted = more(*range(301, 341))  # more than the rest of a page that is begun
        filler = tmp_path / "store" / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        is_refused(network, wanted, "the store does not answer", "the store cannot be written to")
        goes_on(network, {"left", "right", "l301"})
        filler.unlink()
        kill(network.site.servers[0])  # it has given up, and takes no part until it is started anew
        start_again(network.site)
        network.resolve(wanted)
        changes = network.ask("history")["changes"]
        assert [len(one["changed"]["links"]["added"]) for one in changes[:-1]] == [39, 1]
        network.run(lambda: network.is_everywhere(changes[0]["number"]))


def test_a_store_of_yesterday_is_not_followed(tmp_path: Path) -> None:
    with living(tmp_path) as network:
        (server,) = network.site.servers
        copy = tmp_path / "yesterday.db"
        server.stop()
        shutil.copy(server.database, copy)
        server.start()
        assert network.resolve(more(301)) == 2
        network.run(lambda: network.is_everywhere(2))
        server.stop()
        shutil.copy(copy, server.database)
        server.start()
        edge = network.controllers["edge"]
        network.run(lambda: any("an older copy" in words for words in edge.problems.of()))
        known = {"since": 2, "cluster": edge.follower.status()["cluster"]}
        said = ""
        while "controllers are at change 2, and the store is at 1" not in said:
            with pytest.raises(AskError) as refused:  # the planner may not have read it again yet
                network.ask("apply", text=more(302), **known)
            said = str(refused.value)
            assert refused.value.code == "refused"
            assert "store is at 1" in said or "at the same time" in said or "cannot be" in said
        edge.start()
        network.run(lambda: any("an older copy" in words for words in edge.problems.of()))
        assert edge.network.links.keys() == {"left", "right", "l301"}


def test_two_who_apply_at_once_one_is_told_what_the_other_did(tmp_path: Path) -> None:
    with living(tmp_path) as network:
        cluster = network.controllers["edge"].follower.status()["cluster"]
        assert network.ask("apply", text=more(301), since=1, cluster=cluster)["change"] == 2
        words = r"somebody else has changed the network: change 2 by \S+, links \+l301: look at"
        with pytest.raises(AskError, match=words):
            network.ask("apply", text=more(302), since=1, cluster=cluster)
        history = network.ask("history")["changes"]
        assert [one["number"] for one in history] == [2, 1]


def test_a_host_that_was_away_learns_what_went_meanwhile(tmp_path: Path) -> None:
    """What is gone is told as long as one has not heard it, however long that is."""
    with living(tmp_path) as network:
        assert network.apply(more(301))["change"] == 2
        network.run(lambda: network.is_everywhere(2))
        away = network.controllers.pop("host-b")
        away.stop()
        assert network.apply(more())["change"] == 3
        assert network.apply(more(302))["change"] == 4
        network.run(lambda: network.is_everywhere(4))
        again = more(302) + more(301).removeprefix(more()).replace("links.l", "links.x")
        with pytest.raises(AskError, match="id 301 was l301's, and not all switches have forgo"):
            network.ask("apply", text=again)
        away.start()
        network.controllers["host-b"] = away
        network.run(lambda: network.is_everywhere(4))
        assert away.network.links.keys() == {"left", "right", "l302"}
        assert network.resolve(again) == 5


def test_a_controller_that_is_cut_off_goes_on_and_follows_again(tmp_path: Path) -> None:
    with living(tmp_path) as network, closing(Way(*network.site.servers, tmp_path / "way")) as way:
        edge = network.controllers["edge"]
        edge.ways = (way,)
        edge.start()
        assert network.apply(more(301))["change"] == 2
        network.run(lambda: network.is_everywhere(2))
        way.cut()
        assert network.apply(more(301, 302))["change"] == 3
        others = [c for name, c in network.controllers.items() if name != "edge"]
        network.run(lambda: all(controller.has(3) for controller in others))
        goes_on(network, {"left", "right", "l301"})
        way.heal()
        network.run(lambda: network.is_everywhere(3))
        assert "l302" in edge.network.links
        network.run(lambda: not edge.problems.of())


def test_a_planner_that_is_cut_off_is_followed_by_another(tmp_path: Path) -> None:
    """It is told nothing is known of what it was asked, and writes nothing when it is back."""
    with living(tmp_path, planners=2) as network, ExitStack() as stack:
        way = stack.enter_context(closing(Way(*network.site.servers, tmp_path / "way")))
        one, other = network.planners
        for url in network.planners:
            network.kill_planner(url)
        network.start_planner(one, way)
        network.run(lambda: network.planner == one and network.answers())
        network.start_planner(other)
        way.cut()
        asked = network.applying(more(301))
        network.run(lambda: asked.done and network.planner == other)
        assert asked.took_s <= ENDS_S and asked.refusal.code in ("refused", "unknown")
        number = network.resolve(more(301, 302))
        way.heal()
        network.run(lambda: network.is_everywhere(number))
        with pytest.raises(AskError, match=f"the planner is at {other}: ask there"):
            network.ask("apply", one, text=more(303))
        assert [one["number"] for one in network.ask("history")["changes"]] == [2, 1]
