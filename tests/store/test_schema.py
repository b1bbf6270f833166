"""The declaration of the tables: it is whole, and it is what a server takes."""

from __future__ import annotations

import json
import subprocess
from dataclasses import fields
from pathlib import Path

from tests.store.store_rig import needs_server
from xenflow.model.network import Cable, Controller, Datapath, Interface, Link, Router
from xenflow.store.columns import Column
from xenflow.store.schema import TABLES, VERSION, Role, TableKind, to_schema


def test_every_reference_and_index_leads_somewhere() -> None:
    for name, table in TABLES.items():
        assert table.says.endswith(".")
        for column, declared in table.columns.items():
            assert declared.says, f"{name}.{column}"
            assert not column.startswith("_")
            assert declared.refers in ("", *TABLES)
        for index in table.indexes:
            assert set(index) <= set(table.columns)


def test_a_laid_row_says_where_and_since_when_and_refers_to_nothing() -> None:
    for table in TABLES.values():
        if table.kind is TableKind.LAID:
            assert {"at", "change", "gone"} <= set(table.columns)
            assert table.columns["at"].many
            assert not any(column.refers for column in table.columns.values())


def test_a_host_writes_what_it_has_observed_and_nothing_else() -> None:
    for table in TABLES.values():
        observed = table.kind is TableKind.OBSERVED
        assert (table.kind.writer is Role.CONTROLLER) == observed
        assert (table.own in table.columns) == observed


def test_what_a_network_file_says_has_a_column() -> None:
    """Each field of the network's values; `other names` are columns that say it in another way."""
    other_names = {
        "controller": "host",
        "proof_bound_s": "proof_bound_ms",
        "a": "a_switch",
        "b": "b_switch",
        "cables": "pinned",
        "memory": "memory_mb",
    }
    elsewhere = {
        ("Link", "detour_vlan"),  # follows from the VLAN id
        ("Link", "access"),  # the table Access_Port
        ("Link", "tree"),  # laid
        ("Router", "interfaces"),  # the table Interface
        ("Router", "started"),  # laid
    }
    tables = {
        Controller: "Host",
        Datapath: "Switch",
        Cable: "Cable",
        Link: "Virtual_Link",
        Router: "Element",
        Interface: "Interface",
    }
    for value, table in tables.items():
        for field in fields(value):
            if (value.__name__, field.name) not in elsewhere:
                assert other_names.get(field.name, field.name) in TABLES[table].columns


def test_a_set_is_never_needed() -> None:
    columns = [c for table in TABLES.values() for c in table.columns.values()]
    assert not any(column.many and column.needed for column in columns)
    assert all(c.needed or c.fits(c.default) or c.lowest for c in columns if isinstance(c, Column))


@needs_server
def test_a_server_takes_the_schema(tmp_path: Path) -> None:
    schema = tmp_path / "schema"
    schema.write_text(json.dumps(to_schema()))
    command = ["ovsdb-tool", "schema-version", str(schema)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.strip() == ".".join(map(str, VERSION))
    subprocess.run(["ovsdb-tool", "create", tmp_path / "db", schema], check=True)
