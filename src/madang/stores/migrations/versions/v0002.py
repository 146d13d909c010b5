"""Audit records; organizations live inside themselves; keys say where their rights hold."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_RESOURCES = sa.table("resources", *map(sa.column, ("id", "kind", "project", "name", "spec")))
_EVENTS = sa.table("events", *map(sa.column, ("kind", "project", "name")))


def upgrade() -> None:
    """Make the table of audit records, and bring tenants into their new shape."""
    texts = ("actor", "by", "code", "kind", "project", "name", "uid", "values")
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.Float, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in texts),
        sa.Column("before", sa.Text),
        sa.Column("after", sa.Text),
        sa.Column("digest", sa.Text, nullable=False),
    )
    for table in (_RESOURCES, _EVENTS):
        own = table.c.kind == "organization"
        op.execute(sa.update(table).where(own).values(project=table.c.name))
    _place_keys()


def _place_keys() -> None:
    """Operators and auditors held their rights on the whole site, the others at home."""
    connection = op.get_bind()
    keys = sa.select(_RESOURCES.c.id, _RESOURCES.c.spec).where(_RESOURCES.c.kind == "key")
    for row in connection.execute(keys).all():
        spec = json.loads(row.spec)
        wide = spec["role"] in {"operator", "auditor"}
        text = json.dumps({**spec, "where": "" if wide else spec["home"]}, ensure_ascii=False)
        op.execute(sa.update(_RESOURCES).where(_RESOURCES.c.id == row.id).values(spec=text))
