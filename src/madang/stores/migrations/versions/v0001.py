"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make all tables and the version's own row."""
    _make_resources()
    _make_history()
    sums = ("requests", "prompt_tokens", "cached_tokens", "output_tokens")
    op.create_table(
        "usage_totals",
        *(sa.Column(name, sa.Text, primary_key=True) for name in ("project", "endpoint")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in sums),
    )
    op.create_table(
        "meta",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    version = op.create_table(
        "alembic_version", sa.Column("version_num", sa.String(32), primary_key=True)
    )
    op.bulk_insert(version, [{"version_num": revision}])


def _make_resources() -> None:
    op.create_table(
        "resources",
        sa.Column("id", _SERIAL, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("kind", "project", "name", "uid")),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("resource_version", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("deleted_at", sa.Float),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("gone", sa.Boolean, nullable=False),
    )
    living, gone = sa.column("gone") == sa.false(), sa.column("gone") == sa.true()
    op.create_index(
        "resources_living", "resources", ["kind", "project", "name"],
        unique=True, sqlite_where=living, postgresql_where=living,
    )  # fmt: skip
    op.create_index("resources_feed", "resources", ["resource_version"])
    op.create_index(
        "resources_gone", "resources", ["resource_version"],
        sqlite_where=gone, postgresql_where=gone,
    )  # fmt: skip


def _make_history() -> None:
    texts = ("actor", "code", "kind", "project", "name", "uid", "values")
    op.create_table(
        "events",
        sa.Column("seq", _SERIAL, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in texts),
    )
    op.create_index("events_of_project", "events", ["project", "seq"])
    counts = ("prompt_tokens", "cached_tokens", "output_tokens")
    op.create_table(
        "usage",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        *(
            sa.Column(name, sa.Text, nullable=False)
            for name in ("key", "project", "endpoint", "replica")
        ),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in counts),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("duration_s", sa.Float, nullable=False),
        sa.Column("first_token_s", sa.Float),
        sa.Column("estimated", sa.Boolean, nullable=False),
    )
