"""Where in a TOML text each key stands.

The standard library's parser gives values without their lines, and an error message without a
line makes the operator search.  `locate` walks over a text that the parser has already accepted
and notes the line of every key, table and array element; `network_file` puts them into its
messages.  It never judges the text: where it loses its way it returns what it has found so far.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from typing import Any

Path = tuple[str | int, ...]
"""Keys and array indexes from the top of the document: ("routers", "vr1", "interfaces", 0)."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]+")
_STRINGS = (
    re.compile(r'"""(?:\\.|[^\\])*?"{3,5}', re.DOTALL),
    re.compile(r"'''.*?'{3,5}", re.DOTALL),
    re.compile(r'"((?:\\.|[^"\\\n])*)"'),
    re.compile(r"'([^'\n]*)'"),
)


def locate(text: str) -> dict[Path, int]:
    """The line (from 1) of each key, table and array element, by its path."""
    walk = _Walk(text)
    try:
        walk.document()
    except (_LostError, RecursionError):
        pass
    return walk.lines


def show(path: Path) -> str:
    """A path as an operator reads it: `routers.vr1.interfaces[0].mac`."""
    shown = ""
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
        else:
            part = part if part.isprintable() else quoted(part)
            shown += f".{part}" if shown else part
    return shown


def quoted(text: str) -> str:
    """A text in quotes, in one line whatever is in it."""
    return f'"{text}"' if text.isprintable() else json.dumps(text)


_SHOWN = 60
"""Characters of a value, in a message of one line."""


def show_value(value: Any) -> str:
    """A value as a message shows it, in one line; None: the key is not there."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        shown = f"[{', '.join(map(show_value, value))}]"
        plain = not any(isinstance(each, dict | list) for each in value)
        if value and plain and len(shown) <= _SHOWN:
            return shown
        return "an array" if value else "an empty array"
    shown = quoted(value) if isinstance(value, str) else str(value)
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."


class _LostError(Exception):
    """The text is not what was expected here."""


class _Walk:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self._newlines = [m.start() for m in re.finditer("\n", text)]
        self._elements: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        self.blank()
        while self.at < len(self.text):
            if self.text.startswith("[", self.at):
                table = self.header()
            else:
                self.pair(table)
            self.blank()

    def header(self) -> Path:
        """`[a.b]` or `[[a.b]]`; an array of tables stands for its newest element."""
        line = self.line()
        closing = "]]" if self.text.startswith("[[", self.at) else "]"
        self.at += len(closing)
        table: Path = ()
        keys = self.keys()
        for position, key in enumerate(keys, 1):
            table += (key,)
            if closing == "]]" and position == len(keys):
                self._elements[table] = self._elements.get(table, -1) + 1
            self.lines.setdefault(table, line)
            if table in self._elements:
                table += (self._elements[table],)
                self.lines.setdefault(table, line)
        self.expect(closing)
        return table

    def pair(self, table: Path) -> None:
        """`key = value`, with dotted keys."""
        line = self.line()
        for key in self.keys():
            table += (key,)
            self.lines.setdefault(table, line)
        self.expect("=")
        self.value(table)

    def keys(self) -> list[str]:
        keys = [self.key()]
        while self.skip("."):
            keys.append(self.key())
        return keys

    def key(self) -> str:
        self.blank()
        bare = _BARE_KEY.match(self.text, self.at)
        if bare:
            self.at = bare.end()
            return bare.group()
        for pattern in _STRINGS[2:]:
            quoted = pattern.match(self.text, self.at)
            if quoted:
                self.at = quoted.end()
                return quoted.group(1)
        raise _LostError

    def value(self, path: Path) -> None:
        self.blank()
        if self.skip("["):
            index = 0
            while not self.skip("]"):
                self.lines[(*path, index)] = self.line()
                self.value((*path, index))
                self.skip(",")
                index += 1
        elif self.skip("{"):
            while not self.skip("}"):
                self.pair(path)
                self.skip(",")
        else:
            for pattern in (*_STRINGS, _SCALAR):
                found = pattern.match(self.text, self.at)
                if found:
                    self.at = found.end()
                    return
            raise _LostError

    def blank(self) -> None:
        found = _BLANK.match(self.text, self.at)
        if found:
            self.at = found.end()

    def skip(self, mark: str) -> bool:
        """Step over blank space and, if it comes next, over `mark` and what is blank after it."""
        self.blank()
        if not self.text.startswith(mark, self.at):
            return False
        self.at += len(mark)
        self.blank()
        return True

    def expect(self, mark: str) -> None:
        if not self.skip(mark):
            raise _LostError

    def line(self) -> int:
        return bisect_right(self._newlines, self.at - 1) + 1
