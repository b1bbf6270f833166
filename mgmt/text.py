"""How the `xenflow` command prints: plain tables for people, JSON for programs."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], indent: str = "") -> str:
    """Columns as wide as they need to be, two spaces apart; numbers to the right."""
    lines = [list(headings), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    numeric = [
        all(_is_number(line[i]) for line in lines[1:]) and any(line[i] != "-" for line in lines[1:])
        for i in range(len(headings))
    ]
    return "\n".join(
        indent
        + "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def show_everything() -> None:
    """A character that the terminal does not have is printed as its number (`\\xe9`); a standard
    input or output that is closed is none that fails, nor are messages printed with the output."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def not_printed(error: OSError) -> bool:
    """Whether an error is that of an output that takes no more, as a full disk and a pipe without a
    reader; what is printed is dropped from now on, so that the interpreter has nothing to complain
    of at its end."""
    full = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    if error.filename is not None or error.errno not in full:
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def run_program(name: str, main: Callable[[], int]) -> int:
    """A program's `main`, whose exit status it returns; where standard output takes no more, that
    is said in a line."""
    show_everything()
    try:
        try:
            return main()
        finally:
            sys.stdout.flush()
    except OSError as error:
        if not not_printed(error):
            raise
        if not isinstance(error, BrokenPipeError):  # then the reader (`head`) has gone
            with suppress(OSError):
                print(f"{name}: standard output: {error.strerror}", file=sys.stderr, flush=True)
        return 1


def to_json(value: Any) -> str:
    """As every `--json` prints it."""
    return json.dumps(value, indent=2)


def duration(seconds: Any) -> str:
    """3661.5 -> "1h01m", 75 -> "1m15s", 0.25 -> "0.25s", None -> "-"."""
    if not isinstance(seconds, int | float):
        return "-"
    if seconds < 10:
        return f"{seconds:.2f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole // 60 % 60:02}m"
    return f"{whole // 86400}d{whole // 3600 % 24:02}h"


def count(number: int, one: str, many: str = "") -> str:
    """1 router, 2 routers."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple | set):
        return ", ".join(map(str, value)) or "-"
    return str(value)


def _is_number(cell: str) -> bool:
    """Also one with a unit behind a space."""
    number = cell.removesuffix(" s").removesuffix(" ms")
    return cell == "-" or number.replace(".", "", 1).isdigit()
