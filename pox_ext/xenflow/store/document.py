"""A TOML file that is being checked: gathers its mistakes, and knows where each key stands.

Used by the readers of the network file and of its lab's part.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from xenflow.model.network import NetworkError
from xenflow.model.values import Value
from xenflow.store.toml_lines import Path, locate, show, show_value


class Document:
    """One file's mistakes; `text` is what is in it, `file` its name in messages.  These name no
    lines of one that nobody has seen (`unseen`)."""

    def __init__(self, file: str, text: str, *, unseen: bool = False) -> None:
        self._file = file
        self._text = text
        self._unseen = unseen
        self._mistakes: list[tuple[int, str]] = []
        self._sections: set[str | int] = set()

    @cached_property
    def _lines(self) -> dict[Path, int]:
        """Of use only where there is a mistake."""
        return locate(self._text)

    def use(self, path: Path) -> str:
        """Where something is used already, in words."""
        line = "" if self._unseen else f" on line {self._line(path)}"
        return f"used{line} by {show(path)} already"

    def _line(self, path: Path) -> int:
        """The line of a key, or of the nearest table around it."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def mistake(self, path: Path, found: str, expected: str) -> None:
        """Note one."""
        line = self._line(path)
        where = self._file if self._unseen else f"{self._file}:{line}"
        text = f"{where}: {show(path)}: found {found}, expected {expected}"
        self._mistakes.append((line, text))
        self._sections.update(path[:1])

    def wrong_in(self, *sections: str) -> bool:
        """Whether there is a mistake in one of some sections: what refers to it may be right."""
        return not self._sections.isdisjoint(sections)

    def read(self, path: Path, found: Any, wanted: Value) -> Any:
        """The value at a key; None, and a mistake, where it does not fit."""
        try:
            return wanted.read(found)
        except ValueError:
            self.mistake(path, show_value(found), wanted.expected)
            return None

    @property
    def wrong(self) -> bool:
        """Whether there is any mistake."""
        return bool(self._mistakes)

    def raise_mistakes(self) -> None:
        """Raises NetworkError with one line for each mistake, by their lines in the file."""
        if self._mistakes:
            self._mistakes.sort(key=lambda mistake: mistake[0])
            raise NetworkError("\n".join(text for _, text in self._mistakes))
