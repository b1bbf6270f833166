"""Scenario files: commands in plain text, and what they are expected to say.

    # What happens here, for the reader.
    move vr1 to host-b
    ----
    the words that the command says, until an empty line

A block is some commands, comments on them, and what they say; between two blocks is an empty line.
What the commands are is the interpreter's affair: it is called with the words of each.
With XENFLOW_UPDATE=1 in the environment files are rewritten with what is said now: read the
difference before you commit it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from difflib import unified_diff
from pathlib import Path

import pytest

Interpreter = Callable[..., str]
"""Called with the words of a command; returns what it says, lines without an empty one."""


def check(path: Path, interpreter: Interpreter) -> None:
    """Every command of a file says what is expected of it."""
    expected = path.read_text()
    said = played(expected, interpreter)
    if os.environ.get("XENFLOW_UPDATE") == "1":
        path.write_text(said)
    elif said != expected:
        lines = (text.splitlines() for text in (expected, said))
        pytest.fail("\n".join(unified_diff(*lines, str(path), "now", lineterm="")), pytrace=False)


def played(text: str, interpreter: Interpreter) -> str:
    """The same text, its commands with what they say now.

    Raises ValueError where there is no command, or one says an empty line, which ends a block.
    """
    blocks, count = [], 0
    for block in re.split(r"\n{2,}", text.strip()):
        lines = re.split(r"^----$", block, maxsplit=1, flags=re.MULTILINE)[0].splitlines()
        commands = [line for line in lines if not line.startswith("#")]
        said = [line for command in commands for line in interpreter(*command.split()).splitlines()]
        if not all(line.strip() for line in said):
            raise ValueError(f"an empty line is said by one of: {commands}")
        blocks.append("\n".join([*lines, *(["----", *said] if commands else [])]))
        count += len(commands)
    if not count:
        raise ValueError("a scenario without a command")
    return "\n\n".join(blocks) + "\n"
