"""Reads the network's description: one commented TOML file becomes one `Network` value.

Called by the controller at its start, by the `xenflow` command and by the lab.  What the file
leaves out is filled in first (`filling.py`).  It is checked as a whole, so that nothing after it
has to ask whether a name exists; all mistakes are reported together, each as `FILE:LINE: KEY: found
..., expected ...`, sorted by line.  The table `[lab]` belongs to the lab and is handed on, filled
in but not judged.  Nothing here opens a socket, and nothing is ever written.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path as FilePath
from typing import Any

from xenflow.model.network import Network, NetworkError
from xenflow.model.succession import in_terms_of
from xenflow.plan.laying import Placed, lay, lay_on
from xenflow.store.document import Document
from xenflow.store.filling import Gone, fill
from xenflow.store.network_build import build, sketch
from xenflow.store.network_checks import check, check_trees
from xenflow.store.network_keys import (
    CABLE,
    MAX_ROUTER_NAME,
    NAME,
    NAMED,
    NETWORK,
    SECTIONS,
    FileArray,
    FileKey,
    Found,
    meant,
)
from xenflow.store.toml_lines import Path, show_value


def load(path: str | FilePath, before: Network | None = None) -> Network:
    """The network that a file describes, of what the one `before` has wherever that is the same.

    Raises NetworkError with one line for each mistake.
    """
    network = parse(read_text(path), str(path), before)[0]
    return network if before is None else in_terms_of(before, network)


def load_with_lab(path: str | FilePath) -> tuple[Network, dict[str, Any]]:
    """The network and, unchecked, the file's `[lab]` table, filled in (empty where there is none).

    Raises NetworkError with one line for each mistake.
    """
    return parse(read_text(path), str(path))


def read_text(path: str | FilePath) -> str:
    """A network file's text, without the byte-order mark that some editors begin it with.

    Raises NetworkError where there is no file, or no text in it.
    """
    try:
        return FilePath(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or str(error)
        raise NetworkError(f"{path}: expected a network file: {reason}") from None
    except UnicodeDecodeError as error:
        raise NetworkError(
            f"{path}:1: file: found byte {error.object[error.start]:#04x} at offset "
            f"{error.start}, expected UTF-8 text"
        ) from None


LabReader = Callable[[Document, Network, Any], None]
"""Notes the mistakes of a file's `[lab]` table, given the network; where that has mistakes, too, it
has an entry for everything that has a name, but what these refer to need not exist."""


def parse(
    text: str,
    file: str,
    before: Network | None = None,
    *,
    in_store: bool = False,
    placed: Placed | None = None,
    gone: Gone | None = None,
    read_lab: LabReader | None = None,
    unseen: bool = False,
) -> tuple[Network, dict[str, Any]]:
    """As `load_with_lab`, from a text; `file` is its name in messages.

    before    links lie on trees of this network where they are the same
    in_store  they stay where they lie, and keep ids and VLAN ids that the text does not name
    placed    where routers are now
    gone      what is given to nobody
    read_lab  reads the file's lab as well, so that its mistakes are told with the others
    unseen    nobody has seen the text: mistakes name no lines of it
    """
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, a list in 1,000 lists
        raise NetworkError(_syntax_error(text, file, error)) from None
    document = Document(file, text, unseen=unseen)
    kept = before if in_store else None
    gone = gone or Gone()
    tables = fill(tables, kept, gone)
    found = _read_tables(document, tables)
    check(document, tables, found, in_store=in_store)
    lab = tables.get("lab", {})
    if document.wrong:
        network = sketch(found)
    else:
        built = build(found)
        network = lay(built, before) if kept is None else lay_on(built, kept, placed, gone.labels)
        check_trees(document, network, placed)
    if read_lab is not None:
        read_lab(document, network, lab)
    document.raise_mistakes()
    return network, lab


def _syntax_error(text: str, file: str, error: Exception) -> str:
    lines = text.splitlines() or [""]
    where = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", str(error))
    line, column = len(lines), len(lines[-1]) + 1
    if where and where.group(1):
        line, column = int(where.group(1)), int(where.group(2))
    reason = str(error)[: where.start()] if where else str(error)
    near = lines[line - 1].strip() if line <= len(lines) else ""
    found = show_value(near) if near else "the end of the line"
    return (
        f"{file}:{line}: column {column}: found {found}, expected TOML ({reason[:1].lower()}"
        f"{reason[1:]})"
    )


# --- reading -------------------------------------------------------------------------------------


def _read_tables(document: Document, tables: dict[str, Any]) -> Found:
    known = ["network", *SECTIONS, "lab"]
    _refuse_unknown(document, (), tables, known)
    found: Found = {section: {} for section in SECTIONS}
    found["network"] = _read_table(document, ("network",), tables.get("network"), NETWORK)
    if not isinstance(tables.get("lab", {}), dict):
        document.mistake(("lab",), show_value(tables["lab"]), "a table")
    for section, (entry, needed) in SECTIONS.items():
        table = tables.get(section, {})
        if not isinstance(table, dict):
            document.mistake((section,), show_value(table), "a table")
            continue
        if needed and not table:
            document.mistake((section,), "nothing", f"at least one [{section}.NAME]")
        for name, value in table.items():
            path = (section, name)
            _check_entry_name(document, path)
            if isinstance(entry, FileArray) and isinstance(value, dict):
                cable = _read_table(document, path, value, CABLE)
                found[section][name] = {"where": (*path, "ends"), "ends": None, **cable}
            elif isinstance(entry, FileArray):
                ends = _read_list(document, path, value, entry)
                found[section][name] = {"where": path, "ends": ends}
            else:
                found[section][name] = _read_table(document, path, value, entry)
    return found


def _check_entry_name(document: Document, path: tuple[str, str]) -> None:
    section, name = path
    if not NAME.fullmatch(name):
        document.mistake(path, f'"{name}"', NAMED.expected)
    elif section == "routers" and len(name) > MAX_ROUTER_NAME:
        document.mistake(path, f'"{name}"', f"a name of at most {MAX_ROUTER_NAME} characters")


def _refuse_unknown(
    document: Document, path: Path, table: dict[str, Any], known: Iterable[str]
) -> None:
    for key in table:
        if key not in known:
            expected = f"one of {', '.join(known)}{meant(key, known)}"
            document.mistake((*path, key), "an unknown key", expected)


def _read_table(
    document: Document, path: Path, table: Any, fields: dict[str, FileKey]
) -> dict[str, Any]:
    if table is None:
        document.mistake(path, "nothing", "a table")
        return {}
    if not isinstance(table, dict):
        document.mistake(path, show_value(table), "a table")
        return {}
    _refuse_unknown(document, path, table, fields)
    found: dict[str, Any] = {}
    for key, wanted in fields.items():
        where = (*path, key)
        if key not in table:
            if wanted.needed:
                document.mistake(where, "nothing", wanted.value.expected)
            continue
        if isinstance(wanted.value, FileArray):
            value = _read_list(document, where, table[key], wanted.value)
        else:
            value = document.read(where, table[key], wanted.value)
        if value is not None:
            found[key] = value
    return found


def _read_list(document: Document, path: Path, value: Any, wanted: FileArray) -> list[Any] | None:
    """The elements (None for one that is wrong: its place in the list is kept)."""
    if not isinstance(value, list):
        document.mistake(path, show_value(value), wanted.expected)
        return None
    if wanted.length is not None and len(value) != wanted.length:
        document.mistake(path, f"{len(value)} elements", wanted.expected)
        return None
    if isinstance(wanted.element, dict):
        return [_read_table(document, (*path, i), v, wanted.element) for i, v in enumerate(value)]
    return [document.read((*path, i), v, wanted.element) for i, v in enumerate(value)]
