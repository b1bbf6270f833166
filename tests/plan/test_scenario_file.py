"""A scenario file is held to what its commands say, or rewritten with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenario_file import check, played

WRITTEN = """# What is said is counted.
count
count
----
count 1
count 2

# Again.
count
----
count 3
"""


class Counter:
    """Says its command, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, *words: str) -> str:
        self.asked += 1
        return " ".join((*words, str(self.asked)))


def test_what_is_written_is_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XENFLOW_UPDATE", raising=False)
    path = tmp_path / "counted.txt"
    path.write_text(WRITTEN)
    check(path, Counter())
    path.write_text(WRITTEN.replace("count 2", "count 7"))
    with pytest.raises(pytest.fail.Exception, match=r"-count 7\n\+count 2"):
        check(path, Counter())


def test_a_file_is_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XENFLOW_UPDATE", "1")
    path = tmp_path / "counted.txt"
    path.write_text("# What is said is counted.\ncount\ncount\n\n\n\n# Again.\ncount\n----\nold")
    check(path, Counter())
    assert path.read_text() == WRITTEN


@pytest.mark.parametrize("text", ["", "# nothing is asked\n"])
def test_a_file_without_a_command_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="without a command"):
        played(text, Counter())


def test_a_command_that_says_an_empty_line_is_refused() -> None:
    with pytest.raises(ValueError, match="empty line"):
        played("count\n", lambda *words: "one\n\nother")
