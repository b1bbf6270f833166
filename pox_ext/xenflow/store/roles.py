"""What a server of the store itself holds writers to.

A server lets a client do what the role of the place that it has connected to allows
(ovsdb-server(7), "RBAC").  Controllers come by TLS, at a place whose role is `CONTROLLER`: it lets
a client write the rows of observed tables whose host is the common name of its certificate, and
nothing else.  Who may do everything is root on a member, by the member's own socket: there the
planner is.  Reading is not restricted.

The rules are rows of the store's own database, and follow from `schema.TABLES`.  The places are in
a database that each member has beside it, since they are each member's own; a server takes a role
only for places that it finds through references.  Used by `server.py`.
"""

from __future__ import annotations

from typing import Any

from xenflow.store.schema import DATABASE, TABLES, Role, TableKind, to_schema

CONTROLLER = Role.CONTROLLER.value
LISTENING = "XenFlow_Listening"
"""The database with the places at which one member listens."""
PLACES = f"db:{LISTENING},Listening,connections"
"""What a server is told to listen at: what is referred to there."""

_TEXT = {"type": "string"}
_TEXTS = {"type": {"key": "string", "min": 0, "max": "unlimited"}}
_RULES: dict[str, Any] = {
    "RBAC_Role": {
        "isRoot": True,
        "columns": {
            "name": _TEXT,
            "permissions": {
                "type": {
                    "key": "string",
                    "value": {"type": "uuid", "refTable": "RBAC_Permission", "refType": "weak"},
                    "min": 0,
                    "max": "unlimited",
                }
            },
        },
    },
    "RBAC_Permission": {
        "isRoot": True,
        "columns": {
            "table": _TEXT,
            "authorization": _TEXTS,
            "insert_delete": {"type": "boolean"},
            "update": _TEXTS,
        },
    },
}


def store_schema() -> dict[str, Any]:
    """The `<database-schema>` of the store, with the tables that the server finds rules in."""
    schema = to_schema()
    return {**schema, "tables": {**schema["tables"], **_RULES}}


def rules() -> list[Any]:
    """The `<operation>`s that have the rules be as this release has them (RFC 7047, 5.2)."""
    operations: list[Any] = [
        {"op": "delete", "table": table, "where": []} for table in ("RBAC_Role", "RBAC_Permission")
    ]
    permissions = []
    for name, table in TABLES.items():
        if table.kind is TableKind.OBSERVED:
            row = {
                "table": name,
                "authorization": table.own,
                "insert_delete": True,
                # Not `own`: a host would make its row another's.
                "update": ["set", sorted(table.columns.keys() - {table.own})],
            }
            operations.append(_insert("RBAC_Permission", row, name))
            permissions.append([name, ["named-uuid", name]])
    role = {"name": CONTROLLER, "permissions": ["map", permissions]}
    return [DATABASE, *operations, _insert("RBAC_Role", role)]


def listening_schema() -> dict[str, Any]:
    """The `<database-schema>` of the places at which a member listens.  It has a table of roles,
    and no role in it: so nobody may write here who comes from elsewhere."""
    place = {"type": "uuid", "refTable": "Connection"}
    places = {"type": {"key": place, "min": 0, "max": "unlimited"}}
    return {
        "name": LISTENING,
        "version": "1.0.0",
        "tables": {
            "Listening": {"isRoot": True, "maxRows": 1, "columns": {"connections": places}},
            "Connection": {"columns": {"target": _TEXT, "role": _TEXT}},
            "RBAC_Role": _RULES["RBAC_Role"] | {"columns": {"name": _TEXT}},
        },
    }


def places(targets: tuple[str, ...]) -> list[Any]:
    """The `<operation>`s that have controllers come to these (`pssl:PORT:ADDRESS`)."""
    names = [f"place{number}" for number, _ in enumerate(targets)]
    rows = [{"target": target, "role": CONTROLLER} for target in targets]
    made = [_insert("Connection", row, name) for row, name in zip(rows, names, strict=True)]
    listening = {"connections": ["set", [["named-uuid", name] for name in names]]}
    return [LISTENING, *made, _insert("Listening", listening)]


def _insert(table: str, row: dict[str, Any], name: str = "") -> dict[str, Any]:
    insert: dict[str, Any] = {"op": "insert", "table": table, "row": row}
    return {**insert, "uuid-name": name} if name else insert
